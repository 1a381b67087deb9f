"""SoftMoE (Zasada et al. 2026): claims S3 to S6."""

from lp_routing.claims.claim import Claim
from lp_routing.claims.soft_moe_budgets import S3, S4
from lp_routing.claims.soft_moe_tokens import S5, S6

CLAIMS: tuple[Claim, ...] = (S3, S4, S5, S6)
