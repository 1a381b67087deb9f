"""Problems beyond the linear program of routing, one a file, each with a proved bound."""

from lp_routing.extensions.expert_pruning import (
    best_kept,
    bound_on_kept,
    greedy,
    heavy_hitters,
    kept_value,
)
from lp_routing.extensions.group_limited import (
    best_in_groups,
    of_proxy,
    relaxed_in_groups,
    searched_in_groups,
)
from lp_routing.extensions.knapsack import BudgetedChoice, searched_within_budget, within_budget
from lp_routing.extensions.placement import (
    Placement,
    greedy_placement,
    placement,
    running_mean,
    searched_placement,
)
from lp_routing.extensions.replicas import Spread, confined_load, edge_wise, spread
from lp_routing.solvers.highs import BoundedChoice

__all__ = [
    "BoundedChoice",
    "BudgetedChoice",
    "Placement",
    "Spread",
    "best_in_groups",
    "best_kept",
    "bound_on_kept",
    "confined_load",
    "edge_wise",
    "greedy",
    "greedy_placement",
    "heavy_hitters",
    "kept_value",
    "of_proxy",
    "placement",
    "relaxed_in_groups",
    "running_mean",
    "searched_in_groups",
    "searched_placement",
    "searched_within_budget",
    "spread",
    "within_budget",
]
