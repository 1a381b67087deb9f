"""A problem written out as a linear program, in the LP format that solvers read.

    Maximize
     value: 9 x_0_0 + 5 x_0_1 + 8 x_1_0 + 6 x_1_1
    Subject To
     token_0: x_0_0 + x_0_1 <= 1
     ...

The format is CPLEX's, as HiGHS, Gurobi and SCIP read it. A constraint with two different limits
takes two lines, as not every reader accepts both in one. Numbers have enough digits to be read back
unchanged.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lp_routing.errors import InputError
from lp_routing.problem.constraints import Family

if TYPE_CHECKING:
    from lp_routing.problem.problem import RoutingProblem

TERMS = 8
"""Terms a line: some readers take no more than 255 characters."""


def lp_text(
    problem: "RoutingProblem", names: Iterable[str], *, integral: bool = False
) -> Iterator[str]:
    """The lines of a problem in LP format, each with its end.

    Args:
        problem: what to write.
        names: of its constraints; the format needs `plain_names`.
        integral: whether amounts are whole numbers.
    """
    scores = problem.scores.double().cpu().numpy()
    token, expert = np.nonzero(scores > -np.inf)
    columns = [f"x_{i}_{j}" for i, j in zip(token.tolist(), expert.tolist(), strict=True)]
    yield "Maximize\n"
    if columns:
        yield from _row("value", scores[token, expert], columns, "")
    else:  # a line needs at least one column
        yield from _row("value", np.zeros(1), ["x_none"], "")
    yield "Subject To\n"
    named = iter(names)
    for family in problem.families:
        matrix = family.matrix(token, expert, problem.T, problem.E).tocsr()
        for row, (start, stop) in enumerate(zip(matrix.indptr, matrix.indptr[1:], strict=False)):
            touched = [columns[at] for at in matrix.indices[start:stop].tolist()]
            weights = matrix.data[start:stop]
            if not touched:
                touched, weights = columns[:1] or ["x_none"], np.zeros(1)
            for name, limit in _limits(family, row, next(named)):
                yield from _row(name, weights, touched, limit)
    yield "Bounds\n"
    copies = problem.copies().cpu().numpy()[token].tolist()
    for column, most in zip(columns, copies, strict=True):
        yield f" 0 <= {column} <= {_number(most)}\n"
    if integral:
        yield "General\n"
        yield from (f" {column}\n" for column in columns)
    yield "End\n"


def plain_names(names: Sequence[str]) -> list[str]:
    """Names with every character but letters, digits, "_" and "." replaced by "_".

    Raises:
        InputError: two names that become one.
    """
    plain = [re.sub(r"[^A-Za-z0-9_.]", "_", name) for name in names]
    if len(set(plain)) < len(plain):
        raise InputError(
            "two groups or rows have the same name but for blanks or other signs; rename one."
        )
    return plain


def _limits(family: Family, row: int, name: str) -> list[tuple[str, str]]:
    """Name and relation of each line of a constraint."""
    low, high = float(family.lower[row]), float(family.upper[row])
    if low == high:
        return [(name, f"= {_number(low)}")]
    lines = [(name, f">= {_number(low)}")] if bool(family.demands[row]) else []
    if np.isfinite(high):
        lines.append((name, f"<= {_number(high)}"))
    if len(lines) == 2:
        lines = [
            (f"{name}_{word}", line) for word, (_, line) in zip(("low", "high"), lines, strict=True)
        ]
    return lines


def _row(name: str, weights: Any, columns: list[str], relation: str) -> Iterator[str]:
    """` name: 2 x_0_0 + x_0_1 <= 4`, over several lines where it is long."""
    terms = [_term(w, column) for w, column in zip(weights.tolist(), columns, strict=True)]
    text = " ".join(terms[:TERMS]).removeprefix("+ ")
    yield f" {name}: {text}"
    for start in range(TERMS, len(terms), TERMS):
        yield "\n  " + " ".join(terms[start : start + TERMS])
    yield f" {relation}\n" if relation else "\n"


def _term(weight: float, column: str) -> str:
    size = "" if abs(weight) == 1 else f"{_number(abs(weight))} "
    return f"{'-' if weight < 0 else '+'} {size}{column}"


def _number(value: float) -> str:
    """`4`, `0.1`: the shortest that reads back as it is."""
    return repr(float(value)).removesuffix(".0")
