"""The dual restricted to a box of prices, solved exactly by HiGHS as an LP over contested pairs.

Within a box, pairs that are not contested only add to the load. The primal of the restricted dual
may exceed a constraint at the highest price of the box and fall short of it at the lowest:

    maximise   sum (s - p) x + sum_c p_c w_c - (high_c - p_c) over_c - (p_c - low_c) under_c
    subject to each row's bounds,   (contested pairs counted by c) - w_c - over_c + under_c = 0,
               l_c <= w_c <= u_c  less what is decided,   0 <= x <= m

for some prices p inside the box. It is stated around p so that all its numbers are as small as what
is contested. Its row duals are price less p. Simplex starts from what every row wants at p, so that
only D prices are left to move. Where nothing is over or under at the end, the prices are optimal
for the whole problem; otherwise the box has to be wider at those constraints.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lp_routing.pricing.priced import Priced
from lp_routing.pricing.rows import NEVER, Contest
from lp_routing.solvers.base import SolverStatus
from lp_routing.solvers.highs import BASIC, LOWER, UPPER, Basis, HiGHS
from lp_routing.solvers.linear_program import SparseProgram

Array = np.ndarray[Any, Any]

DEAREST = 1e7
"""Missing a bound costs at most so many times what is at stake; HiGHS needs numbers of one size."""


class Restricted(NamedTuple):
    """The optimum within the box.

    Attributes:
        outcome: how HiGHS ended.
        prices: float64 (D,).
        amounts: float64 (n, R), what contested rows take of each listed pair.
        missed: float64 (D,), units over (above 0) or under (below 0) a constraint.
        said: HiGHS's own words.
    """

    outcome: SolverStatus
    prices: Array
    amounts: Array
    missed: Array
    said: str


def solve_in_box(
    contest: Contest,
    priced: Priced,
    lower: Array,
    upper: Array,
    box: tuple[Array, Array],
    centre: Array,
    highs: HiGHS,
) -> Restricted:
    """The best prices in a box, and amounts that go with them.

    Args:
        contest: rows with contested pairs.
        priced: the D constraints.
        lower, upper: (D,), what the contested pairs may take of each.
        box: lowest and highest prices, (D,) each.
        centre: (D,), prices inside the box.
        highs: the engine.
    """
    value, expert = contest.value.cpu().numpy(), contest.expert.cpu().numpy()
    row, rank = np.nonzero(value > NEVER)
    incidence = sp.csr_array(priced.incidence.cpu().numpy())
    counted = incidence[expert[row, rank]]
    if contest.place is not None:
        counted = counted + incidence[priced.experts + contest.place.cpu().numpy()[row]]
    must, may, units = (side.cpu().numpy() for side in (contest.must, contest.may, contest.units))
    earned = value[row, rank] - counted @ centre
    earned -= _row_shift(earned, row, must == may)[row]
    basis = _best_responses(earned, row, must / units, may / units)
    base, room = _kept(lower, upper, box)
    priced_freely = np.abs(centre[room > 0])  # what a free constraint earns is at stake, too
    scale = max(float(np.abs(earned).max(initial=0)), float(priced_freely.max(initial=0))) or 1.0
    program = SparseProgram(
        score=_worth(earned, centre, box, scale),
        matrix=_matrix(row, counted, len(must)),
        row_lower=np.concatenate([must, base]),
        row_upper=np.concatenate([may, base]),
        column_upper=np.concatenate([units[row], room, np.full(2 * len(centre), np.inf)]),
    )
    free = np.where((centre > 0) & (room > 0), UPPER, LOWER)
    start = Basis(
        columns=np.concatenate([basis.columns, free, np.full(2 * len(centre), LOWER)]),
        rows=np.concatenate([basis.rows, np.full(len(centre), BASIC)]),
    )
    run = highs.run(program, start=start)
    if run.outcome is SolverStatus.FAILED:  # simplex may stall from a start that is all but optimal
        run = highs.run(program)
    amounts = np.zeros_like(value)
    if run.columns is None or run.row_duals is None:
        return Restricted(run.outcome, centre, amounts, np.full(len(centre), np.nan), run.said)
    amounts[row, rank] = np.rint(run.columns[: len(row)])
    count = counted.T @ amounts[row, rank]
    missed = np.rint(count - np.clip(count, base, base + room))  # over and under may cancel out
    prices = np.clip(centre + run.row_duals[len(must) :] * scale, *box)
    return Restricted(run.outcome, prices, amounts, missed, run.said)


def _worth(earned: Array, centre: Array, box: tuple[Array, Array], scale: float) -> Array:
    """What pairs, free amounts w, and units over and under are worth, in units of `scale`."""
    missing = np.concatenate([centre - box[1], box[0] - centre]) / scale
    return np.concatenate([earned / scale, centre / scale, np.maximum(missing, -DEAREST)])


def _best_responses(earned: Array, row: Array, must: Array, may: Array) -> Basis:
    """Every row takes what pays best at the prices in the middle: a basis that is dual feasible.

    The dual simplex method then only has to move the prices of constraints that are over or under,
    some D of them, and flips what is taken by the way.

    Args:
        earned: (n,), what each pair earns at those prices; sorted by row.
        row: (n,).
        must, may: (rows,), how many pairs each takes.
    """
    rank = np.empty(len(row), dtype=np.int64)
    rank[np.lexsort((-earned, row))] = np.arange(len(row)) - np.searchsorted(row, row)
    gains = np.bincount(row, earned > 0, len(may))
    takes = np.clip(gains, must, may)
    decided = np.where((gains > must) & (gains < may), -1, np.ceil(takes) - 1)[row]
    columns = np.where(rank < np.ceil(takes)[row], UPPER, LOWER)
    columns[rank == decided] = BASIC
    bound = np.where(gains >= may, UPPER, LOWER)
    rows = np.where(np.bincount(row, rank == decided, len(may)) > 0, bound, BASIC)
    return Basis(columns, rows)


def _matrix(row: Array, counted: Any, rows: int) -> Any:
    """Rows of tokens, then of constraints; columns of pairs, w, over and under."""
    n, D = counted.shape
    takes = sp.csr_array((np.ones(n), (row, np.arange(n))), shape=(rows, n))
    unit = sp.identity(D, format="csr")
    tokens = sp.hstack([takes, sp.csr_array((rows, 3 * D))])
    return sp.vstack([tokens, sp.hstack([counted.T, -unit, -unit, unit])], format="csc")


def _kept(lower: Array, upper: Array, box: tuple[Array, Array]) -> tuple[Array, Array]:
    """What each constraint counts at least, and how much more it may count at no loss.

    Nothing more where the price keeps its sign throughout the box: the bound then binds.
    """
    base = np.where(box[0] > 0, upper, lower)
    free = (box[0] <= 0) & (box[1] >= 0)
    return base, np.where(free, upper - lower, 0.0)


def _row_shift(earned: Array, row: Array, fixed: Array) -> Array:
    """For rows that take a fixed amount, their best earnings: subtracting it changes nothing."""
    best = np.full(len(fixed), NEVER)
    np.maximum.at(best, row, earned)
    return np.where(fixed & (best > NEVER), best, 0.0)
