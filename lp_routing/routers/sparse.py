"""Routers without a fixed k: top-p, thresholds, ReLU, and entmax.

Entmax is a softmax with exact zeros; its support says which experts a token takes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Router, StatefulRouter, WeightedRule, check_state
from lp_routing.routers.catalogue import register
from lp_routing.scores import check_logits, check_rate, masked, named
from lp_routing.validation import as_choice, as_float, as_nonnegative

INF = float("inf")
LEAST = {"softmax": 0.0, "sigmoid": 0.0, "unified": 0.0, "sqrt_softplus": 0.0}
MOST = {"softmax": 1.0, "sigmoid": 1.0}
"""Least and largest value of scores by name: a threshold outside takes every pair, or none."""


@register("Variable number of experts", {"top-p": lambda _: TopP(0.5)})
@dataclass(frozen=True)
class TopP(WeightedRule, Router):
    """Every token takes its best experts until they hold a share p of its score (Huang 2024).

    At least one, and more the flatter a token's scores; there is no other limit. Causal. Cost: one
    sort over the experts.

    Attributes:
        p: share of the sum of a token's scores, above 0, at most 1.
        score: what is compared and weighs, not negative: a function or a name from
            `lp_routing.scores`. A softmax sums to 1.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Huang et al. 2024, arXiv 2403.07652, eqs. 4-5"
    seeks = ""
    cost = "one sort over the experts"
    causal = True

    p: float

    def __post_init__(self) -> None:
        as_float(self.p, "p", "a share above 0, at most 1", lambda given: 0 < given <= 1)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """The shortest prefix in descending order that holds the share; boolean (..., T, E)."""
        if bool(((scores < 0) & (scores > -INF)).any()):
            raise InputError(
                "TopP takes a share of the sum of scores, but some are negative; give it scores "
                'such as "softmax" or "sigmoid".'
            )
        held = scores.masked_fill(scores == -INF, 0.0)
        ordered, order = torch.sort(held, descending=True, stable=True)
        running = ordered.double().cumsum(-1)
        before = torch.nn.functional.pad(running, (1, 0))[..., :-1]
        wanted = before < self.p * running[..., -1:]
        chosen = torch.empty_like(wanted).scatter_(-1, order, wanted)
        return chosen & (scores > 0)


@register("Variable number of experts", {"threshold": lambda s: Threshold(1 / s.E)})
@dataclass(frozen=True)
class Threshold(WeightedRule, Router):
    """Every pair whose score is at least a fixed value.

    The N pairs that it takes are the optimum of `unified` for this N, with the value as the price
    of the total; N itself depends on the batch. Causal, unlike `Unified`. Cost: one comparison.

    Attributes:
        value: the threshold, in units of score; one that such scores can reach.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "weak duality with the value as the price of the total (lp_routing.certificate)"
    seeks = ""  # the optimum of `unified` for the N it takes, not for a given N
    cost = "one comparison"
    causal = True

    value: float

    def __post_init__(self) -> None:
        as_float(self.value, "value", "a finite number", lambda given: True)  # noqa: ARG005
        super().__post_init__()
        if isinstance(self.score, str) and self.value < LEAST.get(self.score, -INF):
            raise InputError(
                f"value={self.value!r}: a {self.score} score is never negative, so that every pair "
                f'would be taken; give a value from 0 on, or score="logits".'
            )
        if isinstance(self.score, str) and self.value > MOST.get(self.score, INF):
            raise InputError(
                f"value={self.value!r}: a {self.score} score is never above 1, so that no pair "
                f'would be taken; give a value up to 1, or score="logits".'
            )

    def select(self, scores: Tensor) -> Tensor:
        """The pairs at or above the value; boolean (..., T, E)."""
        return scores >= self.value


@register("Variable number of experts", {"relu": lambda _: ReLURouter()})
@dataclass(frozen=True)
class ReLURouter(Router):
    """Every pair with a positive logit, with the logit as weight (ReMoE, Wang et al. 2024).

    The optimum of `unified` for the number of pairs it takes, at price 0; in training ReMoE
    controls this number by a penalty on the weights. Differentiable except at 0. Causal. Cost: one
    comparison.
    """

    source = "Wang, Zhu, Chen 2024, arXiv 2412.14711, eq. 6"
    seeks = ""  # the optimum of `unified` for the N it takes, not for a given N
    cost = "one comparison"
    causal = True

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (..., T, E); -inf for padding."""
        return named("logits")(logits, mask)

    def select(self, scores: Tensor) -> Tensor:
        """The positive ones; boolean (..., T, E)."""
        return scores > 0


@register(
    "Variable number of experts",
    {"running-threshold": lambda s: RunningThreshold(s.k, rate=1.0, start=1 / s.E)},
)
@dataclass(frozen=True)
class RunningThreshold(WeightedRule, StatefulRouter[Tensor]):
    """A threshold that adapts from batch to batch, so that tokens take `budget` experts on average.

    A batch takes every pair at or above the threshold of the state, then updates it: "quantile"
    moves it the share `rate` of the way to the threshold that would have met the budget in this
    batch; "step" raises it by `rate` times the excess of experts per token, the subgradient step on
    the dual of `unified` in the price of its total. After "step" the mean over n batches of equal
    size misses the budget by (last - first threshold) / (rate n), for any inputs. Causal, and at
    each batch the optimum of `unified` for the number of pairs it takes. State: the thresholds
    (...), in units of score, one for each entry of the leading dimensions. Cost: one comparison,
    and for "quantile" a sort of the pool for the next threshold.

    Attributes:
        budget: mean number of experts of a real token, above 0, whole or not.
        rate: a share from 0 to 1 ("quantile"), or a step in units of score ("step"); 0 keeps the
            threshold.
        update: "quantile" or "step".
        start: the first threshold; 0 takes everything that is positive.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = (
        "dual of the total's row (lp_routing.certificate), as loss-free balancing is of columns"
    )
    seeks = ""  # the optimum of `unified` for the N it takes, not for a given N
    cost = "one comparison; a sort of the pool for the next threshold"
    causal = True

    budget: float
    rate: float = 0.1
    update: Literal["quantile", "step"] = "quantile"
    start: float = 0.0

    def __post_init__(self) -> None:
        as_float(self.budget, "budget", "a number of experts above 0", lambda given: given > 0)
        as_choice(self.update, "update", ("quantile", "step"))
        if self.update == "quantile":
            check_rate(self.rate)
        as_nonnegative(self.rate, "rate")
        as_float(self.start, "start", "a finite number", lambda given: True)  # noqa: ARG005
        super().__post_init__()

    def initial(self, scores: Tensor) -> Tensor:
        """`start` for each entry of the leading dimensions (...)."""
        dtype = torch.promote_types(scores.dtype, torch.float32)
        return torch.full(scores.shape[:-2], self.start, dtype=dtype, device=scores.device)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs at or above the threshold, and the thresholds (...) for the next batch."""
        before = check_state(state, tuple(scores.shape[:-2]), "the thresholds")
        if self.budget > scores.shape[-1]:
            raise InputError(
                f"budget={self.budget:g} is more than E, the number of experts "
                f"({scores.shape[-1]})."
            )
        chosen = scores >= before[..., None, None]
        tokens = (scores > -INF).any(-1).sum(-1)
        if self.update == "quantile":
            goal = _met_at(scores, _pairs(tokens, self.budget)).to(before.dtype)
            after = before + self.rate * (goal - before)
        else:
            taken = chosen.flatten(-2).sum(-1).to(before.dtype)
            after = before + self.rate * (taken / tokens - self.budget)
        return chosen, torch.where(tokens > 0, after, before)


def _pairs(tokens: Tensor, budget: float) -> Tensor:
    """Whole pairs (...) that tokens (...) may take at a budget a token: the product, rounded down.

    A budget such as 0.29 times 100 tokens is 28.999... in float64. The number as it was typed and
    the product are each rounded by up to 2^-53 of themselves, so twice that and more is added.
    """
    return torch.floor(tokens.double() * (budget * (1 + 2.0**-51))).long()


def _met_at(scores: Tensor, pairs: Tensor) -> Tensor:
    """The score (...) that `pairs` (...) of a pool (..., T, E) reach.

    At least one pair, and no more than are allowed.
    """
    ordered = torch.sort(scores.flatten(-2), descending=True).values
    allowed = (ordered > -INF).sum(-1)
    count = torch.minimum(pairs, allowed).clamp(min=1)
    return ordered.gather(-1, count[..., None] - 1)[..., 0]


def entmax(logits: Tensor, alpha: float = 1.5) -> Tensor:
    """p_i = max(0, (alpha - 1) z_i - tau)^(1 / (alpha - 1)) with tau such that they sum to 1.

    Sparsemax (Martins and Astudillo 2016) for alpha = 2, 1.5-entmax (Peters, Niculae and Martins
    2019, arXiv 1905.05702) for 1.5; both in closed form after one sort.

    Args:
        logits: (..., T, E); -inf for forbidden pairs, which get 0. A token that is forbidden
            throughout gets 0 everywhere.
        alpha: 1.5 or 2.

    Returns:
        p (..., T, E), float32 or float64, differentiable in the logits.

    Raises:
        InputError: another alpha, bad logits.
    """
    _check_alpha(alpha)
    values = check_logits(logits)
    forbidden = values == -INF
    z = values.masked_fill(forbidden.all(-1, keepdim=True), 0.0)
    # tau lies at most 1 below the largest entry, so lower entries can be raised to that.
    z = ((alpha - 1) * (z - z.detach().amax(-1, keepdim=True))).clamp(min=-1.0)
    support = _support(z.detach(), alpha)
    count = support.sum(-1, keepdim=True)
    total = z.masked_fill(~support, 0.0).sum(-1, keepdim=True)
    if alpha == 2:
        p = z - (total - 1) / count
    else:
        mean = total / count
        spread = ((z - mean) ** 2).masked_fill(~support, 0.0).sum(-1, keepdim=True)
        p = (z - mean + ((1 - spread) / count).sqrt()).clamp(min=0) ** 2
    return p.masked_fill(~support | forbidden, 0.0).clamp(min=0)


def entry_temperatures(logits: Tensor, alpha: float = 1.5) -> Tensor:
    """The temperature above which a pair is in the support of entmax(logits / temperature).

    Args:
        logits: (..., T, E), -inf for forbidden pairs.
        alpha: 1.5 or 2.

    Returns:
        float64 (..., T, E) in units of the logits: 0 for the best experts of a token, inf for
        forbidden pairs. Expert i enters where the ones above it, l, have together
        sum_l ((alpha - 1) (z_l - z_i))^(1 / (alpha - 1)) = temperature^(1 / (alpha - 1)).
    """
    _check_alpha(alpha)
    values = check_logits(logits).detach().double()
    ordered, order = torch.sort(values, descending=True, stable=True)
    gaps = (alpha - 1) * (ordered[..., :-1] - ordered[..., 1:])
    gaps = gaps.masked_fill(~gaps.isfinite(), 0.0)
    above = torch.arange(1, values.shape[-1], device=values.device)
    # sum_l (z_l - z_i), and of their squares, each from that of the expert before: no cancellation
    entry = (above * gaps).cumsum(-1)
    if alpha != 2:
        before = torch.nn.functional.pad(entry, (1, 0))[..., :-1]
        entry = (2 * gaps * before + above * gaps**2).cumsum(-1).sqrt()
    entry = torch.nn.functional.pad(entry, (1, 0))
    return torch.empty_like(entry).scatter_(-1, order, entry).masked_fill(values == -INF, INF)


def budget_temperature(logits: Tensor, budget: float, alpha: float = 1.5) -> Tensor:
    """A temperature (...) at which tokens of a pool take at most `budget` experts on average.

    Args:
        logits: (..., T, E), the last two axes one pool; -inf for forbidden pairs and padding.
        budget: mean number of active experts of a real token, at least 1.
        alpha: 1.5 or 2.

    The active pairs at a temperature are those of lower entry temperature, so N = budget * tokens
    of them are found by a sort, without a search. Fewer are active only where entry temperatures
    tie; more only where experts tie for the best of their tokens, which take them at every
    temperature.
    """
    expected = "a number of experts per token, at least 1 (entmax gives every token one)"
    budget = as_float(budget, "budget", expected, lambda given: given >= 1)
    entry = entry_temperatures(logits, alpha)
    tokens = (entry < INF).any(-1).sum(-1)
    entry = torch.sort(entry.flatten(-2)).values
    wanted = _pairs(tokens, budget)[..., None]
    beyond = entry.gather(-1, wanted.clamp(max=entry.shape[-1] - 1))
    beyond = beyond.masked_fill(wanted >= entry.shape[-1], INF)
    first = entry.masked_fill(entry == 0, INF).amin(-1, keepdim=True)
    upper = torch.where(beyond > 0, beyond, first)
    lower = entry.masked_fill(entry >= upper, 0.0).amax(-1, keepdim=True)
    without_end = torch.where(lower > 0, 2 * lower, 1.0)
    return torch.where(upper < INF, (lower + upper) / 2, without_end)[..., 0]


@register("Variable number of experts", {"entmax": lambda _: Entmax()})
@dataclass(frozen=True)
class Entmax(Router):
    """Every token takes the support of its entmax probabilities, at least one expert.

    Their number depends on the differences of the logits; there is no budget. Weights are the
    probabilities, which sum to 1 and are differentiable almost everywhere. Causal. Cost: one sort
    over the experts.

    Attributes:
        alpha: 1.5, or 2 for sparsemax, which is sparser.
        temperature: the logits are divided by it; higher takes more experts.
    """

    source = "Peters, Niculae, Martins 2019, arXiv 1905.05702; Martins, Astudillo 2016"
    seeks = ""
    cost = "one sort over the experts"
    causal = True

    alpha: float = 1.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)
        as_float(self.temperature, "temperature", "a number above 0", lambda given: given > 0)

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Entmax probabilities (..., T, E); -inf for forbidden pairs and padding."""
        values = masked(check_logits(logits), mask)
        return entmax(values / self.temperature, self.alpha).masked_fill(values == -INF, -INF)

    def select(self, scores: Tensor) -> Tensor:
        """The pairs of positive probability; boolean (..., T, E)."""
        return scores > 0


@register("Variable number of experts", {"entmax-budget": lambda s: EntmaxBudget(s.k)})
@dataclass(frozen=True)
class EntmaxBudget(Router):
    """`Entmax` at the temperature at which a pool takes `budget` experts per token on average.

    The last two axes are a pool with a temperature of its own (`budget_temperature`), so a token's
    experts depend on later tokens: not causal. Gradients treat the temperature as constant. Cost: a
    sort over the pool and two over the experts.

    Attributes:
        budget: mean number of experts of a real token, at least 1, whole or not.
        alpha: 1.5, or 2 for sparsemax.
    """

    source = "Peters, Niculae, Martins 2019, arXiv 1905.05702; the temperature: this file"
    seeks = ""
    cost = "a sort over the pool and two over the experts"
    causal = False

    budget: float
    alpha: float = 1.5

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)
        budget_temperature(torch.zeros(1, 1), self.budget, self.alpha)

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Entmax probabilities (..., T, E); -inf for forbidden pairs and padding."""
        values = masked(check_logits(logits), mask)
        warm = budget_temperature(values, self.budget, self.alpha).to(values.dtype)
        return entmax(values / warm[..., None, None], self.alpha).masked_fill(values == -INF, -INF)

    def select(self, scores: Tensor) -> Tensor:
        """The pairs of positive probability; boolean (..., T, E)."""
        return scores > 0


def _support(z: Tensor, alpha: float) -> Tensor:
    """Boolean (..., E): where p is positive, for z of at most 0 and at least -1."""
    ordered = torch.sort(z, descending=True).values
    rank = torch.arange(1, z.shape[-1] + 1, device=z.device)
    total = ordered.cumsum(-1)
    if alpha == 2:
        tau = (total - 1) / rank
    else:
        mean = total / rank
        spread = (ordered**2).cumsum(-1) - rank * mean**2
        tau = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
    size = (ordered > tau).sum(-1, keepdim=True)
    return (z > tau.gather(-1, size - 1)) & (z > -1)


def _check_alpha(alpha: float) -> None:
    as_float(alpha, "alpha", "1.5 (entmax) or 2 (sparsemax)", lambda given: given in (1.5, 2))
