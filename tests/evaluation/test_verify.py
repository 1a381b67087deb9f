"""What `verify` concludes: it believes right results and refutes wrong ones."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.evaluation.evaluate import Evaluator
from lp_routing.evaluation.verify import (
    VerifyFinding,
    cases,
    chain,
    examine,
    examine_all,
    refuted,
    rows_as_json,
)
from lp_routing.report.verify import layer_tables, verdict
from lp_routing.routers import TopK, Unified
from lp_routing.solvers import HiGHS, MinCostFlow

LOGITS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
SCORES = LOGITS.softmax(-1)
FORBIDDEN = SCORES.clone()
FORBIDDEN[torch.arange(12), torch.arange(12) % 4] = -math.inf
BY_NAME = {case.name: case for case in cases(3, SCORES, 2, 1.25)}


@pytest.fixture(scope="module")
def outcomes():
    """Of the seven problems, all as theory says."""
    return examine_all(list(BY_NAME.values()), jobs=1)


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
    for table in layer_tables(outcomes):
        console.print(table)
    return console.export_text()


def test_right_results_are_believed(outcomes):
    assert refuted(outcomes) == []
    assert verdict(outcomes).startswith("Proved: 7 optima")
    assert "(7 with a gap of exactly 0 in exact arithmetic)" in verdict(outcomes)
    assert "; confirmed by HiGHS (7 on all tokens) and CLARABEL (7 on all tokens);" in verdict(
        outcomes
    )
    assert "balanced <= unified at equal budget (3 of 3)" in verdict(outcomes)


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
    assert verdict(wrong) == f"NOT PROVED: {says}."


def test_a_rule_that_claims_nothing_is_not_refuted(outcomes):
    wrong = tampered(outcomes, ("capacity", "drop-token-major"), status="FEASIBLE")
    assert refuted(wrong) == []


def test_a_finding_that_does_not_hold_is_refuted(outcomes):
    false = VerifyFinding(3, "two is three", holds=False)
    wrong = [replace(outcomes[0], findings=(*outcomes[0].findings, false)), *outcomes[1:]]
    assert refuted(wrong) == ["layer 3: two is three"]
    both = tampered(wrong, ("unified", "unified-probability"), status="FEASIBLE")
    assert len(refuted(both)) == 2
    assert verdict(both).endswith("(and 1 more).")


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


def test_one_solver_that_finds_no_assignment_disagrees_with_one_that_does(monkeypatch):
    full = lpr.RoutingProblem(SCORES, experts=lpr.at_most(1), total=lpr.exactly(9))

    def others_infeasible(problem, solver):
        return lpr.solve(problem if isinstance(solver, MinCostFlow) else full, solver)

    monkeypatch.setattr("lp_routing.evaluation.verify.solve", others_infeasible)
    outcome = examine(BY_NAME["balanced"])
    assert [finding.holds for finding in outcome.findings] == [False, False]


def test_clarabel_solves_the_first_tokens_and_says_so(monkeypatch):
    monkeypatch.setattr("lp_routing.evaluation.verify.SAMPLE", 5)
    outcome = examine_all([cases(3, SCORES, 2, 1.25)[4]], jobs=1)
    assert [row.tokens for row in outcome[0].rows] == [12, 12, 5, 12, 12, 12]
    assert outcome[0].findings[1].says.endswith("agree on the first 5 tokens")
    assert "CLARABEL, 5 tokens" in shown(outcome)
    assert "HiGHS (1 on all tokens) and CLARABEL (1 on the first 5 tokens)" in verdict(outcome)
    assert refuted(outcome) == []


def test_highs_solves_problems_with_a_total_on_the_first_tokens(monkeypatch):
    monkeypatch.setattr("lp_routing.evaluation.verify.SAMPLE", 5)
    outcome = examine_all([cases(3, SCORES, 2, 1.25)[2]], jobs=1)
    assert [row.tokens for row in outcome[0].rows] == [12, 5, 5, 12]
    assert all(finding.says.endswith("on the first 5 tokens") for finding in outcome[0].findings)
    assert refuted(outcome) == []


def test_highs_that_is_stopped_confirms_nothing_and_refutes_nothing(monkeypatch):
    scores = torch.rand(600, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("lp_routing.evaluation.verify.HIGHS_S", 1e-4)
    monkeypatch.setattr("lp_routing.report.verify.HIGHS_S", 1e-4)
    outcome = examine_all([cases(0, scores, 2, 1.25)[5]], jobs=1)
    assert outcome[0].rows[1].status == "TIME_LIMIT"
    assert len(outcome[0].findings) == 1
    assert "confirmed by HiGHS (1 stopped after 0.0001 s)" in verdict(outcome)
    assert "stopped" in shown(outcome)
    assert refuted(outcome) == []


def test_an_optimum_above_that_of_unified_is_found_out():
    outcomes = [examine(BY_NAME[name]) for name in ("unified", "balanced", "capacity")]
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
            "Unified",
            WrongUnified,
            "layer 0, unified: unified-probability ended FEASIBLE (and 1 ",
        ),
        (
            "TopK",
            GreedyTopK,
            "layer 0, token_choice: token-choice ended VIOLATES (token_0 counts ",
        ),
        ("HiGHS", WrongHiGHS, "layer 0, token_choice: HiGHS ended FAILED"),
    ],
)
def test_a_method_that_is_wrong_gives_status_1(tmp_path, monkeypatch, name, wrong, says):
    wrong.__name__ = name
    monkeypatch.setattr(f"lp_routing.evaluation.verify.{name}", wrong)
    np.save(tmp_path / "a.npy", LOGITS.numpy())
    arguments = [f"{tmp_path}/a.npy", "--k", "2", "--json", f"{tmp_path}/rows.json"]
    result = CliRunner().invoke(main, ["verify", *arguments, "--jobs", "1"])
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
    found = examine_all(cases(0, scores, k, factor), jobs=1)
    assert refuted(found) == []
    assert verdict(found).startswith("Proved: 7 optima")
    json.dumps(list(rows_as_json(found)), allow_nan=False)
    assert all(name in shown(found) for name in BY_NAME)


def test_the_table_has_a_line_for_every_row(outcomes):
    lines = [line.strip() for line in shown(outcomes).splitlines()]
    for outcome in outcomes:
        for row in outcome.rows:
            method = row.method.removeprefix("CVXPY (").removesuffix(")")
            assert any(
                line.startswith(method) and f"{row.result.value:.3f}" in line for line in lines
            )
    assert max(map(len, shown(outcomes).splitlines())) <= 80


@pytest.mark.parametrize(
    ("factor", "k", "says"),
    [(0.0, 2, "capacity factor 0.0"), (math.nan, 2, "factor nan"), (1.25, 0, "k=0"), (1, 5, "k=5")],
)
def test_cases_that_make_no_sense_are_refused(factor, k, says):
    with pytest.raises(lpr.InputError, match=says):
        cases(0, SCORES, k, factor)


def test_a_case_that_crashes_is_reported_and_loses_no_other(monkeypatch):
    def crash_on_unified(problem, solver):
        if problem.family("total") is not None:
            raise MemoryError("no room")
        return lpr.solve(problem, solver)

    monkeypatch.setattr("lp_routing.evaluation.verify.solve", crash_on_unified)
    outcomes = examine_all([BY_NAME["unified"], BY_NAME["token_choice"]], jobs=1)
    assert refuted(outcomes) == ["layer 3: unified: stopped by MemoryError: no room"]
    assert outcomes[0].rows == ()
    assert len(outcomes[1].rows) == 4


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
