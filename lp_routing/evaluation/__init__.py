"""Routers compared with the certified optimum of one problem."""

from lp_routing.evaluation.compare import Optimum, comparisons
from lp_routing.evaluation.evaluate import RouterResult

__all__ = ["Optimum", "RouterResult", "comparisons"]
