"""The contract of a solver: it returns amounts and prices; `lp_routing.solve` checks them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.certificate.prices import Prices
from lp_routing.display import as_html, as_text, frame_of
from lp_routing.errors import OptionError, did_you_mean
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ALONE, ProcessGroup

if TYPE_CHECKING:
    import pandas


class SolverStatus(Enum):
    """How a solver says it ended."""

    FINISHED = auto()
    INFEASIBLE = auto()
    TIME_LIMIT = auto()
    FAILED = auto()


@dataclass(frozen=True, eq=False)
class SolverResult:
    """What a solver returns, not yet checked.

    Attributes:
        outcome: how it ended.
        x: amounts (T, E): float64, or a tensor of whole numbers; or None.
        prices: shadow prices, or None.
        bound: the solver's own upper bound (branch and bound), or None.
        said: the solver's own message.
    """

    outcome: SolverStatus
    x: np.ndarray[Any, np.dtype[np.float64]] | Tensor | None
    prices: Prices | None
    bound: float | None = None
    said: str = ""


class Solver(ABC):
    """A method that finds an optimum of a routing problem.

    Attributes:
        tolerance: relative gap and violation up to which its answers count as optimal.
        own_scale: whether it scales the scores itself; else they are scaled to about 1 before.
        processes: those that hold the tokens.
    """

    tolerance: float = TOLERANCE
    own_scale: bool = False
    processes: ProcessGroup = ALONE

    @property
    def name(self) -> str:
        """The solver's name in tables."""
        return type(self).__name__

    def to_frame(self) -> "pandas.DataFrame":
        """One row: the solver's options that differ from the defaults."""
        return frame_of(self)

    def _shown(self) -> dict[str, object]:
        given = dict(vars(self))
        given |= given.pop("options", {})
        if not given.pop("processes", ALONE).alone:
            given["group"] = f"{self.processes.size} processes"
        return {name: value for name, value in given.items() if value not in (None, 0)}

    __repr__ = as_text
    _repr_html_ = as_html

    @abstractmethod
    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:
        """Solve the LP, or with `integral` the problem in whole numbers."""

    def answer_near_one(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:
        """The same with scores scaled to about 1 by a power of two, as tolerances are absolute."""
        power = math.frexp(problem.typical_score or problem.score_scale)[1]
        if power:
            scores = torch.ldexp(problem.scores.double(), torch.tensor(-power))
            problem = problem.with_scores(scores)
        answer = self.answer(problem, integral=integral)
        return replace(
            answer,
            prices=None if answer.prices is None else answer.prices.times(2.0**power),
            bound=None if answer.bound is None else answer.bound * 2.0**power,
        )


def refuse_unknown(solver: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise `OptionError` for the first option that the solver does not have."""
    known = sorted(known)
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known, "it has: ")
            raise OptionError(f"{solver} has no option {option!r}; {hint}")


def check_time_limit(solver: str, time_limit_s: float | None) -> None:
    """Raise `OptionError` unless the limit is None or a positive number of seconds."""
    if time_limit_s is None:
        return
    number = isinstance(time_limit_s, int | float) and not isinstance(time_limit_s, bool)
    if not number or not time_limit_s > 0:
        raise OptionError(
            f"{solver}(time_limit_s={time_limit_s!r}): expected a positive number of seconds."
        )
