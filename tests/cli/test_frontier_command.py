"""`lp-routing frontier`: tables and sentences of cases worked by hand, files, refusals."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.frontier import refine
from lp_routing.frontier.summary import PointStore
from lp_routing.report.frontier import _gap, adds_in_words, few
from lp_routing.sweep import ResultFile
from tests.commands import with_k

# Two layers, two tokens, two experts; the scores are the logits themselves.
#   layer 0: token 0 brings 3 at expert 0 and 1 at expert 1; token 1 brings 2 and 0.
#   layer 1: 4 and 0; 1 and 1.
LOGITS = np.array([[[3.0, 1.0], [2.0, 0.0]], [[4.0, 0.0], [1.0, 1.0]]], dtype=np.float32)
PLAIN = ("--score", "logits", "--k", 1, "--capacity-factor", 1, "--routers", "none")


def run(*arguments: object):
    """Run the command; whatever happens, it must not end in a traceback."""
    environment = {"COLUMNS": "120"}
    result = CliRunner(env=environment).invoke(main, ["frontier", *with_k(arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "logits.npz", router_logits=LOGITS, axes="LTE")
    return tmp_path / "logits.npz"


def strict(path):
    """The content of a JSON file that holds no NaN and no infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (["token-choice", "unified-usmoe"], ["token-choice", "unified-usmoe"]),
        (["none", "unified-usmoe"], ["unified-usmoe"]),
        (["none"], []),
    ],
)
def test_routers_that_are_named_one_by_one_add_up(file, tmp_path, named, found):
    path = tmp_path / "a.json"
    options = [word for name in named for word in ("--routers", name)]
    assert run(file, "--k", 1, *options, "--json", path).exit_code == 0
    assert [each["name"] for each in strict(path)["frontiers"][0]["routers"]] == found


def test_pairs_in_all_by_hand(file, tmp_path):
    """Sorted: 3, 2, 1, 0. Token choice takes 3 and 2; balanced, 3 and 0 or 1 and 2."""
    path = tmp_path / "a.json"
    result = run(file, *PLAIN, "--layers", 0, "--points", "all", "--json", path)
    assert result.exit_code == 0
    assert "Token choice with k=1 is worth 5, attained from N = 2 on." in result.stdout
    assert (
        "Of the most that any N buys, 6: 95 % from N = 3 on; 99 % from N = 3 on." in result.stdout
    )
    assert "At N = 2, the last pair brings 2, one more would bring 1." in result.stdout
    assert "against token choice) costs 2, 40 %: 3 in place of 5." in result.stdout
    assert "Serving every token (of 1 pair a token on average) costs 0, 0 %" in result.stdout
    (found,) = strict(path)["frontiers"]
    assert [(p["budget"], p["value"], p["last"], p["next"]) for p in found["points"]] == [
        (0, 0, None, [3, 3]),
        (1, 3, [3, 3], [2, 2]),
        (2, 5, [2, 2], [1, 1]),
        (3, 6, [1, 1], [0, 0]),
        (4, 6, [0, 0], None),
    ]


def test_slots_of_every_expert_by_hand(file, tmp_path):
    """One slot each: 3 + 0 or 1 + 2. Two each: 3 + 2. Expert 0 alone with none: 1; with two: 5."""
    path = tmp_path / "a.json"
    result = run(
        file, *PLAIN, "--layers", 0, "--over", "capacity", "--points", "all", "--json", path
    )
    assert result.exit_code == 0
    assert "Token choice with k=1 is worth 5, attained from C = 2 on." in result.stdout
    assert (
        "At C = 1, the last slot at every expert brings 3, one more would bring 2." in result.stdout
    )
    assert (
        "The dearest expert at C = 1 is expert 0: its last slot is worth 2, one more there alone 2"
        in (result.stdout)
    )
    assert "Proved at every budget" in result.stdout
    (found,) = strict(path)["frontiers"]
    values = {p["budget"]: p["value"] for p in found["points"]}
    assert (values[1], values[2]) == (3, 5)


def test_capacity_factors_as_points_by_hand(file, tmp_path):
    """Of one slot as a share, factors are capacities. Between them the table says it of each."""
    path = tmp_path / "a.json"
    options = ("--over", "capacity", "--layers", 0, "--points", "1,2", "--json", path)
    result = run(file, *PLAIN, *options, "--plot", tmp_path / "a.svg")
    assert result.exit_code == 0, result.output
    (found,) = strict(path)["frontiers"]
    assert found["share"] == 1
    assert {p["budget"]: p["value"] for p in found["points"]} == {0: 0, 1: 3, 2: 5}
    assert "C factor value of most" in " ".join(result.stdout.split())


def test_factors_that_are_no_capacity_in_use_are_solved_too(tmp_path):
    path = tmp_path / "a.json"
    options = ("--over", "capacity", "--points", "1,1.5,1.75", "--tokens", 64, "--json", path)
    assert run(*options, "--layers", 0, "--routers", "none").exit_code == 0
    (found,) = strict(path)["frontiers"]
    assert found["share"] == 4
    assert found["certified"]["budgets"][:-1] == [4, 5, 6, 7]  # in use: 5, between 4 and 6
    assert found["certified"]["budgets"][-1] > 7  # where token choice fits


def test_experts_per_token_by_hand(file):
    """Each expert takes one token: 3, and with two experts for a token 3 + 1; never 5."""
    result = run(file, *PLAIN, "--over", "k")
    assert result.exit_code == 0
    assert "Token choice with k=1 is worth 5, attained by no K." in result.stdout
    assert (
        "At K = 1, the last expert for every token brings 3, one more would bring 1."
        in result.stdout
    )


def test_one_budget_for_all_layers_by_hand(file):
    """Sorted over both: 4, 3, 2, then three 1s, the first of layer 0."""
    result = run(file, *PLAIN, "--over", "layers")
    assert result.exit_code == 0
    assert "Token choice with k=1 is worth 10, attained from N = 4 on." in result.stdout
    assert "The next pair goes to layer 1; the best split of N = 4 is 3, 1." in result.stdout


@pytest.mark.parametrize("over", ["total", "capacity", "k", "layers"])
def test_no_router_is_above_the_bound(tmp_path, over):
    """On the sample: routers beside each curve, at its budgets, with values of their own."""
    path = tmp_path / "a.json"
    arguments = ("--tokens", 64, "--points", 5, "--layers", "0,1", "--json", path)
    result = run(
        "--over", over, *arguments, "--routers", "token-choice, drop-by-score, unified-usmoe"
    )
    assert result.exit_code == 0
    found = strict(path)["frontiers"]
    assert len(found) == (1 if over == "layers" else 2)
    for each in found:
        assert [router["name"] for router in each["routers"]] == [
            "token-choice",
            "drop-by-score",
            "unified-usmoe",
        ]
        for router in each["routers"]:
            for value, bound, feasible in zip(
                router["values"], router["bounds"], router["feasible"], strict=True
            ):
                assert not feasible or value <= bound * (1 + 1e-9)
        assert any(any(router["feasible"]) for router in each["routers"])


def test_the_value_of_a_router_is_that_of_its_assignment(tmp_path):
    path = tmp_path / "a.json"
    arguments = ("--over", "capacity", "--tokens", 64, "--points", 4, "--json", path)
    assert run(*arguments, "--routers", "drop-by-score").exit_code == 0
    logits = lpr.traces.sample().layer(0)[:64]
    scores = lpr.scores.softmax(logits)
    (router,) = strict(path)["frontiers"][0]["routers"]
    for C, value in zip(router["budgets"], router["values"], strict=True):
        taken = lpr.routers.TopK(k=2, capacity=C)(logits)
        assert value == pytest.approx(float((scores.double() * taken.x).sum()))


def test_points_are_certified_optima(tmp_path):
    """Each against HiGHS, a solver of its own; the budget in use is among them."""
    path = tmp_path / "a.json"
    few = ("--layers", 0, "--tokens", 48, "--points", 4)
    assert run("--over", "capacity", *few, "--json", path).exit_code == 0
    scores = lpr.scores.softmax(lpr.traces.sample().layer(0)[:48])
    (found,) = strict(path)["frontiers"]
    for budget, value in zip(
        found["certified"]["budgets"], found["certified"]["values"], strict=True
    ):
        problem = lpr.problems.capacity(scores, 2, int(budget))
        assert value == pytest.approx(lpr.solve(problem, lpr.HiGHS()).value, rel=1e-9)
    assert 4 in [p["budget"] for p in found["points"]]  # ceil(1.25 * 48 * 2 / 32)


def test_two_processes_find_what_one_finds_and_a_file_keeps_it(tmp_path):
    arguments = ("--over", "capacity", "--tokens", 64, "--points", 4, "--layers", "0-2")
    kept = tmp_path / "kept.jsonl"
    one = run(*arguments, "--json", tmp_path / "1.json")
    two = run(*arguments, "--json", tmp_path / "2.json", "--jobs", 2, "--resume", kept)
    again = run(*arguments, "--json", tmp_path / "3.json", "--resume", kept)
    assert one.stdout == two.stdout == again.stdout
    assert again.stderr == "solving: 3 of 3\n"
    alike = [strict(tmp_path / f"{n}.json")["frontiers"] for n in (1, 2, 3)]
    assert alike[0] == alike[1] == alike[2]
    assert len(kept.read_text().splitlines()) == 4
    other = run(*arguments, "--score", "sigmoid", "--resume", kept)
    assert other.exit_code == 2
    assert 'score was "softmax", is "sigmoid"' in other.stderr


@pytest.mark.parametrize(("over", "files"), [("k", 2), ("layers", 1)])
def test_a_figure_is_drawn_for_each_place(file, tmp_path, over, files):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.svg"
    result = run(file, *PLAIN, "--over", over, "--layers", "all", "--plot", path)
    assert result.exit_code == 0
    drawn = sorted(each.name for each in tmp_path.glob("*.svg"))
    assert drawn == (["curve-layer-0.svg", "curve-layer-1.svg"] if files == 2 else ["curve.svg"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "3"], "k=3 is more than E, the number of experts (2)."),
        (["--k", "0"], "k=0: it must be at least 1."),
        (["--layers", "2"], "--layers 2: this file has the layers 0 to 1."),
        (["--tokens", "0"], '--tokens 0: expected "all" or a whole number >= 1.'),
        (["--points", "1"], '--points 1: expected "all", a whole number >= 2, or capacity factors'),
        (["--points", "some"], '--points some: expected "all", a whole number >= 2, or capacity'),
        (["--points", "1,1.5"], "--points 1,1.5: factors are of a capacity; give --over capacity."),
        (["--points", "1,x", "--over", "capacity"], "--points 1,x: expected positive numbers"),
        (["--capacity-factor", "0"], "capacity factor 0.0: expected a positive number."),
        (["--routers", "topk"], "--routers: 'topk' is now called 'token-choice'"),
        (["--json", "/no/such/folder/a"], "--json /no/such/folder/a: cannot be written"),
        (["--plot", "/no/such/folder/a.png"], "--plot /no/such/folder/a.png: cannot be written"),
        (["--plot", "a.txt"], "a.txt: expected a file ending in .png"),
        (["--plot", "a.png", "--json", "a.png"], "--json and --plot both name a.png"),
        (["--resume", "/no/such/folder/a"], "--resume /no/such/folder/a: cannot be written"),
        (
            ["--resume", "a.json", "--json", "a.json"],
            "--resume a.json: this file is read or written",
        ),
    ],
)
def test_bad_input_gives_status_2_and_one_sentence_before_the_work(
    file, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    result = run(file, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {says}")
    assert result.stderr.count("\n") == 1


def test_an_unknown_budget_is_refused(file):
    assert run(file, "--over", "money").exit_code == 2


def test_a_curve_that_falls_is_told_as_it_is(tmp_path):
    """All scores are negative: the best budget is none, and shares of nothing are not told."""
    np.save(tmp_path / "a.npy", -1 - LOGITS)
    result = run(tmp_path / "a.npy", *PLAIN, "--routers", "token-choice", "--axes", "LTE")
    assert result.exit_code == 0
    assert "Of the most" not in result.stdout
    assert "token-choice has no share to lose of bounds that are not positive." in result.stdout


def test_forbidden_pairs_leave_no_token_choice(tmp_path):
    """Expert 1 takes no token, so none may have two; the budget ends at two pairs."""
    logits = LOGITS.copy()
    logits[:, :, 1] = -np.inf
    np.save(tmp_path / "a.npy", logits)
    options = ("--score", "logits", "--k", 2, "--capacity-factor", 1, "--routers", "none")
    result = run(tmp_path / "a.npy", *options, "--axes", "LTE")
    assert result.exit_code == 0
    assert "Token choice with k=2 has no answer" in result.stdout
    assert "N = 4 buys no more than N = 2." in result.stdout
    assert "At N = 2, the last pair brings 2." in result.stdout
    assert "equal loads, against token choice) cannot be had: " in result.stdout


@pytest.mark.parametrize(("over", "layers"), [("total", 1), ("layers", 2)])
def test_routers_are_asked_no_more_pairs_than_are_allowed(tmp_path, over, layers):
    # 4 of 8 experts were recorded: 5 and more a token there are not
    logits = np.random.default_rng(0).normal(size=(2, 12, 8)).astype(np.float32)
    logits[:, :, ::2] = -np.inf
    np.save(tmp_path / "a.npy", logits)
    path = tmp_path / "a.json"
    result = run(tmp_path / "a.npy", "--over", over, "--json", path)
    assert result.exit_code == 0, result.output
    for found in strict(path)["frontiers"]:
        for router in found["routers"]:
            assert router["budgets"] == [12 * layers * k for k in (1, 2, 3, 4)]
    nothing = np.full((1, 3, 2), -np.inf, dtype=np.float32)
    nothing[0, 0, 0] = 1
    np.save(tmp_path / "b.npy", nothing)
    result = run(tmp_path / "b.npy", "--over", over, "--k", 1)
    assert result.exit_code == 0, result.output
    assert "loses" not in result.stdout


def test_the_table_has_20_lines_at_most_with_the_ends_and_the_budget_in_use():
    points = [{"budget": n} for n in range(1000)]
    shown = [point["budget"] for point in few(points, 123)]
    assert len(shown) <= 20
    assert {0, 123, 999} <= set(shown)
    assert few(points[:5], 2) == points[:5]


@pytest.mark.parametrize(
    ("interval", "says"),
    [(None, ""), ([2.0, 2.0], "2"), ([0.1, 0.1 + 1e-9], "0.1"), ([0.1, 0.2], "0.1 to 0.2")],
)
def test_what_a_unit_adds_reads_well(interval, says):
    assert adds_in_words(interval) == says


def test_torch_scores_are_needed_once(file):
    """Logits of half precision are routed as they are, widened exactly."""
    half = file.with_name("half.pt")
    torch.save(torch.from_numpy(LOGITS).bfloat16(), half)
    assert (
        run(half, *PLAIN, "--axes", "LTE").stdout.split("\n", 3)[3]
        == run(file, *PLAIN).stdout.split("\n", 3)[3]
    )


@pytest.mark.parametrize("over", ["total", "capacity", "k", "layers"])
@pytest.mark.parametrize("level", [0.0, -1.0])
def test_logits_that_are_worth_nothing_have_no_share_to_lose(tmp_path, over, level):
    np.save(tmp_path / "a.npy", np.full((1, 6, 4), level, dtype=np.float32))
    plot = tmp_path / "a.png"
    arguments = ("--score", "logits", "--k", 1, "--over", over, "--plot", plot)
    result = run(tmp_path / "a.npy", *arguments)
    assert result.exit_code == 0, result.output
    assert "loses" not in result.stdout


def test_beyond_the_largest_load_the_dearest_expert_is_that_of_the_last_slot(tmp_path):
    # expert 1 is wanted by three, expert 0 by one: a third slot helps expert 1 alone
    np.save(tmp_path / "a.npy", np.array([[[0.0, 4], [0, 3], [0, 2], [5, 0]]], dtype=np.float32))
    arguments = ("--score", "logits", "--k", 1, "--over", "capacity", "--capacity-factor", 9)
    result = run(tmp_path / "a.npy", *arguments, "--routers", "drop-by-score")
    says = "The dearest expert at C = 3 is expert 1: its last slot is worth 2, one more there alone"
    assert says in result.stdout
    assert "drop-by-score loses 0.00 % of the bound at C = 3" in result.stdout


@pytest.mark.parametrize(("over", "before"), [("capacity", 3), ("k", 1)])
def test_a_kill_within_a_layer_loses_only_the_point_at_work(tmp_path, over, before, monkeypatch):
    records, points = tmp_path / "r.jsonl", tmp_path / "r.jsonl.0.points"
    logits = np.random.default_rng(0).normal(size=(1, 40, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", logits)
    arguments = (tmp_path / "a.npy", "--over", over, "--routers", "none")
    whole = run(*arguments).stdout
    solve, solved = refine.solve, []

    def killed(problem, solver):
        if len(solved) == before:
            raise KeyboardInterrupt
        solved.append(problem)
        return solve(problem, solver)

    monkeypatch.setattr(refine, "solve", killed)
    assert run(*arguments, "--resume", records).exit_code == 130
    assert len(points.read_text().splitlines()) == 1 + before  # the question, and points
    count = []
    monkeypatch.setattr(refine, "solve", lambda *given: count.append(given) or solve(*given))
    result = run(*arguments, "--resume", records)
    assert (result.exit_code, result.stdout) == (0, whole)
    everything = len(count) + before
    count.clear()
    assert run(*arguments).stdout == whole
    assert len(count) == everything  # the points before were not solved again
    assert not points.exists()


def test_points_of_another_question_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(1, 20, 4)))
    (tmp_path / "r.jsonl.0.points").write_text('{"header": {"k": 3}}\n')
    result = run(tmp_path / "a.npy", "--over", "capacity", "--resume", tmp_path / "r.jsonl")
    assert result.exit_code == 2
    assert "holds the results of another question" in result.stderr


@pytest.mark.parametrize("wrong", [{"value": "much"}, {"experts": ["much"]}, {"experts": None}])
def test_a_line_that_is_no_point_is_refused(tmp_path, wrong):
    line = {"budget": 3, "value": 1.0, "bound": 1.0, "price": 0.0, "experts": [0.0]} | wrong
    with ResultFile(tmp_path / "a.points", {"k": 2}) as file:
        file.append(line)
    with (
        ResultFile(tmp_path / "a.points", {"k": 2}) as file,
        pytest.raises(lpr.InputError, match="line 2 holds no point"),
    ):
        PointStore(file)


def test_what_is_unproved_is_a_share_of_the_bound():
    assert _gap({"value": 8.0, "bound": 10.0}) == "20.00 %"
    assert _gap({"value": 10.0, "bound": 10.0}) == "0"
    assert _gap({"value": 1 - 1e-7, "bound": 1.0}) == "1e-07"
