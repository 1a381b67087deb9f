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
from lp_routing.routers.dual_steps import Answer, Tokens, settled
from lp_routing.routers.repair import evicted, filled, moved
from lp_routing.routers.selection import largest
from lp_routing.scores import ScoreFunction, named

SAMPLE = 512
"""About so many tokens set the prices first."""
SAMPLE_STEPS = 6
"""Newton steps on them."""
STEPS = 5
"""Newton steps on all tokens, unless the router says otherwise."""
SPARE = 5
"""Then tokens look at so many experts more than they take, the best at those prices."""
MOVABLE = 16
"""So many tokens for each expert may be moved, those nearest to another choice."""


@dataclass(frozen=True)
class PriceRouter(StatefulRouter[Tensor]):
    """Prices by a few dual steps, top-k of score minus price, then repair (this project).

    It seeks the optimum of `capacity` and never exceeds a capacity. The state is the experts'
    prices, (..., E); one that is shared by all batch entries, (E,), is taken too. Newton steps on
    every (T / 512)-th token bring prices near; one `topk` of all tokens at these prices says which
    few experts each may want; Newton steps on all tokens and those experts end the search. Then
    tokens that hesitate move from experts above their capacity to those with room, at the least
    loss; and only where that is not enough, experts let go who loses least and empty slots go where
    there is room. Ties within a token go to the lower expert on the sample, to `torch.topk`'s order
    after it. Not causal: prices answer to all tokens of the batch; see `FixedPrices`.
    Cost and gap: `python -m benchmarks.price_router`.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number or a `CapacityFactor`.
        rows: "at_most" k experts a token, so that only scores above 0 are taken; or "exactly" k,
            as far as there is room: what no expert has room for is dropped.
        steps: Newton steps on all tokens; more cost more and leave a smaller gap.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "lp_routing/routers/price.py"
    seeks = "capacity"
    cost = "one topk of k + 5, steps on a sample and on a few experts of each token, then repair"
    causal = False

    k: int
    capacity: Capacity
    rows: Literal["at_most", "exactly"] = "at_most"
    steps: int = STEPS
    score: ScoreFunction | str = "softmax"
    normalise: Normalise = None

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        check_capacity(self.capacity)
        if self.rows not in ("at_most", "exactly"):
            raise InputError(f'rows={self.rows!r}: expected "at_most" or "exactly".')
        whole(self.steps, "steps", 0)
        named(self.score)
        check_normalise(self.normalise)

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score function's (..., T, E)."""
        return named(self.score)(logits, mask)

    def initial(self, scores: Tensor) -> Tensor:
        """Zeros (..., E): nothing is known yet."""
        wide = _wide(scores)
        return wide.new_zeros(*scores.shape[:-2], scores.shape[-1])

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean (..., T, E), and prices (..., E) for the next batch."""
        prices = _checked(state, scores)
        wide = _above(scores, self.rows)
        capacity = self._capacity(scores)
        now, prices = _settled(wide, prices, self.k, capacity, self.steps)
        B, T, E = wide.shape
        x, load = now.taken(E).view(-1, E), now.load(E)
        near = torch.topk(now.margin, min(MOVABLE * E, T), largest=False, sorted=False).indices
        rows = (near + torch.arange(0, B * T, T, device=near.device)[:, None]).flatten()
        held, some = (side.index_select(0, rows).view(B, -1, E) for side in (x, wide.view(-1, E)))
        held, load = moved(held, some - prices[:, None], prices, load, capacity, self.k)
        x = x.index_copy_(0, rows, held.reshape(-1, E)).view(B, T, E)
        if bool((load > capacity).any()):
            x = evicted(x, wide, capacity)
        x = filled(x, wide, capacity, self.k, must=self.rows == "exactly")
        return x.view(scores.shape), prices.view(*scores.shape[:-2], -1)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Scores of the chosen pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)

    def _capacity(self, scores: Tensor) -> int:
        whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        return resolve_capacity(self.capacity, scores, self.k)


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
    cost = "one topk, and for the next batch's prices what `PriceRouter` does before its repair"

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
        after = _settled(_above(scores, "at_most"), prices, self.k, capacity, STEPS)[1]
        return chosen, after.view(*scores.shape[:-2], -1)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Scores of the chosen pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)


def _wide(scores: Tensor) -> Tensor:
    """At least float32, which loses nothing."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _above(scores: Tensor, rows: str) -> Tensor:
    """Scores (B, T, E) above what an empty slot is worth."""
    wide = _wide(scores).reshape(-1, *scores.shape[-2:])
    if rows == "at_most":
        return wide
    # an empty slot costs more than any one move could gain
    finite = wide.masked_fill(wide == float("-inf"), float("inf")).amin((1, 2), True)
    highest = wide.amax((1, 2), True)
    return wide - torch.where(highest > float("-inf"), 2 * finite - highest, 0.0) + 1e-3


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


def _settled(
    scores: Tensor, prices: Tensor, k: int, capacity: int, steps: int
) -> tuple[Answer, Tensor]:
    """What tokens want at prices made right for them, and the prices (B, E)."""
    T, E = scores.shape[1:]
    few = scores[:, :: max(1, T // SAMPLE)].mT.contiguous()
    experts = torch.arange(E, device=scores.device)[:, None].expand_as(few).contiguous()
    seats = torch.full_like(prices, capacity * few.shape[2] / T)
    prices = settled(Tokens(few, experts, k), prices, seats, SAMPLE_STEPS)[1]
    wanted = torch.topk(scores - prices[:, None], min(k + SPARE, E)).indices
    value = scores.gather(2, wanted).mT.contiguous()
    tokens = Tokens(value, wanted.mT.contiguous(), k)
    return settled(tokens, prices, torch.full_like(prices, capacity), steps)
