"""Prices by a few dual steps on the device: what tokens take, and what to charge for it.

Two steps. `cleared`: given everybody else's prices, the best price of an expert lies between the
last offer that fits and the first that does not; a token offers what it would lose without that
expert (the sweep of `lp_routing/pricing/clearing.py`, in torch). It is safe from anywhere, and
fast where some experts are free. `newton`: the dual's slope is load minus capacity, its curvature
is which experts tokens hesitate between. A token that is nearly indifferent between its last expert
and the next is a spring between the two; the springs are a graph Laplacian, the Jacobian of load by
price. It mends what is wrong everywhere at once, where prices are nearly right.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

REACH = 4.0
"""A price moves by at most this many windows in one Newton step."""
SPRINGS = 4
"""A window holds about this many tokens per expert at least, if there are so many."""
WIDTH = 2.0
"""A window holds about this many times the tokens that have to move."""


class Answer(NamedTuple):
    """What tokens take at given prices, best first, and what they would take next.

    Attributes:
        value: (n, k + 1), score minus price; the floor where a slot stays empty.
        expert: int64 (n, k + 1); E where a slot stays empty.
    """

    value: Tensor
    expert: Tensor

    @property
    def margin(self) -> Tensor:
        """(n,), what the last slot earns above the next best."""
        return self.value[:, -2] - self.value[:, -1]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of B batch entries in one list.

    Attributes:
        scores: (n, E).
        entry: int64 (n,), the batch entry of each.
        floor: (B,), what an empty slot is worth.
        k: slots of a token.
    """

    scores: Tensor
    entry: Tensor
    floor: Tensor
    k: int

    def take(self, chosen: Tensor) -> "Tokens":
        """Some of them."""
        return Tokens(self.scores[chosen], self.entry[chosen], self.floor, self.k)

    def each(self, values: Tensor) -> Tensor:
        """Values (B, ...) of the entries as (n, ...), or as something that broadcasts to it."""
        return values if len(self.floor) == 1 else values[self.entry]

    def answer(self, prices: Tensor) -> Answer:
        """What they take at prices (B, E): one `topk` of k + 1."""
        E = self.scores.shape[1]
        priced, floor = self.scores - self.each(prices), self.each(self.floor)[:, None]
        value, expert = torch.topk(priced, min(self.k + 1, E))
        if self.k == E:
            value, expert = (torch.cat([side, side[:, :1]], 1) for side in (value, expert))
            value[:, -1] = float("-inf")
        empty = value <= floor
        return Answer(torch.where(empty, floor, value), expert.masked_fill_(empty, E))

    def load(self, expert: Tensor) -> Tensor:
        """How many slots go to each expert and how many stay empty, (B, E + 1)."""
        B, V = len(self.floor), self.scores.shape[1] + 1
        if B > 1:
            expert = expert + self.entry[:, None] * V
        taken = expert[:, : self.k].reshape(-1)
        load = self.scores.new_zeros(B * V)
        return load.index_add_(0, taken, load.new_ones(1).expand(len(taken))).view(B, V)

    def mean(self, values: Tensor) -> Tensor:
        """The mean (B,) of values (n,) over the tokens of each entry."""
        if len(self.floor) == 1:
            return values.mean(0, keepdim=True)
        zeros = values.new_zeros(len(self.floor))
        count = zeros.index_add(0, self.entry, torch.ones_like(values))
        return zeros.index_add(0, self.entry, values) / count.clamp(min=1)


def cleared(tokens: Tokens, answer: Answer, prices: Tensor, capacity: int) -> Tensor:
    """Prices (B, E) at which every expert alone would be full, or 0: one exact coordinate step.

    Args:
        tokens: all, as many of each entry.
        answer: what they take at the prices.
        prices: (B, E).
        capacity: slots of each expert.
    """
    B, E = prices.shape
    T = len(tokens.scores) // B
    if capacity >= T:
        return torch.zeros_like(prices)
    last, following = answer.value[:, -2:, None].unbind(1)
    held = tokens.scores - tokens.each(prices) >= last
    offers = tokens.scores - torch.where(held, following, last)
    columns = offers.view(B, T, E).mT.contiguous()
    best = torch.topk(columns, capacity + 1, dim=2, sorted=False).values
    refused = best.amin(2)
    fits = best.masked_fill(best <= refused[..., None], float("inf")).amin(2)
    middle = torch.where(fits < float("inf"), (fits + refused) / 2, refused)
    return middle.masked_fill(refused <= 0, 0.0)


def newton(
    tokens: Tokens, answer: Answer, excess: Tensor, prices: Tensor, scale: Tensor, size: Tensor
) -> Tensor:
    """Prices (B, E) after one damped Newton step on the dual, never below 0.

    Args:
        tokens: those that may still move.
        answer: what they take at the prices.
        excess: (B, E), load minus capacity, of all tokens.
        prices: (B, E).
        scale: (B,), the mean margin of all tokens.
        size: (B,), how many tokens there are in all.
    """
    B, E = prices.shape
    V = E + 1
    moving = ((prices > 0) | (excess > 0)).to(prices)  # a price of 0 stays while there is room
    astray = (excess.abs() * moving).sum(1)
    share = (WIDTH * astray / size).maximum(SPRINGS * E / size).clamp(max=1)
    window = share * scale
    near = (answer.margin <= tokens.each(window)).to(prices)
    pair = answer.expert[:, -2] * V + answer.expert[:, -1]
    if B > 1:
        pair = pair + tokens.entry * (V * V)
    springs = near.new_zeros(B * V * V).index_add_(0, pair, near).view(B, V, V)
    springs = springs + springs.mT
    diagonal = springs.sum(2) - springs.diagonal(dim1=1, dim2=2)
    jacobian = springs[:, :E, :E] * (moving[:, :, None] * -moving[:, None, :])
    # one spring to the ground each: no expert is left without any
    jacobian.diagonal(dim1=1, dim2=2).copy_(diagonal[:, :E] + 1)
    step = torch.linalg.solve_ex(jacobian, (excess * moving)[..., None]).result[..., 0]
    limit = REACH * window[:, None]
    moved: Tensor = prices + (step * window[:, None]).clamp(-limit, limit)
    return moved.clamp(min=0)
