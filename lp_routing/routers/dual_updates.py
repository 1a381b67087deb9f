"""Routers that carry prices or biases from batch to batch and update them by steps on a dual.

BIP: exact coordinate steps on the dual of `capacity`, a batch or a token at a time. Loss-free
balancing: a bias per expert changes the selection but not the combine weights. Quantile
balancing: exact coordinate steps on the dual of `balanced`.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.base import (
    StatefulRouter,
    WeightedRule,
    check_state,
    cold_prices,
    neighbours_of_rank,
    next_largest,
)
from lp_routing.routers.capacity import (
    Capacity,
    check_capacity,
    resolve_capacity,
)
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.scores import ScoreFunction, check_rate
from lp_routing.validation import as_bool, as_choice, as_float, as_int, as_nonnegative

EQUAL_SHARE = CapacityFactor(1.0)
"""T k / E tokens per expert, rounded up."""


@register("Prices and biases", {"bip": lambda s: BIP(s.k, iterations=8, capacity=s.capacity)})
@dataclass(frozen=True)
class BIP(WeightedRule, StatefulRouter[Tensor]):
    """Row top-k of score - q, q >= 0 found by turns of dual steps (Sun 2025, Algorithm 1).

    p_i = max(0, (k+1)-th largest of s_i - q), then q_j = max(0, (C+1)-th largest of s_j - p). Both
    are exact minimisers, each over its own half, of the dual of `capacity`, the problem with <=:
    an expert with free slots never has a negative price, so loads need not become equal. The dual
    value never rises, but the turns can stop above its minimum. The selection takes k experts for
    every token at any q, so a load can exceed C. State: q (..., E) in units of score, where the
    next batch starts from. Cost: for each iteration a `topk` over the experts and one over the
    tokens; then one `topk`.

    Attributes:
        k: experts per token.
        iterations: turns for a batch; the paper's T, from 2 to 14 there.
        capacity: target for the most tokens of an expert: a whole number, or a `CapacityFactor`;
            left out, its equal share T k / E, rounded up.
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
        as_int(self.k, "k", 1)
        as_int(self.iterations, "iterations", 1)
        check_capacity(self.capacity)
        super().__post_init__()

    def initial(self, scores: Tensor) -> Tensor:
        """No prices: zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Row top-k of score - q, and q (..., E) for the next batch."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        prices = check_state(state, (*scores.shape[:-2], scores.shape[-1]), "the experts' prices")
        capacity = resolve_capacity(self.capacity, scores, k)
        for _ in range(as_int(self.iterations, "iterations", 1)):
            paid = next_largest(scores - prices[..., None, :], k)
            prices = next_largest((scores - paid[..., None]).mT, capacity)
        return largest(scores - prices[..., None, :], k), prices


@dataclass(frozen=True, eq=False)
class History:
    """The state of `OnlineBIP`: earlier tokens.

    Attributes:
        prices: (..., E), q after the last token, in units of score.
        margins: (..., E, window), s_ij - p_i of the last tokens in no particular order; -inf in
            places not yet used.
        seen: int64 (...), tokens so far.
    """

    prices: Tensor
    margins: Tensor
    seen: Tensor


@register("Prices and biases", {"bip-online": lambda s: OnlineBIP(s.k, window=256)})
@dataclass(frozen=True)
class OnlineBIP(WeightedRule, StatefulRouter[History]):
    """`BIP` one token after another, each knowing only those before it (Sun 2025, Algorithm 3).

    Token i computes p_i and q in turns, as in `BIP`, but q_j from its own margin s_ij - p_i and the
    margins of earlier tokens at expert j; it takes its top-k of s_i - q and adds its margins. The
    last `window` margins are kept: with a window of T or more this is the paper's algorithm for T
    tokens, with a smaller one q follows the stream. The first C tokens see prices of 0. Causal, and
    splitting a sequence into batches changes nothing. State: a `History`. Padding leaves it as it
    is. Cost: for each token one `topk` over E histories and `iterations` over E scores, in
    sequence: some thousands of `topk` of the batch. For experiments, too slow for training.

    Attributes:
        k: experts per token.
        iterations: turns for a token.
        window: number of tokens kept.
        capacity: target for the most tokens of an expert in each `window`; left out, its equal
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
        as_int(self.k, "k", 1)
        as_int(self.iterations, "iterations", 1)
        as_int(self.window, "window", 1)
        if self.capacity is not None:
            as_int(self.capacity, "capacity", 0, self.window, "window, the tokens remembered")
        super().__post_init__()

    def initial(self, scores: Tensor) -> History:
        """No tokens yet, all prices 0."""
        prices = cold_prices(scores)
        window = as_int(self.window, "window", 1)
        margins = prices.new_full((*prices.shape, window), float("-inf"))
        seen = torch.zeros(prices.shape[:-1], dtype=torch.long, device=prices.device)
        return History(prices, margins, seen)

    def step(self, scores: Tensor, state: History) -> tuple[Tensor, History]:
        """Each token's top-k of score - q, and the state for the next batch."""
        E = scores.shape[-1]
        k = as_int(self.k, "k", 1, E, "E, the number of experts")
        self._check(state, scores)
        given = math.ceil(self.window * k / E) if self.capacity is None else self.capacity
        capacity = as_int(given, "capacity", 0)
        dtype = torch.promote_types(scores.dtype, state.margins.dtype)
        prices, margins = state.prices.to(dtype), state.margins.to(dtype, copy=True)
        wide = scores.to(dtype)
        real = (wide > float("-inf")).any(-1)
        seen = state.seen[..., None] + real.cumsum(-1)
        places = (seen - real.long()) % as_int(self.window, "window", 1)
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
        """q and the margins of one token, both (..., E)."""
        window = margins.shape[-1]
        best = torch.topk(margins, min(capacity + 1, window)).values
        margin = token
        for _ in range(as_int(self.iterations, "iterations", 1)):
            margin = token - next_largest(token - prices, k)[..., None]
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


@register("Prices and biases", {"loss-free": lambda s: LossFree(s.k)})
@dataclass(frozen=True)
class LossFree(WeightedRule, StatefulRouter[Tensor]):
    """Row top-k of score + bias; weights are the scores without it (Wang et al. 2024).

    After each batch the bias of an expert moves against its load: `bias += rate * sign(mean load -
    load)`. With prices -bias this is a sign step down the dual of `balanced`, whose slope in the
    price of expert j is T k / E - load_j; "proportional" is the plain subgradient step. Causal: a
    batch is routed with the bias of earlier batches. State: the biases (..., E) in units of score,
    one set for each entry of the leading dimensions; write `logits.reshape(-1, E)` where a batch of
    sequences shares one. Cost: one `topk`, and a sum over the tokens.

    Attributes:
        k: experts per token.
        rate: step of a bias; 1e-3 suits sigmoid scores. 0 freezes it.
        update: "sign", a step of the same size for every expert; "proportional", `rate` for each
            token that an expert is above or below the mean (Wang et al., the variant they reject).
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores ("kept", as
            DeepSeek-V3 does), or of all.
    """

    source = "Wang et al. 2024, arXiv 2408.15664, Algorithm 1; DeepSeek-V3, arXiv 2412.19437, 2.1.2"
    seeks = "balanced"
    cost = "one topk, and a sum over the tokens"
    causal = True

    k: int
    rate: float = 1e-3
    update: Literal["sign", "proportional"] = "sign"
    score: ScoreFunction | str = field(default="sigmoid", kw_only=True)

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        as_nonnegative(self.rate, "rate")
        as_choice(self.update, "update", ("sign", "proportional"))
        super().__post_init__()

    def initial(self, scores: Tensor) -> Tensor:
        """No bias: zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Row top-k of score + bias, and the biases (..., E) for the next batch."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        bias = check_state(state, (*scores.shape[:-2], scores.shape[-1]), "the biases of experts")
        chosen = largest(scores + bias[..., None, :], k)
        load = chosen.sum(-2).to(bias.dtype)
        short = load.mean(-1, keepdim=True) - load
        return chosen, bias + self.rate * (torch.sign(short) if self.update == "sign" else short)


@register(
    "Prices and biases",
    {
        "quantile-balancing": lambda s: QuantileBalancing(s.k, rounds=10),
        "quantile-balancing-middle": lambda s: QuantileBalancing(s.k, rounds=10, place=0.5),
    },
)
@dataclass(frozen=True)
class QuantileBalancing(WeightedRule, StatefulRouter[Tensor]):
    """Row top-k of score - price, the prices found by turns of exact dual steps (Su 2026).

    A round first gives every token the price at which it takes k experts, the (k+1)-th largest of
    its scores minus the experts' prices; then every expert the price at which it takes its share
    of the T k pairs, the quantile of its scores minus the tokens' prices. Each half minimises the
    dual of `balanced` exactly over its own prices, so its value never rises; the dual is not
    smooth, so the rounds can stop above its minimum, with loads still unequal. Where E does not
    divide T k the share is between the floor and the ceiling, as in `balanced`.
    State: the prices (..., E) in units of score, where the next batch starts from. Padding takes
    no part.
    Cost: for each round a `topk` over the experts and one over the tokens; then one `topk`.

    Attributes:
        k: experts per token.
        rounds: rounds for each batch; the sources do one.
        place: where a price lies between the lowest (0, as in the sources) and the highest (1) of
            those that minimise the dual; 0.5 leaves no pair exactly at its price.
        lag: route a batch with the prices of the batch before, as in training; then it is causal.
            Otherwise with its own.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Su 2026, kexue.fm/archives/11619; Megatron-LM, pull request 5349"
    seeks = "balanced"
    cost = "for each round a topk over the experts and one over the tokens, then one topk"

    k: int
    rounds: int = 1
    place: float = 0.0
    lag: bool = False
    score: ScoreFunction | str = field(default="sigmoid", kw_only=True)

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        as_int(self.rounds, "rounds", 1)
        as_float(
            self.place, "place", "a number from 0 (lowest) to 1", lambda given: 0 <= given <= 1
        )
        as_bool(self.lag, "lag")
        super().__post_init__()

    @property
    def causal(self) -> bool:
        """Only with `lag`, as a batch is then routed with the prices of the one before."""
        return bool(self.lag)

    def initial(self, scores: Tensor) -> Tensor:
        """No prices: zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Row top-k of score - price, and the prices (..., E) for the next batch."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        before = check_state(state, (*scores.shape[:-2], scores.shape[-1]), "the experts' prices")
        after = before
        for _ in range(as_int(self.rounds, "rounds", 1)):
            after = balancing_round(scores, after, k, self.place)
        used = before if self.lag else after
        return largest(scores - used[..., None, :], k), after


def balancing_round(scores: Tensor, prices: Tensor, k: int, place: float = 0.0) -> Tensor:
    """Expert prices (..., E) after one round of exact dual steps from `prices` (..., E).

    Args:
        scores: (..., T, E), -inf for forbidden pairs and padding.
        prices: (..., E).
        k: experts per token, at most E.
        place: as in `QuantileBalancing`.

    Where equal loads are possible the prices come back with mean 0: a constant on all of them is
    taken off the tokens' prices and changes nothing. Otherwise their sign matters.
    """
    check_rate(place)
    E = scores.shape[-1]
    best = torch.topk(scores - prices[..., None, :], min(k + 1, E)).values
    paid = _price(best, torch.tensor(k, device=scores.device), place)
    pairs = k * (scores > float("-inf")).any(-1).sum(-1, keepdim=True)
    fewest, uneven = pairs // E, pairs % E > 0
    most = fewest + uneven.long()
    width = min(int(most.max()) + 1, scores.shape[-2])
    ordered = torch.topk((scores - paid[..., None]).mT, width).values
    dear = _price(ordered, most, place)
    # Loads from `fewest` to `most`: a price is positive only where more than `most` would come at
    # price 0, negative only where fewer than `fewest` would.
    too_many = neighbours_of_rank(ordered, most)[0] > 0
    too_few = neighbours_of_rank(ordered, fewest)[1] < 0
    cheap = torch.where(too_few, _price(ordered, fewest, place).clamp(max=0), 0.0)
    return torch.where(
        uneven, torch.where(too_many, dear, cheap), dear - dear.mean(-1, keepdim=True)
    )


def _price(ordered: Tensor, count: Tensor, place: float) -> Tensor:
    """A price (...) at which `count` entries of each descending line (..., n) are worth taking.

    For a line with fewer allowed entries it is the smallest one, for a line without any it is 0.
    Lines may be cut after their `count + 1` largest entries.
    """
    lower, upper = neighbours_of_rank(ordered, count)
    inside = lower + place * (upper - lower)
    one_sided = torch.where(upper.isfinite(), upper, lower)
    price = torch.where(lower.isfinite() & upper.isfinite(), inside, one_sided)
    allowed = ordered > float("-inf")
    smallest = ordered.masked_fill(~allowed, float("inf")).amin(-1)
    smallest = smallest.masked_fill(~allowed.any(-1), 0.0)
    return torch.where(price.isfinite(), price, smallest)
