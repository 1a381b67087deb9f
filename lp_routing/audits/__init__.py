"""What a router can get wrong apart from its value: one audit a file, for any callable.

A new audit needs one line here, `from lp_routing.audits.its_file import name as name`, which
exports it and runs its registration (`lp_routing.audits.probe.register`).
"""

from types import ModuleType as _ModuleType

from lp_routing.audits.feasibility import feasibility as feasibility
from lp_routing.audits.probe import LIMIT_S as LIMIT_S
from lp_routing.audits.probe import AuditedRouter as AuditedRouter
from lp_routing.audits.probe import Example as Example
from lp_routing.audits.probe import Finding as Finding
from lp_routing.audits.probe import chosen as chosen
from lp_routing.audits.suite import audit as audit
from lp_routing.audits.suite import repeatable as repeatable
from lp_routing.router_outputs import NoRouterOutput as NoRouterOutput
from lp_routing.router_outputs import as_choice_mask as as_choice_mask

# The order of the following lines is that in which the questions are asked.
# isort: off
from lp_routing.audits.causality import CausalityMap as CausalityMap
from lp_routing.audits.causality import causality as causality
from lp_routing.audits.causality import causality_map as causality_map
from lp_routing.audits.batch_invariance import batch_invariance as batch_invariance
from lp_routing.audits.prefill import prefill as prefill
from lp_routing.audits.ties import ties as ties
from lp_routing.audits.precision import FORMATS as FORMATS
from lp_routing.audits.precision import PrecisionFlips as PrecisionFlips
from lp_routing.audits.precision import margins as margins
from lp_routing.audits.precision import precision as precision
from lp_routing.audits.precision import precision_flips as precision_flips
from lp_routing.audits.scale import WAYS as WAYS
from lp_routing.audits.scale import scale as scale
# isort: on

__all__ = [
    name
    for name, value in list(globals().items())
    if not name.startswith("_") and not isinstance(value, _ModuleType)
]
