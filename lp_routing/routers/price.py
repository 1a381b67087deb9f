"""Routing by prices: each token takes the experts that score best after what they charge."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.checks import whole
from lp_routing.errors import InputError
from lp_routing.routers.base import Normalise, StatefulRouter, check_normalise, normalised
from lp_routing.routers.capacity import (
    Capacity,
    check_capacity,
    keep_first_tokens,
    resolve_capacity,
)
from lp_routing.routers.dual_steps import Tokens, cleared, newton
from lp_routing.routers.repair import along_paths, evicted, filled
from lp_routing.routers.selection import largest
from lp_routing.scores import ScoreFunction, named

SAMPLE = 1024
"""About so many tokens set the prices to start cold with."""
SAMPLE_STEPS = 4
STEPS = 2
"""Newton steps on the contested tokens, after the one on all."""
SPARE = 1.5
"""Contested are margins up to this many times the swing of prices."""
NEAR = 8
"""At least about so many tokens per expert are contested."""


@dataclass(frozen=True)
class PriceRouter(StatefulRouter[Tensor]):
    """Prices by a few dual steps, top-k of score minus price, then repair (this project).

    It seeks the optimum of `capacity` and never exceeds a capacity. The state is the experts'
    prices, (..., E); one that is shared by all batch entries, (E,), is taken too. Cold, prices come
    from every (T / 1024)-th token. Then: one pass over all tokens at these prices, after which all
    experts clear at once; Newton steps on the contested tokens alone, those whose choice such a
    change of prices could turn; chains of nearly indifferent tokens from experts above their
    capacity to those with room; and only where that is not enough, experts let go who loses least
    and empty slots go where there is room. Ties within a token are `torch.topk`'s.
    Not causal: prices answer to all tokens of the batch; see `FixedPrices`.
    Cost and gap: `python -m benchmarks.price_router`.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number or a `CapacityFactor`.
        rows: "at_most" k experts a token, so that only scores above 0 are taken; or "exactly" k,
            as far as there is room: what no expert has room for is dropped.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "lp_routing/routers/price.py"
    seeks = "capacity"
    cost = (
        "one topk of k + 1 and one over the tokens, then some on contested tokens; cold, a sample"
    )
    causal = False

    k: int
    capacity: Capacity
    rows: Literal["at_most", "exactly"] = "at_most"
    score: ScoreFunction | str = "softmax"
    normalise: Normalise = None

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        check_capacity(self.capacity)
        if self.rows not in ("at_most", "exactly"):
            raise InputError(f'rows={self.rows!r}: expected "at_most" or "exactly".')
        named(self.score)
        check_normalise(self.normalise)

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score function's (..., T, E)."""
        return named(self.score)(logits, mask)

    def initial(self, scores: Tensor) -> Tensor:
        """Prices (..., E) that clear the markets of a sample of the tokens."""
        tokens, capacity = _tokens(scores, self.k, self.rows), self._capacity(scores)
        return _start(tokens, capacity).view(*scores.shape[:-2], -1)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean (..., T, E), and prices (..., E) for the next batch."""
        prices = _checked(state, scores)
        tokens, capacity = _tokens(scores, self.k, self.rows), self._capacity(scores)
        expert, load, prices = _settled(tokens, capacity, prices)
        E = scores.shape[-1]
        x = torch.zeros((len(expert), E + 1), dtype=torch.bool, device=scores.device)
        x.scatter_(1, expert[:, : self.k], True)
        x = x[:, :E].reshape(-1, *scores.shape[-2:])
        x = self._fitted(x, tokens, capacity, load)
        return x.view(scores.shape), prices.view(*scores.shape[:-2], E)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Scores of the chosen pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)

    def _capacity(self, scores: Tensor) -> int:
        whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        return resolve_capacity(self.capacity, scores, self.k)

    def _fitted(self, x: Tensor, tokens: Tokens, capacity: int, load: Tensor) -> Tensor:
        """What is left to mend: experts above capacity, and empty slots where there is room."""
        scores = tokens.scores.view(x.shape)
        floor = 0.0 if self.rows == "at_most" else float("-inf")
        if bool((load[:, :-1] > capacity).any()):
            x = evicted(x, scores, floor, capacity)
            return filled(x, scores, floor, capacity, self.k)
        empty = bool((load[:, -1] > 0).any())
        return filled(x, scores, floor, capacity, self.k) if empty else x


@dataclass(frozen=True)
class FixedPrices(StatefulRouter[Tensor]):
    """Top-k of score minus prices that were fixed before the batch (this project): causal.

    Prices for the next batch are those that would have been right for this one, as `PriceRouter`
    finds them; cold, they are 0. What prices alone admit is LP-optimal for the loads it makes; a
    capacity is met by letting tokens in as they come, or not at all.

    Attributes:
        k: experts per token, at most; pairs are taken only above their price plus 0.
        capacity: what prices aim at: a whole number of tokens per expert or a `CapacityFactor`.
        enforce: whether an expert refuses tokens beyond its capacity, first come, first served.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "lp_routing/routers/price.py"
    seeks = "capacity"
    cost = "one topk, and about two more passes for the next batch's prices"

    k: int
    capacity: Capacity
    enforce: bool = True
    score: ScoreFunction | str = "softmax"
    normalise: Normalise = None

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        check_capacity(self.capacity)
        if not isinstance(self.enforce, bool):
            raise InputError(f"enforce={self.enforce!r}: expected True or False.")
        named(self.score)
        check_normalise(self.normalise)

    @property
    def causal(self) -> bool:
        """Unless a capacity that depends on the number of tokens is enforced."""
        return not self.enforce or not hasattr(self.capacity, "factor")

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score function's (..., T, E)."""
        return named(self.score)(logits, mask)

    def initial(self, scores: Tensor) -> Tensor:
        """Zeros (..., E): nothing is known yet."""
        wide = _wide(scores)
        return wide.new_zeros(*scores.shape[:-2], scores.shape[-1])

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean (..., T, E), and prices (..., E) for the next batch."""
        whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        prices = _checked(state, scores)
        capacity = resolve_capacity(self.capacity, scores, self.k)
        priced = _wide(scores) - prices.view(*scores.shape[:-2], 1, -1)
        chosen = largest(priced.masked_fill(priced <= 0, float("-inf")), self.k)
        if self.enforce:
            chosen = keep_first_tokens(chosen, capacity)
        tokens = _tokens(scores, self.k, "at_most")
        after = _settled(tokens, capacity, prices)[2]
        return chosen, after.view(*scores.shape[:-2], -1)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Scores of the chosen pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)


def _wide(scores: Tensor) -> Tensor:
    """At least float32, which loses nothing."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _tokens(scores: Tensor, k: int, rows: str) -> Tokens:
    """All tokens of scores (..., T, E) in one list."""
    T, E = scores.shape[-2:]
    wide = _wide(scores).reshape(-1, T, E)
    B = len(wide)
    if rows == "at_most":
        floor = wide.new_zeros(B)
    else:  # an empty slot costs more than any one move could gain
        finite = wide.masked_fill(wide == float("-inf"), float("inf")).flatten(1).amin(1)
        highest = wide.flatten(1).amax(1)
        floor = torch.where(highest > float("-inf"), 2 * finite - highest, 0.0) - 1e-3
    entry = torch.arange(B, device=wide.device).repeat_interleave(T)
    return Tokens(wide.reshape(-1, E), entry, floor, k)


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


def _start(tokens: Tokens, capacity: int) -> Tensor:
    """Prices (B, E) that clear the markets of every (T / SAMPLE)-th token."""
    B, E = len(tokens.floor), tokens.scores.shape[1]
    T = len(tokens.scores) // B
    chosen = torch.arange(len(tokens.scores), device=tokens.scores.device).view(B, T)
    chosen = chosen[:, :: max(1, T // SAMPLE)]
    sample, share = tokens.take(chosen.flatten()), chosen.shape[1] / T
    prices = tokens.scores.new_zeros(B, E)
    for _ in range(SAMPLE_STEPS):
        prices = cleared(sample, sample.answer(prices), prices, round(capacity * share))
    return prices


def _settled(tokens: Tokens, capacity: int, prices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What tokens take at prices made right for them, (N, k + 1), the load (B, E + 1), prices."""
    B, E = prices.shape
    answer = tokens.answer(prices)
    load = tokens.load(answer.expert)
    mean = tokens.mean(answer.margin)
    size = mean.new_full((B,), len(tokens.scores) / B)
    moved = cleared(tokens, answer, prices, capacity)
    change = moved - prices
    falls, rises = change.clamp(max=0).amin(1), change.clamp(min=0).amax(1)
    swing = rises - falls
    width = torch.maximum(SPARE * swing, mean * (NEAR * E / size).clamp(max=1))
    rows = (answer.margin <= tokens.each(width)).nonzero()[:, 0]
    contested = tokens.take(rows)
    spare = (width - swing) / 2
    low, high = prices + (falls - spare)[:, None], prices + (rises + spare)[:, None]
    decided = load - contested.load(answer.expert[rows])
    for _ in range(STEPS):
        now = contested.answer(moved)
        excess = decided[:, :E] + contested.load(now.expert)[:, :E] - capacity
        moved = newton(contested, now, excess, moved, mean, size)
        moved = torch.minimum(torch.maximum(moved, low), high)
    now = contested.answer(moved)
    load = decided + contested.load(now.expert)
    limit = load.new_full((B,), float(capacity))
    taken, load = along_paths(contested, now, load, limit, moved)
    return answer.expert.index_copy(0, rows, taken), load, moved
