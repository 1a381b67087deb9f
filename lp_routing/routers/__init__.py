"""Routers: callables from logits (..., T, E) to an `Assignment`, one family a file."""

from lp_routing.routers.auction import Auction
from lp_routing.routers.base import AnyRouter, Router, StatefulRouter
from lp_routing.routers.baselines import HashRouter, RandomRouter
from lp_routing.routers.batch_prioritised import BatchPrioritised
from lp_routing.routers.bip import BIP, OnlineBIP
from lp_routing.routers.capacity import CAPACITY_FORMULAS, CapacityFactor
from lp_routing.routers.catalogue import CATALOGUE, Shape, router
from lp_routing.routers.competition import competition_scores
from lp_routing.routers.dykstra import CappedExpertChoice
from lp_routing.routers.entmax import Entmax, EntmaxBudget
from lp_routing.routers.expert_choice import ExpertChoice
from lp_routing.routers.group_limited import GroupLimited
from lp_routing.routers.loss_free import LossFree
from lp_routing.routers.max_score import MaxScore, MaxScoreFlow
from lp_routing.routers.noisy import NoisyTopK, Sampled
from lp_routing.routers.price import FixedPrices, PriceRouter
from lp_routing.routers.quantile_balancing import QuantileBalancing
from lp_routing.routers.random_second import RandomSecond
from lp_routing.routers.selection import largest
from lp_routing.routers.sinkhorn import Sinkhorn
from lp_routing.routers.soft_top_k import SoftTopK, layer_budgets, masses
from lp_routing.routers.sparse import ReLURouter, RunningThreshold, Threshold, TopP
from lp_routing.routers.token_choice import TopK
from lp_routing.routers.unified import Unified
from lp_routing.routers.zero_computation import ZeroComputation

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
    "competition_scores",
    "largest",
    "layer_budgets",
    "masses",
    "router",
]
