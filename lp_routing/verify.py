"""The main job: every named problem's optimum, proved, and how far each quick rule is from it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from math import isfinite
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lp_routing import named_problems as problems
from lp_routing.assignment import Assignment
from lp_routing.certificate import Certificate, certify
from lp_routing.checks import whole
from lp_routing.exact import exact_dot
from lp_routing.prices import Prices
from lp_routing.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, ExpertChoice, Router, TopK, Unified, largest
from lp_routing.solution import Solution, Status
from lp_routing.solve import solve
from lp_routing.solvers import CVXPY, HiGHS

AGREEMENT = 1e-6
"""Two solvers agree where their values differ by less than this, relative to the scale."""


@dataclass(frozen=True)
class Rule:
    """A quick rule, and whether theory says it is exact for the problem it stands beside."""

    name: str
    router: Router
    exact: bool


@dataclass(frozen=True)
class Case:
    """A named problem of one layer and the quick rules that are held against it."""

    layer: int
    name: str
    problem: RoutingProblem
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Row:
    """One method on one problem of one layer; numbers that do not exist are None.

    `status` is a `Status` name; a router that breaks a constraint has "VIOLATES". `claims_exact`
    says that theory calls the method exact here, so that anything but OPTIMAL refutes it.
    """

    layer: int
    problem: str
    method: str
    kind: str
    status: str
    value: float | None
    bound: float | None
    gap: float | None
    relative_gap: float | None
    violation: float | None
    dropped: int | None
    max_load: float | None
    seconds: float
    claims_exact: bool
    exact_zero: bool
    explanation: str


@dataclass(frozen=True)
class Finding:
    """A statement about one layer that was checked by number."""

    layer: int
    says: str
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """Rows and findings of one case."""

    case: str
    layer: int
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def cases(layer: int, scores: Tensor, k: int, capacity_factor: float) -> list[Case]:
    """The seven named problems on scores (T, E), with their quick rules."""
    T, E = scores.shape
    k = whole(k, "k", 1, E, "E, the number of experts")
    share = T * k // E
    capacity = CapacityFactor(capacity_factor).of(T, E, k)
    cap = min(2 * k, E)
    stated: list[tuple[str, RoutingProblem, list[Rule]]] = [
        ("token_choice", problems.token_choice(scores, k), [Rule("TopK", TopK(k), True)]),
        (
            "expert_choice",
            problems.expert_choice(scores, share),
            [Rule("ExpertChoice", ExpertChoice(share), True)],
        ),
        ("unified", problems.unified(scores, T * k), [Rule("Unified", Unified(k), True)]),
        (
            "served_unified",
            problems.served_unified(scores, T * k),
            [Rule("Unified, serve_all", Unified(k, serve_all=True), True)],
        ),
        (
            "capacity",
            problems.capacity(scores, k, capacity),
            [
                Rule("TopK, best scores", TopK(k, capacity), False),
                Rule("TopK, first choices", TopK(k, capacity, "position"), False),
                Rule("TopK, first tokens", TopK(k, capacity, "position", "token"), False),
            ],
        ),
        (
            "balanced",
            problems.balanced(scores, k),
            [
                Rule("TopK", TopK(k), False),
                Rule("TopK, best scores", TopK(k, -(-T * k // E)), False),
            ],
        ),
        (
            "capped_expert_choice",
            problems.capped_expert_choice(scores, share, cap),
            [Rule("ExpertChoice", ExpertChoice(share), False)],
        ),
    ]
    return [Case(layer, name, problem, tuple(rules)) for name, problem, rules in stated]


def examine(case: Case) -> Outcome:
    """Solve a case with two solvers, judge its quick rules, and check what theory says of it."""
    truth = solve(case.problem, HiGHS())
    second = solve(case.problem, CVXPY("CLARABEL"))
    rows = [_solver_row(case, truth, exact=True), _solver_row(case, second, exact=False)]
    rows += [_rule_row(case, rule, truth) for rule in case.rules]
    findings = [_agreement(case, truth, second)]
    if case.name in ("token_choice", "expert_choice", "balanced") and truth.assignment is not None:
        findings.append(_below_unified(case, truth))
    return Outcome(case.name, case.layer, tuple(rows), tuple(findings))


def examine_all(
    todo: list[Case], jobs: int, done: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Examine cases in `jobs` processes, telling `done` of each; outcomes in order."""
    if jobs == 1:
        return [_told(examine(case), done) for case in todo]
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(examine, case): index for index, case in enumerate(todo)}
        found = {}
        for future in as_completed(futures):
            found[futures[future]] = _told(future.result(), done)
    return [found[index] for index in range(len(todo))]


def rows_as_json(outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary of JSON values."""
    for outcome in outcomes:
        for row in outcome.rows:
            yield asdict(row)


def refuted(outcomes: Sequence[Outcome]) -> list[str]:
    """What was claimed and did not come out, in words; empty where all is as theory says."""
    failed = [
        f"layer {row.layer}, {row.problem}: {row.method} ended {row.status}"
        f"{' (' + row.explanation + ')' if row.explanation else ''}"
        for outcome in outcomes
        for row in outcome.rows
        if row.claims_exact and row.status not in (Status.OPTIMAL.name, Status.INFEASIBLE.name)
    ]
    for outcome in outcomes:
        failed += [f"layer {f.layer}: {f.says}" for f in outcome.findings if not f.holds]
    return failed


def _told(outcome: Outcome, done: Callable[[Outcome], None]) -> Outcome:
    done(outcome)
    return outcome


def _one_thread() -> None:
    torch.set_num_threads(1)


def _solver_row(case: Case, solution: Solution, exact: bool) -> Row:
    """A solver's row; the certificate is evaluated once more without rounding where `exact`."""
    certificate = solution.certificate
    if exact and certificate is not None and solution.prices is not None:
        assert solution.assignment is not None
        certificate = certify(case.problem, solution.assignment, solution.prices, exact=True)
    return _row(
        case,
        method=solution.solver,
        kind="solver",
        status=solution.status.name,
        assignment=solution.assignment,
        certificate=certificate,
        seconds=solution.seconds,
        claims_exact=True,
        explanation=solution.explanation,
    )


def _rule_row(case: Case, rule: Rule, truth: Solution) -> Row:
    began = perf_counter()
    assignment = Assignment(rule.router.select(case.problem.scores))
    seconds = perf_counter() - began
    infeasible = truth.status is Status.INFEASIBLE
    certificate = certify(case.problem, assignment, truth.prices or Prices(), exact=True)
    if certificate.violation > 0:
        status = "VIOLATES"
    elif certificate.proves_optimal():
        status = Status.OPTIMAL.name
    else:
        status = Status.FEASIBLE.name
    return _row(
        case,
        method=rule.name,
        kind="router",
        status=status,
        assignment=assignment,
        certificate=certificate,
        seconds=seconds,
        claims_exact=rule.exact and not infeasible,
        explanation=certificate.violations[0].says if certificate.violations else "",
    )


def _row(
    case: Case,
    *,
    method: str,
    kind: str,
    status: str,
    assignment: Assignment | None,
    certificate: Certificate | None,
    seconds: float,
    claims_exact: bool,
    explanation: str,
) -> Row:
    c = certificate
    return Row(
        layer=case.layer,
        problem=case.name,
        method=method,
        kind=kind,
        status=status,
        value=None if c is None else _number(c.value),
        bound=None if c is None else _number(c.bound),
        gap=None if c is None else _number(c.gap),
        relative_gap=None if c is None else _number(c.relative_gap),
        violation=None if c is None else c.violation,
        dropped=None if assignment is None else int(assignment.dropped.sum()),
        max_load=None if assignment is None else float(assignment.load.max()),
        seconds=seconds,
        claims_exact=claims_exact,
        exact_zero=c is not None and c.exact and c.gap == 0,
        explanation=explanation,
    )


def _number(value: Any) -> float | None:
    return float(value) if isfinite(value) else None


def _agreement(case: Case, truth: Solution, second: Solution) -> Finding:
    says = f"{case.name}: {truth.solver} and {second.solver} agree"
    if Status.INFEASIBLE in (truth.status, second.status):
        return Finding(case.layer, f"{says} (infeasible)", truth.status is second.status)
    first, other = float(truth.value), float(second.value)
    scale = max(abs(first), case.problem.score_scale)
    return Finding(case.layer, says, abs(first - other) <= AGREEMENT * scale)


def _below_unified(case: Case, truth: Solution) -> Finding:
    """The optimum is at most that of the unified problem with as many pairs."""
    assert truth.assignment is not None
    x = truth.assignment.x
    scores = case.problem.scores.double()
    best = largest(scores.flatten(), int(x.sum()))
    ceiling = exact_dot(best.double(), scores.flatten().nan_to_num(neginf=0.0))
    value = exact_dot(x.double(), scores.nan_to_num(neginf=0.0))
    says = f"{case.name} {float(value):.6g} <= unified {float(ceiling):.6g} at equal budget"
    return Finding(case.layer, says, value <= ceiling)
