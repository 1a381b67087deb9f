"""`lp-routing choices`: hand-worked tables, two recordings, files of results, refusals."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli.commands import main

# four tokens, four experts, two each: loads 4, 2, 2, 0 and 2, 2, 2, 2
IDS = torch.tensor([[[0, 1], [0, 1], [0, 2], [0, 2]], [[0, 1], [0, 1], [2, 3], [2, 3]]])


def run(*words):
    result = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["choices", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def file(tmp_path):
    torch.save({"expert_ids": IDS, "num_experts": 4}, tmp_path / "ids.pt")
    return tmp_path / "ids.pt"


def lines(result):
    return [line.split() for line in result.stdout.splitlines() if line.strip()]


def test_a_table_worked_by_hand(file):
    result = run(file, "--capacity-factor", 1, "--devices", 2)
    assert result.exit_code == 0, result.stderr
    assert "2 of 2 layer(s), 4 tokens, 4 experts, at most 2 a token" in " ".join(
        result.stdout.split()
    )
    rows = {words[0]: words[1:] for words in lines(result)}
    assert rows["0"] == ["2.00", "1", "25.0", "%", "0", "+", "1", "(100", "%)", "1.50"]
    assert rows["1"][:3] == ["1.00", "0", "0"]
    assert rows["mean"] == ["1.50", "0.5", "12.5", "%", "1.25"]


def test_json_to_stdout_and_a_csv_file(file, tmp_path):
    result = run(file, "--layers", 0, "--json", "-", "--csv", tmp_path / "rows.csv")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [row["max_over_mean"] for row in rows] == [2.0]
    assert (tmp_path / "rows.csv").read_text().startswith("layer,tokens,pairs,max_over_mean")


def test_two_recordings_and_margins(file, tmp_path):
    # the second recording differs in the first token of layer 0, whose margin is the smallest
    other = IDS.clone()
    other[0, 0, 1] = 3
    np.savez(tmp_path / "other.npz", expert_ids=other)
    logits = torch.zeros(2, 4, 4).scatter_(2, IDS, 2.0)
    logits[0, 0] *= 0.5
    lpr.traces.Trace(logits, "mine").save(tmp_path / "logits.npz")
    result = run(file, tmp_path / "other.npz", "--logits", tmp_path / "logits.npz", "--json", "-")
    assert result.exit_code == 0, result.stderr
    first, second = json.loads(result.stdout)["rows"]
    assert (first["differ"], first["overlap"]) == (0.25, 7 / 8)
    assert first["by_margin"] == [1, 0, 0, 0]
    assert (second["differ"], second["overlap"]) == (0, 1)
    table = run(file, tmp_path / "other.npz").stdout
    assert "mean" in table
    assert "12.5 %" in table


def test_logits_beside_give_the_gap(file, tmp_path):
    logits = torch.zeros(2, 4, 4).scatter_(2, IDS, 2.0)
    lpr.traces.Trace(logits, "mine").save(tmp_path / "logits.npz")
    rows = json.loads(run(file, "--logits", tmp_path / "logits.npz", "--json", "-").stdout)["rows"]
    assert [(row["differ"], row["gap"]) for row in rows] == [(0, 0), (0, 0)]
    assert "gap" in run(file, "--logits", tmp_path / "logits.npz").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--devices", 3], "4 experts cannot be shared out equally"),
        (["--experts", 3], "took expert 3, beyond the last of 3"),
        (["--layers", "5"], "this file has the layers 0 to 1"),
        (["--logits", "none.npz"], "no such file"),
    ],
)
def test_bad_input_is_one_sentence(file, words, says):
    result = run(file, *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_logits_of_other_tokens_are_refused(file, tmp_path):
    lpr.traces.Trace(torch.randn(2, 5, 4), "mine").save(tmp_path / "logits.npz")
    result = run(file, "--logits", tmp_path / "logits.npz")
    assert result.exit_code == 2
    assert "do not belong to choices of 2 layers, 4 tokens and 4 experts" in " ".join(
        result.stderr.split()
    )


def test_what_is_left_out_is_told_on_stderr(tmp_path):
    line = json.dumps({"layer": 0, "token": 0, "expert": 1})
    (tmp_path / "a.jsonl").write_text(line + "\n{cut")
    result = run(tmp_path / "a.jsonl")
    assert result.exit_code == 0
    assert "1 broken line(s) left out, 1 kept" in result.stderr
