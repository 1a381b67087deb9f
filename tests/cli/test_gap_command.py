"""`lp-routing gap`: tables, files, exit status, one sentence on bad input."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli.commands import PROBLEMS, gap
from lp_routing.cli.gap import own_score
from lp_routing.cli.options import parse_routers
from lp_routing.evaluation.compare import comparisons
from lp_routing.routers import CATALOGUE, Shape, TopK, router
from tests.commands import with_k

LOGITS = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)
FEW = "optimum,token-choice,drop-by-score"


def run(*arguments: object):
    """Run the command; whatever happens, it must not end in a traceback."""
    result = CliRunner().invoke(gap, [*with_k(arguments), "--repeats", "1"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "logits.npz", router_logits=LOGITS)
    return tmp_path / "logits.npz"


def strict(path):
    """The content of a JSON file that holds no NaN and no infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_routers_that_are_named_one_by_one_add_up(file, tmp_path):
    path = tmp_path / "a.json"
    named = ("--routers", "token-choice", "--routers", "drop-token-major,optimum")
    assert run(file, "--layers", 0, *named, "--json", path).exit_code == 0
    content = strict(path)
    names = ["token-choice", "drop-token-major", "optimum"]
    assert [row["router"] for row in content["rows"]] == names
    assert content["options"]["routers"] == ", ".join(["token-choice", f"{names[1]},optimum"])


def test_every_router_of_the_catalogue_is_measured_on_every_layer(file, tmp_path):
    outputs = ("--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")
    result = run(file, "--routers", "all", "--by-layer", *outputs)
    assert result.exit_code == 0
    assert "Layer 0, capacity of softmax scores" in result.stdout
    assert "Layer 1, capacity of softmax scores" in result.stdout
    assert "INFEASIBLE" in result.stdout
    content = strict(tmp_path / "a.json")
    rows = content["rows"]
    assert len(rows) == 2 * (1 + len(CATALOGUE))
    assert {row["layer"] for row in rows} == {0, 1}
    assert {row["problem"] for row in rows} == {"tokens at_most(2), experts at_most(8)"}
    assert {row["status"] for row in rows} == {"ok", "INFEASIBLE"}
    assert {row["routed_on"] for row in rows} == {"logits"}
    assert content["options"]["problem_name"] == "capacity"
    assert content["versions"]["torch"] == torch.__version__
    with (tmp_path / "a.csv").open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert [line["router"] for line in lines] == [row["router"] for row in rows]
    gaps = [float(line["gap"]) if line["gap"] else None for line in lines]
    assert gaps == [row["gap"] for row in rows]


def test_routers_whose_rule_lies_in_their_scores_take_what_they_take_on_logits(file, tmp_path):
    routers = "entmax, entmax-budget, relu, soft-top-k, loss-free"
    assert run(file, "--routers", routers, "--json", tmp_path / "a.json").exit_code == 0
    for row in strict(tmp_path / "a.json")["rows"]:
        logits = torch.from_numpy(LOGITS[row["layer"]])
        answer = router(row["router"], Shape(2, 8, 12, 4))(logits)
        taken = answer[0] if isinstance(answer, tuple) else answer
        assert row["pairs"] == taken.x.sum()


def test_all_tokens_are_judged_unless_fewer_are_asked_for(tmp_path):
    logits = np.random.default_rng(1).normal(size=(1, 1100, 4))
    np.savez(tmp_path / "long.npz", router_logits=logits)
    path = tmp_path / "a.json"
    for tokens, pairs in (((), 2200), (("--tokens", 1024), 2048)):
        result = run(tmp_path / "long.npz", *tokens, "--routers", "token-choice", "--json", path)
        assert f"{pairs // 2} of 1100 tokens" in result.stdout
        assert strict(path)["rows"][0]["pairs"] == pairs
        assert ("Only the first" in result.stdout.splitlines()[-1]) == (pairs == 2048)


def test_a_rule_with_a_memory_is_called_cold_unless_it_had_steps(file):
    assert "loss-free, cold" in run(file, "--routers", "loss-free").stdout
    warm = run(file, "--routers", "loss-free", "--warm-up", 3).stdout
    assert "cold" not in warm.split("gap: what is lost")[0]
    assert "after 3" in " ".join(warm.split())


def test_the_batches_that_follow_warm_a_rule_up(file, tmp_path):
    path = tmp_path / "a.json"
    arguments = ("--routers", "loss-free", "--tokens", 3, "--layers", "1", "--json", path)
    assert run(file, *arguments, "--warm-on", 2).exit_code == 0
    (row,) = strict(path)["rows"]
    assert row["state"] == "after 2 other batch(es)"
    logits = torch.from_numpy(LOGITS[1])
    problem = lpr.problems.capacity(lpr.scores.softmax(logits[:3]), 2, 2)
    (same,) = lpr.evaluation.comparisons(
        problem, ["loss-free"], logits=logits[:3], warm_on=[logits[3:6], logits[6:9]]
    )
    assert row["value"] == same.value
    assert run(file, *arguments, "--warm-on", 2, "--warm-up", 1).exit_code == 2


def test_the_gap_is_to_the_optimum_of_the_stated_problem(file, tmp_path):
    arguments = ("--k", 1, "--capacity-factor", 1.5, "--score", "sigmoid", "--layers", "1")
    arguments += ("--tokens", 8, "--routers", FEW, "--json", tmp_path / "a.json")
    assert run(file, *arguments).exit_code == 0
    scores = torch.sigmoid(torch.from_numpy(LOGITS[1, :8]))
    value = lpr.solve(lpr.problems.capacity(scores, 1, 3)).value  # 8 * 1 / 4 * 1.5 = 3
    optimum, top, drop = strict(tmp_path / "a.json")["rows"]
    assert (optimum["router"], top["router"], drop["router"]) == tuple(FEW.split(","))
    assert optimum["optimum"] == pytest.approx(value)
    assert (optimum["gap"], optimum["feasible"]) == (0, True)
    assert drop["gap"] == pytest.approx(drop["bound"] - drop["value"])
    assert top["value"] == pytest.approx(float(scores.amax(1).sum()))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_named_problem_has_an_optimum_without_a_gap(file, tmp_path, problem):
    path = tmp_path / "a.json"
    arguments = ("--problem", problem, "--routers", FEW, "--layers", 0, "--json", path)
    assert run(file, *arguments).exit_code == 0
    optimum, *others = strict(path)["rows"]
    assert (optimum["gap"], optimum["feasible"]) == (0, True)
    assert all(row["gap"] >= 0 for row in others if row["feasible"])


def test_a_plot_is_drawn(file, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(file, "--routers", FEW, "--plot", tmp_path / "a.png").exit_code == 0
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_layer_without_any_assignment_is_said(tmp_path):
    logits = np.full((6, 3), -np.inf)
    logits[:, :2], logits[0, 2] = 0, 0  # expert 2 can have one token only
    np.savez(tmp_path / "a.npz", router_logits=logits)
    result = run(tmp_path / "a.npz", "--problem", "balanced", "--routers", FEW)
    assert result.exit_code == 0
    assert "no optimum to compare with. INFEASIBLE" in " ".join(result.stdout.split())
    assert "no assignment" in result.stdout  # the remark, beside the sentence


def test_names_are_separated_by_commas_in_any_spacing_and_count_once():
    known = ("optimum", *CATALOGUE)
    assert parse_routers("ALL", known) == list(known)
    names = ["token-choice", "drop-by-position"]
    assert parse_routers("token-choice,  drop-by-position,token-choice", known) == names


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("drop by score", "'drop by score' is now called 'drop-by-score'"),
        ("optimum, drop by position, token-major", "'drop by position' is now called"),
        ("Top-K", "'Top-K' is now called 'token-choice'"),
        ("unified", "'unified' is now called 'unified-usmoe'"),
        ("sinkhorn, balanced", "'balanced' is now called 'sinkhorn-balanced'"),
        ("BIP, online", "'BIP' is now called 'bip'"),
        ("random second", "'random second' is now called 'gshard'"),
        ("token choise", "'token choise' is unknown; did you mean 'token-choice'?"),
    ],
)
def test_a_former_name_says_what_is_new(file, typed, says):
    result = run(file, "--routers", typed)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: --routers: {says}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "5"], "k=5 is more than E, the number of experts (4)."),
        (["--k", "0"], "k=0: it must be at least 1."),
        (["--layers", "2"], "--layers 2: this file has the layers 0 to 1."),
        (["--tokens", "0"], '--tokens 0: expected "all" or a whole number >= 1.'),
        (["--capacity-factor", "0"], "capacity factor 0.0: expected a positive number."),
        (["--warm-on", "9"], "--warm-on 9: 12 of 12 tokens leave 0 more batches"),
        (
            ["--routers", "tokenchoice"],
            "--routers: 'tokenchoice' is unknown; did you mean 'token-choice'?",
        ),
        (["--routers", ""], "--routers: '' is unknown; expected \"all\", or some of: optimum; tok"),
        (["--json", "/no/such/folder/a"], "--json /no/such/folder/a: cannot be written"),
        (["--csv", "/no/such/folder/a"], "--csv /no/such/folder/a: cannot be written"),
        (["--plot", "/no/such/folder/a.png"], "--plot /no/such/folder/a.png: cannot be written"),
    ],
)
def test_an_option_that_makes_no_sense_gives_status_2_and_one_sentence(file, arguments, says):
    result = run(file, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")  # before the banner
    assert result.stderr.startswith(f"Error: {says}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--repeats", "--warm-up", "--warm-on", "--seed", "--jobs"])
def test_numbers_out_of_range_are_refused(file, option):
    result = CliRunner().invoke(gap, [str(file), "--k", "2", option, "-1"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Error: Invalid value for '{option}': -1 is not in the range" in result.stderr


def test_outputs_that_would_overwrite_something_are_refused(file, tmp_path):
    same = run(file, "--csv", tmp_path / "a", "--json", tmp_path / "a")
    assert (same.exit_code, same.stdout) == (2, "")
    assert "--json and --csv both name" in same.stderr
    kept = file.read_bytes()
    result = run(file, "--csv", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: --csv {file}: this is the file to read")
    assert file.read_bytes() == kept
    text = run(file, "--plot", tmp_path / "a.txt")
    assert (text.exit_code, text.stdout) == (2, "")
    assert "expected a file ending in .png" in text.stderr


@pytest.mark.parametrize(
    "arguments", [("--k", "x"), ("--problem", "knapsack"), ("--score", "x"), ("--nonsense",)]
)
def test_an_option_that_click_refuses_gives_status_2(file, arguments):
    assert run(file, *arguments).exit_code == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_file_that_cannot_be_routed_gives_status_2_and_one_sentence(tmp_path, value):
    logits = LOGITS.copy()
    logits[1, 3, 1] = value
    np.save(tmp_path / "a.npy", logits)
    result = run(tmp_path / "a.npy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {tmp_path / 'a.npy'}: router_logits[1, 3, 1] is")


def test_each_router_is_judged_by_the_problem_it_seeks(file, tmp_path):
    routers = "optimum,token-choice,drop-by-score,expert-choice,unified-usmoe,served-usmoe"
    arguments = ("--problem", "own", "--layers", "0", "--routers", f"{routers},hash")
    result = run(file, *arguments, "--json", tmp_path / "a.json")
    assert result.exit_code == 0
    assert "served_unified of unified scores" in result.stdout
    assert "Seek no named problem, not judged: hash." in result.stdout
    rows = [row for row in strict(tmp_path / "a.json")["rows"] if row["router"] != "optimum"]
    assert [row["router"] for row in rows] == [
        "drop-by-score",
        "unified-usmoe",
        "token-choice",
        "expert-choice",
        "served-usmoe",
    ]  # hash seeks none
    for row in rows:
        assert row["feasible"]
        assert (row["gap"] == 0) == (row["router"] != "drop-by-score")


def test_a_router_that_breaks_the_problem_it_seeks_has_no_gap_to_it(file, tmp_path, monkeypatch):
    class Greedy(TopK):
        def select(self, scores):
            return scores > 0

    monkeypatch.setitem(CATALOGUE, "greedy", lambda shape: Greedy(shape.k))
    arguments = ("--problem", "own", "--routers", "greedy", "--json", tmp_path / "a.json")
    assert run(file, *arguments).exit_code == 0
    for row in strict(tmp_path / "a.json")["rows"]:
        assert (row["seeks"], row["feasible"], row["gap"]) == ("token_choice", False, None)
        assert row["status"] == "INFEASIBLE"


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("token-choice", "softmax"),
        ("noisy-top-k", "softmax"),
        ("loss-free", "sigmoid"),
        ("unified-usmoe", "unified"),
        ("relu", "logits"),
        ("soft-top-k", ""),
        ("entmax", ""),
    ],
)
def test_the_scores_that_a_router_compares_have_a_name_or_none(name, score):
    assert own_score(router(name, Shape(2, 8, 16, 8))) == score


def test_where_no_router_seeks_a_problem_there_is_nothing_to_judge_by(file):
    result = run(file, "--problem", "own", "--routers", "hash, random")
    assert result.exit_code == 2
    assert "none of the routers seeks a problem" in result.stderr


TIMES = ("seconds", "topk_units", "runs")


def without_times(path):
    rows = strict(path)["rows"]
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def test_layers_of_an_earlier_run_are_not_measured_again(file, tmp_path):
    few = ("--routers", FEW, "--resume", tmp_path / "kept.jsonl")
    assert run(file, *few, "--layers", 0, "--json", tmp_path / "a.json").exit_code == 0
    result = run(file, *few, "--json", tmp_path / "b.json")
    assert "measuring: 1 of 2\nmeasuring: 2 of 2\n" in result.stderr
    first, both = strict(tmp_path / "a.json")["rows"], strict(tmp_path / "b.json")["rows"]
    assert both[: len(first)] == first  # to the last digit of its times
    other = run(file, *few, "--k", 1)
    assert other.exit_code == 2
    assert "holds the results of another question: k was 2, is 1" in other.stderr


def test_several_processes_find_what_one_finds(file, tmp_path):
    for jobs in (1, 2):
        path = tmp_path / f"{jobs}.json"
        assert run(file, "--routers", FEW, "--jobs", jobs, "--json", path).exit_code == 0
    assert without_times(tmp_path / "1.json") == without_times(tmp_path / "2.json")


@pytest.fixture
def fails_at_layer_1(monkeypatch):
    """A function that has the second layer raise an error."""

    def plant(error):
        def planted(problem, routers, *, logits, **options):
            if np.array_equal(logits, LOGITS[1]):
                raise error
            return comparisons(problem, routers, logits=logits, **options)

        monkeypatch.setattr("lp_routing.cli.gap.comparisons", planted)

    return plant


@pytest.mark.parametrize("resume", [True, False])
def test_an_interruption_says_how_to_go_on(file, tmp_path, fails_at_layer_1, resume):
    fails_at_layer_1(KeyboardInterrupt())
    path = tmp_path / "kept.jsonl"
    result = run(file, "--routers", FEW, *(("--resume", path) if resume else ()))
    assert result.exit_code == 130
    assert (
        "tokens at_most(2), experts at_most(8): the optimum is" in result.stdout
    )  # what was found is told
    how = f"the same command with --resume {path} goes on" if resume else "and nothing is kept"
    assert "Interrupted. 1 of 2 are done" in result.stderr
    assert how in result.stderr


def test_a_layer_that_fails_loses_no_other(file, fails_at_layer_1):
    fails_at_layer_1(lpr.InputError("layer: expected another."))
    result = run(file, "--routers", FEW)
    assert result.exit_code == 2
    assert "tokens at_most(2), experts at_most(8): the optimum is" in result.stdout
    assert f"Error: layer: expected another. (Layer 1, capacity of softmax scores, of {file}.)" in (
        result.stderr
    )


def test_a_fault_of_ours_keeps_its_traceback(file, fails_at_layer_1):
    fails_at_layer_1(ZeroDivisionError("by nothing"))
    result = CliRunner().invoke(gap, [str(file), "--k", "2", "--routers", FEW, "--repeats", "1"])
    assert result.exit_code == 1
    assert "in planted" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume", "/no/such/folder/a"], "--resume /no/such/folder/a: cannot be written"),
        (["--resume", "/"], "--resume /: cannot be written"),
        (["--resume", "a.csv", "--csv", "a.csv"], "--resume a.csv: this file is read or written"),
    ],
)
def test_results_that_cannot_be_kept_are_refused_before_the_work(
    file, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    result = run(file, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {says}")


def test_a_file_of_logits_is_no_file_of_results(file):
    kept = file.read_bytes()
    assert run(file, "--resume", file).exit_code == 2
    assert file.read_bytes() == kept


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_disk_that_is_full_in_the_end_is_a_sentence(file, option):
    result = run(file, "--routers", "token-choice", option, "/dev/full")
    assert result.exit_code == 2
    assert f"Error: {option} /dev/full: cannot be written" in result.stderr
    assert "the optimum is" in result.stdout


def test_rules_that_mind_a_constant_are_not_judged_on_recorded_probabilities(tmp_path):
    probs = np.sort(np.random.default_rng(0).dirichlet(np.ones(3), size=(1, 8)), -1)[..., ::-1]
    ids = np.tile(np.arange(3), (1, 8, 1))
    np.savez(tmp_path / "a.npz", expert_ids=ids, probs=probs, num_experts=4)
    path = tmp_path / "a.json"
    arguments = ("--routers", "token-choice,relu", "--k", 1, "--capacity-factor", 4, "--json", path)
    assert run(tmp_path / "a.npz", *arguments).exit_code == 0
    top, relu = strict(path)["rows"]
    assert (top["status"], top["routed_on"]) == ("ok", "log of scores")
    assert relu["status"].startswith("not judged")
