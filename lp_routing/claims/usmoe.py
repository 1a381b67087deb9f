"""The claims about USMoE, unified scoring and routing (Do, Le, Tran 2026): B1 to B9."""

from lp_routing.claims.claim import Claim
from lp_routing.claims.usmoe_causality import B6
from lp_routing.claims.usmoe_dropped import B5
from lp_routing.claims.usmoe_inference_cost import B8
from lp_routing.claims.usmoe_integrality import B3
from lp_routing.claims.usmoe_jacobian import B7
from lp_routing.claims.usmoe_score import B4
from lp_routing.claims.usmoe_special_cases import B9
from lp_routing.claims.usmoe_values import B1, B2

CLAIMS: tuple[Claim, ...] = (B1, B2, B3, B4, B5, B6, B7, B8, B9)
