"""Prices by a few damped Newton steps on the dual, on the device of the scores.

The slope of the dual in the price of an expert is its capacity minus its load. Its curvature comes
from tokens that are nearly indifferent: between their last expert and the next one, which couples
two prices, or between an expert and no expert, which involves one. Counted within a window of
margins they give a graph Laplacian, an estimate of the Jacobian of the loads in the prices.

A Newton step corrects all prices at once, but overshoots where many tokens are similar: a step that
does not lower the dual is undone, and the next one uses a narrower window.
"""

from typing import NamedTuple

import torch
from torch import Tensor

INF = float("inf")
# Gaps below are mean relative gaps of `PriceRouter` in `python -m benchmarks.router_constants`, at
# half and at twice a value: 3.2e-4 with these. Times differ by no more than noise unless said.

REACH = 8.0
"""Largest change of a price in one step, in widths of its window. Smaller is slower: half
3.7e-4."""
WINDOW_TOKENS = 4
"""Least number of tokens per expert within a window, from which the curvature is estimated.

Fewer make the estimate noisier, more include tokens further from the price. Half and twice: 3.2e-4.
"""
WIDTH = 2.0
"""The same in multiples of the tokens that have to move. Half and twice: 4.0e-4 and 3.8e-4."""
GAIN = 1.4
"""Factor on a Newton step; 2 is a full step, as a window covers only one side of each price.

Smaller converges more slowly (half: 5.3e-4), larger overshoots (twice: 1.6e-3, and twice the time).
"""
EMPTY_SHARE = 0.5
"""Share of a priced expert's slots that are empty, from which its price is set by itself alone.

Lower does so more often (half: 3.6e-4, half as much time again); at 1 an expert that lost all its
tokens stays empty (3.3e-3).
"""
EXCESS = 3.0
"""The same for experts above capacity: excess tokens, in multiples of its slots.

Half and twice: 3.2e-4.
"""
CLOSER, WIDER = 0.25, 2.0
"""Factors on the window after a step that was undone, and after one that was not.

`CLOSER` at half and twice: 3.1e-4 and 3.2e-4. `WIDER` at 4: 2.6e-4. A window never exceeds its
first width.
"""


class BestExperts(NamedTuple):
    """Each token's k + 1 best experts at given prices, best first.

    Attributes:
        value: (k + 1, B, n), score minus price; a token takes the first k as far as they are
            above 0.
        expert: int64 (k + 1, B, n).
    """

    value: Tensor
    expert: Tensor

    @property
    def between(self) -> Tensor:
        """(B, n), the k-th expert's earnings minus the next one's; inf if that earns nothing."""
        last, following = self.value[-2], self.value[-1]
        return (last - following).masked_fill(following <= 0, INF)

    @property
    def margin(self) -> Tensor:
        """(B, n), the change of prices that changes the choice; inf where none does."""
        return torch.minimum(self.value[:-1].abs().amin(0), self.between)

    def load(self, E: int) -> Tensor:
        """Tokens at each expert, (B, E)."""
        return _count(self.expert[:-1], self.value[:-1] > 0, E).to(self.value.dtype)

    def dual(self, prices: Tensor, slots: Tensor) -> Tensor:
        """(B,), the dual value of these tokens with these slots (B, E)."""
        return self.value[:-1].clamp(min=0).sum((0, 2)) + (slots * prices).sum(1)

    def taken(self, E: int) -> Tensor:
        """The chosen pairs, boolean (B, n, E)."""
        _, B, n = self.value.shape
        place = self.expert.masked_fill(self.value <= 0, E)[:-1].permute(1, 2, 0)
        x = torch.zeros((B, n, E + 1), dtype=torch.bool, device=place.device)
        return x.scatter_(2, place, True)[..., :E].contiguous()

    def of(self, tokens: Tensor) -> "BestExperts":
        """Those of some tokens, int64 (B, m)."""
        some = tokens.expand(len(self.value), -1, -1)
        return BestExperts(self.value.gather(2, some), self.expert.gather(2, some))


def best_experts(scores: Tensor, prices: Tensor, k: int) -> BestExperts:
    """The k + 1 largest of score minus price for each token, ties to the lower expert.

    Args:
        scores: (B, n, E), minus the value of an empty slot.
        prices: (B, E).
        k: slots of a token, at most E.
    """
    left = scores - prices[:, None]
    values, experts = [], []
    for slot in range(k + 1):
        value, expert = left.max(2)
        values.append(value)
        experts.append(expert)
        if slot < k:
            left.scatter_(2, expert[..., None], -INF)
    return BestExperts(torch.stack(values), torch.stack(experts))


def ascend(
    scores: Tensor,
    prices: Tensor,
    slots: Tensor,
    k: int,
    steps: int,
    enough: float = 0.0,
    now: BestExperts | None = None,
    reach: Tensor | None = None,
) -> tuple[BestExperts, Tensor]:
    """The best experts after Newton steps, and the prices (B, E).

    Args:
        scores: (B, n, E), of the tokens whose choice may change.
        prices: (B, E), to start from.
        slots: (B, E), slots of each expert for these tokens.
        k: slots of a token.
        steps: most steps; each computes the best experts once.
        enough: a batch entry is done when at most this many tokens have to move.
        now: the best experts at the prices, if known.
        reach: (B, 1), largest total change of a price; inf if not given.
    """
    E, start = scores.shape[2], prices
    now = best_experts(scores, prices, k) if now is None else now
    dual = now.dual(prices, slots)
    focus = torch.ones_like(dual)
    for _ in range(steps):
        excess = now.load(E) - slots
        moving = (prices > 0) | (excess > 0)  # a price of 0 stays while the expert has room
        busy = (excess * moving).abs().sum(1) > enough
        if reach is None:
            underfilled, crowded = _underfilled(prices, excess, slots), excess > EXCESS * slots
            busy |= underfilled.any(1)
        if not bool(busy.any()):
            break
        trial = newton(now, prices, excess * moving, moving.to(prices), focus)
        if reach is not None:
            trial = torch.minimum(torch.maximum(trial, start - reach), start + reach)
        elif bool((underfilled | crowded).any()):
            own = coordinate_step(scores, now, slots)
            trial = torch.where(underfilled, trial.minimum(own), trial)
            trial = torch.where(crowded, trial.maximum(own), trial)
        then = best_experts(scores, trial, k)
        after = then.dual(trial, slots)
        better = (after < dual) & busy
        here = better[:, None]
        now = BestExperts(*(torch.where(here, a, b) for a, b in zip(then, now, strict=True)))
        prices = torch.where(here, trial, prices)
        dual = torch.where(better, after, dual)
        focus = torch.where(better, (WIDER * focus).clamp(max=1), CLOSER * focus)
    if reach is None:
        underfilled = _underfilled(prices, now.load(E) - slots, slots)
        if bool(underfilled.any()):
            lower = prices.minimum(coordinate_step(scores, now, slots))
            prices = torch.where(underfilled, lower, prices)
            now = best_experts(scores, prices, k)
    return now, prices


def newton(
    now: BestExperts, prices: Tensor, excess: Tensor, moving: Tensor, focus: Tensor
) -> Tensor:
    """Prices (B, E) after one damped Newton step on the dual, never below 0.

    Args:
        now: the best experts of n tokens at the prices.
        prices: (B, E).
        excess: (B, E), tokens above the slots; 0 where the price does not move.
        moving: (B, E), 1 where the price moves, else 0.
        focus: (B,), at most 1; factor on the width of the windows.
    """
    B, E = prices.shape
    to_move = (WIDTH * excess.abs().sum(1)).clamp(min=WINDOW_TOKENS * E)
    n = now.value.shape[2]
    to_empty, between = now.value[:-1].abs(), now.between
    margin = torch.minimum(to_empty.amin(0), between)
    quarter = margin.kthvalue(max(1, n // 4), dim=1).values.nan_to_num(posinf=1.0)
    window = (focus * quarter * to_move.clamp(max=n) * (4 / n))[:, None]
    pair = now.expert[-2] * E + now.expert[-1]
    couplings = _count(pair[None], (between <= window)[None], E * E).view(B, E, E)
    couplings = couplings + couplings.mT
    unpaired = _count(now.expert[:-1], to_empty <= window, E)
    jacobian = couplings * (moving[:, :, None] * -moving[:, None, :])
    # a small diagonal term keeps the system regular for every expert
    jacobian.diagonal(dim1=1, dim2=2).copy_(couplings.sum(2) + unpaired + 1)
    step = torch.linalg.solve_ex(jacobian, excess[..., None]).result[..., 0]
    moved: Tensor = prices + window * (GAIN * step).clamp(-REACH, REACH)
    return moved.clamp(min=0)


def _underfilled(prices: Tensor, excess: Tensor, slots: Tensor) -> Tensor:
    """Experts with a price above 0 and too many empty slots, boolean (B, E)."""
    return (prices > 0) & (excess < -EMPTY_SHARE * slots)


def coordinate_step(scores: Tensor, now: BestExperts, slots: Tensor) -> Tensor:
    """Prices (B, E) at which each expert is just full if the other prices stay (a Jacobi step).

    Far from the optimum it is a safe step: experts substitute for each other, so prices that are
    all too low are not raised too far, nor prices that are too high lowered too far.

    Args:
        scores: (B, n, E).
        now: the best experts of the n tokens at the present prices.
        slots: (B, E).
    """
    n, E = scores.shape[1:]
    given_up = torch.where(now.taken(E), now.value[-1, ..., None], now.value[-2, ..., None])
    bids = (scores - given_up.clamp(min=0)).sort(dim=1, descending=True).values
    last = slots.ceil().long().clamp(1, n)[:, None] - 1
    edge = bids.gather(1, torch.cat([last, (last + 1).clamp(max=n - 1)], 1)).clamp(min=0).mean(1)
    return torch.where(slots < n, edge, 0.0)


def _count(place: Tensor, marked: Tensor, places: int) -> Tensor:
    """The number of marked entries (W, B, n) at each place, float (B, places)."""
    total = torch.zeros(place.shape[1], places, device=place.device)
    for where, one in zip(place, marked.float(), strict=True):
        total.scatter_add_(1, where, one)
    return total
