"""What balanced routers share: loads, a problem per batch, rounding to it, and entropic plans."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.bounds import between, exactly
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.infeasibility import explain
from lp_routing.solvers.min_cost_flow import MinCostFlow
from lp_routing.validation import as_float, as_int, as_nonnegative

LOWEST = -1e300
"""Least difference of scores over temperature (float64 ends at 1.8e308), so that no allowed pair
becomes -inf."""


class Loads(NamedTuple):
    """Tokens per expert: at least `least`, at most `most`, in tokens."""

    least: int
    most: int


def loads_of(T: int, E: int, k: int, capacity: int | None = None) -> Loads:
    """How many tokens each of E experts takes where T tokens take k experts each.

    Args:
        T: tokens.
        E: experts.
        k: experts per token.
        capacity: most tokens an expert takes. Left out, loads are as equal as whole numbers allow,
            between the floor and the ceiling of T k / E, as in `lp_routing.problems.balanced`.

    Raises:
        InputError: fewer places than T k.
    """
    if capacity is None:
        return Loads(T * k // E, -(-T * k // E))
    most = min(capacity, T)
    if T * k > E * most:
        raise InputError(
            f"{T} tokens that take k={k} experts each need {T * k} places, but with "
            f"capacity={capacity} the E={E} experts have {E * most}; give a capacity of at least "
            f"{-(-T * k // E)}."
        )
    return Loads(0, most)


def balanced_problem(scores: Tensor, k: int, loads: Loads) -> RoutingProblem:
    """Exactly k experts a token and loads within bounds, for scores (T, E)."""
    return RoutingProblem(scores, tokens=exactly(k), experts=between(loads.least, loads.most))


def placed(problem: RoutingProblem, prices: Tensor) -> Tensor:
    """The feasible assignment (T, E) nearest to what tokens choose at expert prices (E,).

    Tokens choose their best pairs at the prices. As many of these choices are kept as all bounds
    allow together; of the assignments that keep that number, the one that is worth most at the
    prices is taken. So the prices decide, not the optimum.

    Raises:
        InputError: no assignment keeps all bounds, with the demands that clash.
    """
    worth = problem.scores.double() - prices
    known = worth[problem.allowed]
    spread = float(known.max() - known.min()) if len(known) else 0.0
    # two assignments differ by cycles through each expert once, of two pairs an expert
    bonus = (2 * problem.E + 2) * (spread or 1.0)
    at_prices = problem.with_scores(worth)
    tokens = tuple(family for family in problem.families if family.kind == "token")
    chosen = _optimum(at_prices.with_families(tokens))
    return _optimum(problem.with_scores(worth + bonus * chosen))


def _optimum(problem: RoutingProblem) -> Tensor:
    found = MinCostFlow().answer(problem).x
    if isinstance(found, Tensor):
        return found
    clash = explain(problem)
    raise InputError(
        f"no assignment keeps all bounds: {clash.says if clash else 'pairs are forbidden'}"
    )


def per_batch(scores: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """A rule for one batch, applied to each batch on its own.

    Args:
        scores: (..., T, E). A token whose pairs are all forbidden is padding: it takes no part.
        rule: scores (T', E) of the other tokens -> chosen pairs, boolean (T', E).

    Returns:
        Boolean (..., T, E).

    Raises:
        InputError: what the rule refuses, naming the batch; none is routed then.
    """
    nothing = scores.new_empty(*scores.shape[:-2], 0)
    return per_batch_with_state(scores, nothing, lambda batch, none: (rule(batch), none))[0]


def per_batch_with_state(
    scores: Tensor, state: Tensor, rule: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """A rule with a state for one batch, applied to each batch on its own; as `per_batch`.

    Args:
        scores: (..., T, E).
        state: (..., n).
        rule: scores (T', E) of tokens that are not padding, and the state (n,) of that batch ->
            chosen pairs, boolean (T', E), and the state after.

    Returns:
        Boolean (..., T, E), and the states after; a batch without tokens keeps its state.
    """
    chosen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    after = state.clone()
    for place in itertools.product(*map(range, scores.shape[:-2])):
        real = (scores[place] > float("-inf")).any(-1)
        if bool(real.any()):
            here = slice(None) if bool(real.all()) else real
            try:
                chosen[place][here], after[place] = rule(scores[place][here], state[place])
            except InputError as error:
                if not place:
                    raise
                raise InputError(
                    f"batch {list(place)}, {int(real.sum())} of {len(real)} tokens real: {error}"
                ) from error
    return chosen, after


def positive(value: float, name: str) -> float:
    """`value` as a finite number above 0, refusing everything else."""
    return as_float(value, name, "a number above 0", lambda given: given > 0)


def stacked(scores: Tensor, rule: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
    """A rule for one batch (T, E), applied to each on its own: each of its results, (..., *its)."""
    results = [rule(batch) for batch in scores.reshape(-1, *scores.shape[-2:])]
    return [
        torch.stack(parts).reshape(scores.shape[:-2] + parts[0].shape)
        for parts in zip(*results, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class EntropicPlan:
    """An entropic plan and its errors.

    Attributes:
        log_plan: float64 (..., T, E), the logarithm of the plan; -inf for forbidden pairs.
        potentials: float64 (..., E), by what a column of scores over temperature was raised in all;
            -inf for experts without tokens. Minus the temperature times this are prices of the
            experts.
        row_error: (...), by how much the worst row sum of a real token misses k, as a share of k.
        column_error: (...), the same for the column sum of an expert and the tokens it should have.
        iterations: int64 (...), how often rows and columns were scaled or projected on.
        converged: boolean (...), whether all errors are within the tolerance.
    """

    log_plan: Tensor
    potentials: Tensor
    row_error: Tensor
    column_error: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def plan(self) -> Tensor:
        """The plan itself, float64 (..., T, E)."""
        return self.log_plan.exp()


def check_limits(temperature: float, tolerance: float, iterations: int) -> None:
    """Refuse a temperature that is not above 0, a negative tolerance, and fewer than 1 iteration.

    Raises:
        InputError: one of these, by its name.
    """
    as_int(iterations, "iterations", 1)
    positive(temperature, "temperature")
    as_nonnegative(tolerance, "tolerance")


def log_kernel(scores: Tensor, temperature: float, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Scores over the temperature, less the best along some dimensions, and that best score.

    Both float64; -inf where a pair is forbidden, and a best score of 0 where all are.
    """
    wide = scores.double().contiguous()
    best = wide.amax(dims, keepdim=True)
    best = best.masked_fill(best == float("-inf"), 0.0)
    kernel = ((wide - best) / temperature).clamp_(min=LOWEST)
    return kernel.masked_fill_(scores == float("-inf"), float("-inf")), best


def column_log_sums(values: Tensor) -> Tensor:
    """logsumexp over the tokens, (..., T, E) to (..., E), equal for equal columns.

    Columns are made contiguous first: torch would add up the last ones in another order than the
    others, and prices of equal experts would differ in the last bit.
    """
    return values.mT.contiguous().logsumexp(-1)


def toward(target: Tensor, log_sums: Tensor) -> Tensor:
    """What to add to these log sums to reach a target; 0 where a sum is empty (-inf)."""
    return torch.where(log_sums == float("-inf"), 0.0, target - log_sums)
