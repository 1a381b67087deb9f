"""Routers: callables from logits (..., T, E) to an `Assignment`, one family a file."""

from lp_routing.routers.base import AnyRouter, Router, StatefulRouter
from lp_routing.routers.capacity import CAPACITY_FORMULAS, CapacityFactor
from lp_routing.routers.catalogue import CATALOGUE, Shape, router
from lp_routing.routers.expert_choice import ExpertChoice
from lp_routing.routers.selection import largest
from lp_routing.routers.token_choice import TopK
from lp_routing.routers.unified import Unified

__all__ = [
    "CAPACITY_FORMULAS",
    "CATALOGUE",
    "AnyRouter",
    "CapacityFactor",
    "ExpertChoice",
    "Router",
    "Shape",
    "StatefulRouter",
    "TopK",
    "Unified",
    "largest",
    "router",
]
