"""`lp-routing decide`: hand-worked cases, the proof against HiGHS, files, refusals."""

import csv
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.errors import InputError
from lp_routing.frontier.decide import (
    BALANCED,
    CAUSAL,
    DROPS,
    IN_ORDER,
    OPTIMUM,
    RULES,
    DecideSettings,
    Holds,
    TotalCurve,
    decide,
    layer_record,
    total_curve,
)
from lp_routing.report.decide import as_optimum, recommended, sentences
from tests.commands import with_k
from tests.report_pages import Read, loaded

# One layer, four tokens, two experts, k = 1: an equal share is 2 tokens. All prefer expert 0, which
# is worth 1 more to each; without a capacity 5 + 6 + 7 + 8 = 26.
#   capacity 1: by score 8; in order 5; the best are 8 and 6, or 7 and 7: 14
#   capacity 2: by score 8 + 7 = 15; in order 5 + 6 = 11; the best give up 1 twice: 24
#   capacity 3: by score 21; in order 18; the best give up 1 once: 25
LOGITS = np.array([[[5.0, 4.0], [6.0, 5.0], [7.0, 6.0], [8.0, 7.0]]], dtype=np.float32)
PLAIN = ("--score", "logits", "--k", 1, "--factors", "1,1.5,2", "--keep", 0.8)


def run(*arguments: object):
    """Run the command; whatever happens, it must not end in a traceback."""
    words = [str(word) for word in with_k(arguments)]
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["decide", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "logits.npz", router_logits=LOGITS, axes="LTE")
    return tmp_path / "logits.npz"


def decided(logits, **changes):
    """The decision on logits (L, T, E) as scores."""
    settings = DecideSettings(
        **{"k": 1, "score": "logits", "factors": (1, 1.5, 2), "keep": 0.8} | changes
    )
    logits = torch.as_tensor(logits)
    task = partial(layer_record, logits=logits, settings=settings)
    L, *shape = logits.shape
    return decide(range(L), tuple(shape), settings, lambda points: [task(p) for p in points])


def values(found, method):
    return {row.factor: row.value for row in found.rows if row.method == method}


def test_values_by_hand():
    found = decided(LOGITS)
    assert found.free == 26
    assert values(found, DROPS) == {1: 15, 1.5: 21, 2: 26}
    assert values(found, IN_ORDER) == {1: 11, 1.5: 18, 2: 26}
    assert values(found, OPTIMUM) == {1: 24, 1.5: 25, 2: 26}
    assert values(found, BALANCED) == {None: 24}
    (drops,) = [row for row in found.rows if (row.method, row.factor) == (DROPS, 1)]
    assert (drops.kept, drops.dropped, drops.pairs_dropped) == (15 / 26, 0.5, 0.5)
    assert (drops.max_over_mean, drops.price) == (2.0, None)
    (best,) = [row for row in found.rows if (row.method, row.factor) == (OPTIMUM, 1.5)]
    assert (best.dropped, best.max_over_mean, best.price) == (0, 1.5, 0.5)  # 1 at expert 0, else 0


def test_a_token_that_may_go_nowhere_is_not_dropped():
    """Five tokens, 3 slots: of the four that may go somewhere dropping by score drops one."""
    nowhere = np.full((1, 1, 2), -np.inf, dtype=np.float32)
    found = decided(np.concatenate([LOGITS, nowhere], 1), factors=(1,))
    (drops,) = [row for row in found.rows if row.method == DROPS]
    assert (drops.capacity, drops.value, drops.dropped) == (3, 21, 0.25)


def test_an_equal_share_is_of_k_experts_a_token():
    """Four tokens that take two of four experts each: an equal share is 2 tokens."""
    logits = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = decided(logits, k=2, factors=(1, 2))
    assert (found.factor(2), found.factor(4)) == (1, 2)
    assert {row.factor: row.capacity for row in found.rows if row.method == DROPS} == {1: 2, 2: 4}


def test_the_recommendation_by_hand(file):
    """80 % of 26 is 20.8: dropping holds it with 3 slots (21), the optimum with 2 (24), none with 1
    (14). What dropping holds with 3 slots, 21, the optimum holds with 2."""
    ended = run(file, *PLAIN)
    assert ended.exit_code == 0, ended.output
    first, *said = ended.stdout.split("Recommended: ")[1].splitlines()
    assert ["Recommended: " + first, *said[:3]] == [
        "Recommended: capacity factor 1 (2 slots an expert) with prices (the optimum). It keeps "
        "92.3 % of the value without a capacity; 80 % were asked for.",
        "Proved: 2 slots an expert (factor 1) are enough for 80 %, with fewer no assignment holds "
        "as much.",
        "1.5 with drops holds what 1 holds with prices, 80.76 %. Proved: 2 slots an expert (factor "
        "1) are enough for that, with fewer no assignment holds as much.",
        "The least of these factors that keeps 80 %: dropping by score 1.5, token-major drops 2, "
        "causal prices 2, prices (the optimum) 1.",
    ]
    assert "1 drop-by-score 57.69 50.00 50.00 2.00" in " ".join(ended.stdout.split())


def test_the_simplest_rule_that_is_enough_is_recommended():
    found = decided(LOGITS, factors=(1.5, 2), keep=0.8)
    row = recommended(found)
    assert (row.factor, row.method) == (1.5, DROPS)
    assert "with dropping by score" in sentences(found)[0]


def test_where_no_factor_is_enough_it_says_so_and_which_would_be():
    found = decided(LOGITS, factors=(1, 1.5), keep=0.99)
    assert recommended(found) is None
    first, proof, exchange, least = sentences(found)
    assert first == (
        "None of these factors keeps 99 % of the value without a capacity: with the largest, 1.5, "
        "even the optimum keeps 96.15 %."
    )
    assert proof.startswith("Proved: 4 slots an expert (factor 2) are enough for 99 %")
    assert exchange.startswith("1.5 with drops holds what 1 holds with prices, 80.76 %.")
    assert least == ""


def test_layers_are_added_up():
    """A second layer in which nobody is in the way of another: 2 at every capacity, 28 in all."""
    second = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    found = decided(np.concatenate([LOGITS, [second]]).astype(np.float32))
    assert found.free == 28
    assert values(found, OPTIMUM) == {1: 26, 1.5: 27, 2: 28}
    assert found.target == Holds(pytest.approx(0.8 * 28), 2, 2)
    assert [row["layer"] for row in found.by_layer if row["method"] == BALANCED] == [0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_proved_agrees_with_a_solver_of_its_own(seed):
    """The least capacity of all layers together, by HiGHS at every one."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 24, 4, generator=generator) + torch.tensor([2.0, 1.0, 0.0, 0.0])
    found = decided(logits, k=2, score="softmax", keep=0.9)
    scores = lpr.scores.softmax(logits)
    best = [
        sum(lpr.solve(lpr.problems.capacity(each, 2, C), lpr.HiGHS()).value for each in scores)
        for C in range(25)
    ]
    for held in (found.target, found.reference.holds):
        least = next(C for C, value in enumerate(best) if value >= held.value * (1 - 1e-9))
        assert held.needed == held.enough == least
    for row in found.rows:
        if row.holds is not None:
            assert best[row.holds.enough] >= row.holds.value * (1 - 1e-9)
            assert row.holds.needed == 0 or best[row.holds.needed - 1] < row.holds.value
        if row.method == OPTIMUM:
            assert row.value == pytest.approx(best[row.capacity], rel=1e-9)


def test_bounds_and_values_that_differ_leave_an_interval():
    curve = TotalCurve(torch.tensor([0.0, 2, 4, 6, 8]), torch.tensor([0.0, 4, 7, 8, 8]))
    held = curve.holds(7.0)
    assert held == Holds(7.0, 2, 4)
    assert curve.open_at(held) == 3  # between 6 and 8
    assert curve.open_at(Holds(7.0, 3, 3)) is None
    assert curve.holds(8.0 + 1e-13) == Holds(8.0 + 1e-13, 3, 4)  # rounding


def test_an_interval_is_shown_as_two_factors_rounded_outwards():
    found = decided(LOGITS)
    row = replace(found.reference, holds=Holds(21.0, 1, 2))
    assert as_optimum(found, row) == "0.50-1.00"
    assert as_optimum(found, found.reference) == "1.00"


def test_a_bound_below_a_value_is_refused():
    """Ends and points that contradict each other come from a wrong price."""
    record = {"ends": [[0, 0.0, 0.0, 1.0], [4, 26.0, 26.0, 0.0]], "points": [[2, 24.0, 24.0, 0.1]]}
    with pytest.raises(InputError, match="tangent"):
        total_curve([record])


def choices(rule, worth):
    return RULES[rule](worth, 2, 6)


@pytest.mark.parametrize(("rule", "causal"), [(IN_ORDER, True), (CAUSAL, True), (DROPS, False)])
def test_later_tokens_change_earlier_choices_only_where_a_rule_is_not_causal(rule, causal):
    generator = torch.Generator().manual_seed(2)
    worth = torch.rand(32, 4, generator=generator) + torch.tensor([0.5, 0.2, 0.0, 0.0])
    other = worth.clone()
    other[20:] = torch.rand(12, 4, generator=generator)
    same = choices(rule, worth)[:20].equal(choices(rule, other)[:20])
    assert same is causal


def test_causal_prices_lose_less_than_drops_in_order_where_experts_are_wanted_unevenly():
    generator = torch.Generator().manual_seed(3)
    worth = torch.rand(512, 8, generator=generator) + torch.tensor([1.0, *[0.0] * 7])
    kept = {name: float(worth[RULES[name](worth, 2, 128)].sum()) for name in RULES}
    assert kept[CAUSAL] > 1.1 * kept[IN_ORDER]


def test_a_method_without_an_assignment_says_why(tmp_path):
    """Both tokens may go to expert 0 alone, so that no balanced assignment exists."""
    logits = np.array([[[1.0, -np.inf], [2.0, -np.inf]]], dtype=np.float32)
    np.savez(tmp_path / "a.npz", router_logits=logits, axes="LTE")
    ended = run(tmp_path / "a.npz", "--score", "logits", "--k", 1, "--factors", "1,2")
    assert ended.exit_code == 0, ended.output
    assert "balanced: no answer. INFEASIBLE:" in ended.stdout
    assert "2 (2 slots an expert) with dropping by score. It keeps 100 %" in ended.stdout


def test_files_hold_what_the_table_shows(file, tmp_path):
    ended = run(file, *PLAIN, "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")
    assert ended.exit_code == 0, ended.output

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    advice = content["recommendation"]
    assert (advice["factor"], advice["method"], advice["keep"]) == (1, "optimum", 0.8)
    assert (advice["target"]["needed"], advice["target"]["enough_factor"]) == (2, 1.0)
    assert advice["drops"]["holds"]["enough"] == 2
    assert len(content["rows"]) == len(content["layers"]) == 13
    assert content["options"]["factors"] == "1,1.5,2"
    with (tmp_path / "a.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [float(row["kept"]) for row in rows if row["method"] == OPTIMUM] == [24 / 26, 25 / 26, 1]
    assert rows[0]["optimum_enough"] == "2"
    assert rows[-1]["factor"] == ""


def test_the_page_begins_with_the_recommendation(file, tmp_path):
    path = tmp_path / "a.html"
    ended = run(file, *PLAIN, "--html", path)
    assert ended.exit_code == 0, ended.output
    read = Read(path.read_text())
    assert loaded(read) == []
    assert list(read.sections)[1:] == ["decision", "layers", "making"]
    assert "1.5 with drops holds what 1 holds with prices" in read.words("decision")
    rows = read.table("decision")
    assert [row["kept"][1] for row in rows if row["method"][0] == OPTIMUM] == [92.3, 96.15, 100]
    assert len(read.table("layers")) == 13
    assert (
        "lp-routing decide logits.npz --k 1 --score logits --factors 1,1.5,2 --keep 0.8"
        in read.words("making")
    )
    first = path.read_bytes()
    assert run(file, *PLAIN, "--html", path).exit_code == 0
    assert len(path.read_bytes()) == pytest.approx(len(first), rel=0.01)  # times differ


def test_two_processes_and_a_resumed_run_find_the_same(tmp_path):
    arguments = ("--tokens", 64, "--layers", "0-2", "--json", tmp_path / "a.json")
    kept = tmp_path / "kept.jsonl"
    one = run(*arguments, "--resume", kept)
    first = json.loads((tmp_path / "a.json").read_text())
    again = run(*arguments, "--resume", kept, "--jobs", 2)
    assert one.exit_code == again.exit_code == 0, one.output + again.output
    assert one.stdout == again.stdout
    assert json.loads((tmp_path / "a.json").read_text())["layers"] == first["layers"]
    assert "Only 3 of 4 layers and the first 64 of 4096 tokens of each layer" in one.stdout
    other = run(*arguments, "--resume", kept, "--k", 1)
    assert other.exit_code == 2
    assert "k was 2, is 1" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--factors", "1,x"], '--factors 1,x: expected positive numbers, such as "1,1.25,1.5,2".'),
        (["--factors", "0,1"], "--factors 0,1: expected positive numbers"),
        (["--factors", ""], "--factors : expected positive numbers"),
        (["--keep", "99"], "--keep 99: expected a share above 0 and up to 1."),
        (["--keep", "0"], "--keep 0: expected a share above 0 and up to 1."),
        (["--k", "3"], "k=3 is more than E, the number of experts (2)."),
        (["--json", "a.txt", "--csv", "a.txt"], "--json and --csv both name a.txt"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(file, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    ended = run(file, "--score", "logits", *arguments)
    assert ended.exit_code == 2
    assert says in ended.stderr


def test_scores_of_which_none_is_above_0_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", router_logits=-LOGITS, axes="LTE")
    ended = run(tmp_path / "a.npz", "--score", "logits", "--k", 1)
    assert ended.exit_code == 2
    assert "no pair is worth more than 0" in ended.stderr
