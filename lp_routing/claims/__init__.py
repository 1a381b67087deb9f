"""What papers claim about routing, one paper a file: a statement, a check, a verdict."""

from lp_routing.claims import (
    base_layers,
    bip,
    compete_smoe,
    deepseek,
    expert_choice,
    expert_pruning,
    lapsum,
    loss_free,
    lplb,
    max_score,
    moe_plus_plus,
    quantile_balancing,
    sinkhorn,
    soft_moe,
    usmoe,
)
from lp_routing.claims.claim import (
    Claim,
    ClaimInput,
    Counterexample,
    Evidence,
    SearchResult,
    Verdict,
    smallest,
)

CLAIMS: tuple[Claim, ...] = (
    *usmoe.CLAIMS,
    *sorted((*lapsum.CLAIMS, *soft_moe.CLAIMS), key=lambda claim: claim.id),
    *bip.CLAIMS,
    *loss_free.CLAIMS,
    *quantile_balancing.CLAIMS,
    *base_layers.CLAIMS,
    *sinkhorn.CLAIMS,
    *max_score.CLAIMS,
    *expert_choice.CLAIMS,
    *deepseek.CLAIMS,
    *lplb.CLAIMS,
    *compete_smoe.CLAIMS,
    *moe_plus_plus.CLAIMS,
    *expert_pruning.CLAIMS,
)
"""All of them, paper by paper."""

__all__ = [
    "CLAIMS",
    "Claim",
    "ClaimInput",
    "Counterexample",
    "Evidence",
    "SearchResult",
    "Verdict",
    "smallest",
]
