"""Routing by prices: each token takes its k best experts by score minus price."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.base import StatefulRouter, WeightedRule, cold_prices
from lp_routing.routers.capacity import (
    Capacity,
    check_capacity,
    keep_first_tokens,
    resolve_capacity,
)
from lp_routing.routers.catalogue import register
from lp_routing.routers.dual_ascent import BestExperts, ascend, best_experts, coordinate_step
from lp_routing.routers.repair import exchanged, filled, without_excess
from lp_routing.routers.selection import largest
from lp_routing.validation import as_bool, as_choice, as_int

# Gaps below are mean relative gaps over the 16 cases of `python -m benchmarks.router_constants`, at
# half and at twice a value: 3.2e-4 with these.

SAMPLE, SHARE = 512, 8
"""Tokens of the first search for prices: at least `SAMPLE`, or one in `SHARE` of a longer batch.

More cost time and start the search on all tokens closer to its end. The gap hardly depends on
either (at most 1 % of it).
"""
SAMPLE_STEPS = 5
"""Most Newton steps on the sample: time against gap. 2: 4.1e-4, from a worse second start."""
STEPS = 4
"""Most Newton steps on all tokens: time against gap. 2: 5.8e-4; 8: 3.1e-4."""
LAST_SHARE, LAST_STEPS = 8, 3
"""The last `LAST_STEPS` steps use one token in `LAST_SHARE`, those with the smallest margins.

They are cheap and gain little here: with one step 3.2e-4, with six 3.1e-4.
"""
NOISE, ENOUGH = 0.25, 0.5
"""The search ends early when no more tokens than this would have to move.

`NOISE` is in units of the sampling error of the loads, for the search on the sample; `ENOUGH` in
tokens per expert, for the others. Larger saves steps: twice `ENOUGH` gives a gap of 3.3e-4.
"""
MISPLACED = 1 / 16
"""Share of an expert's capacity above which its load is misplaced: row top-k is tried as well.

Misplaced are tokens above the capacity, and empty slots at a price. Lower costs a second selection
more often. It matters where nearly all tokens prefer one expert: the mean gap of such batches is
2.6e-6, with twice this 2.8e-4, and 0.17 where row top-k is never tried ("crowded").
"""
MOVABLE = 16
"""Tokens per expert that the repair may move: time against gap. 8: 3.3e-4; 32: 3.1e-4."""
LEAVERS = 4
"""Candidates to leave experts above capacity, before they are shared out over the experts.

In multiples of the tokens that may move; larger costs a larger `topk`. 2 and 8 give the same gap.
"""


@register("Prices and biases", {"prices": lambda s: PriceRouter(s.k, s.capacity)})
@dataclass(frozen=True)
class PriceRouter(WeightedRule, StatefulRouter[Tensor]):
    """Prices by a few dual steps, top-k of score minus price, then repair (this project).

    It seeks the optimum of `capacity` and never exceeds a capacity. The state is the experts'
    prices, (..., E); prices (E,) shared by all batch entries are accepted too.

    1. Prices: Newton steps on every eighth token (at least 512), then on all tokens, then on the
       tokens with the smallest margins. Each search ends early where few tokens have to move.
    2. Repair: tokens move at least loss from experts above capacity to experts with room, whose
       prices are lowered first. Where that is not enough, experts drop the tokens that lose least,
       and tokens with an empty slot go where there is room.
    3. Where an expert's load misses its capacity by more than a sixteenth after the prices, row
       top-k with drops is tried as well, and the better of the two is taken.

    Ties between a token's experts go to the lower expert; ties in the repair are not decided by
    index. Not causal: prices depend on all tokens of the batch; see `FixedPrices`. It runs entirely
    on the scores' device, batched over the leading dimensions; on a CPU `Optimal` is better. Cost
    and gap: `python -m benchmarks.price_router`.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number or a `CapacityFactor`.
        rows: "at_most" k experts a token, so that only scores above 0 are taken; or "exactly" k,
            as far as there is room; the rest is dropped.
        steps: Newton steps on all tokens; more cost more and leave a smaller gap.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "lp_routing/routers/price.py"
    seeks = "capacity"
    cost = "k + 1 maxima of all tokens for each of up to 5 steps, fewer on samples, then repair"
    causal = False
    ties = "any"

    k: int
    capacity: Capacity
    rows: Literal["at_most", "exactly"] = "at_most"
    steps: int = STEPS

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        check_capacity(self.capacity)
        as_choice(self.rows, "rows", ("at_most", "exactly"))
        as_int(self.steps, "steps", 0)
        super().__post_init__()

    def initial(self, scores: Tensor) -> Tensor:
        """Zeros (..., E): nothing is known yet."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean (..., T, E), and prices (..., E) for the next batch."""
        prices = _checked(state, scores)
        wide = _above(scores, self.rows)
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        capacity = resolve_capacity(self.capacity, scores, k)
        now, prices = _ascended(wide, prices, k, capacity, as_int(self.steps, "steps", 0))
        x, load = now.taken(wide.shape[2]), now.load(wide.shape[2])
        wrong = (load - capacity) * ((load > capacity) | (prices > 0))
        misplaced = bool((wrong.abs() > MISPLACED * capacity).any())
        near = _movable(now, load, capacity)
        some, held = _rows(wide, near), _rows(x, near)
        # experts with room get the price at which they would just fill
        room = capacity - load
        lowered_prices = prices.minimum(coordinate_step(some, now.of(near), held.sum(1) + room))
        prices = torch.where(room > 0, lowered_prices, prices)
        held, load = exchanged(held, some - prices[:, None], prices, load, capacity, k)
        x.scatter_(1, near[..., None].expand_as(held), held)
        if bool((load > capacity).any()):
            x = without_excess(x, wide, capacity)
        x = filled(x, wide, capacity, k, must=self.rows == "exactly")
        if misplaced:
            x = self._best_of(x, wide, capacity, k)
        return x.view(scores.shape), prices.view(*scores.shape[:-2], -1)

    def _best_of(self, x: Tensor, wide: Tensor, capacity: int, k: int) -> Tensor:
        """For each entry the better one: the choice by prices, or row top-k, dropped and filled."""
        free = best_experts(wide, torch.zeros_like(wide[:, 0]), k).taken(wide.shape[2])
        must = self.rows == "exactly"
        plain = filled(without_excess(free, wide, capacity), wide, capacity, k, must=must)
        worth = [wide.masked_fill(~each, 0.0).sum((1, 2)) for each in (x, plain)]
        return torch.where((worth[0] >= worth[1])[:, None, None], x, plain)


@register("Prices and biases", {"fixed-prices": lambda s: FixedPrices(s.k, s.capacity)})
@dataclass(frozen=True)
class FixedPrices(WeightedRule, StatefulRouter[Tensor]):
    """Top-k of score minus prices that were fixed before the batch (this project): causal.

    Prices for the next batch are those that `PriceRouter` finds for this one; cold, they are 0. The
    choice at fixed prices is LP-optimal for its own loads; a capacity is enforced first come, first
    served, or not at all.

    Attributes:
        k: most experts per token; only pairs with a score above their price are taken.
        capacity: target load of the prices: a whole number of tokens per expert or a
            `CapacityFactor`.
        enforce: whether experts drop tokens beyond their capacity, first come, first served.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "lp_routing/routers/price.py"
    seeks = "capacity"
    cost = "one topk, and for the next batch's prices what `PriceRouter` does before its repair"

    k: int
    capacity: Capacity
    enforce: bool = True

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        check_capacity(self.capacity)
        as_bool(self.enforce, "enforce")
        super().__post_init__()

    @property
    def causal(self) -> bool:
        """True unless a capacity that depends on the number of tokens is enforced."""
        return not self.enforce or not isinstance(self.capacity, CapacityFactor)

    def initial(self, scores: Tensor) -> Tensor:
        """Zeros (..., E): nothing is known yet."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean (..., T, E), and prices (..., E) for the next batch."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        prices = _checked(state, scores)
        capacity = resolve_capacity(self.capacity, scores, k)
        chosen = taken_at(scores, prices.view(*scores.shape[:-2], -1), k)
        if self.enforce:
            chosen = keep_first_tokens(chosen, capacity)
        after = _ascended(_above(scores, "at_most"), prices, k, capacity, STEPS)[1]
        return chosen, after.view(*scores.shape[:-2], -1)


def taken_at(scores: Tensor, prices: Tensor, k: int) -> Tensor:
    """Each token's at most k best pairs whose score exceeds the expert's price.

    Args:
        scores: (..., T, E).
        prices: (..., E), in units of score.
        k: experts per token.

    Returns:
        Boolean (..., T, E).
    """
    priced = _wide(scores) - prices[..., None, :]
    return largest(priced.masked_fill(priced <= 0, float("-inf")), k)


def _wide(scores: Tensor) -> Tensor:
    """Widened to at least float32, which is exact."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _above(scores: Tensor, rows: str) -> Tensor:
    """Scores (B, T, E) minus the value of an empty slot."""
    wide = _wide(scores).reshape(-1, *scores.shape[-2:])
    if rows == "at_most":
        return wide
    lowest = wide.masked_fill(wide == float("-inf"), float("inf")).amin((1, 2), True)
    spread = wide.amax((1, 2), True) - lowest
    # an empty slot costs more than any single move could gain, which is the spread at most
    return wide - lowest + 2 * torch.where(spread > 0, spread, 1.0)


def _checked(state: Tensor, scores: Tensor) -> Tensor:
    """The state as prices (B, E) of the scores' precision and device."""
    shape = (*scores.shape[:-2], scores.shape[-1])
    if not isinstance(state, Tensor) or not state.is_floating_point():
        what = f"{state.dtype} numbers" if isinstance(state, Tensor) else type(state).__name__
        raise InputError(f"state: expected prices as floats of shape {shape}, got {what}.")
    if state.shape not in (shape, shape[-1:]):
        raise InputError(
            f"state: expected prices of shape {shape}, one per batch entry and expert, or "
            f"{shape[-1:]} for all entries, got {tuple(state.shape)}."
        )
    if not bool((state.isfinite() & (state >= 0)).all()):
        raise InputError("state: prices must be finite and at least 0; None starts cold.")
    return state.detach().to(_wide(scores)).expand(shape).reshape(-1, shape[-1])


def _ascended(
    scores: Tensor, prices: Tensor, k: int, capacity: int, steps: int
) -> tuple[BestExperts, Tensor]:
    """The tokens' best experts at prices found for them, and the prices (B, E)."""
    T, E = scores.shape[1:]
    slots = torch.full_like(prices, capacity)
    few = scores[:, :: max(1, T // max(SAMPLE, T // SHARE))].contiguous()
    n = few.shape[1]
    if n < T:
        noise = math.sqrt(n * k * E)  # total sampling error of the loads
        prices = ascend(few, prices, slots * (n / T), k, SAMPLE_STEPS, NOISE * noise)[1]
    now, prices = ascend(scores, prices, slots, k, steps, ENOUGH * E)
    m = min(T, max(SAMPLE, T // LAST_SHARE))
    margin, near = torch.topk(now.margin, m, largest=False)
    here, some = now.of(near), _rows(scores, near)
    rest = slots - (now.load(E) - here.load(E))
    # the other tokens keep their choice: no price difference changes by more than their margin
    reach = margin[:, -1:] / 2 if m < T else torch.full_like(margin[:, -1:], float("inf"))
    here, prices = ascend(some, prices, rest, k, LAST_STEPS, ENOUGH * E, here, reach)
    for every, part in zip(now, here, strict=True):
        every.scatter_(2, near.expand_as(part), part)
    return now, prices


def _movable(now: BestExperts, load: Tensor, capacity: int) -> Tensor:
    """Tokens (B, m) for the repair: half from experts above capacity, half of least margin."""
    _, B, T = now.value.shape
    E = load.shape[1]
    m = min(MOVABLE * E, T)
    if m == T:
        return torch.arange(T, device=load.device).expand(B, T)
    excess = (load - capacity).clamp(min=0)
    held = now.expert[:-1].transpose(0, 1)
    loss = now.value[:-1].transpose(0, 1) - now.value[-1:].transpose(0, 1).clamp(min=0)
    full = excess.gather(1, held.reshape(B, -1)).view_as(held) > 0
    least = loss.masked_fill(~full, float("inf")).min(1)
    expert = held.gather(1, least.indices[:, None])[:, 0]
    loss, order = torch.topk(least.values, min(LEAVERS * m, T), largest=False)
    expert = expert.gather(1, order)
    turn = _turn(expert, E) / (excess + 1).gather(1, expert)
    first = torch.topk(turn.masked_fill(loss.isinf(), float("inf")), m // 2, largest=False).indices
    first = order.gather(1, first)
    others = now.margin.nan_to_num().scatter(1, first, float("inf"))
    second = torch.topk(others, m - m // 2, largest=False, sorted=False).indices
    return torch.cat([first, second], 1)


def _turn(place: Tensor, places: int) -> Tensor:
    """The number of earlier entries (B, n) of the same batch entry with the same place."""
    order = place.argsort(dim=1, stable=True)
    count = torch.zeros(len(place), places, dtype=torch.int64, device=place.device)
    count.scatter_add_(1, place, torch.ones_like(place))
    start = (count.cumsum(1) - count).gather(1, place.gather(1, order))
    rank = torch.arange(place.shape[1], device=place.device) - start
    return torch.empty_like(place).scatter_(1, order, rank)


def _rows(table: Tensor, near: Tensor) -> Tensor:
    """Some rows (B, m) of (B, n, E)."""
    B, n, E = table.shape
    first = torch.arange(0, B * n, n, device=near.device)[:, None]
    return table.reshape(-1, E).index_select(0, (near + first).flatten()).view(B, -1, E)
