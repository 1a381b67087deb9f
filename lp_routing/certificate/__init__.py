"""The proof: prices, what tokens would take at these prices, broken bounds, the certificate."""

from lp_routing.certificate.certificate import Certificate, certify, dual_bound
from lp_routing.certificate.prices import Prices
from lp_routing.certificate.ties import token_prices
from lp_routing.certificate.violations import Violation

__all__ = ["Certificate", "Prices", "Violation", "certify", "dual_bound", "token_prices"]
