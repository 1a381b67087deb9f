"""`verify`: the proved optimum of every named problem, and how far each quick rule is from it.

`cases` states the named problems of a layer, each with its quick rules. `examine` solves one case
with `MinCostFlow` on all tokens, with HiGHS for as long as `HIGHS_S` allows (where there is a total
budget, on the first `SAMPLE` tokens), and with CLARABEL on these, and judges every rule by the same
exact certificate. `chain` and `refuted` draw conclusions from the rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import isfinite
from time import perf_counter
from typing import Any

from torch import Tensor

from lp_routing.certificate.violations import ROUNDING
from lp_routing.evaluation.evaluate import Evaluator, RouterResult
from lp_routing.problem import named as problems
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, ExpertChoice, Router, TopK, Unified
from lp_routing.solvers import CVXPY, HiGHS, MinCostFlow
from lp_routing.solvers.solve import Solution, Status, solve
from lp_routing.sweep import over_processes
from lp_routing.validation import as_int


@dataclass(frozen=True)
class Rule:
    """A quick rule, and whether theory says that it is exact for its problem."""

    name: str
    router: Router
    exact: bool


HIGHS_S = 3.0
"""Seconds after which HiGHS is stopped: more confirms more optima. At 4,096 x 32 it needs 0.4 to
2 s for the sample's problems without a total budget. With one it needs 11 to 16 s and looks at its
clock too late (10 s of processor time under a limit of 1 s): these it gets on `SAMPLE` tokens."""

SAMPLE = 512
"""Tokens, the first of a layer, that CLARABEL solves: more confirm a larger part of the layer.

Its time grows faster than their number: a capacity problem of the sample (32 experts, k = 2) takes
0.3 s with 256 tokens, 0.8 s with 512, 1.8 s with 1,024 and 5.0 s with 2,048.
"""


@dataclass(frozen=True)
class Case:
    """A named problem of one layer and its quick rules.

    `sample` is the problem of the same name on the layer's first tokens, at most `SAMPLE`.
    """

    layer: int
    name: str
    problem: RoutingProblem
    rules: tuple[Rule, ...]
    sample: RoutingProblem


def cases(layer: int, scores: Tensor, k: int, capacity_factor: float) -> list[Case]:
    """The seven named problems on scores (T, E), with their quick rules."""
    all_tokens = _stated(scores, k, capacity_factor)
    small = all_tokens if len(scores) <= SAMPLE else _stated(scores[:SAMPLE], k, capacity_factor)
    return [
        Case(layer, name, problem, tuple(rules), sample)
        for (name, problem, rules), (_, sample, _) in zip(all_tokens, small, strict=True)
    ]


def _stated(
    scores: Tensor, k: int, capacity_factor: float
) -> list[tuple[str, RoutingProblem, list[Rule]]]:
    T, E = scores.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    share = T * k // E
    capacity = CapacityFactor(capacity_factor).of(T, E, k)
    top, experts_choose = TopK(k), ExpertChoice(share)
    drops = [
        Rule("drop-by-score", TopK(k, capacity), False),
        Rule("drop-by-position", TopK(k, capacity, "position"), False),
        Rule("drop-token-major", TopK(k, capacity, "position", "token"), False),
    ]
    balanced = [
        Rule("token-choice", top, False),
        Rule("drop-by-score", TopK(k, -(-T * k // E)), False),
    ]
    served = Unified(k, rate=0.0, serve_all=True)
    stated: dict[str, tuple[tuple[int, ...], list[Rule]]] = {
        "token_choice": ((k,), [Rule("token-choice", top, True)]),
        "expert_choice": ((share,), [Rule("expert-choice", experts_choose, True)]),
        "unified": ((T * k,), [Rule("unified-probability", Unified(k, rate=0.0), True)]),
        "served_unified": ((T * k,), [Rule("served-probability", served, True)]),
        "capacity": ((k, capacity), drops),
        "balanced": ((k,), balanced),
        "capped_expert_choice": (
            (share, min(2 * k, E)),
            [Rule("expert-choice", experts_choose, False)],
        ),
    }
    return [
        (name, getattr(problems, name)(scores, *bounds), rules)
        for name, (bounds, rules) in stated.items()
    ]


CHAINED = ("token_choice", "expert_choice", "balanced")


@dataclass(frozen=True)
class VerifiedRow:
    """One solver or quick rule on one problem of one layer.

    Attributes:
        layer: its number.
        problem: name of the problem.
        tokens: how many of the layer's tokens the problem holds.
        kind: "solver" or "router".
        status: a `Status` name, or "VIOLATES" for a router that breaks a bound.
        explanation: of that status, in words; "" where there is nothing to explain.
        claims_exact: whether theory says that the method is exact here, so that any status but
            OPTIMAL refutes it; a solver that is stopped by the clock claims nothing.
        max_load: tokens of the busiest expert; None without an assignment.
        result: its numbers by the certificate, as for any router.
    """

    layer: int
    problem: str
    tokens: int
    kind: str
    status: str
    explanation: str
    claims_exact: bool
    max_load: float | None
    result: RouterResult

    @property
    def method(self) -> str:
        """The name of the solver or rule."""
        return self.result.router

    @property
    def exact_zero(self) -> bool:
        """Whether the gap is exactly 0; gaps near 0 are evaluated in exact arithmetic."""
        return self.result.gap == 0

    def as_record(self) -> dict[str, Any]:
        """Column -> JSON value."""
        own = {name: value for name, value in vars(self).items() if name != "result"}
        exact = {"method": self.method, "exact_zero": self.exact_zero}
        return {**self.result.as_record(), **own, **exact}


@dataclass(frozen=True)
class VerifyFinding:
    """A statement about one layer that was checked by number."""

    layer: int
    says: str
    holds: bool


@dataclass(frozen=True)
class VerifiedCase:
    """Rows and findings of one case."""

    case: str
    layer: int
    rows: tuple[VerifiedRow, ...]
    findings: tuple[VerifyFinding, ...]


def rows_as_json(outcomes: Sequence[VerifiedCase]) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary of JSON values."""
    for outcome in outcomes:
        for row in outcome.rows:
            yield row.as_record()


def chain(outcomes: Sequence[VerifiedCase]) -> list[VerifyFinding]:
    """At equal budget the optima are ordered: none exceeds that of unified, which has fewer bounds.

    One finding for each layer and each of token choice, expert choice and balanced that placed as
    many pairs as unified did; compared as MinCostFlow found them, up to rounding.
    """
    optima = {
        (row.layer, row.problem): row.result
        for outcome in outcomes
        for row in outcome.rows
        if row.method == "MinCostFlow" and isfinite(row.result.value)
    }
    findings = []
    for (layer, problem), result in optima.items():
        ceiling = optima.get((layer, "unified"))
        if problem not in CHAINED or ceiling is None or result.pairs != ceiling.pairs:
            continue
        low, high = result.value, ceiling.value
        says = f"{problem} {low:.6g} <= unified {high:.6g} at equal budget ({result.pairs:g} pairs)"
        findings.append(
            VerifyFinding(layer, says, low <= high + ROUNDING * max(abs(low), abs(high)))
        )
    return findings


def refuted(outcomes: Sequence[VerifiedCase]) -> list[str]:
    """The claims that the numbers contradict, in words; empty where all are confirmed."""
    failed = [
        f"layer {row.layer}, {row.problem}: {row.method} ended {row.status}"
        f"{' (' + row.explanation + ')' if row.explanation else ''}"
        for outcome in outcomes
        for row in outcome.rows
        if row.claims_exact and row.status not in (Status.OPTIMAL.name, Status.INFEASIBLE.name)
    ]
    failed += [f"layer {f.layer}: {f.says}" for f in chain(outcomes) if not f.holds]
    for outcome in outcomes:
        failed += [f"layer {f.layer}: {f.says}" for f in outcome.findings if not f.holds]
    return failed


AGREEMENT = 1e-6
"""Relative: two solvers agree where their values differ by less than this.

It is the tolerance of `CVXPY`, whose interior-point method ends some 1e-8 short of the optimum.
"""


def examine(case: Case) -> VerifiedCase:
    """Solve a case, have two solvers confirm it, judge its quick rules and check what theory says.

    Where HiGHS is stopped it confirms nothing, and there is no finding about it.
    """
    truth = solve(case.problem, MinCostFlow())
    small = truth if case.sample is case.problem else solve(case.sample, MinCostFlow())
    first = truth if case.problem.family("total") is None else small
    second = solve(first.problem, HiGHS(time_limit_s=HIGHS_S))
    third = solve(case.sample, CVXPY("CLARABEL"))
    judge = Evaluator(case.problem, truth)
    rows = [_solver_row(case, solution) for solution in (truth, second, third)]
    rows += [_rule_row(case, rule, judge) for rule in case.rules]
    findings = [_agreement(case, small, third)]
    if second.status is not Status.TIME_LIMIT:
        findings.insert(0, _agreement(case, first, second))
    return VerifiedCase(case.name, case.layer, tuple(rows), tuple(findings))


def examine_all(
    todo: list[Case], jobs: int, done: Callable[[VerifiedCase], None] = lambda _: None
) -> list[VerifiedCase]:
    """Examine cases in `jobs` processes, calling `done` with each; outcomes in order."""
    if jobs == 1:
        return [_told(_outcome(case), done) for case in todo]
    numbered = {str(index): case for index, case in enumerate(todo)}
    found = {}
    with closing(over_processes(_outcome, numbered, jobs)) as outcomes:
        for key, outcome in outcomes:
            found[key] = _told(outcome, done)
    return [found[key] for key in numbered]


def _outcome(case: Case) -> VerifiedCase:
    """The outcome, or the error that stopped it: a case that fails must not stop the others."""
    try:
        return examine(case)
    except Exception as error:
        says = f"{case.name}: stopped by {type(error).__name__}: {error}"
        return VerifiedCase(case.name, case.layer, (), (VerifyFinding(case.layer, says, False),))


def _told(outcome: VerifiedCase, done: Callable[[VerifiedCase], None]) -> VerifiedCase:
    done(outcome)
    return outcome


def _solver_row(case: Case, solution: Solution) -> VerifiedRow:
    judge, taken = Evaluator(solution.problem, solution), solution.assignment
    result = replace(judge.nothing(solution.solver), seconds=solution.seconds)
    return VerifiedRow(
        layer=case.layer,
        problem=case.name,
        tokens=solution.problem.T,
        kind="solver",
        status=solution.status.name,
        explanation=solution.explanation,
        claims_exact=solution.status is not Status.TIME_LIMIT,
        max_load=None if taken is None else float(taken.load.max()),
        result=result if taken is None else judge.judged(result, taken.x),
    )


def _rule_row(case: Case, rule: Rule, judge: Evaluator) -> VerifiedRow:
    began = perf_counter()
    taken = Assignment(rule.router.select(case.problem.scores))
    unjudged = replace(judge.nothing(rule.name), seconds=perf_counter() - began)
    result = judge.judged(unjudged, taken.x)
    kept = Status.OPTIMAL if result.is_optimal else Status.FEASIBLE
    return VerifiedRow(
        layer=case.layer,
        problem=case.name,
        tokens=case.problem.T,
        kind="router",
        status=kept.name if result.feasible else "VIOLATES",
        explanation=result.breaks,
        claims_exact=rule.exact and judge.truth.status is not Status.INFEASIBLE,
        max_load=float(taken.load.max()),
        result=result,
    )


def _agreement(case: Case, truth: Solution, second: Solution) -> VerifyFinding:
    T = second.problem.T
    where = "" if T == case.problem.T else f" on the first {T} tokens"
    says = f"{case.name}: {truth.solver} and {second.solver} agree{where}"
    if Status.INFEASIBLE in (truth.status, second.status):
        return VerifyFinding(case.layer, f"{says} (infeasible)", truth.status is second.status)
    first, other = float(truth.value), float(second.value)
    scale = max(abs(first), truth.problem.smallest_score)
    return VerifyFinding(case.layer, says, abs(first - other) <= AGREEMENT * scale)
