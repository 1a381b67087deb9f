"""What a router can get wrong beside its value: one question a file, for any callable."""

from lp_routing.audits.batch_invariance import batch_invariance
from lp_routing.audits.causality import CausalityMap, causality, causality_map
from lp_routing.audits.feasibility import feasibility
from lp_routing.audits.precision import FORMATS, PrecisionFlips, margins, precision, precision_flips
from lp_routing.audits.prefill import prefill
from lp_routing.audits.probe import LIMIT_S, AuditedRouter, Example, Finding, chosen
from lp_routing.audits.scale import WAYS, scale
from lp_routing.audits.suite import audit, repeatable
from lp_routing.audits.ties import ties
from lp_routing.router_outputs import NoRouterOutput, as_choice_mask

__all__ = [
    "FORMATS",
    "LIMIT_S",
    "WAYS",
    "AuditedRouter",
    "CausalityMap",
    "Example",
    "Finding",
    "NoRouterOutput",
    "PrecisionFlips",
    "as_choice_mask",
    "audit",
    "batch_invariance",
    "causality",
    "causality_map",
    "chosen",
    "feasibility",
    "margins",
    "precision",
    "precision_flips",
    "prefill",
    "repeatable",
    "scale",
    "ties",
]
