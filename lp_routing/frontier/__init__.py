"""The optimal value of every budget, its shadow prices, and routers at the same budgets."""

from lp_routing.frontier.budgets import (
    SampledCurve,
    over_capacity,
    over_experts_kept,
    over_k,
    over_total,
)
from lp_routing.frontier.curves import CertifiedCurve, Interval
from lp_routing.frontier.layers import Allocation, best_budgets, over_layers, worth_of_budgets
from lp_routing.frontier.questions import (
    Cost,
    RouterCurve,
    SlotWorth,
    cost_of_balance,
    cost_of_serving,
    next_slot,
    router_curve,
    slot_worth,
    smallest_budget,
)
from lp_routing.frontier.refine import Point

__all__ = [
    "Allocation",
    "CertifiedCurve",
    "Cost",
    "Interval",
    "Point",
    "RouterCurve",
    "SampledCurve",
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
