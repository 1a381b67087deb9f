"""Quantile balancing: exact steps on the dual of the balanced problem, one coordinate at a time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lp_routing.routers.base import StatefulRouter, WeightedRule
from lp_routing.routers.carried import around, check_state, cold_prices
from lp_routing.routers.selection import largest
from lp_routing.scores import ScoreFunction, check_rate
from lp_routing.validation import flag, number, whole


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
        rounds: how often both halves are done for a batch; the sources do one.
        place: where a price lies between the lowest (0, as in the sources) and the highest (1) of
            those that minimise the dual; 0.5 leaves no pair exactly at its price.
        lag: route a batch with the prices that the one before left, as models are trained with;
            causal then. Otherwise with its own.
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
        whole(self.k, "k", 1)
        whole(self.rounds, "rounds", 1)
        number(self.place, "place", "a number from 0 (lowest) to 1", lambda given: 0 <= given <= 1)
        flag(self.lag, "lag")
        super().__post_init__()

    @property
    def causal(self) -> bool:
        """Only where a batch is routed with the prices that the one before left."""
        return bool(self.lag)

    def initial(self, scores: Tensor) -> Tensor:
        """No prices: zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Row top-k of score - price, and the prices (..., E) for the next batch."""
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        before = check_state(state, (*scores.shape[:-2], scores.shape[-1]), "the experts' prices")
        after = before
        for _ in range(whole(self.rounds, "rounds", 1)):
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
    taken off the tokens' prices and changes nothing. Otherwise their sign has a meaning.
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
    too_many = around(ordered, most)[0] > 0
    too_few = around(ordered, fewest)[1] < 0
    cheap = torch.where(too_few, _price(ordered, fewest, place).clamp(max=0), 0.0)
    return torch.where(
        uneven, torch.where(too_many, dear, cheap), dear - dear.mean(-1, keepdim=True)
    )


def _price(ordered: Tensor, count: Tensor, place: float) -> Tensor:
    """A price (...) at which `count` entries of each descending line (..., n) are worth taking.

    A line with fewer allowed entries than that pays its smallest, one without any pays nothing.
    The lines need no more than their `count + 1` largest entries.
    """
    lower, upper = around(ordered, count)
    inside = lower + place * (upper - lower)
    one_sided = torch.where(upper.isfinite(), upper, lower)
    price = torch.where(lower.isfinite() & upper.isfinite(), inside, one_sided)
    allowed = ordered > float("-inf")
    smallest = ordered.masked_fill(~allowed, float("inf")).amin(-1)
    smallest = smallest.masked_fill(~allowed.any(-1), 0.0)
    return torch.where(price.isfinite(), price, smallest)
