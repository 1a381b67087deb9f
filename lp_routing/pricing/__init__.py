"""Exact optima by pricing: few prices, many tokens. The story stands in `solver`."""

from lp_routing.pricing.best_prices import best_prices
from lp_routing.pricing.solver import Pricing

__all__ = ["Pricing", "best_prices"]
