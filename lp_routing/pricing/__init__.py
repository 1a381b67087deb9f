"""Exact optima by pricing: few prices, many tokens. The story stands in `solver`."""

from lp_routing.pricing.solver import Pricing

__all__ = ["Pricing"]
