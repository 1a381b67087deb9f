"""What a budget buys: the optimal value of every budget, routers beside it, shadow prices."""

from lp_routing.frontier.capacity import over_capacity
from lp_routing.frontier.certified import Certified, Interval
from lp_routing.frontier.experts_kept import Samples, over_experts_kept
from lp_routing.frontier.experts_per_token import over_k
from lp_routing.frontier.layer_budgets import Allocation, best_budgets, worth_of_budgets
from lp_routing.frontier.layers import over_layers
from lp_routing.frontier.questions import (
    Cost,
    SlotWorth,
    cost_of_balance,
    cost_of_serving,
    next_slot,
    slot_worth,
    smallest_budget,
)
from lp_routing.frontier.refine import Point
from lp_routing.frontier.router_curve import RouterCurve, router_curve
from lp_routing.frontier.total import over_total

__all__ = [
    "Allocation",
    "Certified",
    "Cost",
    "Interval",
    "Point",
    "RouterCurve",
    "Samples",
    "SlotWorth",
    "best_budgets",
    "cost_of_balance",
    "cost_of_serving",
    "next_slot",
    "over_capacity",
    "over_experts_kept",
    "over_k",
    "over_layers",
    "over_total",
    "router_curve",
    "slot_worth",
    "smallest_budget",
    "worth_of_budgets",
]
