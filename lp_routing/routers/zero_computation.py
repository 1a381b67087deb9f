"""MoE++: experts that cost nothing next to those that do, with capacities of two sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.token_choice import TopK
from lp_routing.validation import as_tensor, number, whole


@dataclass(frozen=True)
class ZeroComputation(WeightedRule, Router):
    """Row top-k over experts the last `free` of which (zero, copy, constant) compute nothing.

    Jin et al. 2024 (MoE++), without its gating residuals, which are part of the model: an easy
    token spends its k on free experts. With a capacity factor gamma, eq. 8 gives a paid expert
    gamma tau T / (tau P + F) tokens and a free one gamma T / (tau P + F), for P paid and F free
    experts: a smaller tau sends more to the free ones. They are rounded up here (the paper leaves
    it open), and T counts padding. T tokens ask k T times: with tau in step with the loads, gamma
    = k is just enough.

    Without capacity it is the optimum of `token_choice`. With one it seeks the best choice under
    these two capacities and misses it in general; a bound on the cost is another problem, a
    knapsack row. Causal without capacity. Cost: one `topk`; with capacity that of two `TopK`.

    Attributes:
        k: experts per token.
        free: how many experts, the last ones, cost nothing; at least one expert must be paid.
        factor: gamma, or None for no capacity.
        tau: tokens of a paid expert for each of a free one, > 0; the paper tries 0.1 to 1.
        by: as in `TopK`: who is kept where too many come, "score" or "position".
        order: as in `TopK`: what comes first by position, "rank" or "token".
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
        whole(self.free, "free", 0)
        if self.factor is not None:
            _check_positive(self.factor, "factor")
        _check_positive(self.tau, "tau")
        self._rule(None)

    @property
    def causal(self) -> bool:
        """Without capacity; a capacity grows with T."""
        return self.factor is None

    def capacities(self, tokens: int, experts: int) -> tuple[int, int] | None:
        """Tokens of a paid and of a free expert at most (eq. 8, rounded up); None without any."""
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
        # an expert drops by its own capacity alone, so each kind may be routed as if all had its
        of_paid, of_free = (self._rule(limit).select(scores) for limit in limits)
        return torch.cat([of_paid[..., :paid], of_free[..., paid:]], -1)

    def _rule(self, capacity: int | None) -> TopK:
        """Token choice with one capacity for all; it checks what it is given."""
        return TopK(
            self.k, capacity, self.by, self.order, score=self.score, normalise=self.normalise
        )

    def _free(self, experts: int) -> int:
        return whole(self.free, "free", 0, experts - 1, "E - 1, all experts but one")


def cost(assignment: Assignment, costs: Tensor | Sequence[float]) -> Tensor:
    """What an assignment costs: the sum of the costs of its pairs, float64 (...).

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
    number(value, name, "a positive number", lambda given: given > 0)
