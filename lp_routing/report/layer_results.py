"""One layer examined: its optimum with an exact certificate, and every router judged by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor

from lp_routing.audits.probe import sequence_places
from lp_routing.certificate.certificate import TOLERANCE, Certificate, certify
from lp_routing.evaluation.compare import router_runs
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.catalogue import Shape
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
    runs = router_runs(
        problem,
        list(names),
        logits=None if up_to_a_constant else logits,
        repeats=repeats,
        seed=seed,
        shape=shape,
        optimum=solution,
    )
    amounts = runs[0].amounts
    taken = None if amounts is None else Assignment(amounts)
    certificate = main = None
    if solution.prices.given:
        if solution.assignment is not None:
            certificate = certify(problem, solution.assignment, solution.prices, exact=True)
        if taken is not None:
            main = certify(problem, taken, solution.prices, exact=True)
    rows = [run.row for run in runs]
    return LayerResult(
        layer, logits, problem, shape, solution, certificate, rows, taken, main, sequence
    )


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
