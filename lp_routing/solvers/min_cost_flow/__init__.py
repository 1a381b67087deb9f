"""The exact engine: a min-cost flow on the experts alone; see `search`."""

from lp_routing.solvers.min_cost_flow.solver import MinCostFlow, cut_prices, feasible_assignment

__all__ = ["MinCostFlow", "cut_prices", "feasible_assignment"]
