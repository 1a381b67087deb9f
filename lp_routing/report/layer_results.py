"""One layer examined: its optimum with an exact certificate, and every router judged by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from torch import Tensor

from lp_routing.audits.probe import sequence_places
from lp_routing.certificate.certificate import TOLERANCE, Certificate, certify
from lp_routing.evaluation.compare import comparisons
from lp_routing.evaluation.evaluate import NOT_JUDGED, RouterResult
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem
from lp_routing.router_outputs import as_amounts
from lp_routing.routers.base import AnyRouter, StatefulRouter
from lp_routing.routers.catalogue import Shape, router
from lp_routing.solvers.solve import Solution, Status, exact_solver, solve


@dataclass(frozen=True, eq=False)
class LayerResult:
    """A layer, its optimum and its routers.

    Attributes:
        layer: its number.
        logits: (T, E).
        problem: by which routers are judged.
        shape: for which the routers were built.
        solution: the optimum.
        certificate: of the optimum, in exact arithmetic; None without one.
        rows: one for each router, in their order; the first is the main one's.
        taken: the main router's assignment; None where it gives no answer.
        main: its certificate at the optimum's prices, in exact arithmetic; None likewise.
        sequence: whole numbers (T,), the sequence of each token; None if unknown.
    """

    layer: int
    logits: Tensor
    problem: RoutingProblem
    shape: Shape
    solution: Solution
    certificate: Certificate | None
    rows: Sequence[RouterResult]
    taken: Assignment | None
    main: Certificate | None
    sequence: Tensor | None = None

    @property
    def proved(self) -> bool:
        """Whether the exact certificate proves the optimum, and no router exceeds the bound."""
        if self.solution.status is not Status.OPTIMAL or self.certificate is None:
            return False
        beaten = any(row.relative_gap < -TOLERANCE for row in self.rows)  # False for NaN
        return self.certificate.proves_optimal() and not beaten


def examine_layer(
    layer: int,
    logits: Tensor,
    problem: RoutingProblem,
    shape: Shape,
    names: Sequence[str],
    *,
    sequence: Tensor | None = None,
    up_to_a_constant: bool = False,
    seed: int = 0,
    repeats: int = 1,
) -> LayerResult:
    """Solve the problem of a layer, certify the optimum exactly, judge routers by it.

    Args:
        layer: its number.
        logits: (T, E), what routers are called with.
        problem: what they are judged by.
        shape: what they are built for.
        names: of the catalogue, the main router first.
        sequence: whole numbers (T,), the sequence of each token.
        up_to_a_constant: whether the logits are logarithms of probabilities, so that routers that
            depend on a token's constant are not judged.
        seed: of the solver, and of random routers.
        repeats: timed calls.

    Raises:
        InputError: as `lp_routing.evaluation.comparisons`.
    """
    solution = solve(problem, exact_solver(problem, seed))
    certificate = main = None
    given = None if up_to_a_constant else logits
    rows = comparisons(problem, list(names), logits=given, repeats=repeats, seed=seed, shape=shape)
    judged = not rows[0].status.startswith(NOT_JUDGED)
    taken = _taken(names[0], shape, seed, logits) if judged else None
    if solution.prices.given:
        if solution.assignment is not None:
            certificate = certify(problem, solution.assignment, solution.prices, exact=True)
        if taken is not None:
            main = certify(problem, taken, solution.prices, exact=True)
    return LayerResult(
        layer, logits, problem, shape, solution, certificate, rows, taken, main, sequence
    )


def first_batch_amounts(found: AnyRouter, logits: Tensor) -> Tensor:
    """A router's amounts (T, E) on its first batch."""
    answer: Any = found(logits.clone())
    return as_amounts(answer[0] if isinstance(found, StatefulRouter) else answer, logits)


def _taken(name: str, shape: Shape, seed: int, logits: Tensor) -> Assignment | None:
    """None where the router gives no answer; its row says why."""
    try:
        return Assignment(first_batch_amounts(router(name, shape, seed=seed), logits))
    except Exception:
        return None


def longest_sequence(each: LayerResult) -> Tensor:
    """Logits (n, E) of the longest sequence, the first of several; all where none are known."""
    if each.sequence is None:
        return each.logits
    return each.logits[max(sequence_places(each.sequence, each.logits), key=len)]


def has_share(row: RouterResult) -> bool:
    """Whether the loss is a share of the optimum: it is above 0, or nothing is lost."""
    return isfinite(row.relative_gap) and (row.optimum > 0 or row.gap == 0)


def dropped_at_best(each: LayerResult) -> int:
    """Tokens with an allowed expert that reach none at the optimum."""
    best = each.solution.assignment
    assert best is not None
    somewhere = each.problem.allowed_per_token > 0
    return int((best.dropped & somewhere.to(best.dropped.device)).sum())
