"""The constraints that carry prices (experts, total, groups) as plain vectors.

Token rows carry none: what a token pays for its slots follows from the other prices. A pair (i, j)
pays `on_experts[j] + on_places[place of i]`, where a place is the set of token groups that i is in;
one 0/1 matrix, the incidence, says which constraints each expert and each place pays for.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices, clipped, from_table
from lp_routing.problem.aggregation import group_classes
from lp_routing.problem.constraints import Family, disjoint_sets
from lp_routing.problem.problem import RoutingProblem

FINEST = 2.0**-24
"""Boxes are no narrower than this share of a typical score, so that missing a bound costs."""


@dataclass(frozen=True, eq=False)
class Priced:
    """All D constraints that carry a price.

    Attributes:
        incidence: float64 (E + places, D), 1 where a pair at this expert or place is counted.
        lower: float64 (D,), pairs.
        upper: float64 (D,), pairs; inf where there is no upper bound.
        experts: E.
        finest: prices this close to each other are never told apart by a box.
        dearest: no optimum needs a price beyond this, plus or minus.
        kinds: kind and number of constraints of each family, in order.
    """

    incidence: Tensor
    lower: Tensor
    upper: Tensor
    experts: int
    finest: float
    dearest: float
    kinds: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.lower)

    def pays(self, prices: Tensor) -> tuple[Tensor, Tensor]:
        """What pairs pay, from prices (D,): float64 (E,) on experts and (places,) on places."""
        sides = self.incidence @ prices
        return sides[: self.experts], sides[self.experts :]

    def counts(self, load: Tensor) -> Tensor:
        """What each constraint counts, (D,), from the load of experts and places (E + places,)."""
        return self.incidence.T @ load

    @cached_property
    def disjoint(self) -> tuple[np.ndarray[Any, Any], ...]:
        """All constraints, in sets that count no pair together: families, groups split up."""
        sets: list[list[int]] = []
        first = 0
        for kind, count in self.kinds:
            rows = [list(range(count))]
            if kind.endswith("_group"):
                rows = disjoint_sets(self.incidence[:, first : first + count].T > 0)
            sets += [[first + row for row in disjoint] for disjoint in rows]
            first += count
        return tuple(np.array(rows) for rows in sets)

    def counts_at_most(self) -> float:
        """No more pairs than this can be taken in all; inf where nothing limits them."""
        return min(self._sums(self.upper), default=float("inf"))

    def counts_at_least(self) -> float:
        """No fewer pairs than this can be taken in all."""
        return max(self._sums(self.lower), default=0.0)

    def _sums(self, bounds: Tensor) -> list[float]:
        """Bounds (D,) added up over all experts, and the total's."""
        parts = torch.split(bounds, [count for _, count in self.kinds])
        kinds = (kind for kind, _ in self.kinds)
        return [
            float(part.sum())
            for kind, part in zip(kinds, parts, strict=True)
            if kind in ("expert", "total")
        ]


def priced_constraints(
    problem: RoutingProblem, typical: float, largest: float
) -> tuple[Priced, Tensor | None]:
    """The constraints of a problem but its token rows, and each token's place, int64 (T,).

    Args:
        problem: the problem.
        typical: what a token usually has to win, in units of score.
        largest: no score is larger in size. Prices at a vertex of the dual are sums and differences
            of at most E + D scores, one for each node of a tree.
    """
    device = problem.scores.device
    families = [family for family in problem.families if family.kind != "token"]
    place, groups = _places(problem.family("token_group"), device)
    blocks = [_block(family, problem.E, groups) for family in families]
    sides = problem.E + len(groups)
    empty = torch.zeros(0, dtype=torch.float64, device=device)
    priced = Priced(
        incidence=torch.cat(
            [torch.zeros(sides, 0, dtype=torch.float64, device=device), *blocks], 1
        ),
        lower=torch.cat([empty, *(family.lower for family in families)]),
        upper=torch.cat([empty, *(family.upper for family in families)]),
        experts=problem.E,
        finest=FINEST * typical,
        dearest=2 * (problem.E + sum(len(family) for family in families)) * largest or 1.0,
        kinds=tuple((family.kind, len(family)) for family in families),
    )
    return priced, place


def to_prices(problem: RoutingProblem, priced: Priced, vector: Tensor) -> Prices:
    """A vector of prices (D,) as the problem's `Prices`."""
    parts = torch.split(vector, [count for _, count in priced.kinds])
    table = {kind: part.cpu().numpy() for (kind, _), part in zip(priced.kinds, parts, strict=True)}
    return from_table(problem, table)


def to_vector(problem: RoutingProblem, priced: Priced, prices: Prices) -> Tensor:
    """A problem's `Prices` as a vector (D,), wrong signs cut off."""
    table = clipped(problem, prices)
    parts = [table[kind] for kind, _ in priced.kinds]
    return torch.cat([torch.zeros(0, dtype=torch.float64, device=problem.scores.device), *parts])


def _places(groups: Family | None, device: torch.device) -> tuple[Tensor | None, Tensor]:
    """Which set of token groups each token is in, int64 (T,), and those sets, (places, groups)."""
    if groups is None or groups.members is None:
        return None, torch.zeros(0, 0, dtype=torch.float64, device=device)
    place, first = group_classes(groups.members)
    sets = groups.members[:, torch.as_tensor(first, device=device)].T.double()
    return torch.as_tensor(place, device=device), sets


def _block(family: Family, E: int, groups: Tensor) -> Tensor:
    """The columns of the incidence that belong to one family."""
    places, device = len(groups), family.lower.device
    columns = torch.zeros(E + places, len(family), dtype=torch.float64, device=device)
    if family.kind == "token_group":
        columns[E:] = groups
    elif family.kind == "total":
        columns[:E] = 1
    elif family.members is None:
        columns[:E] = torch.eye(E, dtype=torch.float64, device=device)
    else:
        columns[:E] = family.members.T.double()
    return columns
