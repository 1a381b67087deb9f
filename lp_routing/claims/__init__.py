"""What papers claim about routing, one paper a file: a statement, a check, a verdict.

A new paper needs one line here, the name of its file in `PAPERS`.
"""

import re
from importlib import import_module

from lp_routing.claims.claim import (
    Claim,
    ClaimInput,
    Counterexample,
    Evidence,
    SearchResult,
    Verdict,
    smallest,
)

PAPERS = (
    "usmoe",
    "lapsum",
    "soft_moe",
    "bip",
    "loss_free",
    "quantile_balancing",
    "base_layers",
    "sinkhorn",
    "max_score",
    "expert_choice",
    "deepseek",
    "lplb",
    "compete_smoe",
    "moe_plus_plus",
    "expert_pruning",
    "s2moe",
    "vqmoe",
    "skywork",
    "soft_slots",
    "infinity_moe",
    "specialisation",
    "theory",
    "alf_lb",
)
"""Files of this folder; each lists its claims in `CLAIMS`."""


def _in_order(claims: list[Claim]) -> tuple[Claim, ...]:
    """By the letter of their ids, in order of first occurrence, then by number."""
    letters = list(dict.fromkeys(claim.id[0] for claim in claims))

    def place(claim: Claim) -> tuple[int, int, str]:
        number = re.sub(r"\D", "", claim.id)
        return letters.index(claim.id[0]), int(number), claim.id

    return tuple(sorted(claims, key=place))


CLAIMS = _in_order(
    [claim for paper in PAPERS for claim in import_module(f"lp_routing.claims.{paper}").CLAIMS]
)
"""All of them, by id."""

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
