"""How a case is verified: two solvers, exact certificates, every rule judged by the same proof."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from time import perf_counter

import torch

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.problem.assignment import Assignment
from lp_routing.solvers import CVXPY, HiGHS
from lp_routing.solvers.solution import Solution, Status
from lp_routing.solvers.solve import solve
from lp_routing.verify.problems import Case, Rule
from lp_routing.verify.rows import Finding, Outcome, Row, row_of

AGREEMENT = 1e-6
"""Two solvers agree where their values differ by less than this, relative to the scale."""


def examine(case: Case) -> Outcome:
    """Solve a case with two solvers, judge its quick rules, and check what theory says of it."""
    truth = solve(case.problem, HiGHS())
    second = solve(case.problem, CVXPY("CLARABEL"))
    rows = [_solver_row(case, truth, exact=True), _solver_row(case, second, exact=False)]
    rows += [_rule_row(case, rule, truth) for rule in case.rules]
    return Outcome(case.name, case.layer, tuple(rows), (_agreement(case, truth, second),))


def examine_all(
    todo: list[Case], jobs: int, done: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Examine cases in `jobs` processes, telling `done` of each; outcomes in order."""
    if jobs == 1:
        return [_told(_outcome(case, partial(examine, case)), done) for case in todo]
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(examine, case): index for index, case in enumerate(todo)}
        found = {}
        for future in as_completed(futures):
            index = futures[future]
            found[index] = _told(_outcome(todo[index], future.result), done)
    return [found[index] for index in range(len(todo))]


def _outcome(case: Case, examined: Callable[[], Outcome]) -> Outcome:
    """The outcome, or what stopped it: one case that fails must not lose the others."""
    try:
        return examined()
    except Exception as error:
        says = f"{case.name}: stopped by {type(error).__name__}: {error}"
        return Outcome(case.name, case.layer, (), (Finding(case.layer, says, False),))


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
    return row_of(
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
    return row_of(
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


def _agreement(case: Case, truth: Solution, second: Solution) -> Finding:
    says = f"{case.name}: {truth.solver} and {second.solver} agree"
    if Status.INFEASIBLE in (truth.status, second.status):
        return Finding(case.layer, f"{says} (infeasible)", truth.status is second.status)
    first, other = float(truth.value), float(second.value)
    scale = max(abs(first), case.problem.smallest_score)
    return Finding(case.layer, says, abs(first - other) <= AGREEMENT * scale)
