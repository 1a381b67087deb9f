"""Conformance with others: the comparison itself on planted peers, then the installed ones."""

import io
import json
from dataclasses import dataclass, replace

import pytest
import torch
from rich.console import Console

from benchmarks.peers.__main__ import main
from benchmarks.peers.compare import (
    CAPACITY_CASES,
    CapacityRule,
    Subject,
    among_ties,
    compare,
    compare_capacities,
    every_third_is_padding,
    written,
)
from benchmarks.peers.findings import Finding, normal
from benchmarks.peers.registry import Peer, conformance, differences
from benchmarks.peers.subjects import PEERS
from benchmarks.peers.table import agreement, conformance_table, finding_table
from lp_routing.routers import CAPACITY_FORMULAS, CapacityFactor, StatefulRouter, TopK
from lp_routing.routers.selection import largest

LAYERS = [normal(0, 48, 8), normal(1, 48, 8)]


def top_two(logits, mask):
    """What a peer that agrees would do, padding included."""
    chosen = torch.zeros_like(logits).scatter(1, logits.topk(2).indices, 1).bool()
    return chosen if mask is None else chosen & mask[:, None]


def but_for_token_5(logits, mask):
    """A planted disagreement: token 5 gets its worst expert instead of its second."""
    chosen = top_two(logits, mask)
    chosen[5] = False
    chosen[5, [logits[5].argmax(), logits[5].argmin()]] = True
    return chosen


def broken(logits, mask):
    raise TypeError("got an unexpected keyword")


def row_of(theirs, layers=LAYERS, router=None, **options):
    return compare("fake", "1.0", Subject("f", theirs, router or TopK(2), **options), layers)


# one comparison


def test_a_peer_that_agrees_is_said_to_agree():
    row = row_of(top_two)
    assert (row.tokens, row.same, row.tied, row.first) == (96, 96, 0, "")
    assert row.agrees
    assert agreement(row) == "96 of 96 tokens"


def test_a_planted_disagreement_is_reported_with_its_place():
    row = row_of(but_for_token_5)
    first, last = (int(f(LAYERS[0][5])) for f in (torch.argmax, torch.argmin))
    second = int(LAYERS[0][5].topk(2).indices[1])
    theirs, ours = (sorted(pair) for pair in ((first, last), (first, second)))
    assert (row.same, row.tied) == (94, 0)
    assert not row.agrees
    assert row.first == (
        f"layer 0, token 5: theirs {{{theirs[0]}, {theirs[1]}}}, ours {{{ours[0]}, {ours[1]}}}"
    )


def test_a_disagreement_in_a_later_layer_is_found():
    row = row_of(
        lambda x, m: but_for_token_5(x, m) if x[0, 0] == LAYERS[1][0, 0] else top_two(x, m)
    )
    assert row.same == 95
    assert row.first.startswith("layer 1, token 5")


def test_too_few_experts_are_a_disagreement():
    row = row_of(lambda logits, _: largest(logits, 1))
    assert (row.same, row.tied) == (0, 0)
    assert row.first.startswith("layer 0, token 0")


def test_a_peer_that_raises_does_not_agree():
    row = row_of(broken)
    assert row.first == "TypeError: got an unexpected keyword"
    assert not row.agrees


def test_a_peer_cannot_change_the_logits_that_ours_gets():
    def spoil(logits, mask):
        chosen = top_two(logits, mask)
        logits.zero_()
        return chosen

    layers = [LAYERS[0].clone()]
    assert row_of(spoil, layers).agrees
    assert torch.equal(layers[0], LAYERS[0])


def test_padding_is_routed_nowhere_by_either():
    assert every_third_is_padding(6).tolist() == [True, True, False, True, True, False]
    assert row_of(top_two, padded=True).agrees
    row = row_of(lambda logits, _: top_two(logits, None), padded=True)
    assert row.same == 64
    assert "token 2" in row.first


@dataclass(frozen=True)
class Shifted(StatefulRouter[float]):
    """Top-1 of the logits moved on by a state."""

    seeks = ""
    causal = True

    def scores(self, logits, mask=None):
        return logits

    def initial(self, scores):
        return 0.0

    def step(self, scores, state):
        return largest(scores + state * torch.arange(scores.shape[-1]), 1), state


def test_a_router_with_a_state_starts_from_the_one_given():
    last = torch.tensor([False] * 7 + [True]).expand(48, 8)
    assert row_of(lambda logits, _: last, router=Shifted(), state=100.0).agrees
    assert not row_of(lambda logits, _: last, router=Shifted(), state=0.0).agrees


# ties


def test_equal_scores_may_change_places_within_a_token():
    scores = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    ours = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    theirs = torch.tensor([[1, 0, 1], [1, 0, 1]]).bool()
    assert among_ties(theirs, ours, scores).tolist() == [True, False]


def test_equal_scores_may_change_places_within_an_expert():
    # Expert 0 has one place; tokens 0 and 1 want it equally, token 2 less.
    scores = torch.tensor([[5.0, 1.0], [5.0, 2.0], [4.0, 3.0]])
    ours = torch.tensor([[1, 0], [0, 0], [0, 1]]).bool()
    for keeper, excused in ((1, True), (2, False)):
        theirs = torch.tensor([[0, 0], [0, 0], [0, 1]]).bool()
        theirs[keeper, 0] = True
        assert bool(among_ties(theirs, ours, scores).all()) is excused


def test_ties_are_counted_apart_from_agreement():
    logits = torch.zeros(4, 8)
    row = row_of(lambda x, _: largest(x.flip(-1), 2).flip(-1), [logits])
    assert (row.same, row.tied, row.first) == (0, 4, "")
    assert row.agrees
    assert agreement(row) == "0 + 4 tied of 4 tokens"


# capacity


def test_a_formula_that_agrees_and_one_that_does_not():
    rule = CapacityRule("get", CAPACITY_FORMULAS["megatron"], "megatron")
    row = compare_capacities("fake", "1.0", rule)
    assert row.agrees
    assert row.tokens == row.same == len(CAPACITY_CASES) > 200
    assert agreement(row).endswith("cases")

    row = compare_capacities("fake", "1.0", replace(rule, formula="megablocks"))
    assert not row.agrees
    assert row.first.startswith("T=")
    assert "theirs" in row.first


def test_a_formula_that_raises_does_not_agree():
    row = compare_capacities("fake", "1.0", CapacityRule("get", lambda *_: 1 // 0, "megatron"))
    assert row.first.startswith("ZeroDivisionError")
    assert not row.agrees


# words


def test_routers_are_written_as_one_writes_them():
    def halved(logits, mask=None):
        return logits / 2

    assert written(TopK(2)) == "TopK(k=2)"
    router = TopK(2, CapacityFactor(1.0, "deepspeed", minimum=4), "position", score=halved)
    assert written(router) == (
        "TopK(k=2, capacity=CapacityFactor(factor=1.0, formula='deepspeed', minimum=4), "
        "by='position', score=halved)"
    )


def test_the_tables_say_who_disagrees_and_what_was_seen():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(conformance_table([row_of(top_two), row_of(but_for_token_5)]))
    console.print(finding_table("fake", "1.0", [Finding("odd [x]", True, "so it is", {})]))
    text = console.export_text()
    assert "96 of 96 tokens" in text
    assert "94 of 96 tokens" in text
    assert "layer 0, token 5" in text
    assert "odd [x]" in text


# peers


def shown():
    return Finding("shown", True, "3 of 4", {"seen": 3})


def fails_here():
    raise AttributeError("no such function")


def fake(theirs=top_two, module="torch", package="torch", findings=(shown, fails_here)):
    return Peer(package, module, lambda E, k: [Subject("f", theirs, TopK(k))], findings)


def test_an_installed_peer_is_compared_and_its_findings_reproduced():
    (row,) = conformance(fake(), LAYERS, 2)
    assert row.agrees
    assert (row.peer, row.version) == ("torch", fake().version)
    seen, failed = differences(fake())
    assert seen == shown()
    assert (failed.name, failed.seen) == ("fails here", False)
    assert failed.sentence == "AttributeError: no such function"


@pytest.mark.parametrize("absent", [fake(module="no_such_module"), fake(package="no-such-package")])
def test_a_peer_that_is_absent_says_how_to_install_it(absent):
    assert absent.version is None
    assert "bash benchmarks/peers/install.sh" in absent.absence
    with pytest.raises(ImportError, match="is not installed"):
        conformance(absent, LAYERS, 2)


def run(tmp_path, *peers, options=()):
    return main(["--tokens", "64", *options], peers)


def test_the_command_reports_agreement(tmp_path, capsys):
    found = tmp_path / "rows.json"
    assert run(tmp_path, fake(), options=("--json", str(found))) == 0
    content = json.loads(found.read_text())
    assert [row["same"] + row["tied"] for row in content["rows"]] == [256]
    assert [finding["seen"] for finding in content["findings"]["torch"]] == [True, False]
    text = capsys.readouterr().out
    assert "of 256 tokens" in text


def test_the_command_fails_where_a_peer_disagrees(tmp_path, capsys):
    assert run(tmp_path, fake(but_for_token_5)) == 1
    assert "layer 0, token 5" in capsys.readouterr().out


def test_the_command_leaves_out_what_is_absent_and_says_so(tmp_path, capsys):
    assert run(tmp_path, fake(), fake(package="no-such-package")) == 0
    assert "no-such-package is not installed and is left out" in capsys.readouterr().out


def test_nothing_to_compare_is_no_success(tmp_path):
    assert run(tmp_path, fake(module="no_such_module")) == 2


@pytest.mark.parametrize(
    ("logits", "options", "words"),
    [
        (torch.zeros(8, 2), (), "at least 4 experts"),
        (torch.zeros(8, 4), ("--k", "5"), "k=5"),
        (torch.zeros(8, 4), ("--k", "0"), "k=0"),
        (torch.zeros(2, 4), (), "as many tokens"),
        (torch.tensor([[0.0, 1, 2, -torch.inf]] * 8), (), "forbidden pairs"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*logits.pt")
def test_bad_input_is_refused(tmp_path, capsys, logits, options, words):
    file = tmp_path / "logits.pt"
    torch.save(logits, file)
    assert main([str(file), *options], [fake()]) == 2
    assert words in capsys.readouterr().err


# the peers themselves, where they are installed


@pytest.fixture(params=PEERS, ids=lambda peer: peer.package)
def peer(request):
    if request.param.version is None:
        pytest.skip(request.param.absence)
    return request.param


@pytest.mark.filterwarnings("ignore")
def test_ours_agree_with_theirs_where_the_rule_is_defined(peer):
    rows = conformance(peer, [normal(0, 256, 32), 3 * normal(1, 256, 32)], 2)
    assert len(rows) > 5
    assert [f"{row.function}: {row.first}" for row in rows if not row.agrees] == []


@pytest.mark.filterwarnings("ignore")
def test_every_known_difference_can_be_run(peer):
    found = differences(peer)
    assert len(found) == len(peer.findings)
    assert [finding.sentence for finding in found if not finding.figures] == []
