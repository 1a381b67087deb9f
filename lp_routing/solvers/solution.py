"""What solving a problem gives: a status that explains itself, and the proof of it."""

from dataclasses import dataclass
from enum import Enum

from lp_routing.certificate.certificate import Certificate, Number
from lp_routing.certificate.prices import Prices
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.infeasibility import Infeasibility


class Status(Enum):
    """How a solve ended; the value says what it means and what to do."""

    OPTIMAL = "The assignment is feasible and no other is worth more; the certificate proves it."
    FEASIBLE = (
        "The assignment is feasible; its certificate leaves a gap, so it may not be the best one. "
        "Use another solver, or tighter options."
    )
    TIME_LIMIT = (
        "The time limit came first: the best assignment and the best bound so far are given. "
        "Allow more time_limit_s."
    )
    INFEASIBLE = "No assignment satisfies all bounds; `explanation` names demands that clash."
    FAILED = (
        "The solver gave no assignment that satisfies the bounds; `explanation` has its own words. "
        "Use another solver, or rescale the scores."
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """The answer of `solve`.

    Attributes:
        problem: what was asked.
        solver: who answered.
        status: how it ended; only `solve` says OPTIMAL, after certifying.
        assignment: who goes where; None where no assignment is known.
        prices: shadow prices; None where the solver gives none.
        certificate: what the assignment is worth and how good it is; None without an assignment.
        bound: no assignment is worth more; -inf where none exists.
        infeasibility: the proof that none exists; None unless INFEASIBLE. None too where only
            whole-number assignments do not exist: HiGHS's search is the proof then.
        explanation: in words: why it is infeasible or failed; empty where all is well.
        seconds: wall time of solver and certificate together.
    """

    problem: RoutingProblem
    solver: str
    status: Status
    assignment: Assignment | None
    prices: Prices | None
    certificate: Certificate | None
    bound: Number
    infeasibility: Infeasibility | None
    explanation: str
    seconds: float

    @property
    def value(self) -> Number:
        """The assignment's total score; -inf (the best of nothing) where there is no assignment."""
        return float("-inf") if self.certificate is None else self.certificate.value

    def __repr__(self) -> str:
        gap = "" if self.certificate is None else f", gap={float(self.certificate.gap):.3g}"
        return f"Solution({self.status.name}, value={float(self.value):.6g}{gap}, by {self.solver})"
