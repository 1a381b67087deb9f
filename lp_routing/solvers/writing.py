"""Problems in files that any LP solver reads: `.lp`, `.mps`, `.mps.gz`."""

import gzip
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from lp_routing.errors import InputError
from lp_routing.files import whole_file
from lp_routing.problem.lp_text import lp_text, plain_names
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.solvers.highs import highs_model, quiet_highs
from lp_routing.solvers.linear_program import linear_program
from lp_routing.validation import as_bool, as_path

ENDINGS = (".lp", ".mps", ".mps.gz")


def write(problem: RoutingProblem, path: str | Path, *, integral: bool = False) -> None:
    """Write a problem to a file; its ending says how. Names are those of `LinearProgram`.

    `.lp` is readable: it maximises, and its numbers are read back exactly. MPS has no standard
    keyword for "maximise", so `.mps` minimises the negated scores and its optimum is minus the
    value; its numbers have 15 digits. In names every character but letters, digits, "_" and "."
    becomes "_".

    Args:
        problem: what to write.
        path: ends in .lp, .mps or .mps.gz.
        integral: declare amounts as integers in the file.

    Raises:
        InputError: another ending, a path that cannot be written, or groups whose names differ only
            in characters that are replaced.

    Example:
        >>> import pathlib, tempfile
        >>> path = tempfile.mkdtemp() + "/small.lp"
        >>> lpr.solvers.write(lpr.RoutingProblem([[3, 1]], tokens=lpr.exactly(1)), path)
        >>> print(pathlib.Path(path).read_text(), end="")
        Maximize
         value: 3 x_0_0 + x_0_1
        Subject To
         token_0: x_0_0 + x_0_1 = 1
        Bounds
         0 <= x_0_0 <= 1
         0 <= x_0_1 <= 1
        End
    """
    check_problem(problem, "write")
    path, integral = as_path(path, "write: path"), as_bool(integral, "write: integral")
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    if ending is None:
        raise InputError(
            f"write: the file name must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, got "
            f"{str(path)!r}."
        )
    with whole_file(path, "write:") as part:
        if ending == ".lp":
            with part.open("w", encoding="ascii", newline="\n") as file:
                names = plain_names(problem.constraint_names)
                file.writelines(lp_text(problem, names, integral=integral))
        elif ending == ".mps":
            _write_mps(problem, part, integral)
        else:
            with TemporaryDirectory() as folder:
                plain = Path(folder) / "problem.mps"
                _write_mps(problem, plain, integral)
                # no name and no time, so that the same problem gives the same file
                with (
                    plain.open("rb") as source,
                    part.open("wb") as target,
                    gzip.GzipFile("", "wb", fileobj=target, mtime=0) as packed,
                ):
                    shutil.copyfileobj(source, packed)


def _write_mps(problem: RoutingProblem, path: Path, integral: bool) -> None:
    program = linear_program(problem)
    model = highs_model(program, sign=-1, integral=integral)
    model.row_names_ = plain_names(problem.constraint_names)
    model.col_names_ = program.column_names
    highs = quiet_highs()
    highs.passModel(model)
    highs.writeModel(str(path))
    if not path.read_bytes().rstrip().endswith(b"ENDATA"):  # HiGHS reports no failure
        raise OSError(28, "the file is not complete; is the disk full?")
