"""Routers: callables from logits (..., T, E) to an `Assignment`, one family a file."""

from lp_routing.routers.auction import Auction
from lp_routing.routers.base import AnyRouter, Router, StatefulRouter
from lp_routing.routers.capacity import CAPACITY_FORMULAS, CapacityFactor
from lp_routing.routers.catalogue import CATALOGUE, Shape, router
from lp_routing.routers.dual_updates import BIP, LossFree, OnlineBIP, QuantileBalancing
from lp_routing.routers.expert_choice import CappedExpertChoice, ExpertChoice
from lp_routing.routers.max_score import MaxScore, MaxScoreFlow
from lp_routing.routers.price import FixedPrices, PriceRouter
from lp_routing.routers.random import HashRouter, NoisyTopK, RandomRouter, Sampled
from lp_routing.routers.selection import largest
from lp_routing.routers.sinkhorn import Sinkhorn
from lp_routing.routers.soft_top_k import SoftTopK, layer_budgets, masses
from lp_routing.routers.sparse import (
    Entmax,
    EntmaxBudget,
    ReLURouter,
    RunningThreshold,
    Threshold,
    TopP,
)
from lp_routing.routers.token_choice import (
    BatchPrioritised,
    GroupLimited,
    RandomSecond,
    TopK,
    ZeroComputation,
)
from lp_routing.routers.unified import Unified

__all__ = [
    "BIP",
    "CAPACITY_FORMULAS",
    "CATALOGUE",
    "AnyRouter",
    "Auction",
    "BatchPrioritised",
    "CapacityFactor",
    "CappedExpertChoice",
    "Entmax",
    "EntmaxBudget",
    "ExpertChoice",
    "FixedPrices",
    "GroupLimited",
    "HashRouter",
    "LossFree",
    "MaxScore",
    "MaxScoreFlow",
    "NoisyTopK",
    "OnlineBIP",
    "PriceRouter",
    "QuantileBalancing",
    "RandomRouter",
    "RandomSecond",
    "ReLURouter",
    "Router",
    "RunningThreshold",
    "Sampled",
    "Shape",
    "Sinkhorn",
    "SoftTopK",
    "StatefulRouter",
    "Threshold",
    "TopK",
    "TopP",
    "Unified",
    "ZeroComputation",
    "largest",
    "layer_budgets",
    "masses",
    "router",
]
