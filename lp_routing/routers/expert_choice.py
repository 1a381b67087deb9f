"""Expert choice: every expert takes its C best tokens, with a cap on experts per token or without.

The capped rule first finds an entropic plan by Dykstra's projections, then rounds it to whole
tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.bounds import at_most, exactly
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.balance import (
    EntropicPlan,
    check_limits,
    column_log_sums,
    log_kernel,
    per_batch,
    placed,
    stacked,
    toward,
)
from lp_routing.routers.base import Router, ScoredRule
from lp_routing.routers.capacity import Capacity, check_capacity, resolve_capacity
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.validation import as_choice, as_int


@register("Expert choice", {"expert-choice": lambda s: ExpertChoice(s.share)})
@dataclass(frozen=True)
class ExpertChoice(ScoredRule, Router):
    """Column top-C (Zhou et al. 2022, eq. 2), the optimum of `expert_choice`.

    Not causal: whether a token is taken depends on all others. Cost: one `topk` over the tokens.

    Attributes:
        capacity: tokens each expert takes: a whole number, or a `CapacityFactor`, whose factor is
            then the mean number of experts per token (the paper's c, with K = 1).
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
    """

    source = "Zhou et al. 2022, eq. 2"
    seeks = "expert_choice"
    cost = "one topk over the tokens"
    causal = False

    capacity: Capacity

    def __post_init__(self) -> None:
        check_capacity(self.capacity)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Column top-C; boolean (..., T, E). Padding is never taken: an expert may stay short."""
        capacity = resolve_capacity(self.capacity, scores, k=1)
        if capacity > scores.shape[-2]:
            raise InputError(
                f"capacity={capacity} is more than T, the number of tokens ({scores.shape[-2]})."
            )
        return largest(scores.mT, capacity).mT


@dataclass(frozen=True, eq=False)
class CappedPlan(EntropicPlan):
    """The plan of capped expert choice: entries at most 1, rows at most k.

    Attributes:
        change: (...), the largest change of an entry in the last iteration.
    """

    change: Tensor


def capped_plan(
    scores: Tensor,
    capacity: int,
    k: int,
    temperature: float = 0.05,
    tolerance: float = 1e-4,
    iterations: int = 1000,
) -> CappedPlan:
    """The plan that maximises <scores, plan> + temperature * entropy, tokens capped at k experts.

    Columns sum to the capacity, rows to at most k, entries are at most 1 (Zhou et al. 2022,
    capped expert choice). Dykstra's projections in Kullback-Leibler distance (Benamou et al. 2015,
    section 3), in dual form: projecting on one family of bounds, with Dykstra's correction,
    optimises the multipliers of that family at fixed others.

    Args:
        scores: (..., T, E), -inf for forbidden pairs.
        capacity: tokens per expert; all that are allowed, where these are fewer.
        k: experts per token, at most.
        temperature: in units of score. Iterations grow fast as it falls: some hundreds at a fifth
            of the standard deviation of the scores, thousands at a tenth.
        tolerance: relative error of the bounds, and change of an entry, at which it stops.
        iterations: most iterations; a plan that has not converged, or cannot exist, is returned
            with `converged` False.
    """
    check_limits(temperature, tolerance, iterations)
    limits = (temperature, tolerance, iterations)
    return CappedPlan(*stacked(scores, lambda batch: _projected(batch, capacity, k, *limits)))


def _projected(
    scores: Tensor, capacity: int, k: int, temperature: float, tolerance: float, iterations: int
) -> tuple[Tensor, ...]:
    """The fields of a `CappedPlan` of one batch (T, E)."""
    kernel, best = log_kernel(scores, temperature, (-2, -1))
    places = _places(scores, capacity).double()
    on_rows, on_pairs = kernel.new_zeros(len(kernel), 1), torch.zeros_like(kernel)
    plan, count = kernel.exp(), 0
    converged = torch.tensor(False, device=scores.device)
    while not bool(converged) and count < iterations:
        before, count = plan, count + 1
        potentials = toward(places.log(), column_log_sums(kernel - on_rows - on_pairs))
        raised = kernel + potentials
        by_row = (raised - on_pairs).logsumexp(-1, keepdim=True)
        on_rows = (by_row - math.log(k)).clamp_(min=0)
        on_pairs = (raised - on_rows).clamp_(min=0)
        log_plan = raised - on_rows - on_pairs
        plan = log_plan.exp()
        row_error = (plan.sum(-1) / k - 1).clamp_(min=0).amax()
        column_error = ((plan.sum(-2) - places).abs() / places.clamp(min=1)).amax()
        change = (plan - before).abs().amax()
        converged = (row_error <= tolerance) & (column_error <= tolerance) & (change <= tolerance)
    potentials = potentials - best[0] / temperature
    taken = torch.tensor(count, device=scores.device)
    return log_plan, potentials, row_error, column_error, taken, converged, change


def _places(scores: Tensor, capacity: int) -> Tensor:
    """Tokens each expert takes: the capacity, or all that are allowed where these are fewer."""
    return (scores > float("-inf")).sum(-2).clamp(max=capacity)


@register(
    "Expert choice",
    {
        "capped-expert-choice": lambda s: CappedExpertChoice(s.share, s.cap),
        "capped-expert-choice-strict": lambda s: CappedExpertChoice(
            s.share, s.cap, rounding="capped"
        ),
    },
)
@dataclass(frozen=True)
class CappedExpertChoice(ScoredRule, Router):
    """Expert choice with at most k experts per token (Zhou et al. 2022, capped expert choice).

    Seeks the optimum of `capped_expert_choice`; the plan is that of its entropic version. Column
    top-C of the plan, as in the paper, fills every expert and can exceed the cap.
    `rounding="capped"` is this library's: at the prices of the plan, full experts and capped tokens
    keep the pairs whose loss costs most, and exchanges fill the remaining experts; both bounds
    hold. An expert that is allowed fewer than C tokens takes those. Where both bounds cannot hold,
    as in a batch that a mask leaves T' tokens with E min(C, T') > T' k, the whole call is refused
    with an error that names the batch: route such batches alone, with a smaller capacity. `plan`
    says whether the plan converged. Not causal. Cost: three passes over the scores an iteration,
    some tens to hundreds of them; batches of the leading dimensions one after another.

    Attributes:
        capacity: tokens each expert takes: a whole number, or a `CapacityFactor`, whose factor is
            then the mean number of experts per token (with K = 1, as in `ExpertChoice`).
        k: most experts per token (the paper's b).
        temperature: weight of the entropy, in units of score (the paper's lambda).
        tolerance: relative error and change at which projecting stops.
        iterations: limit on the projections.
        rounding: "top-c", the largest entries of each column of the plan; "capped".
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
    """

    source = "Zhou et al. 2022, capped expert choice; Benamou et al. 2015, section 3"
    seeks = "capped_expert_choice"
    cost = (
        "three passes an iteration, tens to hundreds of iterations, one topk over the tokens; "
        "batches one after another"
    )
    causal = False

    capacity: Capacity
    k: int
    temperature: float = 0.05
    tolerance: float = 1e-4
    iterations: int = 1000
    rounding: Literal["top-c", "capped"] = "top-c"

    def __post_init__(self) -> None:
        check_capacity(self.capacity)
        as_int(self.k, "k", 1)
        check_limits(self.temperature, self.tolerance, self.iterations)
        as_choice(self.rounding, "rounding", ("top-c", "capped"))
        super().__post_init__()

    @property
    def ties(self) -> str:
        """ "index" in the columns of the plan; "any" with rounding="capped"."""
        return "index" if self.rounding == "top-c" else "any"

    def plan(self, scores: Tensor) -> CappedPlan:
        """The plan of each batch of scores (..., T, E), and whether it converged."""
        capacity, k = self._sizes(scores)
        return self._plan(scores, capacity, k)

    def select(self, scores: Tensor) -> Tensor:
        """The plan, rounded; boolean (..., T, E). An expert allowed fewer than C tokens takes them.

        Raises:
            InputError: capacity > T, k > E; with "capped", experts that cannot be filled without
                exceeding the cap.
        """
        capacity, k = self._sizes(scores)
        if self.rounding == "top-c":
            return largest(self._plan(scores, capacity, k).log_plan.mT, capacity).mT
        return per_batch(scores, lambda batch: self._placed(batch, capacity, k))

    def _sizes(self, scores: Tensor) -> tuple[int, int]:
        T, E = scores.shape[-2:]
        capacity = resolve_capacity(self.capacity, scores, k=1)
        if capacity > T:
            raise InputError(f"capacity={capacity} is more than T, the number of tokens ({T}).")
        return capacity, as_int(self.k, "k", 1, E, "E, the number of experts")

    def _plan(self, scores: Tensor, capacity: int, k: int) -> CappedPlan:
        limits = (self.temperature, self.tolerance, self.iterations)
        return capped_plan(scores, capacity, k, *limits)

    def _placed(self, scores: Tensor, capacity: int, k: int) -> Tensor:
        places = _places(scores, capacity)
        problem = RoutingProblem(scores, tokens=at_most(k), experts=exactly(places))
        prices = -self.temperature * self._plan(scores, capacity, k).potentials
        return placed(problem, prices.masked_fill(places == 0, 0.0))
