"""Token rows: the whole problem, a sample of it, or what is still contested, pair by pair."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from lp_routing.problem.problem import CHUNK_ENTRIES, RoutingProblem

NEVER = float("-inf")


class Columns:
    """Tensors of one length (n, ...), or None; the fields of a dataclass."""

    def take(self, chosen: Tensor | slice) -> Self:
        """Some of the rows, by their position here."""
        return self._each(lambda column: column[chosen])

    def to(self, device: torch.device) -> Self:
        """The same rows on another device."""
        return self._each(lambda column: column.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        columns = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        changed = {name: None if c is None else change(c) for name, c in columns.items()}
        return type(self)(**changed)


@dataclass(frozen=True, eq=False)
class Rows(Columns):
    """Token rows with all E experts, on the scores' device.

    Attributes:
        scores: (n, E) in any real dtype; -inf forbids.
        must: float64 (n,), pairs that each row takes at least.
        may: float64 (n,), pairs that each row takes at most.
        units: float64 (n,), identical tokens in each row.
        place: int64 (n,), the set of token groups it is in, or None where there are none.
        index: int64 (n,), its number in the problem.
    """

    scores: Tensor
    must: Tensor
    may: Tensor
    units: Tensor
    place: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def chunks(self) -> Iterator["Rows"]:
        """The rows in pieces small enough to work on."""
        step = max(1, CHUNK_ENTRIES // self.scores.shape[1])
        for start in range(0, len(self), step):
            yield self.take(slice(start, start + step))


@dataclass(frozen=True, eq=False)
class Contest(Columns):
    """Rows of which only some pairs are open, on the CPU; axis R lists a row's open pairs.

    Attributes:
        value: float64 (n, R) score of each open pair, -inf where the list is shorter.
        expert: int64 (n, R).
        must, may, units, place, index: as in `Rows`, of what is still open.
    """

    value: Tensor
    expert: Tensor
    must: Tensor
    may: Tensor
    units: Tensor
    place: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return len(self.value)

    @property
    def pairs(self) -> int:
        """How many pairs are open."""
        return int((self.value > NEVER).sum())

    def with_noise(self, size: float, E: int) -> "Contest":
        """The same rows with ties broken: up to `size` is added to each score, by a fixed rule."""
        noise = size * hashed(self.index[:, None] * E + self.expert)
        return replace(self, value=self.value + noise)

    def per_pair(self, on_experts: Tensor, on_places: Tensor) -> Tensor:
        """What each listed pair pays, float64 (n, R)."""
        paid = on_experts[self.expert]
        return paid if self.place is None else paid + on_places[self.place][:, None]


def rows_of(problem: RoutingProblem, place: Tensor | None) -> Rows:
    """All rows of a problem; nothing is copied but (T,) vectors."""
    must, may = problem.token_bounds()
    units = problem.copies()
    index = torch.arange(problem.T, device=problem.scores.device)
    return Rows(problem.scores, must, torch.minimum(may, units * problem.E), units, place, index)


def everything(rows: Rows) -> Contest:
    """Every pair of some rows listed as open."""
    rows = rows.to(torch.device("cpu"))
    n, E = rows.scores.shape
    value = rows.scores.double()
    expert = torch.arange(E).expand(n, E)
    may = torch.minimum(rows.may, rows.units * (value > NEVER).sum(1))
    must = torch.minimum(rows.must, may)
    return Contest(value, expert, must, may, rows.units, rows.place, rows.index)


def nobody(grouped: bool) -> Contest:
    """A contest without rows."""
    none, indices = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    place = indices if grouped else None
    return Contest(none[:, None], indices[:, None], none, none, none, place, indices)


def joined(contests: list[Contest]) -> Contest:
    """Contests one below the other, lists filled up to the longest."""
    longest = max(contest.value.shape[1] for contest in contests)

    def column(name: str) -> Tensor:
        return torch.cat([getattr(contest, name) for contest in contests])

    def table(name: str, fill: float) -> Tensor:
        parts = [getattr(contest, name) for contest in contests]
        pad = torch.nn.functional.pad
        return torch.cat([pad(part, (0, longest - part.shape[1]), value=fill) for part in parts])

    return Contest(
        table("value", NEVER),
        table("expert", 0),
        column("must"),
        column("may"),
        column("units"),
        None if contests[0].place is None else column("place"),
        column("index"),
    )


def hashed(pair: Tensor) -> Tensor:
    """A fixed pseudo-random number in [0, 1) for each pair number, float64: the rule for ties.

    Multiplications and shifts of 64-bit numbers (SplitMix64; Steele, Lea and Flood 2014).
    """
    mixed = (pair + 1) * -7046029254386353131
    mixed = (mixed ^ ((mixed >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    mixed = (mixed ^ ((mixed >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return ((mixed >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53
