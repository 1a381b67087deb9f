"""Sinkhorn routing: a balanced plan by entropic transport, then whole experts for each token."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.routers.balance import (
    EntropicPlan,
    balanced_problem,
    check_limits,
    column_log_sums,
    loads_of,
    log_kernel,
    per_batch,
    placed,
    stacked,
    toward,
)
from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.validation import as_choice, as_int


def sinkhorn(
    scores: Tensor,
    k: int = 1,
    temperature: float = 0.05,
    tolerance: float = 1e-4,
    iterations: int = 1000,
) -> EntropicPlan:
    """The plan that maximises <scores, plan> + temperature * entropy under equal loads.

    Rows sum to k and columns to T k / E (Cuturi 2013, algorithm 1, in logarithms: no scores
    overflow). Entries are not bound by 1: for k > 1 a plan may give a token more than all of an
    expert. Where it converged, no assignment with these loads is worth more than the plan by more
    than temperature * entropy of the plan, entropy being -sum x log x.

    Args:
        scores: (..., T, E), -inf for forbidden pairs; tokens without an allowed pair are padding,
            with rows of 0.
        k: experts per token.
        temperature: in units of score; small ones need more iterations.
        tolerance: relative error of row and column sums at which it stops.
        iterations: most iterations; a plan that has not converged, or cannot exist because of
            forbidden pairs, is returned with `converged` False.
    """
    check_limits(temperature, tolerance, iterations)
    parts = stacked(scores, lambda batch: _scaled(batch, k, temperature, tolerance, iterations))
    return EntropicPlan(*parts)


def _scaled(
    scores: Tensor, k: int, temperature: float, tolerance: float, iterations: int
) -> tuple[Tensor, ...]:
    """The fields of an `EntropicPlan` of one batch (T, E)."""
    kernel, _ = log_kernel(scores, temperature, (-1,))
    real = (kernel > float("-inf")).any(-1)
    load = real.sum().double() * k / scores.shape[-1]
    goal = load.new_tensor(math.log(k))
    by_row, count = kernel.logsumexp(-1), 0
    row_error = torch.full_like(load, math.inf)
    while bool(row_error > tolerance) and count < iterations:
        on_rows = toward(goal, by_row)
        potentials = toward(load.log(), column_log_sums(kernel + on_rows[:, None]))
        by_row = (kernel + potentials).logsumexp(-1)
        wrong = ((on_rows + by_row).exp() / k - 1).abs()
        row_error, count = wrong.masked_fill(~real, 0.0).amax(), count + 1
    log_plan = kernel + on_rows[:, None] + potentials
    sums = column_log_sums(log_plan).exp()
    column_error = (sums - load).abs().amax() / load.clamp(min=1 / scores.shape[-1])
    converged = (row_error <= tolerance) & (column_error <= tolerance)
    taken = torch.tensor(count, device=scores.device)
    return log_plan, potentials, row_error, column_error, taken, converged


@register(
    "Balanced assignment",
    {
        "sinkhorn": lambda s: Sinkhorn(s.k),
        "sinkhorn-balanced": lambda s: Sinkhorn(s.k, rounding="balanced"),
    },
)
@dataclass(frozen=True)
class Sinkhorn(WeightedRule, Router):
    """Entropic transport, then whole experts (Clark et al. 2022, S-BASE; Cuturi 2013).

    Seeks the optimum of `balanced`. The plan is balanced where it converged; its row top-k, as in
    the source and in Megatron, is not. `rounding="balanced"` is this library's: tokens choose at
    the prices of the plan, full experts keep the tokens that lose most without them, and exchanges
    between experts complete the assignment, so that every token has k experts and every load is the
    floor or the ceiling of T k / E. `plan` says whether it converged. For k > 1 the plan may give a
    token more than all of an expert, more so the lower the temperature; its prices then belong to
    another problem, and rounding loses more. The source scales logits at temperature 1:
    score="logits", temperature=1. Not causal. Cost: two passes over the scores an iteration, some
    tens to hundreds of them; batches of the leading dimensions one after another.

    Attributes:
        k: experts per token.
        temperature: weight of the entropy, in units of score.
        tolerance: relative error of row and column sums at which scaling stops.
        iterations: limit on the scalings.
        rounding: "top-k", the largest entries of each row of the plan; "balanced".
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Clark et al. 2022 (S-BASE); Cuturi 2013, algorithm 1"
    seeks = "balanced"
    cost = (
        "two passes an iteration, tens to hundreds of iterations, one topk; "
        "batches one after another"
    )
    causal = False

    k: int = 1
    temperature: float = 0.05
    tolerance: float = 1e-4
    iterations: int = 1000
    rounding: Literal["top-k", "balanced"] = "top-k"

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        check_limits(self.temperature, self.tolerance, self.iterations)
        as_choice(self.rounding, "rounding", ("top-k", "balanced"))
        super().__post_init__()

    @property
    def ties(self) -> str:
        """ "index" in the rows of the plan; "any" with rounding="balanced"."""
        return "index" if self.rounding == "top-k" else "any"

    def plan(self, scores: Tensor) -> EntropicPlan:
        """The plan of each batch of scores (..., T, E), and whether it converged."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        return sinkhorn(scores, k, self.temperature, self.tolerance, self.iterations)

    def select(self, scores: Tensor) -> Tensor:
        """The plan, rounded; boolean (..., T, E).

        Raises:
            InputError: k > E; forbidden pairs that leave no balanced assignment to round to.
        """
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        if self.rounding == "top-k":
            return largest(self.plan(scores).log_plan, k)
        return per_batch(scores, self._placed)

    def _placed(self, scores: Tensor) -> Tensor:
        T, E = scores.shape
        k = as_int(self.k, "k", 1)
        problem = balanced_problem(scores, k, loads_of(T, E, k))
        return placed(problem, -self.temperature * self.plan(scores).potentials)
