"""Prices by a few dual steps on the device: what tokens take, and what to charge for it.

The dual's slope is load minus capacity, its curvature is which experts tokens hesitate between. A
token that is nearly indifferent between its last expert and the next is a spring between the two,
one that is nearly indifferent between an expert and nothing is a spring to the ground; the springs
are a graph Laplacian, the Jacobian of load by price. A Newton step mends what is wrong everywhere
at once, but shoots past where many tokens are alike: a step that does not lower the dual is taken
back, and the next one looks closer.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

INF = float("inf")
REACH = 8.0
"""A price moves by at most this many windows in one Newton step."""
SPRINGS = 4
"""A window holds about this many tokens per expert at least, if there are so many."""
WIDTH = 2.0
"""A window holds about this many times the tokens that have to move."""
GAIN = 1.4
"""Twice this share of a Newton step: windows see the curvature on one side alone."""
CLOSER, WIDER = 0.25, 2.0
"""A window is this many times as wide after a step that failed, or did not."""


class Answer(NamedTuple):
    """What tokens want most at given prices, best first: k + 1 experts each.

    Attributes:
        value: (B, k + 1, n), score minus price; a token takes the first k as far as they are
            above 0.
        expert: int64 (B, k + 1, n).
    """

    value: Tensor
    expert: Tensor

    @property
    def between(self) -> Tensor:
        """(B, n), what the k-th earns above the next one; inf where the next earns nothing."""
        last, following = self.value[:, -2], self.value[:, -1]
        return (last - following).masked_fill(following <= 0, INF)

    @property
    def margin(self) -> Tensor:
        """(B, n), by how much prices must differ for another choice; inf if nothing does it."""
        return torch.minimum(self.value[:, :-1].abs().amin(1), self.between)

    def load(self, E: int) -> Tensor:
        """Tokens at each expert, (B, E)."""
        return _count(self.expert[:, :-1], self.value[:, :-1] > 0, E).to(self.value.dtype)

    def dual(self, prices: Tensor, seats: Tensor) -> Tensor:
        """(B,), a bound on what these tokens can earn with so many seats (B, E)."""
        return self.value[:, :-1].clamp(min=0).sum((1, 2)) + (seats * prices).sum(1)

    def taken(self, E: int) -> Tensor:
        """The same as boolean (B, n, E)."""
        B, _, n = self.value.shape
        place = self.expert.masked_fill(self.value <= 0, E)[:, :-1].mT
        x = torch.zeros((B, n, E + 1), dtype=torch.bool, device=place.device)
        return x.scatter_(2, place, True)[..., :E].contiguous()


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of B batch entries, each with W experts that it may want.

    Attributes:
        scores: (B, W, n), above what an empty slot is worth.
        expert: int64 (B, W, n), whose scores these are.
        k: slots of a token, at most W.
    """

    scores: Tensor
    expert: Tensor
    k: int

    def answer(self, prices: Tensor) -> Answer:
        """What they want at prices (B, E): k + 1 maxima, ties to the earlier of their experts."""
        B, W, n = self.scores.shape
        left = self.scores - prices.gather(1, self.expert.view(B, -1)).view(B, W, n)
        values, places = [], []
        for slot in range(self.k + 1):
            value, place = left.max(1, keepdim=True)
            values.append(value)
            places.append(place)
            if slot < self.k:
                left.scatter_(1, place, -INF)
        return Answer(torch.cat(values, 1), self.expert.gather(1, torch.cat(places, 1)))


def settled(tokens: Tokens, prices: Tensor, seats: Tensor, steps: int) -> tuple[Answer, Tensor]:
    """What tokens want after so many Newton steps, and the prices (B, E).

    Args:
        tokens: those whose choice may change.
        prices: (B, E), to start from.
        seats: (B, E), how many of these tokens each expert may take.
        steps: each one is an answer of these tokens.
    """
    now = tokens.answer(prices)
    dual = now.dual(prices, seats)
    focus = torch.ones_like(dual)
    for _ in range(steps):
        trial = newton(now, prices, seats, focus)
        then = tokens.answer(trial)
        after = then.dual(trial, seats)
        better = after < dual
        here = better[:, None]
        now = Answer(*(torch.where(here[..., None], a, b) for a, b in zip(then, now, strict=True)))
        prices = torch.where(here, trial, prices)
        dual = torch.minimum(dual, after)
        focus = torch.where(better, (WIDER * focus).clamp(max=1), CLOSER * focus)
    return now, prices


def newton(now: Answer, prices: Tensor, seats: Tensor, focus: Tensor) -> Tensor:
    """Prices (B, E) after one damped Newton step on the dual, never below 0.

    Args:
        now: what n tokens want at the prices.
        prices: (B, E).
        seats: (B, E).
        focus: (B,), windows are so many times as wide as the tokens to move ask for.
    """
    B, E = prices.shape
    excess = now.load(E) - seats
    moving = ((prices > 0) | (excess > 0)).to(prices)  # a price of 0 stays while there is room
    excess = excess * moving
    astray = (WIDTH * excess.abs().sum(1)).clamp(min=SPRINGS * E)
    n = now.value.shape[2]
    to_empty, between = now.value[:, :-1].abs(), now.between
    margin = torch.minimum(to_empty.amin(1), between)
    quarter = margin.kthvalue(max(1, n // 4), dim=1).values.nan_to_num(posinf=1.0)
    window = (focus * quarter * astray.clamp(max=n) * (4 / n))[:, None]
    pair = now.expert[:, -2] * E + now.expert[:, -1]
    springs = _count(pair, between <= window, E * E).view(B, E, E)
    springs = springs + springs.mT
    ground = _count(now.expert[:, :-1], to_empty <= window[..., None], E)
    jacobian = springs * (moving[:, :, None] * -moving[:, None, :])
    # one spring to the ground each: no expert is left without any
    jacobian.diagonal(dim1=1, dim2=2).copy_(springs.sum(2) + ground + 1)
    step = torch.linalg.solve_ex(jacobian, excess[..., None]).result[..., 0]
    moved: Tensor = prices + window * (GAIN * step).clamp(-REACH, REACH)
    return moved.clamp(min=0)


def _count(place: Tensor, marked: Tensor, places: int) -> Tensor:
    """How many marked entries (B, ...) name each place, float (B, places)."""
    B = len(place)
    one = marked.view(B, -1).float()
    return one.new_zeros(B, places).scatter_add_(1, place.reshape(B, -1), one)
