"""Entropic plans: the plan, its errors, and the checks of its options."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing.routers.balance import positive
from lp_routing.validation import as_int, as_nonnegative


@dataclass(frozen=True, eq=False)
class EntropicPlan:
    """An entropic plan and its errors.

    Attributes:
        log_plan: float64 (..., T, E), the logarithm of the plan; -inf for forbidden pairs.
        potentials: float64 (..., E), by what a column of scores over temperature was raised in all;
            -inf for experts without tokens. Minus the temperature times this are prices of the
            experts.
        row_error: (...), by how much the worst row sum of a real token misses k, as a share of k.
        column_error: (...), the same for the column sum of an expert and the tokens it should have.
        iterations: int64 (...), how often rows and columns were scaled or projected on.
        converged: boolean (...), whether all errors are within the tolerance.
    """

    log_plan: Tensor
    potentials: Tensor
    row_error: Tensor
    column_error: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def plan(self) -> Tensor:
        """The plan itself, float64 (..., T, E)."""
        return self.log_plan.exp()


def check_limits(temperature: float, tolerance: float, iterations: int) -> None:
    """Refuse a temperature that is not above 0, a negative tolerance, and fewer than 1 iteration.

    Raises:
        InputError: one of these, by its name.
    """
    as_int(iterations, "iterations", 1)
    positive(temperature, "temperature")
    as_nonnegative(tolerance, "tolerance")
