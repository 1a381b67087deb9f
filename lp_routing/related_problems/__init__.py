"""Problems beside the linear program of routing: one a file, each with a proved bound."""

from lp_routing.related_problems.experts_kept import (
    best_kept,
    bound_on_kept,
    greedy,
    heavy_hitters,
    kept_value,
)
from lp_routing.related_problems.group_limit import (
    best_in_groups,
    of_proxy,
    relaxed_in_groups,
    searched_in_groups,
)
from lp_routing.related_problems.inference_cost import (
    Attained,
    CapacityPoint,
    InferenceCost,
    inference_cost,
)
from lp_routing.related_problems.layer_budgets import (
    Allocation,
    best_budgets,
    worth_of_budgets,
)
from lp_routing.related_problems.proved import Proved
from lp_routing.related_problems.replicas import Spread, confined_load, edge_wise, spread
from lp_routing.related_problems.unequal_costs import Priced, searched_within_budget, within_budget

__all__ = [
    "Allocation",
    "Attained",
    "CapacityPoint",
    "InferenceCost",
    "Priced",
    "Proved",
    "Spread",
    "best_budgets",
    "best_in_groups",
    "best_kept",
    "bound_on_kept",
    "confined_load",
    "edge_wise",
    "greedy",
    "heavy_hitters",
    "inference_cost",
    "kept_value",
    "of_proxy",
    "relaxed_in_groups",
    "searched_in_groups",
    "searched_within_budget",
    "spread",
    "within_budget",
    "worth_of_budgets",
]
