"""Which pairs are the same at every price in a box: taken, left, or still contested.

Optimistic earnings of a pair are its score less its lowest price, pessimistic ones less its
highest. A pair is surely among a row's k best if, at its worst, it beats the (k+1)-th best of all
at their best; it is surely not if, at its best, it loses to the k-th best of all at their worst.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.pricing.clearing import Array
from lp_routing.pricing.priced import Priced
from lp_routing.pricing.rows import NEVER, Contest, Rows, joined, nobody

CPU = torch.device("cpu")
SHORT = 8
"""Lists of contested pairs are tried with so many more than four times what a row takes."""


class Box(NamedTuple):
    """What experts (E,) and places (places,) charge at the lowest and the highest prices."""

    low: Tensor
    low_place: Tensor
    high: Tensor
    high_place: Tensor

    @property
    def guard(self) -> float:
        """Rounding of a difference of two numbers, with room, relative to them."""
        return 8 * torch.finfo(self.low.dtype).eps

    @property
    def largest(self) -> float:
        """The largest price of a pair, plus or minus."""
        return float(torch.cat([side.abs() for side in self] + [self.low.new_zeros(1)]).max())


class Sorted(NamedTuple):
    """Pairs (n, R) that are surely taken or surely left; the others are contested."""

    taken: Tensor
    left: Tensor


class Pairs(NamedTuple):
    """Amounts of single pairs, (n,) each: row number in the problem, expert, units taken."""

    token: Tensor
    expert: Tensor
    units: Tensor

    def write(self, x: Tensor, first: int = 0) -> None:
        """Enter them into amounts x (T, E) that begin with row number `first`."""
        mine = (self.token >= first) & (self.token < first + len(x))
        token, expert, units = (column[mine].to(x.device) for column in self)
        x[token - first, expert] = units.to(x.dtype)


def all_of(parts: list[Pairs]) -> Pairs:
    """Several lists of pairs as one."""
    none = torch.zeros(0, dtype=torch.int64)
    start = Pairs(none, none, none.double())
    return Pairs(*(torch.cat(columns) for columns in zip(start, *parts, strict=True)))


class Screened(NamedTuple):
    """What a pass over rows finds out.

    Attributes:
        contest: the rows with contested pairs.
        load: float64 (E + places,) on the CPU, units surely taken by expert and by place.
        closed: what is surely taken of a contest; nothing for `Rows`, which write it into x.
    """

    contest: Contest
    load: Tensor
    closed: Pairs


class Books:
    """What is found to be taken: counted, and written down pair by pair or into a table.

    Args:
        sides: number of experts and places.
        E: number of experts.
        x: amounts (T, E) to write into, or None to keep a list of pairs.
        first: number of the row that x begins with.
    """

    def __init__(self, sides: int, E: int, x: Tensor | None, first: int) -> None:
        self.load = torch.zeros(sides, dtype=torch.float64)
        self.E, self.x, self.first = E, x, first
        self._pairs: list[Pairs] = []

    def close(self, contest: Contest, taken: Tensor) -> None:
        """Enter the pairs (n, R) that are surely taken."""
        row, rank = taken.nonzero().T
        expert, units = contest.expert[row, rank], contest.units[row]
        self.load[: self.E] += torch.bincount(expert, units, self.E).to(CPU)
        if contest.place is not None:
            places = len(self.load) - self.E
            self.load[self.E :] += torch.bincount(contest.place[row], units, places).to(CPU)
        pairs = Pairs(contest.index[row], expert, units)
        if self.x is None:
            self._pairs.append(Pairs(*(column.to(CPU) for column in pairs)))
        else:
            pairs.write(self.x, self.first)

    @property
    def pairs(self) -> Pairs:
        """The list of pairs, where there is no table."""
        return all_of(self._pairs)


def screen(
    rows: Rows | Contest,
    priced: Priced,
    low: Array,
    high: Array,
    x: Tensor | None = None,
    *,
    first: int = 0,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float64,
) -> Screened:
    """Sort the pairs of rows at all prices between low and high (D,).

    Takes one pass over the scores, chunk by chunk; memory beyond a chunk goes to contested pairs.

    Args:
        rows: what to sort.
        priced: the D constraints.
        low, high: the box of prices.
        x: amounts (T, E) to write what is surely taken into, or None to get a list of it.
        first: number of the row that x begins with.
        device: where chunks of `Rows` are worked on.
        dtype: in what precision; where rounding leaves doubt, a pair stays contested.
    """
    books = Books(len(priced.incidence), priced.experts, x, first)
    if isinstance(rows, Contest):
        contest = _sift(rows, _box(priced, low, high, CPU), books)
        return Screened(contest, books.load, books.pairs)
    box, exact = _box(priced, low, high, device, dtype), _box(priced, low, high, device)
    contests = [nobody(rows.place is not None)]
    for piece in rows.chunks():
        unsure = _close_easy(piece.to(device), box, books)
        contests += _list_open(unsure, exact, books)
    return Screened(joined(contests), books.load, books.pairs)


def _box(
    priced: Priced,
    low: Array,
    high: Array,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
) -> Box:
    sides = [
        side
        for prices in (low, high)
        for side in priced.pays(torch.as_tensor(prices, device=priced.incidence.device))
    ]
    return Box(*(side.to(device, dtype) for side in sides))


def _close_easy(rows: Rows, box: Box, books: Books) -> Rows:
    """Close the rows whose few best pairs are beyond doubt; the other rows."""
    E = rows.scores.shape[1]
    most = min(E, int((rows.may / rows.units).ceil().max()))
    if most + 1 >= E:
        return rows
    best = torch.topk(rows.scores.to(box.low.dtype) - box.low, most + 1, dim=1)
    listed = _listed(rows, best.values, best.indices)
    found = _sorted(listed, best.values, box)
    sure = (found.taken | found.left).all(1) & found.left[:, -1]
    books.close(listed, found.taken & sure[:, None])
    return rows.take((~sure).nonzero().flatten())


def _list_open(rows: Rows, box: Box, books: Books) -> list[Contest]:
    """The contested pairs of rows that are in doubt, from short lists of their best if these do."""
    E = rows.scores.shape[1]
    found = []
    for length in (SHORT, E):
        if not len(rows):
            break
        values = rows.scores.double()
        length = min(E, length + 4 * int((rows.may / rows.units).clamp(max=E).max()))
        optimistic, experts = torch.topk(values - box.low, length, dim=1)
        listed = _listed(rows, values.gather(1, experts), experts)
        whole = torch.ones(len(rows), dtype=torch.bool, device=values.device)
        if length < E:
            whole = _sorted(listed, optimistic, box).left[:, -1]
        found.append(_sift(listed.take(whole.nonzero().flatten()), box, books))
        rows = rows.take((~whole).nonzero().flatten())
    return found


def _sift(contest: Contest, box: Box, books: Books) -> Contest:
    """Close the pairs that are beyond doubt; the rest, with what their rows still take."""
    value = contest.value
    optimistic = value - box.low[contest.expert]
    found = _sorted(contest, optimistic, box)
    books.close(contest, found.taken)
    is_open = ~(found.taken | found.left)
    count = is_open.sum(1)
    taken = contest.units * found.taken.sum(1)
    may = torch.minimum(contest.may - taken, contest.units * count)
    keep = (may > 0).nonzero().flatten()
    most = int(count[keep].max()) if len(keep) else 1
    best = torch.topk(optimistic[keep].masked_fill(~is_open[keep], NEVER), most, dim=1)
    listed = value[keep].gather(1, best.indices)
    rest = Contest(
        value=listed.masked_fill(best.values == NEVER, NEVER).to(CPU),
        expert=contest.expert[keep].gather(1, best.indices).to(CPU),
        must=torch.minimum((contest.must - taken)[keep].clamp(min=0), may[keep]).to(CPU),
        may=may[keep].to(CPU),
        units=contest.units[keep].to(CPU),
        place=None if contest.place is None else contest.place[keep].to(CPU),
        index=contest.index[keep].to(CPU),
    )
    return _without_zero(rest, Box(*(side.to(CPU) for side in box)))


def _without_zero(contest: Contest, box: Box) -> Contest:
    """Rows whose open pairs all earn more than nothing, or all less, take a fixed amount."""
    if not len(contest) or bool((contest.must == contest.may).all()):
        return contest
    margin = box.guard * (contest.value.abs() + box.largest)
    best = contest.value - contest.per_pair(box.low, box.low_place) + margin
    worst = contest.value - contest.per_pair(box.high, box.high_place) - margin
    listed = contest.value > NEVER
    gains = ((worst > 0) | ~listed).all(1)
    loses = ((best < 0) | ~listed).all(1)
    must = torch.where(gains, contest.may, contest.must)
    may = torch.where(loses & ~gains, must, contest.may)
    fixed = Contest(
        contest.value, contest.expert, must, may, contest.units, contest.place, contest.index
    )
    return fixed.take((may > 0).nonzero().flatten())


def _sorted(contest: Contest, optimistic: Tensor, box: Box) -> Sorted:
    """Sort listed pairs; `optimistic` (n, R) are earnings at the lowest prices of experts."""
    margin = box.guard * (optimistic.abs().nan_to_num(posinf=0.0) + 2 * box.largest)
    pessimistic = optimistic - (box.high - box.low)[contest.expert] - margin
    may, must = contest.may / contest.units, contest.must / contest.units
    taken = pessimistic > _rank(optimistic, may.floor())
    left = optimistic < _rank(pessimistic, may.ceil() - 1)
    if bool((must < may).any()):
        cheap: Tensor | float = 0.0
        dear: Tensor | float = 0.0
        if contest.place is not None:
            cheap = box.low_place[contest.place][:, None]
            dear = box.high_place[contest.place][:, None]
        needed = pessimistic > _rank(optimistic, must.floor())
        spare = optimistic < _rank(pessimistic, must.ceil() - 1)
        taken = (taken & (pessimistic > dear)) | needed
        left = left | ((optimistic < cheap - margin) & spare)
    return Sorted(taken, left | (optimistic == NEVER))


def _rank(earned: Tensor, rank: Tensor) -> Tensor:
    """The entry of each row (n, R) at a rank (n,) from 0, as (n, 1); inf before, -inf after all."""
    R = earned.shape[1]
    most = int(rank.clamp(max=R - 1).max()) + 1 if len(rank) else 0
    if most <= 0:
        return torch.full_like(rank, float("inf"))[:, None]
    best = torch.topk(earned, min(most, R), dim=1).values
    at = best.gather(1, rank.long().clamp(0, best.shape[1] - 1)[:, None])
    at = at.masked_fill(rank[:, None] < 0, float("inf"))
    return at.masked_fill(rank[:, None] >= R, NEVER)


def _listed(rows: Rows, values: Tensor, expert: Tensor) -> Contest:
    """Some pairs of each row, by expert (n, R)."""
    return Contest(values, expert, rows.must, rows.may, rows.units, rows.place, rows.index)
