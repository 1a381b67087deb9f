"""The optimum as a router: exact, certified on every call, with the prices of the last batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.problem.named import balanced
from lp_routing.problem.named import capacity as within
from lp_routing.routers.balance import per_batch_with_state
from lp_routing.routers.base import StatefulRouter, WeightedRule, check_state, cold_prices
from lp_routing.routers.capacity import Capacity, check_capacity, resolve_capacity
from lp_routing.routers.catalogue import register
from lp_routing.solvers.min_cost_flow import MinCostFlow
from lp_routing.solvers.solve import Status, solve
from lp_routing.validation import as_int


@register("Prices and biases", {"optimal": lambda s: Optimal(s.k, s.capacity)})
@dataclass(frozen=True)
class Optimal(WeightedRule, StatefulRouter[Tensor]):
    """The optimum itself (this project), found by `MinCostFlow` and certified on every call.

    With a capacity it is the optimum of `capacity`: at most k experts a token, at most `capacity`
    tokens an expert. Pairs above capacity are dropped at least loss, and only pairs with a score
    above 0 are taken. Without one it is the optimum of `balanced`: exactly k experts a token, loads
    between the floor and the ceiling of T k / E. For exactly k experts under a capacity see
    `MaxScoreFlow`.

    The state is the experts' prices, float64 (..., E), in units of score. Prices of an earlier
    batch shorten the next search; the value of the result does not depend on them. Where all prices
    of a batch entry are 0 its search starts from a sample of its tokens.

    The entries of the leading dimensions are solved one after another. On a CPU prefer it to
    `PriceRouter`: it is exact in about the same time or less. On accelerators some rows are copied
    to the host in each call, so `PriceRouter` is preferable there.
    Not causal. Cost and gap of both: `python -m benchmarks.price_router`.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor`, or None for
            loads between the floor and the ceiling of T k / E.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "lp_routing/routers/optimal.py"
    cost = "a few topk and exchanges among some rows on the CPU; batches one after another"
    causal = False
    ties = "any"

    k: int
    capacity: Capacity | None = None

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        if self.capacity is not None:
            check_capacity(self.capacity)
        super().__post_init__()

    @property
    def seeks(self) -> str:
        """`capacity` with one, else `balanced`."""
        return "balanced" if self.capacity is None else "capacity"

    def initial(self, scores: Tensor) -> Tensor:
        """Zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean (..., T, E), and the prices (..., E) that prove it.

        Raises:
            InputError: k > E; a state of other experts; without capacity, forbidden pairs that
                leave no balanced assignment.
        """
        shape = (*scores.shape[:-2], scores.shape[-1])
        state = check_state(state, shape, "the prices of the experts")
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        capacity = None if self.capacity is None else resolve_capacity(self.capacity, scores, k)

        def rule(batch: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
            return _optimum(batch, prices, k, capacity)

        return per_batch_with_state(scores, state.detach().to(scores.device).double(), rule)


def _optimum(scores: Tensor, prices: Tensor, k: int, capacity: int | None) -> tuple[Tensor, Tensor]:
    """The chosen pairs (T, E) of an optimum, and its prices (E,), from any starting prices.

    Raises:
        InputError: there is no assignment, or none was proved optimal, in the solver's words.
    """
    if capacity is None:
        problem = balanced(scores, k)
    else:  # a capacity above T has no effect
        problem = within(scores, k, min(capacity, len(scores)))
    start = Prices(prices) if bool(prices.any()) else None
    solution = solve(problem, MinCostFlow(start=start))
    if solution.status is not Status.OPTIMAL or solution.assignment is None:
        raise InputError(f"{solution.status.value} {solution.explanation}")
    after = solution.prices.experts
    return solution.assignment.x > 0, torch.zeros_like(prices) if after is None else after
