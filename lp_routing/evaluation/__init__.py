"""Routers compared with the certified optimum of one problem; recorded choices in numbers."""

from lp_routing.evaluation.choices import ChoiceFacts, Difference, choice_facts, differences
from lp_routing.evaluation.compare import Optimum, comparisons
from lp_routing.evaluation.evaluate import RouterResult

__all__ = [
    "ChoiceFacts",
    "Difference",
    "Optimum",
    "RouterResult",
    "choice_facts",
    "comparisons",
    "differences",
]
