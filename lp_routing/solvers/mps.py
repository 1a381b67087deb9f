"""The linear program as an MPS file, which any LP solver reads."""

from pathlib import Path

from lp_routing.errors import InputError
from lp_routing.problem.problem import RoutingProblem
from lp_routing.solvers.highs import highs_model, quiet_highs
from lp_routing.solvers.linear_program import linear_program


def write_mps(problem: RoutingProblem, path: str | Path) -> None:
    """Write a problem to a free-format MPS file, rows and columns named as in `LinearProgram`.

    MPS has no agreed word for "maximise", so the file minimises the negated scores: its optimum
    is minus the value. Scores have 15 digits there. Blanks within names become underscores.

    Raises:
        InputError: a name that does not end in .mps, a place that cannot be written, or groups
            whose names differ by blanks only.
    """
    path = Path(path)
    if path.suffix != ".mps":
        raise InputError(f"write_mps: the file name must end in .mps, got {str(path)!r}.")
    program = linear_program(problem)
    model = highs_model(program, sign=-1)
    model.row_names_ = ["_".join(name.split()) for name in program.row_names]
    if len(set(model.row_names_)) < len(model.row_names_):
        raise InputError("write_mps: two groups have the same name but for blanks; rename one.")
    model.col_names_ = program.column_names
    try:
        path.write_text("")  # HiGHS itself fails silently
    except OSError as error:
        raise InputError(f"write_mps: {path} cannot be written ({error.strerror}).") from error
    highs = quiet_highs()
    highs.passModel(model)
    highs.writeModel(str(path))
