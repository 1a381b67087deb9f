"""What `verify` concludes: it believes right results and refutes wrong ones."""

import io
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.evaluation.evaluate import Evaluator
from lp_routing.evaluation.verify import (
    PROBLEMS,
    SOLVERS,
    Case,
    VerifiedCase,
    VerifiedRow,
    cases,
    chain,
    confirm,
    outcomes_of,
    points_to_confirm,
    points_to_prove,
    prove,
    refuted,
    rows_as_json,
    seconds_spent,
    tokens_for,
    truths_of,
    verify_point,
)
from lp_routing.report.verify import confirmation_table, layer_table, verdict
from lp_routing.routers import TopK, Unified
from lp_routing.solvers import HiGHS, MinCostFlow
from lp_routing.sweep import sweep

LOGITS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
SCORES = LOGITS.softmax(-1)
FORBIDDEN = SCORES.clone()
FORBIDDEN[torch.arange(12), torch.arange(12) % 4] = -math.inf
BY_NAME = {case.name: case for case in cases(3, SCORES, 2, 1.25)}


def examine(case: Case) -> VerifiedCase:
    """A case that is proved and confirmed by both solvers."""
    proof, *rules = prove(case)
    others = [confirm(case, solver) for solver in SOLVERS]
    return VerifiedCase(case.name, case.layer, (proof, *others, *rules))


@pytest.fixture(scope="module")
def outcomes():
    """Of the seven problems, all as theory says."""
    return [examine(case) for case in BY_NAME.values()]


def tampered(outcomes, chosen, **changes):
    """The outcomes with one row changed: that of the (case, method) chosen."""
    case, method = chosen
    assert sum(r.method == method for o in outcomes if o.case == case for r in o.rows) == 1
    return [
        replace(
            outcome,
            rows=tuple(
                replace(row, **changes) if (outcome.case, row.method) == chosen else row
                for row in outcome.rows
            ),
        )
        for outcome in outcomes
    ]


def with_numbers(row, **numbers):
    """The row with other numbers in its result."""
    return replace(row, result=replace(row.result, **numbers))


def shown(outcomes) -> str:
    """The tables as text."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(layer_table(outcomes))
    console.print(confirmation_table(outcomes) or "")
    return console.export_text()


def test_right_results_are_believed(outcomes):
    assert refuted(outcomes) == []
    assert verdict(outcomes, 60).startswith("Proved: 7 optima")
    assert "(7 with a gap of exactly 0 in exact arithmetic)" in verdict(outcomes, 60)
    assert (
        "; confirmed in 60 s of solver time: 7 of 7 by HiGHS (7 on all tokens) and 7 of 7 by "
        "CLARABEL (7 on all tokens);"
    ) in verdict(outcomes, 60)
    assert "balanced <= unified at equal budget (3 of 3)" in verdict(outcomes, 60)


@pytest.mark.parametrize("status", ["FEASIBLE", "TIME_LIMIT", "FAILED", "VIOLATES"])
@pytest.mark.parametrize(
    "claims",
    [
        ("balanced", "MinCostFlow"),
        ("balanced", "HiGHS"),
        ("balanced", "CVXPY (CLARABEL)"),
        ("unified", "unified-probability"),
    ],
)
def test_a_claim_that_did_not_come_out_optimal_is_refuted(outcomes, claims, status):
    wrong = tampered(outcomes, claims, status=status, explanation="because")
    says = f"layer 3, {claims[0]}: {claims[1]} ended {status} (because)"
    assert refuted(wrong) == [says]
    assert verdict(wrong, 60) == f"NOT PROVED: {says}."


def test_a_rule_that_claims_nothing_is_not_refuted(outcomes):
    wrong = tampered(outcomes, ("capacity", "drop-token-major"), status="FEASIBLE")
    assert refuted(wrong) == []


def test_a_finding_that_does_not_hold_is_refuted(outcomes):
    wrong = tampered(outcomes, ("token_choice", "HiGHS"), agrees=False)
    assert refuted(wrong) == ["layer 3: token_choice: MinCostFlow and HiGHS agree"]
    both = tampered(wrong, ("unified", "unified-probability"), status="FEASIBLE")
    assert len(refuted(both)) == 2
    assert verdict(both, 60).endswith("(and 1 more).")


@pytest.mark.parametrize("name", BY_NAME)
def test_every_problem_has_the_findings_that_theory_states(outcomes, name):
    findings = next(outcome for outcome in outcomes if outcome.case == name).findings
    assert [finding.says for finding in findings] == [
        f"{name}: MinCostFlow and HiGHS agree",
        f"{name}: MinCostFlow and CVXPY (CLARABEL) agree",
    ]
    assert all(finding.holds and finding.layer == 3 for finding in findings)


@pytest.mark.parametrize("liar", ["HiGHS", "CVXPY (CLARABEL)"])
@pytest.mark.parametrize("name", BY_NAME)
def test_solvers_that_disagree_are_found_out(monkeypatch, name, liar):
    def one_of_other_scores(problem, solver):
        wrong = solver.name == liar
        return lpr.solve(problem.with_scores(problem.scores * 2) if wrong else problem, solver)

    monkeypatch.setattr("lp_routing.evaluation.verify.solve", one_of_other_scores)
    outcome = examine(BY_NAME[name])
    assert refuted([outcome]) == [f"layer 3: {name}: MinCostFlow and {liar} agree"]
    assert [row.difference == pytest.approx(1) for row in outcome.rows[1:3]] == [
        liar == "HiGHS",
        liar != "HiGHS",
    ]


def test_one_solver_that_finds_no_assignment_disagrees_with_one_that_does(monkeypatch):
    full = lpr.RoutingProblem(SCORES, experts=lpr.at_most(1), total=lpr.exactly(9))

    def others_infeasible(problem, solver):
        return lpr.solve(problem if isinstance(solver, MinCostFlow) else full, solver)

    monkeypatch.setattr("lp_routing.evaluation.verify.solve", others_infeasible)
    outcome = examine(BY_NAME["balanced"])
    assert [finding.holds for finding in outcome.findings] == [False, False]


def test_clarabel_solves_the_first_tokens_and_says_so(monkeypatch):
    monkeypatch.setattr("lp_routing.evaluation.verify.SAMPLE_PAIRS", 20)
    outcome = examine(BY_NAME["capacity"])
    assert [row.tokens for row in outcome.rows] == [12, 12, 5, 12, 12, 12]
    assert outcome.findings[1].says.endswith("agree on the first 5 tokens")
    assert ("CLARABEL", "5") in [tuple(line.split()[1:3]) for line in shown([outcome]).splitlines()]
    assert "1 of 1 by HiGHS (1 on all tokens) and 1 of 1 by CLARABEL (1 on the first 5" in verdict(
        [outcome], 60
    )
    assert refuted([outcome]) == []


def test_highs_solves_problems_with_a_total_on_the_first_tokens(monkeypatch):
    monkeypatch.setattr("lp_routing.evaluation.verify.SAMPLE_PAIRS", 20)
    outcome = examine(BY_NAME["unified"])
    assert [row.tokens for row in outcome.rows] == [12, 5, 5, 12]
    assert all(finding.says.endswith("on the first 5 tokens") for finding in outcome.findings)
    assert refuted([outcome]) == []


def test_layers_of_a_problem_and_solver_are_one_line(outcomes):
    both = [*outcomes, *(replace(each, layer=4) for each in outcomes)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(confirmation_table(both))
    lines = [line.split() for line in console.export_text().splitlines() if "2 of 2" in line]
    short = {"CVXPY (CLARABEL)": "CLARABEL"}
    wanted = [[name, short.get(m, m)] for name in PROBLEMS for m in ("CVXPY (CLARABEL)", "HiGHS")]
    assert [line[:2] for line in lines] == wanted


def test_a_solver_gets_as_many_tokens_as_fit_and_experts_have_a_share():
    def tokens(T, E):
        problem = lpr.problems.capacity(torch.zeros(T, E), 1, 1)
        return [tokens_for(solver, problem) for solver in SOLVERS]

    assert tokens(8192, 32) == [4096, 512]
    assert tokens(8192, 128) == [1024, 128]
    assert tokens(600, 256) == [512, 256]
    assert tokens(12, 4) == [12, 12]


def test_highs_that_is_stopped_confirms_nothing_and_refutes_nothing():
    scores = torch.rand(600, 16, generator=torch.Generator().manual_seed(0))
    case = cases(0, scores, 2, 1.25)[5]
    stopped = confirm(case, "HiGHS", limit_s=1e-4)
    assert (stopped.status, stopped.agrees) == ("TIME_LIMIT", None)
    outcome = VerifiedCase(case.name, 0, (*prove(case), stopped))
    assert outcome.findings == []
    assert "0 of 1 by HiGHS (1 stopped by the clock)" in verdict([outcome], 60)
    assert "0 of 1, 1 stopped" in shown([outcome])
    assert refuted([outcome]) == []


def test_what_was_proved_is_not_solved_again(monkeypatch):
    asked = []

    def counted(problem, solver):
        asked.append((solver.name, problem.T))
        return lpr.solve(problem, solver)

    monkeypatch.setattr("lp_routing.evaluation.verify.solve", counted)
    task = partial(verify_point, logits=LOGITS[None], score="softmax", k=2, capacity_factor=1.25)
    points = points_to_prove([0])
    proved = outcomes_of(points, [task(point) for point in points])
    confirmed = points_to_confirm([0])
    given = partial(task, truths=truths_of(proved))
    rows = [VerifiedRow.from_record(given(point)["rows"][0]) for point in confirmed]
    assert all(row.agrees for row in rows)
    names = [name for name, _ in asked]
    assert {name: names.count(name) for name in names} == {
        "MinCostFlow": 7,
        "HiGHS": 7,
        "CVXPY (CLARABEL)": 7,
    }


def test_records_give_the_same_rows_again(outcomes):
    rows = [row for outcome in outcomes for row in outcome.rows]
    kept = json.loads(json.dumps(list(rows_as_json(outcomes)), allow_nan=False))
    again = [VerifiedRow.from_record(record) for record in kept]
    assert [row.as_record() for row in again] == [row.as_record() for row in rows]
    assert verdict([replace(o, rows=again[i : i + 1]) for i, o in enumerate(outcomes)], 1) == (
        verdict([replace(o, rows=rows[i : i + 1]) for i, o in enumerate(outcomes)], 1)
    )


def test_confirmations_are_spread_over_layers_and_problems():
    points = points_to_confirm(list(range(48)))
    assert len(points) == len({json.dumps(point) for point in points}) == 48 * 7 * 2
    first = points[:14]
    assert {point["problem"] for point in first} == set(PROBLEMS)
    assert {point["layer"] for point in first} == {0, 6, 12, 18, 24, 30, 36}
    assert [point["solver"] for point in first] == [*SOLVERS] * 7


def test_confirmations_end_when_their_time_is_spent():
    task = partial(verify_point, logits=LOGITS[None], score="softmax", k=2, capacity_factor=1.25)
    points = points_to_confirm([0])
    records = sweep(task, points, enough=lambda found: seconds_spent(found) > 0)
    assert "rows" in records[0]
    assert records[1:] == [{}] * 13
    assert seconds_spent(records) == records[0]["rows"][0]["seconds"] > 0
    assert sweep(task, points, enough=lambda _: True) == [{}] * 14


def test_an_optimum_above_that_of_unified_is_found_out():
    outcomes = [
        VerifiedCase(name, 3, tuple(prove(BY_NAME[name])))
        for name in ("unified", "balanced", "capacity")
    ]
    (finding,) = chain(outcomes)
    assert finding.holds
    assert finding.says.startswith("balanced ")
    first = outcomes[1].rows[0]
    tampered = replace(outcomes[1], rows=(with_numbers(first, value=first.result.value + 9),))
    (finding,) = chain([outcomes[0], tampered])
    assert not finding.holds
    assert refuted([outcomes[0], tampered]) == [f"layer 3: {finding.says}"]
    # another budget is another question
    fewer = replace(outcomes[1], rows=(with_numbers(first, value=99.0, pairs=1.0),))
    assert chain([outcomes[0], fewer]) == []


class WrongUnified(Unified):
    """Takes the worst pair in place of the best."""

    def select(self, scores):
        chosen = super().select(scores).flatten()
        flat = scores.flatten()
        chosen[flat.argmax()], chosen[flat.argmin()] = False, True
        return chosen.view_as(scores)


class GreedyTopK(TopK):
    """Takes one expert too many."""

    def select(self, scores):
        return TopK(self.k + 1).select(scores)


class WrongHiGHS(HiGHS):
    """Takes one pair less than it found."""

    def answer(self, problem, *, integral=False):
        answer = super().answer(problem, integral=integral)
        answer.x.flat[np.argmax(answer.x)] = 0
        return answer


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        (
            "unified-probability",
            WrongUnified(2, rate=0.0),
            "layer 0, unified: unified-probability ended FEASIBLE.",
        ),
        (
            "token-choice",
            GreedyTopK(2),
            "layer 0, token_choice: token-choice ended VIOLATES (token_0 counts 3, ",
        ),
        ("HiGHS", WrongHiGHS, "layer 0, token_choice: HiGHS ended FAILED"),
    ],
)
def test_a_method_that_is_wrong_gives_status_1(tmp_path, monkeypatch, name, wrong, says):
    if name == "HiGHS":
        wrong.__name__ = name
        monkeypatch.setattr("lp_routing.evaluation.verify.HiGHS", wrong)
    else:
        monkeypatch.setitem(lpr.routers.CATALOGUE, name, lambda shape: wrong)
    np.save(tmp_path / "a.npy", LOGITS.numpy())
    arguments = [f"{tmp_path}/a.npy", "--k", "2", "--json", f"{tmp_path}/rows.json"]
    result = CliRunner().invoke(main, ["verify", *arguments])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert f"NOT PROVED: {says}" in result.stdout
    assert "Proved:" not in result.stdout
    refuted = [
        r
        for r in json.loads((tmp_path / "rows.json").read_text())["rows"]
        if r["status"] != "OPTIMAL"
    ]
    assert any(row["claims_exact"] for row in refuted)


@pytest.mark.parametrize(
    ("scores", "k", "factor"),
    [
        (SCORES[:, :1], 1, 1.0),
        (SCORES[:1], 2, 1.25),
        (SCORES[:1, :1], 1, 1.25),
        (SCORES[:2], 1, 1.25),  # T k / E < 1: expert choice takes nothing
        (SCORES[:7, :3], 2, 1.25),  # E does not divide T k
        (SCORES, 4, 0.5),
        (SCORES, 2, 1e-9),
        (SCORES, 2, 1e9),
        (FORBIDDEN, 2, 1.25),
        (SCORES * 0 + 0.25, 2, 1.25),
        (SCORES * 0, 2, 1.25),
        (SCORES * 0 - 3, 1, 1.25),
        (-LOGITS.abs() - 1, 2, 1.25),
        (LOGITS.round(), 2, 1.25),
        (LOGITS.half(), 2, 1.25),
        (LOGITS * 1e30, 2, 1.25),
        (LOGITS * 1e-30, 2, 1.25),
    ],
)
def test_odd_shapes_and_scores_are_verified(scores, k, factor):
    found = [examine(case) for case in cases(0, scores, k, factor)]
    assert refuted(found) == []
    assert verdict(found, 60).startswith("Proved: 7 optima")
    json.dumps(list(rows_as_json(found)), allow_nan=False)
    assert all(name in shown(found) for name in BY_NAME)


def test_the_table_has_a_line_for_every_row(outcomes):
    lines = [line.strip() for line in shown(outcomes).splitlines()]
    for outcome in outcomes:
        for row in outcome.rows:
            if row.kind == "confirmation":
                method = row.method.removeprefix("CVXPY (").removesuffix(")")
                assert any(line.split()[:2] == [outcome.case, method] for line in lines)
            else:
                found = f"{row.result.value:.3f}"
                assert any(line.startswith(row.method) and found in line for line in lines)
    assert max(map(len, shown(outcomes).splitlines())) <= 80


@pytest.mark.parametrize(
    ("factor", "k", "says"),
    [(0.0, 2, "capacity factor 0.0"), (math.nan, 2, "factor nan"), (1.25, 0, "k=0"), (1, 5, "k=5")],
)
def test_cases_that_make_no_sense_are_refused(factor, k, says):
    with pytest.raises(lpr.InputError, match=says):
        cases(0, SCORES, k, factor)


def crash_on_unified(problem, solver):
    if problem.family("total") is not None:
        raise ZeroDivisionError("by nothing")
    return lpr.solve(problem, solver)


def test_a_case_that_crashes_is_reported_and_loses_no_other(monkeypatch):
    monkeypatch.setattr("lp_routing.evaluation.verify.solve", crash_on_unified)
    task = partial(verify_point, logits=LOGITS[None], score="softmax", k=2, capacity_factor=1.25)
    points = points_to_prove([0])[1:3]
    outcomes = outcomes_of(points, sweep(task, points))
    says = "layer 0: unified: stopped by ZeroDivisionError: by nothing"
    assert refuted(outcomes) == [says]
    assert verdict(outcomes, 0) == f"NOT PROVED: {says}."
    assert len(outcomes[0].rows) == 2
    assert outcomes[1].rows == ()
    layer_table(outcomes)


def run(*arguments):
    result = CliRunner().invoke(main, ["verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def without_times(path):
    """The JSON, with no seconds."""
    content = json.loads(path.read_text())
    return {**content, "rows": [{**row, "seconds": 0} for row in content["rows"]]}


@pytest.fixture
def logits(tmp_path):
    np.save(tmp_path / "a.npy", torch.stack([LOGITS, LOGITS.flip(0)]).numpy())
    return tmp_path / "a.npy"


def test_a_resumed_run_gives_the_same_json(logits, tmp_path):
    kept, first, again = tmp_path / "kept.jsonl", tmp_path / "1.json", tmp_path / "2.json"
    options = (logits, "--k", 2, "--resume", kept, "--json")
    assert run(*options, first).exit_code == 0
    assert run(*options, again).exit_code == 0
    assert again.read_bytes() == first.read_bytes()
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 14 + 28
    for done in (0, 5, 14, 20, 28):  # killed while it proves, between, while it confirms
        kept.write_bytes(b"".join(lines[: 1 + done]) + b'{"point": {"lay')
        again.unlink()
        assert run(*options, again).exit_code == 0
        assert without_times(again) == without_times(first)
        assert kept.read_bytes().startswith(b"".join(lines[: 1 + done]))


def test_time_that_is_spent_is_not_spent_again(logits, tmp_path):
    kept, options = tmp_path / "kept.jsonl", (logits, "--k", 2, "--resume")
    spent = run(*options, tmp_path / "kept.jsonl", "--confirm-seconds", 1e-6)
    assert "1 of 14 by HiGHS" in spent.stdout or "0 of 14 by HiGHS (1 stopped" in spent.stdout
    size = len(kept.read_bytes())
    assert run(*options, kept, "--confirm-seconds", 1e-6).stdout == spent.stdout
    assert len(kept.read_bytes()) == size
    assert "none confirmed" in run(logits, "--k", 2, "--confirm-seconds", 0).stdout


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("--k", 1), "k was 2, is 1"),
        (("--score", "sigmoid"), 'score was "softmax", is "sigmoid"'),
        (("--capacity-factor", 2), "capacity_factor was 1.25, is 2.0"),
        (("--tokens", 11), "logits was "),
    ],
)
def test_results_of_other_scores_or_options_are_refused(logits, tmp_path, changed, says):
    kept = tmp_path / "kept.jsonl"
    options = (logits, "--k", 2, "--confirm-seconds", 0, "--resume", kept)
    assert run(*options).exit_code == 0
    before = kept.read_bytes()
    refused = run(*options, *changed)
    assert refused.exit_code == 2
    assert "holds the results of another question" in refused.stderr
    assert says in refused.stderr
    assert kept.read_bytes() == before


def test_results_of_one_changed_score_are_refused(logits, tmp_path):
    options = (logits, "--k", 2, "--confirm-seconds", 0, "--resume", tmp_path / "kept.jsonl")
    assert run(*options).exit_code == 0
    content = np.load(logits)
    content[1, 3, 2] += 1e-6
    np.save(logits, content)
    refused = run(*options)
    assert refused.exit_code == 2
    assert "logits was " in refused.stderr


def test_amounts_a_little_below_zero_are_judged():
    """Interior-point solvers leave some."""
    problem = lpr.RoutingProblem([[3.0, 1.0]], tokens=lpr.exactly(1))
    judge, below = Evaluator(problem, lpr.solve(problem)), 1e-12
    amounts = torch.tensor([[1 + below, -below]], dtype=torch.float64)
    row = judge.judged(judge.nothing("solver"), amounts)
    assert (row.feasible, row.max_over_mean) == (True, pytest.approx(2))
    assert row.violation == pytest.approx(below, rel=1e-3)
    with pytest.raises(lpr.InputError, match=r"cannot be -0\.5"):
        judge.judged(judge.nothing("solver"), torch.tensor([[1.5, -0.5]]))
