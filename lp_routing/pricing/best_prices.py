"""Prices without an LP: a certified bound at any size, on any device."""

from typing import Any

import numpy as np
import torch

from lp_routing.certificate.certificate import dual_bound
from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.pricing.batch import Batch, batch_of, contested
from lp_routing.pricing.narrowing import Drawn, narrowed, sampled, tick, what_is_left
from lp_routing.pricing.priced import to_prices
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ProcessGroup
from lp_routing.validation import as_int, as_nonnegative


def best_prices(
    problem: RoutingProblem,
    relative_gap: float = 1e-4,
    max_passes: int = 4,
    *,
    seed: int = 0,
    group: Any = None,
) -> Prices:
    """Prices whose bound is near the optimum; `dual_bound` and `certify` prove what they say.

    Markets are cleared as in `Pricing`: first those of samples, then those of all contested tokens,
    one pass over the scores each time; the best of all prices met, and of none, is returned. No LP
    is solved and no assignment made. On scores that differ the bound is usually within
    `relative_gap`; on masses of ties, many copies of a row, lower bounds on experts and fractional
    bounds of tokens it may stay some per cent off and more. `Pricing` is exact there.

    Args:
        problem: the problem; scores may be memory-mapped and on any device.
        relative_gap: stop when the bound is estimated to be this close to the optimum, relative to
            itself. The estimate is what the box of prices could still gain; it is no proof.
        max_passes: passes over all scores at most, not counting samples.
        seed: which tokens are sampled.
        group: as in `Pricing`.

    Raises:
        InputError: not a problem, numbers that make no sense.
    """
    shards = ProcessGroup(group)
    with shards.together():
        if not isinstance(problem, RoutingProblem):
            raise InputError(f"best_prices expects a RoutingProblem, got {type(problem).__name__}.")
        max_passes = as_int(max_passes, "max_passes", 1)
        relative_gap = as_nonnegative(relative_gap, "relative_gap")
        seed = as_int(seed, "seed", 0, 2**63 - 1, "2**63 - 1")
        shards.same("best_prices", max_passes=max_passes, relative_gap=relative_gap, seed=seed)
        batch = batch_of(problem, shards, seed)
        dither = tick(batch.sample)
        drawn = shards.agreed(lambda: sampled(batch, np.zeros(len(batch.priced)), dither))
        tried = [np.zeros(len(batch.priced))]
        for _ in range(max_passes):
            drawn, left = _one_pass(problem, batch, drawn, shards)
            if left <= relative_gap:  # what was tried before is no better
                tried[1:] = []
            tried.append(drawn.course.prices)
            if left <= relative_gap:
                break
        found = [to_prices(problem, batch.priced, torch.as_tensor(prices)) for prices in tried]
        return min(found, key=lambda prices: dual_bound(problem, prices, group=group))


def _one_pass(
    problem: RoutingProblem, batch: Batch, drawn: Drawn, shards: ProcessGroup
) -> tuple[Drawn, float]:
    """Clear the markets of all tokens that are contested in a box; what the next pass could gain.

    Relative to what all tokens have to win; inf where prices left the box or still move.
    """
    device = problem.scores.device
    contest, load = contested(batch, shards, drawn.low, drawn.high, device=device)
    bounds = what_is_left(batch.priced, load)
    found = shards.agreed(lambda: narrowed(contest, batch.priced, bounds, drawn))
    outside = (found.course.prices < drawn.low) | (found.course.prices > drawn.high)
    if outside.any() or not found.calm:
        return found, float("inf")
    upper = batch.priced.upper.cpu().numpy()
    units = np.where(np.isfinite(upper), upper, batch.priced.lower.cpu().numpy())
    worth = batch.typical * batch.units
    return found, float((found.course.moved * units).sum()) / worth
