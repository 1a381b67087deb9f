"""`lp-routing place`: hand-worked loads, what a file may hold, files of results, refusals."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli.commands import main


def run(*words):
    result = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["place", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["layers"]


@pytest.fixture
def loads(tmp_path):
    # 4 2 | 2 2 1 1 in their order: 8 and 4 over a mean of 6; EPLB 7 and 5; exchanges 6 and 6
    np.savez(tmp_path / "loads.npz", loads=np.array([[4, 2, 2, 2, 1, 1], [1, 1, 1, 1, 1, 1]]))
    return tmp_path / "loads.npz"


def test_loads_worked_by_hand(loads):
    words = (loads, "--holds", "loads", "--devices", 2, "--slots", 3)
    first, second = rows(run(*words, "--json", "-"))
    assert first["as_is_max_over_mean"] == pytest.approx(8 / 6)
    assert first["eplb_max_over_mean"] == pytest.approx(7 / 6)
    assert first["exchanges_max_over_mean"] == first["bound_max_over_mean"] == 1
    assert first["split_max_over_mean"] == pytest.approx(1)
    assert (first["relative_gap"], second["relative_gap"]) == (0, 0)
    assert sorted(j for held in first["slots"] for j in held) == [0, 1, 2, 3, 4, 5]
    table = run(*words).stdout
    assert "1.167" in table
    assert "mean" in table


def test_branch_and_bound_on_request(loads):
    words = ("--holds", "loads", "--devices", 2, "--slots", 3, "--layers", 0, "--json", "-")
    (row,) = rows(run(loads, *words, "--search", 20))
    assert row["search_max_over_mean"] == pytest.approx(1)
    assert "branch and bound" in row["ended"]


def test_logits_and_choices_give_the_same_loads(tmp_path):
    logits = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    lpr.traces.Trace(logits, "mine", k=2).save(tmp_path / "logits.npz")
    torch.save({"expert_ids": logits.topk(2).indices}, tmp_path / "ids.pt")
    words = ("--devices", 4, "--slots", 3, "--json", "-")
    one = rows(run(tmp_path / "logits.npz", *words))
    two = rows(run(tmp_path / "ids.pt", "--holds", "choices", *words))
    names = [name for name in one[0] if name.endswith("over_mean") or name == "slots"]
    assert [[row[n] for n in names] for row in one] == [[row[n] for n in names] for row in two]


def test_a_running_mean_of_steps(tmp_path):
    # steps (6, 0) and (0, 6): the last alone loads expert 1, their mean both alike
    np.save(tmp_path / "steps.npy", np.array([[[6.0, 0.0]], [[0.0, 6.0]]]))
    words = (
        tmp_path / "steps.npy",
        "--holds",
        "loads",
        "--devices",
        2,
        "--slots",
        1,
        "--json",
        "-",
    )
    assert rows(run(*words, "--json", "-"))[0]["eplb_max_over_mean"] == 1
    assert rows(run(*words, "--decay", 0, "--json", "-"))[0]["eplb_max_over_mean"] == 2


def test_the_sample_is_taken_without_a_file():
    result = run("--devices", 4, "--slots", 10, "--tokens", 64, "--layers", 0)
    assert result.exit_code == 0
    assert "the sample trace" in result.stdout
    assert "Only 1 of 4 layers and the first 64 of" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--holds", "loads", "--devices", 2, "--slots", 2], "give at least slots=3"),
        (["--holds", "loads", "--devices", 2], "Missing option '--slots'"),
        (["--holds", "choices", "--devices", 2, "--slots", 3], "expected one of the keys"),
        (["--holds", "loads", "--devices", 2, "--slots", 3, "--layers", "2"], "layers 0 to 1"),
    ],
)
def test_bad_input_is_one_sentence(loads, words, says):
    result = run(loads, *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_loads_need_a_file_of_the_right_shape(tmp_path):
    assert "name the FILE" in run("--holds", "loads", "--devices", 1, "--slots", 9).stderr
    np.save(tmp_path / "a.npy", np.ones(3))
    result = run(tmp_path / "a.npy", "--holds", "loads", "--devices", 1, "--slots", 9)
    assert "expected loads [layers, experts]" in " ".join(result.stderr.split())
    np.savez(tmp_path / "b.npz", other=np.ones((2, 3)))
    result = run(tmp_path / "b.npz", "--holds", "loads", "--devices", 1, "--slots", 9)
    assert "expected loads under one of the keys" in " ".join(result.stderr.split())
