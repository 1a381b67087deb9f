"""Prices by a few Newton steps on the dual, on the device: what tokens take, and what to charge.

The slope of the dual in the price of an expert is its capacity minus its load. Its curvature comes
from the tokens that are nearly indifferent: between their last expert and the next one, which
couples the two prices, or between an expert and nothing, which holds one price. Counted within a
window of margins they make a graph Laplacian, the Jacobian of the loads in the prices.

A Newton step corrects all prices at once, but goes too far where many tokens are alike: a step that
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
"""Factor on a Newton step: 2 would be a whole one, as a window sees one side of each price alone.

Smaller converges more slowly (half: 5.3e-4), larger overshoots (twice: 1.6e-3, and twice the time).
"""
EMPTY_SHARE = 0.5
"""Share of a priced expert's slots that are empty, from which its price is set by itself alone.

Lower does so more often (half: 3.6e-4, half as much time again); at 1 an expert that lost all its
tokens stays empty (3.3e-3).
"""
EXCESS = 3.0
"""The same for experts above capacity: excess tokens, in multiples of its slots. Both: 3.2e-4."""
CLOSER, WIDER = 0.25, 2.0
"""Factors on the window after a step that was undone, and after one that was not.

`CLOSER` at half and twice: 3.1e-4 and 3.2e-4. `WIDER` at 4: 2.6e-4. A window never exceeds its
first width.
"""


class Demand(NamedTuple):
    """What tokens want most at given prices, best first: k + 1 experts each.

    Attributes:
        value: (k + 1, B, n), score minus price; a token takes the first k as far as they are
            above 0.
        expert: int64 (k + 1, B, n).
    """

    value: Tensor
    expert: Tensor

    @property
    def between(self) -> Tensor:
        """(B, n), what the k-th earns above the next one; inf where the next earns nothing."""
        last, following = self.value[-2], self.value[-1]
        return (last - following).masked_fill(following <= 0, INF)

    @property
    def margin(self) -> Tensor:
        """(B, n), by how much prices must differ for another choice; inf if nothing does it."""
        return torch.minimum(self.value[:-1].abs().amin(0), self.between)

    def load(self, E: int) -> Tensor:
        """Tokens at each expert, (B, E)."""
        return _count(self.expert[:-1], self.value[:-1] > 0, E).to(self.value.dtype)

    def dual(self, prices: Tensor, seats: Tensor) -> Tensor:
        """(B,), a bound on what these tokens can earn with these seats (B, E)."""
        return self.value[:-1].clamp(min=0).sum((0, 2)) + (seats * prices).sum(1)

    def taken(self, E: int) -> Tensor:
        """The same as boolean (B, n, E)."""
        _, B, n = self.value.shape
        place = self.expert.masked_fill(self.value <= 0, E)[:-1].permute(1, 2, 0)
        x = torch.zeros((B, n, E + 1), dtype=torch.bool, device=place.device)
        return x.scatter_(2, place, True)[..., :E].contiguous()

    def of(self, tokens: Tensor) -> "Demand":
        """What some tokens, int64 (B, m), want."""
        some = tokens.expand(len(self.value), -1, -1)
        return Demand(self.value.gather(2, some), self.expert.gather(2, some))


def demand(scores: Tensor, prices: Tensor, k: int) -> Demand:
    """What tokens want: k + 1 maxima of score minus price, ties to the lower expert.

    Args:
        scores: (B, n, E), above what an empty slot is worth.
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
    return Demand(torch.stack(values), torch.stack(experts))


def ascend(
    scores: Tensor,
    prices: Tensor,
    seats: Tensor,
    k: int,
    steps: int,
    enough: float = 0.0,
    now: Demand | None = None,
    reach: Tensor | None = None,
) -> tuple[Demand, Tensor]:
    """What tokens want after Newton steps, and the prices (B, E).

    Args:
        scores: (B, n, E), of those whose choice may change.
        prices: (B, E), to start from.
        seats: (B, E), how many of these tokens each expert may take.
        k: slots of a token.
        steps: at most; each computes the demand of these tokens once.
        enough: an entry is done when no more tokens than this have to move.
        now: what the tokens want at the prices, if that is known.
        reach: (B, 1), prices move by no more in all; inf if not given.
    """
    E, start = scores.shape[2], prices
    now = demand(scores, prices, k) if now is None else now
    dual = now.dual(prices, seats)
    focus = torch.ones_like(dual)
    for _ in range(steps):
        excess = now.load(E) - seats
        moving = (prices > 0) | (excess > 0)  # a price of 0 stays while there is room
        busy = (excess * moving).abs().sum(1) > enough
        if reach is None:
            deserted, crowded = _deserted(prices, excess, seats), excess > EXCESS * seats
            busy |= deserted.any(1)
        if not bool(busy.any()):
            break
        trial = newton(now, prices, excess * moving, moving.to(prices), focus)
        if reach is not None:
            trial = torch.minimum(torch.maximum(trial, start - reach), start + reach)
        elif bool((deserted | crowded).any()):
            own = coordinate_step(scores, now, seats)
            trial = torch.where(deserted, trial.minimum(own), trial)
            trial = torch.where(crowded, trial.maximum(own), trial)
        then = demand(scores, trial, k)
        after = then.dual(trial, seats)
        better = (after < dual) & busy
        here = better[:, None]
        now = Demand(*(torch.where(here, a, b) for a, b in zip(then, now, strict=True)))
        prices = torch.where(here, trial, prices)
        dual = torch.where(better, after, dual)
        focus = torch.where(better, (WIDER * focus).clamp(max=1), CLOSER * focus)
    if reach is None:
        deserted = _deserted(prices, now.load(E) - seats, seats)
        if bool(deserted.any()):
            lower = prices.minimum(coordinate_step(scores, now, seats))
            prices = torch.where(deserted, lower, prices)
            now = demand(scores, prices, k)
    return now, prices


def newton(now: Demand, prices: Tensor, excess: Tensor, moving: Tensor, focus: Tensor) -> Tensor:
    """Prices (B, E) after one damped Newton step on the dual, never below 0.

    Args:
        now: what n tokens want at the prices.
        prices: (B, E).
        excess: (B, E), tokens above the seats; 0 where the price does not move.
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
    springs = _count(pair[None], (between <= window)[None], E * E).view(B, E, E)
    springs = springs + springs.mT
    ground = _count(now.expert[:-1], to_empty <= window, E)
    jacobian = springs * (moving[:, :, None] * -moving[:, None, :])
    # one spring to the ground each: no expert is left without any
    jacobian.diagonal(dim1=1, dim2=2).copy_(springs.sum(2) + ground + 1)
    step = torch.linalg.solve_ex(jacobian, excess[..., None]).result[..., 0]
    moved: Tensor = prices + window * (GAIN * step).clamp(-REACH, REACH)
    return moved.clamp(min=0)


def _deserted(prices: Tensor, excess: Tensor, seats: Tensor) -> Tensor:
    """Experts whose price keeps too many tokens away, boolean (B, E)."""
    return (prices > 0) & (excess < -EMPTY_SHARE * seats)


def coordinate_step(scores: Tensor, now: Demand, seats: Tensor) -> Tensor:
    """Prices (B, E) at which each expert alone is just full, the others' prices as they are.

    Where too many or too few want an expert it is a safe step: experts substitute for each other,
    so prices that are all too low are not raised too far, nor those too high lowered too far.

    Args:
        scores: (B, n, E).
        now: what the n tokens want at present prices.
        seats: (B, E).
    """
    n, E = scores.shape[1:]
    given_up = torch.where(now.taken(E), now.value[-1, ..., None], now.value[-2, ..., None])
    bids = (scores - given_up.clamp(min=0)).sort(dim=1, descending=True).values
    last = seats.ceil().long().clamp(1, n)[:, None] - 1
    edge = bids.gather(1, torch.cat([last, (last + 1).clamp(max=n - 1)], 1)).clamp(min=0).mean(1)
    return torch.where(seats < n, edge, 0.0)


def _count(place: Tensor, marked: Tensor, places: int) -> Tensor:
    """How many marked entries (W, B, n) name each place, float (B, places)."""
    total = torch.zeros(place.shape[1], places, device=place.device)
    for where, one in zip(place, marked.float(), strict=True):
        total.scatter_add_(1, where, one)
    return total
