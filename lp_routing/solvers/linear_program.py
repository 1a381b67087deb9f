"""The explicit linear program behind a problem: a sparse matrix with named rows and columns."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from lp_routing.certificate.prices import Prices, from_table
from lp_routing.problem.problem import RoutingProblem, check_problem

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class SparseProgram:
    """maximise score @ x, row_lower <= matrix @ x <= row_upper, 0 <= x <= column_upper.

    Attributes:
        score: (n,) objective.
        matrix: (rows, n) sparse, by column.
        row_lower: (rows,).
        row_upper: (rows,), inf where there is no upper bound.
        column_upper: (n,).
    """

    score: Vector
    matrix: Any
    row_lower: Vector
    row_upper: Vector
    column_upper: Vector


@dataclass(frozen=True, eq=False)
class LinearProgram(SparseProgram):
    """The program of a routing problem; all matrix entries are 1 except the weights of side rows.

    One column for each allowed pair, in row-major order; one row for each constraint, the
    families one after the other.

    Attributes:
        problem: where it comes from.
        token: (n,) token of each column.
        expert: (n,) expert of each column.
    """

    problem: RoutingProblem
    token: np.ndarray[Any, np.dtype[np.int64]]
    expert: np.ndarray[Any, np.dtype[np.int64]]

    @cached_property
    def row_names(self) -> list[str]:
        """`token_5`, `expert_3`, `total`, `token_group_a`, ..."""
        return self.problem.constraint_names

    @cached_property
    def column_names(self) -> list[str]:
        """`x_5_3` for token 5 and expert 3."""
        return [
            f"x_{i}_{j}" for i, j in zip(self.token.tolist(), self.expert.tolist(), strict=True)
        ]

    def amounts(self, columns: Vector) -> Vector:
        """Column values (n,) as a matrix (T, E), zero where the pair is forbidden."""
        x = np.zeros((self.problem.T, self.problem.E))
        x[self.token, self.expert] = columns
        return x

    def prices(self, row_duals: Vector) -> Prices:
        """Row duals (rows,) as prices, without the token rows', which follow from the others."""
        families = self.problem.families
        ends = np.cumsum([len(family) for family in families])
        parts = np.split(row_duals, ends[:-1]) if families else []
        kinds = [family.kind for family in families]
        return from_table(self.problem, dict(zip(kinds, parts, strict=True)))


def linear_program(problem: RoutingProblem) -> LinearProgram:
    """State a problem as an explicit LP, on the CPU, in float64.

    Example:
        >>> program = lpr.linear_program(lpr.RoutingProblem([[3, 1]], tokens=lpr.exactly(1)))
        >>> program.column_names, program.row_names
        (['x_0_0', 'x_0_1'], ['token_0'])
        >>> program.matrix.toarray().tolist()
        [[1.0, 1.0]]
    """
    check_problem(problem, "linear_program")
    scores = problem.scores.double().cpu().numpy()
    token, expert = np.nonzero(scores > -np.inf)
    blocks = [family.matrix(token, expert, problem.T, problem.E) for family in problem.families]
    empty = sp.csc_array((0, len(token)))
    return LinearProgram(
        problem=problem,
        score=scores[token, expert],
        matrix=sp.vstack([empty, *blocks], format="csc"),
        row_lower=_stacked([family.lower for family in problem.families]),
        row_upper=_stacked([family.upper for family in problem.families]),
        column_upper=problem.copies().cpu().numpy()[token],
        token=token,
        expert=expert,
    )


def _stacked(parts: list[torch.Tensor]) -> Vector:
    return np.concatenate([np.zeros(0), *(part.cpu().numpy() for part in parts)])
