"""What a file says is what commands do: defaults, masks, sequences, refusals, warnings."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.cli.options import first_tokens
from lp_routing.report.layer_results import longest_sequence

LOGITS = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)
VERIFY = ("verify",)
COMMANDS = {
    "verify": VERIFY,
    "gap": ("gap", "--repeats", "1", "--routers", "optimum,token-choice"),
    "audit": ("audit", "--routers", "token-choice"),
    "claims": ("claims", "--only", "B1"),
    "frontier": ("frontier", "--routers", "none"),
    "report": ("report", "-o", "page.html", "--routers", "token-choice"),
}


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(word) for word in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def saved(folder, **content):
    np.savez(folder / "a.npz", **content)
    return folder / "a.npz"


def optima(folder, *arguments):
    """Problem -> value of the first layer, as `verify` writes them."""
    result = run(*VERIFY, *arguments, "--json", folder / "rows.json")
    assert result.exit_code == 0, result.output
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    return {r["problem"]: r["value"] for r in rows if r["method"] == "HiGHS" and r["layer"] == 0}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_says_k_or_the_user_does(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    unsaid = run(*COMMANDS[command], saved(tmp_path, router_logits=LOGITS))
    assert unsaid.exit_code == 2
    assert "does not say how many experts a token takes; give --k." in unsaid.stderr
    if command == "report":
        return  # the page takes long; its options are read as those of the others
    path = saved(tmp_path, router_logits=LOGITS, top_k=3)
    assert "k=3" in run(*COMMANDS[command], path).stdout
    assert "k=1" in run(*COMMANDS[command], path, "--k", 1).stdout


def test_score_and_capacity_factor_are_read_too(tmp_path):
    path = saved(
        tmp_path, router_logits=LOGITS, k=1, scoring_func="sigmoid", capacity_factor=np.array(1.5)
    )
    scores = lpr.scores.sigmoid(torch.tensor(LOGITS[0]))
    expected = lpr.solve(lpr.problems.capacity(scores, 1, 5)).value
    assert optima(tmp_path, path)["capacity"] == pytest.approx(expected, rel=1e-9)
    said = optima(tmp_path, path, "--score", "softmax", "--capacity-factor", 1)
    expected = lpr.solve(lpr.problems.capacity(lpr.scores.softmax(torch.tensor(LOGITS[0])), 1, 3))
    assert said["capacity"] == pytest.approx(expected.value, rel=1e-9)


def test_padding_counts_for_nothing(tmp_path):
    """Four tokens of padding before two with a share of 0.75 and 0.6."""
    shares = np.array([0.9] * 4 + [0.75, 0.6], dtype=np.float32)
    logits = np.log(np.stack([shares, 1 - shares], 1)) + 3
    path = saved(tmp_path, router_logits=logits, attention_mask=np.array([[0] * 4 + [1] * 2]))
    assert optima(tmp_path, path, "--k", 1)["token_choice"] == pytest.approx(1.35, rel=1e-6)


def test_counts_are_tokens(tmp_path):
    path = saved(tmp_path, router_logits=LOGITS[0], k=1, token_counts=np.array([1, 2] * 6))
    repeated = torch.tensor(LOGITS[0]).repeat_interleave(torch.tensor([1, 2] * 6), 0)
    problem = lpr.problems.balanced(lpr.scores.softmax(repeated), 1)
    expected = lpr.solve(problem).value
    assert optima(tmp_path, path)["balanced"] == pytest.approx(expected, rel=1e-9)


def test_sparse_shares_are_worth_what_they_are(tmp_path):
    """One token an expert: 0.9 at expert 0, 0.1 at expert 1, 0.3 at expert 2."""
    path = saved(
        tmp_path,
        expert_ids=np.array([[0, 1], [0, 1], [0, 1], [0, 2]]),
        probs=np.array([[0.9, 0.05], [0.2, 0.1], [0.15, 0.1], [0.5, 0.3]]),
        num_experts=4,
    )
    for said in ((), ("--score", "softmax")):
        values = optima(tmp_path, path, "--k", 1, "--capacity-factor", 1, *said)
        assert values["capacity"] == pytest.approx(1.30, rel=1e-6)


def test_routers_that_shares_do_not_tell_are_left_out(tmp_path):
    logs = torch.tensor(LOGITS[0]).log_softmax(-1)
    path = saved(tmp_path, router_logits=logs.numpy(), k=1)
    told = run("frontier", path, "--routers", "token-choice, relu")
    assert (told.exit_code, "token-choice" in told.stdout) == (0, True)
    assert "relu is left out: its scores change with a constant" in told.stderr
    path = saved(tmp_path, router_logits=logs.numpy() - 1, k=1, up_to_a_constant=True)
    for command in (("frontier",), COMMANDS["gap"][:3]):
        told = run(*command, path, "--routers", "token-choice")
        assert told.exit_code == 0
        assert "the scores are no softmax" in " ".join(told.output.split())


def test_probabilities_tell_no_sigmoid(tmp_path):
    shares = torch.tensor(LOGITS[0]).softmax(-1).numpy()
    path = saved(tmp_path, router_logits=shares, k=1)
    assert "adds up to 1" in run(*VERIFY, path).stderr
    said = ("--values", "probabilities")
    found = optima(tmp_path, path, *said)["token_choice"]
    assert found == pytest.approx(shares.max(1).sum(), rel=1e-6)
    refused = run(*VERIFY, path, *said, "--score", "sigmoid")
    assert (refused.exit_code, "up to one constant" in refused.stderr) == (2, True)
    plain = run(*VERIFY, saved(tmp_path, router_logits=LOGITS, k=1), "--score", "probabilities")
    assert (plain.exit_code, "holds logits" in plain.stderr) == (2, True)
    unknown = run(*VERIFY, saved(tmp_path, router_logits=LOGITS, k=1, score="softermax"))
    assert (unknown.exit_code, "softermax" in unknown.stderr) == (2, True)


def test_axes_are_said(tmp_path):
    path = saved(tmp_path, router_logits=LOGITS.transpose(1, 0, 2), k=1)
    assert "more than one order" in run(*VERIFY, path).stderr
    plain = optima(tmp_path, saved(tmp_path, router_logits=LOGITS, k=1))
    path = saved(tmp_path, router_logits=LOGITS.transpose(1, 0, 2), k=1)
    assert optima(tmp_path, path, "--axes", "TLE") == plain


def test_what_is_not_used_is_told_once(tmp_path):
    path = saved(
        tmp_path,
        router_logits=LOGITS,
        k=1,
        e_score_correction_bias=np.zeros((2, 4)),
        model="a name",
    )
    told = run(*COMMANDS["gap"], path).stderr
    assert told.count("not used: model.") == 1
    assert told.count("its selection bias is read, but no router of this command uses it") == 1


def causality(tmp_path, path, name):
    """The count of tokens that change with later ones, None where nothing was asked."""
    written = tmp_path / "found.json"
    result = run("audit", path, "--k", 1, "--routers", name, "--json", written)
    assert result.exit_code == 0, result.output
    findings = json.loads(written.read_text())["findings"]
    return next(each["count"] for each in findings if each["audit"] == "causality")


def test_a_page_looks_at_causality_within_sequences(tmp_path):
    written = tmp_path / "page.html"
    path = saved(tmp_path, router_logits=LOGITS[0], k=1, sequence=np.arange(12))
    result = run("report", path, "--routers", "unified-usmoe", "-o", written)
    assert result.exit_code in (0, 1), result.output
    assert "there is one token, and none later" in written.read_text()


def test_the_longest_sequence_is_drawn():
    logits, number = torch.arange(5.0)[:, None], torch.tensor([4, 1, 4, 1, 4])
    each = SimpleNamespace(logits=logits, sequence=number)
    assert longest_sequence(each).flatten().tolist() == [0, 2, 4]
    assert longest_sequence(SimpleNamespace(logits=logits, sequence=None)) is logits


def test_no_token_is_later_than_those_of_another_sequence(tmp_path):
    """Every sequence is one token: nothing comes later, though the batch goes on."""
    one = {"router_logits": LOGITS[0]}
    assert causality(tmp_path, saved(tmp_path, **one), "unified-usmoe") > 0
    alone = saved(tmp_path, **one, sequence=np.arange(12))
    assert causality(tmp_path, alone, "unified-usmoe") is None


def test_the_first_tokens_are_real_ones():
    logits = torch.arange(8.0).view(1, 4, 2)
    trace = lpr.traces.Trace(logits, "here", mask=[0, 1, 0, 1])
    assert first_tokens(trace, 1).tolist() == [[[2, 3]]]
    assert first_tokens(trace, None).tolist() == [[[2, 3], [6, 7]]]
    assert first_tokens(lpr.traces.Trace(logits, "here"), 1).tolist() == [[[0, 1]]]
