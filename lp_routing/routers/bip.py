"""BIP-based balancing: dual steps for the capacity problem, a batch or a token at a time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import StatefulRouter, WeightedRule
from lp_routing.routers.capacity import (
    Capacity,
    CapacityFactor,
    check_capacity,
    resolve_capacity,
)
from lp_routing.routers.carried import check_state, cold_prices, past
from lp_routing.routers.selection import largest
from lp_routing.validation import whole

EQUAL_SHARE = CapacityFactor(1.0)
"""T k / E tokens per expert, rounded up."""


@dataclass(frozen=True)
class BIP(WeightedRule, StatefulRouter[Tensor]):
    """Row top-k of score - q, q >= 0 found by turns of dual steps (Sun 2025, Algorithm 1).

    p_i = max(0, (k+1)-th largest of s_i - q), then q_j = max(0, (C+1)-th largest of s_j - p). Both
    are exact minimisers, each over its own half, of the dual of `capacity`, the problem with <=:
    an expert with room to spare is never subsidised, so loads need not become equal. The dual
    value never rises, but the turns can stop above its minimum. The selection takes k experts for
    every token, whatever q says: a load can end above C.
    State: q (..., E) in units of score, where the next batch starts from.
    Cost: for each iteration a `topk` over the experts and one over the tokens; then one `topk`.

    Attributes:
        k: experts per token.
        iterations: turns for a batch; the paper's T, from 2 to 14 there.
        capacity: most tokens an expert should take: a whole number, or a `CapacityFactor`; left
            out, its equal share T k / E, rounded up.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Sun 2025, arXiv 2502.15451, Algorithm 1"
    seeks = "capacity"
    cost = "a topk over the experts and one over the tokens for each iteration, then one topk"
    causal = False

    k: int
    iterations: int = 4
    capacity: Capacity = EQUAL_SHARE

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        whole(self.iterations, "iterations", 1)
        check_capacity(self.capacity)
        super().__post_init__()

    def initial(self, scores: Tensor) -> Tensor:
        """No prices: zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Row top-k of score - q, and q (..., E) for the next batch."""
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        prices = check_state(state, (*scores.shape[:-2], scores.shape[-1]), "the experts' prices")
        capacity = resolve_capacity(self.capacity, scores, k)
        for _ in range(whole(self.iterations, "iterations", 1)):
            paid = past(scores - prices[..., None, :], k)
            prices = past((scores - paid[..., None]).mT, capacity)
        return largest(scores - prices[..., None, :], k), prices


@dataclass(frozen=True, eq=False)
class History:
    """What `OnlineBIP` remembers of earlier tokens.

    Attributes:
        prices: (..., E), q after the last token, in units of score.
        margins: (..., E, window), s_ij - p_i of the last tokens in no particular order; -inf in
            places not yet used.
        seen: int64 (...), how many tokens came so far.
    """

    prices: Tensor
    margins: Tensor
    seen: Tensor


@dataclass(frozen=True)
class OnlineBIP(WeightedRule, StatefulRouter[History]):
    """`BIP` one token after another, each knowing only those before it (Sun 2025, Algorithm 3).

    Token i finds p_i and q by turns, as in `BIP`, but q_j from its own margin s_ij - p_i and those
    that expert j was offered before; it takes its top-k of s_i - q and leaves its margins behind.
    Of these the last `window` are kept: with a window of T or more this is the paper's algorithm
    for T tokens, with a smaller one q follows what comes. The first C tokens pay nothing. Causal,
    and cutting a sequence into batches changes nothing.
    State: a `History`. Padding leaves it as it is.
    Cost: for each token one `topk` over E histories and `iterations` over E scores, in sequence:
    some thousands of `topk` of the batch. To vary what is routed, not to train with.

    Attributes:
        k: experts per token.
        iterations: turns for a token.
        window: how many tokens are remembered.
        capacity: most tokens an expert should take out of each `window`; left out, its equal
            share, window * k / E rounded up.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Sun 2025, arXiv 2502.15451, Algorithm 3, with a bounded history"
    seeks = "capacity"
    cost = "for each token in turn a topk over E histories, and for each iteration one over E"
    causal = True

    k: int
    iterations: int = 2
    window: int = 1024
    capacity: int | None = None

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        whole(self.iterations, "iterations", 1)
        whole(self.window, "window", 1)
        if self.capacity is not None:
            whole(self.capacity, "capacity", 0, self.window, "window, the tokens remembered")
        super().__post_init__()

    def initial(self, scores: Tensor) -> History:
        """Nobody came yet, nobody pays."""
        prices = cold_prices(scores)
        window = whole(self.window, "window", 1)
        margins = prices.new_full((*prices.shape, window), float("-inf"))
        seen = torch.zeros(prices.shape[:-1], dtype=torch.long, device=prices.device)
        return History(prices, margins, seen)

    def step(self, scores: Tensor, state: History) -> tuple[Tensor, History]:
        """Each token's top-k of score - q, and what the next batch should remember."""
        E = scores.shape[-1]
        k = whole(self.k, "k", 1, E, "E, the number of experts")
        self._check(state, scores)
        given = math.ceil(self.window * k / E) if self.capacity is None else self.capacity
        capacity = whole(given, "capacity", 0)
        dtype = torch.promote_types(scores.dtype, state.margins.dtype)
        prices, margins = state.prices.to(dtype), state.margins.to(dtype, copy=True)
        wide = scores.to(dtype)
        real = (wide > float("-inf")).any(-1)
        seen = state.seen[..., None] + real.cumsum(-1)
        places = (seen - real.long()) % whole(self.window, "window", 1)
        paid = []
        for t, token in enumerate(wide.unbind(-2)):
            counts = real[..., t, None]
            updated, margin = self._turns(token, prices, margins, k, capacity)
            prices = torch.where(counts, updated, prices)
            paid.append(prices)
            place = places[..., t, None, None].expand(*margins.shape[:-1], 1)
            kept = torch.where(counts[..., None], margin[..., None], margins.gather(-1, place))
            margins.scatter_(-1, place, kept)
        chosen = largest(wide - torch.stack(paid, -2), k)
        return chosen, History(prices, margins, seen[..., -1])

    def _turns(
        self, token: Tensor, prices: Tensor, margins: Tensor, k: int, capacity: int
    ) -> tuple[Tensor, Tensor]:
        """q and the margins, both (..., E), that one token (..., E) arrives at."""
        window = margins.shape[-1]
        best = torch.topk(margins, min(capacity + 1, window)).values
        margin = token
        for _ in range(whole(self.iterations, "iterations", 1)):
            margin = token - past(token - prices, k)[..., None]
            # The (C+1)-th largest of the history and this margin lies between the (C+1)-th and
            # the C-th largest of the history alone.
            prices = margin
            if capacity < window:
                prices = torch.maximum(prices, best[..., capacity])
            if capacity > 0:
                prices = torch.minimum(prices, best[..., capacity - 1])
            prices = prices.clamp(min=0)
        return prices, margin

    def _check(self, state: History, scores: Tensor) -> None:
        """Raise `InputError` for a state that is not of these experts and this window."""
        if not isinstance(state, History):
            raise InputError(
                f"state: expected a History, got {type(state).__name__}; give what the call "
                f"before returned, or None to start cold."
            )
        shape = (*scores.shape[:-2], scores.shape[-1])
        check_state(state.prices, shape, "the experts' prices")
        if state.margins.shape != (*shape, self.window) or state.seen.shape != shape[:-1]:
            raise InputError(
                f"state: expected margins of shape {(*shape, self.window)} and counts of shape "
                f"{shape[:-1]}, got {tuple(state.margins.shape)} and {tuple(state.seen.shape)}."
            )
