"""HiGHS, the reference solver: dual simplex for LPs, branch and bound for whole numbers.

`HiGHS` solves a routing problem; `search` is for the other problems of `lp_routing.extensions`, and
returns a choice with a proved bound.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from lp_routing.errors import InputError, OptionError
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.base import (
    Solver,
    SolverResult,
    SolverStatus,
    check_time_limit,
    refuse_unknown,
)
from lp_routing.solvers.linear_program import SparseProgram, Vector, linear_program
from lp_routing.validation import as_nonnegative

if TYPE_CHECKING:
    import highspy


LP_DEFAULTS: dict[str, Any] = {
    "presolve": "off",
    # absolute, for scores near 1: with HiGHS's default 1e-7 simplex stops some 1e-8 short of the
    # optimum; 1e-10 is the smallest value it accepts
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
}
MILP_DEFAULTS: dict[str, Any] = {"mip_rel_gap": 0.0, "mip_abs_gap": 0.0}


class Run(NamedTuple):
    """HiGHS's solution of an explicit LP: columns (n,), row duals (rows,), or None."""

    outcome: SolverStatus
    columns: Vector | None
    row_duals: Vector | None
    bound: float | None
    said: str


class Basis(NamedTuple):
    """A starting basis: as many basic entries as there are rows.

    Attributes:
        columns: int (n,), LOWER or UPPER for a column at that bound, BASIC for one in between.
        rows: int (rows,), the same for rows.
    """

    columns: Any
    rows: Any


LOWER, BASIC, UPPER = 0, 1, 2


class HiGHS(Solver):
    """The HiGHS solver through highspy; the model is handed over in one call.

    Presolve is off by default for LPs: on balanced problems (equality rows and columns) it takes a
    hundred times longer than the simplex method (`benchmarks/presolve.py`).

    Args:
        time_limit_s: stop after this many seconds with the best assignment and bound so far.
        options: any HiGHS option by its own name, e.g. solver="ipm", presolve="on", threads=1.

    Raises:
        OptionError: an option that HiGHS does not have, or a value that it does not accept.
    """

    def __init__(self, *, time_limit_s: float | None = None, **options: Any) -> None:
        check_time_limit("HiGHS", time_limit_s)
        self.time_limit_s = time_limit_s
        self.options = options
        refuse_unknown("HiGHS", options, option_names())
        self._new_highs()

    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:
        """Solve the LP with the simplex method to a vertex, or the MILP by branch and bound."""
        program = linear_program(problem)
        run = self.run(program, integral=integral)
        return SolverResult(
            outcome=run.outcome,
            x=None if run.columns is None else program.amounts(run.columns),
            prices=None if run.row_duals is None else program.prices(run.row_duals),
            bound=run.bound,
            said=run.said,
        )

    def run(
        self, program: SparseProgram, *, integral: bool = False, start: Basis | None = None
    ) -> "Run":
        """Solve an explicit LP, or with `integral` the same in whole numbers."""
        highs = self._new_highs(integral)
        highs.passModel(highs_model(program, integral=integral))
        if start is not None:
            highs.setBasis(_basis(start))
        highs.run()
        status = highs.getModelStatus()
        solution = highs.getSolution()
        return Run(
            outcome=_outcomes().get(status, SolverStatus.FAILED),
            columns=np.array(solution.col_value) if solution.value_valid else None,
            row_duals=np.array(solution.row_dual) if solution.dual_valid else None,
            bound=float(highs.getInfo().mip_dual_bound) if integral else None,
            said=f"HiGHS: {highs.modelStatusToString(status)}",
        )

    def _new_highs(self, integral: bool = False) -> "highspy.Highs":
        import highspy

        highs = quiet_highs()
        defaults = MILP_DEFAULTS if integral else LP_DEFAULTS
        limit = {} if self.time_limit_s is None else {"time_limit": float(self.time_limit_s)}
        for name, value in (defaults | self.options | limit).items():
            if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
                kind = highs.getOptionType(name)[1].name.removeprefix("k").lower()
                raise OptionError(
                    f"HiGHS refuses {name}={value!r}; it takes certain values of type {kind}, "
                    f"listed in its own documentation."
                )
        return highs


def highs_model(program: SparseProgram, *, sign: int = 1, integral: bool = False) -> Any:
    """The program as a `HighsLp`: maximise the scores, or with sign=-1 minimise them negated."""
    import highspy

    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.matrix.shape
    model.sense_ = highspy.ObjSense.kMaximize if sign == 1 else highspy.ObjSense.kMinimize
    model.col_cost_ = sign * program.score
    model.col_lower_ = np.zeros(len(program.score))
    model.col_upper_ = program.column_upper
    model.row_lower_ = program.row_lower
    model.row_upper_ = program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = program.matrix.indptr
    model.a_matrix_.index_ = program.matrix.indices
    model.a_matrix_.value_ = program.matrix.data
    if integral:
        model.integrality_ = [highspy.HighsVarType.kInteger] * len(program.score)
    return model


def _basis(start: Basis) -> Any:
    """The same for HiGHS."""
    import highspy

    status = highspy.HighsBasisStatus
    words = (status.kLower, status.kBasic, status.kUpper)
    basis = highspy.HighsBasis()
    basis.col_status = [words[where] for where in start.columns.tolist()]
    basis.row_status = [words[where] for where in start.rows.tolist()]
    basis.valid, basis.alien = True, False
    return basis


def quiet_highs() -> "highspy.Highs":
    """A HiGHS instance that prints nothing.

    From 1.16 on, the first instance of a process prints a banner when its callbacks are enabled,
    which is in its constructor.
    """
    import highspy

    class Quiet(highspy.Highs):  # type: ignore[misc]  # highspy has no types here
        def enableCallbacks(self) -> None:
            self.silent()
            super().enableCallbacks()

    highs = Quiet()
    highs.silent()  # before 1.16, the constructor does not enable callbacks
    return highs


@cache
def option_names() -> tuple[str, ...]:
    """All options of the installed HiGHS."""
    import highspy

    return tuple(name for name in dir(highspy.HighsOptions()) if not name.startswith("_"))


@cache
def _outcomes() -> dict[Any, SolverStatus]:
    """HiGHS's model statuses -> ours; others are FAILED."""
    from highspy import HighsModelStatus as Model

    return {
        Model.kOptimal: SolverStatus.FINISHED,
        Model.kModelEmpty: SolverStatus.FINISHED,
        Model.kInfeasible: SolverStatus.INFEASIBLE,
        # 0 <= x <= m bounds every routing problem, so "infeasible or unbounded" means infeasible
        Model.kUnboundedOrInfeasible: SolverStatus.INFEASIBLE,
        Model.kTimeLimit: SolverStatus.TIME_LIMIT,
        Model.kIterationLimit: SolverStatus.TIME_LIMIT,
        Model.kInterrupt: SolverStatus.TIME_LIMIT,
        Model.kSolutionLimit: SolverStatus.TIME_LIMIT,
    }


BY_LP, BY_SEARCH = "linear program (HiGHS)", "branch and bound (HiGHS)"


@dataclass(frozen=True, eq=False)
class BoundedChoice:
    """A choice, and a bound on the best one.

    Attributes:
        x: the choice, boolean, or amounts where fractions were allowed; the shape depends on the
            function.
        value: of the choice, summed in float64.
        bound: no choice is worth more.
        ended: the method behind value and bound, in words.
    """

    x: Tensor
    value: float
    bound: float
    ended: str

    @property
    def gap(self) -> float:
        """Bound - value; >= 0 up to rounding, and 0 where the choice is proved optimal."""
        return self.bound - self.value

    @property
    def relative_gap(self) -> float:
        """Gap over |bound|; 0 where both are 0."""
        return self.gap / abs(self.bound) if self.bound else self.gap


class NothingFound(InputError):
    """A search ended without any choice."""


class Search(NamedTuple):
    """What HiGHS found: columns (n,), an upper bound on the value, and how it ended."""

    x: Vector
    bound: float
    ended: str


def search(
    worth: Vector,
    matrix: Any,
    lower: Vector,
    upper: Vector,
    *,
    column_upper: Vector,
    whole: Vector,
    time_limit_s: float,
) -> Search:
    """maximise worth @ x, lower <= matrix @ x <= upper, 0 <= x <= column_upper.

    Args:
        worth: (n,) finite.
        matrix: (rows, n), scipy sparse.
        lower, upper: (rows,), infinite where there is no such bound.
        column_upper: (n,).
        whole: (n,), 1 for columns that must be whole numbers.
        time_limit_s: seconds after which the search stops with the best so far.

    Raises:
        NothingFound: nothing satisfies the rows, or nothing was found in time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    time_limit_s = as_nonnegative(time_limit_s, "time_limit_s")
    scale = float(np.abs(worth).max(initial=0.0)) or 1.0  # HiGHS's tolerances are absolute
    found = milp(
        -worth / scale,
        constraints=LinearConstraint(matrix, lower, upper),
        bounds=Bounds(0, column_upper),
        integrality=whole,
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )
    if found.x is None or not (whole.any() or found.status == 0):  # a stopped LP has no bound
        raise NothingFound(
            f"HiGHS found no choice within time_limit_s={time_limit_s:g} ({found.message}). "
            f"Loosen the bounds, or allow more time."
        )
    in_words = BY_SEARCH if whole.any() else BY_LP
    dual = found.mip_dual_bound if whole.any() else found.fun
    return Search(found.x, -dual * scale, in_words if found.status == 0 else f"{in_words}, stopped")
