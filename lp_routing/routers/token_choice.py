"""Token choice: every token takes its k best experts, within their capacity.

`TopK` with the usual rules for what is dropped; dropping by the priority of tokens (V-MoE); a
random second expert (GShard); experts out of a few groups only (DeepSeek); experts that compute
nothing, with a capacity of their own (MoE++).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.base import Router, ScoredRule, WeightedRule, kept_scores
from lp_routing.routers.capacity import (
    Capacity,
    check_capacity,
    keep_by_score,
    keep_first_choices,
    keep_first_tokens,
    resolve_capacity,
)
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import check_seed, largest, uniform
from lp_routing.validation import as_choice, as_float, as_int, as_tensor


@register(
    "Token choice",
    {
        "token-choice": lambda s: TopK(s.k),
        "drop-by-score": lambda s: TopK(s.k, s.capacity),
        "drop-by-position": lambda s: TopK(s.k, s.capacity, "position"),
        "drop-token-major": lambda s: TopK(s.k, s.capacity, "position", "token"),
        "switch": lambda s: TopK(1, s.capacity, "position"),
    },
)
@dataclass(frozen=True)
class TopK(WeightedRule, Router):
    """Row top-k (Shazeer et al. 2017), optionally dropping what exceeds a capacity.

    Without capacity it is the optimum of `token_choice`; with one it seeks that of `capacity` and
    misses it in general. Causal without capacity, and with `by="position", order="token"` and a
    capacity in tokens (that of a `CapacityFactor` depends on T).

    The softmax of float32 logits underflows some 104 below a token's best: experts further down all
    score 0, and ties go to the lowest index, not to the larger logit. On 4,096 x 32 normal logits
    of standard deviation 2, times 60, k = 2, 12.5 % of the tokens get other experts than with
    score="logits"; none on the logits as they stand. Give large logits in float64, or score them by
    "logits". Cost: one `topk`; with capacity one more over the tokens, or a sort over the experts.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor`, or None.
        by: which tokens an expert above capacity keeps: "score", the best; "position", the first.
        order: the order of positions: "rank", all first choices before second ones (GShard, Switch,
            V-MoE, Tutel); "token", all choices of a token before the next (MegaBlocks).
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all. Without
            capacity, "kept" with the softmax is the softmax taken after the top-k (Mixtral).
    """

    source = "Shazeer et al. 2017, eq. 5; Lepikhin et al. 2021 (capacity)"
    cost = "one topk; with capacity one more over the tokens, or a sort over the experts"

    k: int
    capacity: Capacity | None = None
    by: Literal["score", "position"] = "score"
    order: Literal["rank", "token"] = "rank"

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        if self.capacity is not None:
            check_capacity(self.capacity)
        as_choice(self.by, "by", ("score", "position"))
        as_choice(self.order, "order", ("rank", "token"))
        super().__post_init__()

    @property
    def seeks(self) -> str:
        """`capacity` with one, else `token_choice`."""
        return "token_choice" if self.capacity is None else "capacity"

    @property
    def causal(self) -> bool:
        """True without capacity, and with order="token" up to a fixed capacity."""
        first_come = self.by == "position" and self.order == "token"
        return self.capacity is None or (
            first_come and not isinstance(self.capacity, CapacityFactor)
        )

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k, then dropping; boolean (..., T, E)."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        chosen = largest(scores, k)
        if self.capacity is None:
            return chosen
        capacity = resolve_capacity(self.capacity, scores, k)
        if self.by == "score":
            return keep_by_score(scores, chosen, capacity)
        if self.order == "token":
            return keep_first_tokens(chosen, capacity)
        return keep_first_choices(scores, chosen, capacity, k)


@register("Token choice", {"batch-prioritised": lambda s: BatchPrioritised(s.k, s.capacity)})
@dataclass(frozen=True)
class BatchPrioritised(WeightedRule, Router):
    """Row top-k, then slots by the priority of the token (Riquelme et al. 2021, Alg. 2).

    First choices come before second ones, and within a rank tokens of higher priority first; pairs
    at a full expert are dropped. With k = 1 every expert keeps its best.

    It seeks the optimum of `capacity` and misses it in general. Not causal: a later token may have
    a higher priority. Cost: one `topk`, a sort of the tokens and a sort over the experts. To
    prioritise over a whole batch, flatten its sequences into one axis of tokens.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, or a `CapacityFactor`.
        priority: of a token: "max", its best score (V-MoE's default); "sum", that of its top k.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Riquelme et al. 2021, Algorithm 2"
    seeks = "capacity"
    cost = "one topk, a sort of the tokens and a sort over the experts"
    causal = False

    k: int
    capacity: Capacity
    priority: Literal["max", "sum"] = "max"

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        check_capacity(self.capacity)
        as_choice(self.priority, "priority", ("max", "sum"))
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k, then dropping by priority; boolean (..., T, E)."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        chosen = largest(scores, k)
        order = self._priority(scores, chosen).sort(descending=True, stable=True).indices
        rows = order[..., None].expand_as(scores)
        capacity = resolve_capacity(self.capacity, scores, k)
        kept = keep_first_choices(scores.gather(-2, rows), chosen.gather(-2, rows), capacity, k)
        return torch.empty_like(kept).scatter_(-2, rows, kept)

    def _priority(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Priorities (..., T); that of a token without allowed experts does not matter."""
        if self.priority == "max":
            return scores.amax(-1)
        return kept_scores(scores.double(), chosen).sum(-1)


@register("Token choice", {"gshard": lambda s: RandomSecond(s.capacity)})
@dataclass(frozen=True)
class RandomSecond(ScoredRule, Router):
    """Top-2 with a random second expert (Lepikhin et al. 2021, Algorithm 1).

    With g1 and g2 the two best scores divided by their sum, the second is kept with probability
    min(1, 2 g2). Then first choices get slots before second ones, each in token order, up to the
    capacity; a second choice that was not kept takes no slot (as in the authors' Lingvo). The
    weights are g1 and g2, also where the other one was dropped.

    It seeks the optimum of `capacity` with k = 2 and misses it in general. Causal without
    capacity. Cost: two `topk`, and a sort over the experts with capacity.

    Attributes:
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor` (with K = 2), or
            None.
        score: what is compared and weighs, not negative: a function or a name from
            `lp_routing.scores`.
        seed: of the draws, one per position of a token; for new ones each step, change it.
    """

    source = "Lepikhin et al. 2021, Algorithm 1"
    seeks = "capacity"
    cost = "two topk; with capacity a sort over the experts"

    capacity: Capacity | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.capacity is not None:
            check_capacity(self.capacity)
        super().__post_init__()
        check_seed(self.seed)

    @property
    def causal(self) -> bool:
        """True without capacity; with it later first choices come before earlier second ones."""
        return self.capacity is None

    def select(self, scores: Tensor) -> Tensor:
        """The first choice, the second by chance, then dropping; boolean (..., T, E).

        Raises:
            InputError: a score of the two best is negative.
        """
        first, both = largest(scores, 1), largest(scores, 2)
        second_share = (_shares(scores, both) * ~first).sum(-1)
        draws = uniform(self.seed, scores.shape[:-1], scores.device, "RandomSecond")
        chosen = first | (both & (draws < 2 * second_share)[..., None])
        if self.capacity is None:
            return chosen
        return keep_first_choices(scores, chosen, resolve_capacity(self.capacity, scores, 2), 2)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """g1 and g2 of the kept pairs, (..., T, E)."""
        shares = _shares(scores, largest(scores.detach(), 2))
        return kept_scores(shares, chosen).to(scores.dtype)


def _shares(scores: Tensor, both: Tensor) -> Tensor:
    """The two best scores divided by their sum, 0 elsewhere, float64 (..., T, E)."""
    kept = kept_scores(scores.double(), both)
    if bool((kept < 0).any()):
        raise InputError(
            "RandomSecond divides by the sum of a token's two best scores, but some are negative; "
            'give scores that are not, such as score="softmax".'
        )
    total = kept.sum(-1, keepdim=True)
    return kept / total.masked_fill(total == 0, 1.0)


@register(
    "Token choice",
    {
        "group-limited": lambda s: GroupLimited(s.k, s.groups, -(-s.groups // 2), "top2"),
        "deepseek-v2": lambda s: GroupLimited(s.k, s.groups, -(-s.groups * 3 // 8)),
        "deepseek-v3": lambda s: GroupLimited(
            s.k, s.groups, -(-s.groups // 2), "top2", score="sigmoid", normalise="kept"
        ),
    },
)
@dataclass(frozen=True)
class GroupLimited(WeightedRule, Router):
    """The best k experts inside the M best groups, groups being devices or nodes.

    It seeks the best k experts per token out of at most M = `top_groups` groups, a problem whose LP
    is not integral (scores (10, 7, 7 | 12, 2, 0) with k = 2 and M = 1 have the optimum 17, the LP
    18), and misses its optimum in general, as a proxy selects the groups. The proxy is exact with
    "max" where k <= M (the result is row top-k) and with "top2" where k = 2, M = 1. A token gets
    fewer than k experts where its selected groups have fewer allowed ones. Causal. Cost: one `topk`
    over the groups' experts, one over the groups, one over the experts.

    DeepSeek-V2 is rank_by="max", score="softmax"; DeepSeek-V3 rank_by="top2" (its paper: the
    k / M best, which is two there), score="sigmoid", normalise="kept", without its bias.

    Attributes:
        k: experts per token.
        groups: G, groups of equal size: experts 0 to E/G - 1, and so on.
        top_groups: M, groups per token at most.
        rank_by: the proxy for a group: "max", its best score; "top2", the sum of its two best.
            Forbidden experts add nothing; a group without allowed ones is never selected.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "DeepSeek-V2 2024, device-limited routing; DeepSeek-V3 2024, node-limited routing"
    seeks = ""  # no named problem has group limits
    cost = "three topk: inside the groups, over the groups, over the experts"
    causal = True

    k: int
    groups: int
    top_groups: int
    rank_by: Literal["max", "top2"] = "max"

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        groups = as_int(self.groups, "groups", 1)
        as_int(self.top_groups, "top_groups", 1, groups, "groups, the number of groups")
        as_choice(self.rank_by, "rank_by", ("max", "top2"))
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Top-k inside the selected groups; boolean (..., T, E).

        Raises:
            InputError: the groups do not divide E, or hold fewer than k experts.
        """
        E, groups = scores.shape[-1], as_int(self.groups, "groups", 1)
        if E % groups:
            raise InputError(
                f"groups={groups} does not divide E, the number of experts ({E}); give a divisor."
            )
        top_groups = as_int(self.top_groups, "top_groups", 1)
        k = as_int(
            self.k, "k", 1, top_groups * E // groups, f"the experts of {top_groups} group(s)"
        )
        inside = scores.reshape(*scores.shape[:-1], groups, E // groups)
        closed = ~largest(self._worth(inside), top_groups)
        return largest(inside.masked_fill(closed[..., None], float("-inf")).flatten(-2), k)

    def _worth(self, inside: Tensor) -> Tensor:
        """The proxy of each group, (..., T, G)."""
        if self.rank_by == "max":
            return inside.amax(-1)
        best = inside.topk(min(2, inside.shape[-1])).values.double()
        no_more = best == float("-inf")
        return best.masked_fill(no_more, 0.0).sum(-1).masked_fill(no_more.all(-1), float("-inf"))


@register("Token choice", {})
@dataclass(frozen=True)
class ZeroComputation(WeightedRule, Router):
    """Row top-k over experts the last `free` of which (zero, copy, constant) compute nothing.

    Jin et al. 2024 (MoE++), without its gating residuals, which are part of the model. Easy tokens
    can use free experts. With a capacity factor gamma, eq. 8 gives a paid expert gamma tau T / (tau
    P + F) tokens and a free one gamma T / (tau P + F), for P paid and F free experts: a smaller tau
    gives the free ones more. Both are rounded up here (the paper does not say), and T counts
    padding. T tokens take k T slots: where tau matches the loads, gamma = k is just enough.

    Without capacity it is the optimum of `token_choice`. With one it seeks the best choice under
    these two capacities and misses it in general; a bound on the cost is another problem, with a
    knapsack row. Causal without capacity. Cost: one `topk`; with capacity that of two `TopK`.

    Attributes:
        k: experts per token.
        free: how many experts, the last ones, cost nothing; at least one must be paid.
        factor: gamma, or None for no capacity.
        tau: capacity of a paid expert over that of a free one, > 0; the paper tries 0.1 to 1.
        by: as in `TopK`: which tokens are kept above capacity, "score" or "position".
        order: as in `TopK`: the order of positions, "rank" or "token".
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all. (The
            authors' released layer leaves the zero expert's score out of that sum.)
    """

    source = "Jin et al. 2024 (MoE++), eq. 8"
    seeks = "token_choice"
    cost = "one topk; with capacity that of two TopK"

    k: int
    free: int
    factor: float | None = None
    tau: float = 0.75
    by: Literal["score", "position"] = "score"
    order: Literal["rank", "token"] = "rank"

    def __post_init__(self) -> None:
        as_int(self.free, "free", 0)
        if self.factor is not None:
            _check_positive(self.factor, "factor")
        _check_positive(self.tau, "tau")
        self._rule(None)

    @property
    def causal(self) -> bool:
        """True without capacity, as a capacity depends on T."""
        return self.factor is None

    def capacities(self, tokens: int, experts: int) -> tuple[int, int] | None:
        """The capacities of a paid and of a free expert (eq. 8, rounded up); None without any."""
        if self.factor is None:
            return None
        free = self._free(experts)
        unit = self.factor * tokens / (self.tau * (experts - free) + free)
        return math.ceil(self.tau * unit), math.ceil(unit)

    def costs(self, experts: int) -> Tensor:
        """1 for each paid expert and 0 for each free one, float64 (E,)."""
        return (torch.arange(experts) < experts - self._free(experts)).double()

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k, then dropping by two capacities; boolean (..., T, E)."""
        T, E = scores.shape[-2:]
        paid = E - self._free(E)
        limits = self.capacities(T, E)
        if limits is None:
            return self._rule(None).select(scores)
        # dropping uses only the expert's own capacity, so each kind can be routed as if all had its
        of_paid, of_free = (self._rule(limit).select(scores) for limit in limits)
        return torch.cat([of_paid[..., :paid], of_free[..., paid:]], -1)

    def _rule(self, capacity: int | None) -> TopK:
        """Token choice with one capacity for all experts; its constructor checks the arguments."""
        return TopK(
            self.k, capacity, self.by, self.order, score=self.score, normalise=self.normalise
        )

    def _free(self, experts: int) -> int:
        return as_int(self.free, "free", 0, experts - 1, "E - 1, all experts but one")


def cost(assignment: Assignment, costs: Tensor | Sequence[float]) -> Tensor:
    """The cost of an assignment: the sum of the costs of its pairs, float64 (...).

    Args:
        assignment: x (..., T, E).
        costs: (E,) finite numbers >= 0, in any unit: FLOPs, seconds, or `ZeroComputation.costs`.

    Raises:
        InputError: not one cost per expert, or a cost that is negative or not finite.
    """
    values = as_tensor(costs, "costs", "numbers, one per expert").to(assignment.x.device).double()
    E = assignment.x.shape[-1]
    if tuple(values.shape) != (E,) or not bool((values.isfinite() & (values >= 0)).all()):
        raise InputError(
            f"costs: expected {E} finite numbers >= 0, one per expert, got {costs!r} of shape "
            f"{tuple(values.shape)}."
        )
    return assignment.load @ values


def _check_positive(value: float, name: str) -> None:
    as_float(value, name, "a positive number", lambda given: given > 0)
