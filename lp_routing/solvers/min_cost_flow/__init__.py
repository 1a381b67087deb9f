"""The exact engine: a min-cost flow on the experts alone; `search` tells the story."""

from lp_routing.solvers.min_cost_flow.solver import MinCostFlow, cut_prices, feasible_assignment

__all__ = ["MinCostFlow", "cut_prices", "feasible_assignment"]
