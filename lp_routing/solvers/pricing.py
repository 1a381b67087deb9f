"""`Pricing`, the former name of `MinCostFlow`, kept for one release."""

import warnings
from typing import Any

from lp_routing.solvers.min_cost_flow import MinCostFlow


class Pricing(MinCostFlow):
    """Deprecated: use `MinCostFlow`, which this is.

    Args:
        device: ignored; passes run where the scores are.
        dtype: ignored; scores are read as they are.
        options: those of `MinCostFlow`.
    """

    def __init__(self, *, device: Any = None, dtype: Any = None, **options: Any) -> None:  # noqa: ARG002
        warnings.warn(
            "Pricing is now called MinCostFlow and goes with the next release; device and dtype "
            "are ignored.",
            DeprecationWarning,
            stacklevel=2,
        )
        super().__init__(**options)
