"""When the LP has whole-number optima whatever the scores, and what stands in the way.

Two nested (laminar) families of sets, one over tokens and one over experts, are the constraints of
a network flow, whose matrix is totally unimodular: whole bounds give whole vertices (Edmonds 1970;
Schrijver 2003, section 48). The condition is sufficient; crossing groups may happen to be harmless.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.constraints import Family


def obstacle(families: Iterable[Family]) -> str | None:
    """None where bounds are whole and groups are nested on each side; else what is not."""
    families = list(families)
    for family in families:
        for limit in (family.lower, family.upper):
            broken = (limit.isfinite() & (limit != limit.round())).nonzero().flatten()
            if len(broken):
                row = int(broken[0])
                return f"the bound {limit[row]:g} on {family.name(row)} is not a whole number"
    for family in families:
        crossing = None if family.members is None else _first_crossing(family.members)
        if crossing is not None:
            a, b = (family.name(row) for row in crossing)
            return f"{a} and {b} cross: they share members and neither contains the other"
    return None


def rounded_inwards(families: Iterable[Family]) -> tuple[Family, ...]:
    """The same constraints for whole amounts: lower bounds rounded up, upper bounds down.

    Raises:
        InputError: a bound that no whole number satisfies, such as between(2.2, 2.8).
    """
    rounded = []
    for family in families:
        lower, upper = family.lower.ceil(), family.upper.floor()
        empty = (lower > upper).nonzero().flatten()
        if len(empty):
            row = int(empty[0])
            raise InputError(
                f"{family.name(row)}: no whole number lies between "
                f"{family.lower[row]:g} and {family.upper[row]:g}."
            )
        rounded.append(replace(family, lower=lower, upper=upper))
    return tuple(rounded)


def _first_crossing(members: Tensor) -> tuple[int, int] | None:
    """Two sets that share members though neither contains the other, or None; members (R, n)."""
    sets = members.double()
    shared, size = sets @ sets.T, sets.sum(1)
    crossing = (shared > 0) & (shared < torch.minimum(size[:, None], size[None, :]))
    pairs = crossing.nonzero()
    return (int(pairs[0, 0]), int(pairs[0, 1])) if len(pairs) else None
