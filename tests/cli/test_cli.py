"""`lp-routing verify`: exit status, one sentence on bad input, strict JSON, odd shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.cli.commands import BUDGETS, PROBLEMS, SCORES
from lp_routing.cli.frontier import HANDFULS
from lp_routing.cli.options import PACKAGES, parse_layers, parse_tokens
from lp_routing.scores import BY_NAME
from tests.commands import with_k

COMMAND = Path(sys.executable).with_name("lp-routing")
FIELDS = "layer problem method kind status value bound gap relative_gap violation dropped max_load"
LOGITS = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)
SPARSE = {  # two of three experts were recorded; expert 2 for one token only, so it cannot be full
    "expert_ids": np.array([[[0, 1]] * 5 + [[2, 0]]], dtype=np.uint8),
    "probs": np.array([[[0.75, 0.25]] * 6], dtype=np.float16),
}


def verify(*arguments: object):
    """Run the command in this process; whatever happens, it must not end in a traceback."""
    result = CliRunner().invoke(main, ["verify", *with_k(arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def file(tmp_path):
    return saved(tmp_path, LOGITS[0])


def saved(folder: Path, logits: np.ndarray, name: str = "logits.npz") -> Path:
    with (folder / name).open("wb") as opened:
        np.savez(opened, router_logits=logits)
    return folder / name


def strict(path: Path):
    """The content of a JSON file that holds no NaN and no infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_the_strict_reader_of_these_tests_refuses_infinity(tmp_path):
    (tmp_path / "a.json").write_text('{"bound": -Infinity}')
    with pytest.raises(AssertionError, match="-Infinity is not JSON"):
        strict(tmp_path / "a.json")


def test_all_that_claims_exactness_is_exact_and_the_status_is_0(file, tmp_path):
    result = verify(file, "--json", tmp_path / "rows.json")
    assert result.exit_code == 0
    assert "proving: 7 of 7" in result.stderr.splitlines()
    assert result.stderr.splitlines()[-1].startswith("confirming: 14 of 14, ")
    assert "Proved: 7 optima" in result.stdout
    assert "the quick rules that claim to be exact are (4 of 4)" in result.stdout
    assert "NOT PROVED" not in result.stdout
    content = strict(tmp_path / "rows.json")
    rows = content["rows"]
    assert {row["layer"] for row in rows} == {0}
    assert {row["problem"] for row in rows} == set(PROBLEMS)
    assert {row["kind"] for row in rows} == {"proof", "confirmation", "router"}
    assert all({*FIELDS.split(), "seconds"} <= set(row) for row in rows)
    solvers = [row for row in rows if row["kind"] != "router"]
    assert [row["status"] for row in solvers] == ["OPTIMAL"] * 21
    assert all(row["gap"] == row["relative_gap"] == 0 for row in solvers if row["exact_zero"])
    for row in rows:
        if row["status"] == "VIOLATES":
            assert row["gap"] is None
        else:
            assert row["bound"] - row["value"] == pytest.approx(row["gap"], abs=1e-9)
    assert content["source"] == str(file)
    assert set(content["versions"]) == {"python", *PACKAGES}
    assert content["versions"]["torch"] == torch.__version__
    assert all(finding["holds"] for finding in content["findings"])


def test_all_tokens_are_taken_or_the_last_line_says_which(file, tmp_path):
    rows = tmp_path / "rows.json"
    everything = verify(file, "--json", rows).stdout
    assert {row["tokens"] for row in strict(rows)["rows"]} == {12}
    assert "Only the first" not in everything
    some = verify(file, "--tokens", 8, "--json", rows).stdout
    assert {row["tokens"] for row in strict(rows)["rows"]} == {8}
    assert some.splitlines()[-1].endswith("Only the first 8 of 12 tokens of each layer were taken.")


def test_the_values_are_those_of_the_stated_problems(file, tmp_path):
    arguments = ("--k", 1, "--capacity-factor", 1.5, "--score", "sigmoid")
    assert verify(file, *arguments, "--json", tmp_path / "rows.json").exit_code == 0
    scores = lpr.scores.sigmoid(torch.from_numpy(LOGITS[0]))
    stated = {
        "token_choice": lpr.problems.token_choice(scores, 1),
        "expert_choice": lpr.problems.expert_choice(scores, 3),
        "unified": lpr.problems.unified(scores, 12),
        "served_unified": lpr.problems.served_unified(scores, 12),
        "capacity": lpr.problems.capacity(scores, 1, 5),  # 12 * 1 / 4 * 1.5 = 4.5, rounded up
        "balanced": lpr.problems.balanced(scores, 1),
        "capped_expert_choice": lpr.problems.capped_expert_choice(scores, 3, 2),
    }
    found = {
        row["problem"]: row["value"]
        for row in strict(tmp_path / "rows.json")["rows"]
        if row["method"] == "HiGHS"
    }
    assert found == pytest.approx({n: lpr.solve(p).value for n, p in stated.items()}, rel=1e-9)


@pytest.mark.parametrize(("layers", "expected"), [("all", {0, 1}), ("1", {1}), ("0-1", {0, 1})])
def test_the_chosen_layers_are_verified(tmp_path, layers, expected):
    path = saved(tmp_path, LOGITS[:, :4])
    result = verify(path, "--layers", layers, "--json", tmp_path / "rows.json")
    assert result.exit_code == 0
    assert {row["layer"] for row in strict(tmp_path / "rows.json")["rows"]} == expected


def test_layers_and_tokens_are_read_in_every_form():
    assert parse_layers("ALL", 3) == [0, 1, 2]
    assert parse_layers("2,0-1, 1", 4) == [0, 1, 2]
    assert parse_tokens("all") is None
    assert parse_tokens("7") == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "5"], "k=5 is more than E, the number of experts (4)."),
        (["--k", "0"], "k=0: it must be at least 1."),
        (["--k", "-1"], "k=-1: it must be at least"),
        (["--layers", "1"], "--layers 1: this file has the layers 0 to 0."),
        (["--layers", "first"], '--layers first: expected "all", "0,2" or "0-3".'),
        (["--layers", ""], '--layers : expected "all"'),
        (["--layers", "1-0"], "--layers 1-0: this file has the layers 0 to 0."),
        (["--layers", "²"], '--layers ²: expected "all"'),
        (["--layers", "0-999999999999"], "--layers 0-999999999999: this file has the layers"),
        (["--tokens", "0"], '--tokens 0: expected "all" or a whole number >= 1.'),
        (["--tokens", "²"], "--tokens ²: expected"),
        (["--capacity-factor", "0"], "capacity factor 0.0: expected a positive number."),
        (["--capacity-factor", "-1"], "capacity factor -1.0: expected a positive number."),
        (["--capacity-factor", "nan"], "capacity factor nan: expected a positive number."),
        (["--capacity-factor", "inf"], "capacity factor inf: expected a positive number."),
        (["--json", "/no/such/folder/rows.json"], "--json /no/such/folder/rows.json: cannot be"),
        (["--json", "."], "--json .: cannot be written"),
    ],
)
def test_an_option_that_makes_no_sense_gives_status_2_and_one_sentence(file, arguments, says):
    result = verify(file, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {says}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("--k", "foo"), ("--k", "1.5"), ("--capacity-factor", "x"), ("--score", "x"), ("--nonsense",)],
)
def test_an_option_that_click_refuses_gives_status_2_and_one_sentence(file, arguments):
    result = verify(file, *arguments)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert lines == result.stderr.splitlines()[-1:]
    assert arguments[-1] in lines[0]


def _with(value: float) -> np.ndarray:
    logits = LOGITS[0].copy()
    logits[3, 1] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (_with(np.nan), "router_logits[0, 3, 1] is nan (1 such entries)"),
        (_with(np.inf), "router_logits[0, 3, 1] is inf (1 such entries)"),
        (LOGITS[0, :0], "with at least one of each, got torch.float32 of shape (0, 4)."),
        (LOGITS[0, 0], "expected router logits [layers, tokens, experts]"),
        (np.full((12, 4), -np.inf), "token_0 must take at least"),
    ],
)
def test_a_file_that_cannot_be_routed_gives_status_2_and_one_sentence(tmp_path, logits, says):
    result = verify(saved(tmp_path, logits))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Proved" not in result.stdout


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.safetensors", "a.pt", "a.txt", "none.npz"])
def test_a_broken_or_missing_file_gives_status_2_and_one_sentence(tmp_path, file, name):
    if name != "none.npz":
        (tmp_path / name).write_bytes(file.read_bytes()[:100])
    result = verify(tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {tmp_path / name}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["[bold]a.npz", "ü 漢.npz", "a[b]/c.npz", "a[/b].npz"])
def test_the_name_of_the_file_is_shown_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # so that the name stands on one line
    Path(name).parent.mkdir(exist_ok=True)
    saved(Path(), LOGITS[0, :4], name)
    result = verify(name)
    assert result.exit_code == 0
    assert f"{name}: 1 layer(s), 4 of 4 tokens, 4 experts; k=2" in result.stdout


def test_a_problem_without_a_feasible_assignment_is_no_failure(tmp_path):
    np.savez(tmp_path / "sparse.npz", **SPARSE)
    result = verify(tmp_path / "sparse.npz", "--json", tmp_path / "rows.json")
    assert result.exit_code == 0
    assert "no feasible assignment at all" in result.stdout
    rows = strict(tmp_path / "rows.json")["rows"]
    infeasible = [r for r in rows if r["problem"] == "expert_choice" and r["kind"] != "router"]
    assert [row["status"] for row in infeasible] == ["INFEASIBLE"] * 3
    assert all(row["value"] is row["bound"] is row["gap"] is None for row in infeasible)
    assert all("No assignment exists" in row["explanation"] for row in infeasible)


def test_bad_input_leaves_no_result_behind(file, tmp_path):
    assert verify(file, "--k", 9, "--json", tmp_path / "rows.json").exit_code == 2
    assert not (tmp_path / "rows.json").exists()


def test_the_installed_command_verifies_the_sample_in_several_processes(tmp_path):
    arguments = ["--layers", "3", "--tokens", "24", "--jobs", "2", "--json", tmp_path / "rows.json"]
    done = subprocess.run([COMMAND, "verify", *arguments], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count(b"proving: ") == 7
    assert done.stderr.count(b"confirming: ") == 14
    assert done.stderr.count(b"\n") == 21
    assert b"the sample trace: 1 layer(s), 24 of 4096 tokens, 32 experts" in done.stdout
    assert b"Proved: 7 optima" in done.stdout
    content = strict(tmp_path / "rows.json")
    assert content["source"] == "the sample trace"
    assert {row["problem"] for row in content["rows"]} == set(PROBLEMS)


def test_the_file_that_is_read_is_not_written_over(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 4)))
    before = path.read_bytes()
    result = CliRunner().invoke(main, ["verify", str(path), "--k", "2", "--json", str(path)])
    assert result.exit_code == 2
    assert "this is the file to read; give another name" in result.stderr
    assert path.read_bytes() == before


def test_without_a_terminal_progress_is_told_in_lines(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.eye(8, 4))
    result = CliRunner().invoke(main, ["verify", str(path), "--k", "2", "--confirm-seconds", "0"])
    assert result.exit_code == 0
    assert "proving: 1 of 7, about " in result.stderr
    assert result.stderr.splitlines()[-1] == "proving: 7 of 7"
    assert "balanced" in result.stdout
    assert "<= unified" in result.stdout


HEAVY = ("torch", "numpy", "scipy", "numba", "rich", "pandas", "matplotlib", "lp_routing.scores")


def loaded_by(*arguments, **environment):
    """What the command line prints, and which of the slow imports it has made by then."""
    code = (
        "import sys\nfrom lp_routing.__main__ import run\ntry: run()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return ended.stdout, [name for name in HEAVY if name in ended.stderr.split()]


@pytest.mark.parametrize("name", ["", *main.commands])
def test_help_loads_nothing_that_takes_time(name):
    said, heavy = loaded_by(*name.split(), "--help")
    assert said.startswith(f"Usage: lp-routing {name}".rstrip())
    assert heavy == []


def test_version_loads_nothing_that_takes_time():
    said, heavy = loaded_by("--version")
    assert (said, heavy) == (f"lp-routing, version {lpr.__version__}\n", [])


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("lp-routing fr", "plain,frontier"),
        ("lp-routing gap --pro", "plain,--problem"),
        ("lp-routing gap --problem cap", "plain,capacity\nplain,capped_expert_choice"),
        ("lp-routing verify log", "file,log"),
    ],
)
def test_completion_loads_nothing_that_takes_time(words, completed):
    cursor = str(len(words.split()) - 1)
    said, heavy = loaded_by(
        _LP_ROUTING_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=cursor
    )
    assert (said.strip(), heavy) == (completed, [])


def test_a_slow_import_is_seen():
    _, heavy = loaded_by("verify", "none.npz")
    assert "torch" in heavy


def test_what_the_options_offer_is_what_there_is():
    assert tuple(BY_NAME) == SCORES
    assert tuple(HANDFULS) == BUDGETS
    assert all(callable(getattr(lpr.problems, name)) for name in PROBLEMS)


def test_an_unknown_command_is_refused_with_one_that_is_like_it():
    result = CliRunner().invoke(main, ["gaps"])
    assert result.exit_code == 2
    assert "No such command 'gaps'" in result.output
    assert "Did you mean 'gap'?" in result.output
