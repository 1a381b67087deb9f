"""LapSum (Struski et al. 2025), the soft top-k that SoftMoE uses: claims S1, S2, S7 and S8."""

from lp_routing.claims.claim import Claim
from lp_routing.claims.lapsum_penalty import S7, S8
from lp_routing.claims.lapsum_threshold import S1, S2

CLAIMS: tuple[Claim, ...] = (S1, S2, S7, S8)
