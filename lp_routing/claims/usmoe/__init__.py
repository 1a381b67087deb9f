"""The claims about USMoE, unified scoring and routing (Do, Le, Tran 2026): B1 to B10."""

from lp_routing.claims.claim import Claim
from lp_routing.claims.usmoe.integrality import B3
from lp_routing.claims.usmoe.jacobian import B7
from lp_routing.claims.usmoe.score import B4, B6
from lp_routing.claims.usmoe.serving import B5, B8
from lp_routing.claims.usmoe.shift import B10
from lp_routing.claims.usmoe.values import B1, B2, B9

CLAIMS: tuple[Claim, ...] = (B1, B2, B3, B4, B5, B6, B7, B8, B9, B10)
