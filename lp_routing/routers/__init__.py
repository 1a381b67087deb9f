"""Routers: callables from logits (..., T, E) to an `Assignment`, one family a file.

A new router needs one line here, `from lp_routing.routers.its_file import Name as Name`, which
exports it and runs its registration (`lp_routing.routers.catalogue.register`).
"""

from types import ModuleType as _ModuleType

from lp_routing.problem.capacity_factor import CAPACITY_FORMULAS as CAPACITY_FORMULAS
from lp_routing.problem.capacity_factor import CapacityFactor as CapacityFactor
from lp_routing.router_outputs import assignment_from as assignment_from
from lp_routing.routers.base import AnyRouter as AnyRouter
from lp_routing.routers.base import Router as Router
from lp_routing.routers.base import StatefulRouter as StatefulRouter
from lp_routing.routers.catalogue import CATALOGUE as CATALOGUE
from lp_routing.routers.catalogue import Shape as Shape
from lp_routing.routers.catalogue import router as router
from lp_routing.routers.selection import largest as largest

# The order of the following lines is that of the catalogue and of the documentation.
# isort: off
from lp_routing.routers.token_choice import TopK as TopK
from lp_routing.routers.token_choice import BatchPrioritised as BatchPrioritised
from lp_routing.routers.token_choice import RandomSecond as RandomSecond
from lp_routing.routers.token_choice import GroupLimited as GroupLimited
from lp_routing.routers.token_choice import ZeroComputation as ZeroComputation
from lp_routing.routers.expert_choice import ExpertChoice as ExpertChoice
from lp_routing.routers.expert_choice import CappedExpertChoice as CappedExpertChoice
from lp_routing.routers.unified import Unified as Unified
from lp_routing.routers.auction import Auction as Auction
from lp_routing.routers.sinkhorn import Sinkhorn as Sinkhorn
from lp_routing.routers.max_score import MaxScore as MaxScore
from lp_routing.routers.max_score import MaxScoreFlow as MaxScoreFlow
from lp_routing.routers.optimal import Optimal as Optimal
from lp_routing.routers.price import PriceRouter as PriceRouter
from lp_routing.routers.price import FixedPrices as FixedPrices
from lp_routing.routers.dual_updates import BIP as BIP
from lp_routing.routers.dual_updates import OnlineBIP as OnlineBIP
from lp_routing.routers.dual_updates import LossFree as LossFree
from lp_routing.routers.dual_updates import QuantileBalancing as QuantileBalancing
from lp_routing.routers.soft_top_k import SoftTopK as SoftTopK
from lp_routing.routers.soft_top_k import layer_budgets as layer_budgets
from lp_routing.routers.soft_top_k import masses as masses
from lp_routing.routers.sparse import TopP as TopP
from lp_routing.routers.sparse import Threshold as Threshold
from lp_routing.routers.sparse import RunningThreshold as RunningThreshold
from lp_routing.routers.sparse import ReLURouter as ReLURouter
from lp_routing.routers.sparse import Entmax as Entmax
from lp_routing.routers.sparse import EntmaxBudget as EntmaxBudget
from lp_routing.routers.random import NoisyTopK as NoisyTopK
from lp_routing.routers.random import Sampled as Sampled
from lp_routing.routers.random import HashRouter as HashRouter
from lp_routing.routers.random import RandomRouter as RandomRouter
# isort: on

__all__ = [
    name
    for name, value in list(globals().items())
    if not name.startswith("_") and not isinstance(value, _ModuleType)
]
