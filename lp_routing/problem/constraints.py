"""Families of constraints of one kind: bounds per token, expert, group or in all, and side rows.

`obstacle` says whether the LP has whole optima for all scores. Two nested (laminar) families of
sets, one over tokens and one over experts, are the constraints of a network flow, whose matrix is
totally unimodular: whole bounds give whole vertices (Edmonds 1970; Schrijver 2003, section 48). The
condition is sufficient, not necessary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.bounds import Bounds
from lp_routing.problem.side_rows import PairWeights
from lp_routing.validation import CHUNK, as_instance, as_tensor

Kind = Literal["token", "expert", "total", "token_group", "expert_group", "row"]
Members = Sequence[int] | Sequence[bool] | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """Tokens (a sequence) or experts (a device) that share one bound.

    Attributes:
        members: indices, or one boolean per token or expert.
        bounds: on the number of pairs that touch the group.
        name: the group's name in messages; its position where empty.
    """

    members: Members
    bounds: Bounds
    name: str = ""


def groups_by(labels: Members | Sequence[str], bounds: Bounds) -> list[Group]:
    """One group for each distinct label, in ascending order, named after the label.

    Args:
        labels: one number or string per token or per expert, e.g. the sequence of each token.
        bounds: one for all groups, or one per group.

    Raises:
        InputError: labels that are no list, or bounds without a word such as `at_most`.

    Example:
        >>> devices = lpr.groups_by(["A", "A", "B"], lpr.at_most(1))
        >>> problem = lpr.RoutingProblem([[3, 2, 1]], expert_groups=devices)
        >>> problem.constraint_names
        ['expert_group_A', 'expert_group_B']
        >>> lpr.solve(problem).value
        4.0
    """
    try:
        values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        names, group = np.unique(values, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels: expected numbers or strings, got {labels!r}.") from error
    if values.ndim != 1 or not len(values) or values.dtype.kind == "O":
        raise InputError(
            f"labels: expected one number or string for each token or expert, got "
            f"{type(labels).__name__} of shape {values.shape}."
        )
    if not isinstance(bounds, Bounds):
        raise InputError(bare_number("bounds", bounds))
    lower, upper = bounds.per_row(len(names), "bounds", "group")
    return [
        Group(group == row, Bounds(float(lower[row]), float(upper[row]), bounds.words), str(name))
        for row, name in enumerate(names)
    ]


@dataclass(frozen=True, eq=False)
class Family:
    """All constraints of one kind.

    Attributes:
        kind: what one row of the family is.
        lower: float64 (R,), pairs; of side rows any number, -inf where there is no lower limit.
        upper: float64 (R,), pairs; inf where there is no upper bound.
        members: for groups, boolean (R, T) or (R, E); None otherwise.
        labels: for groups and side rows, their names.
        weights: for side rows, the weight of each pair; None otherwise, where each counts 1.
    """

    kind: Kind
    lower: Tensor
    upper: Tensor
    members: Tensor | None = None
    labels: tuple[str, ...] = ()
    weights: PairWeights | None = None

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def demands(self) -> Tensor:
        """Boolean (R,): where the lower bound can bind: counts of pairs are at least 0 anyway."""
        return self.lower.isfinite() if self.kind == "row" else self.lower > 0

    def name(self, row: int) -> str:
        """`token_5`, `expert_3`, `total`, `token_group_a`: the same name in every view."""
        if self.kind == "total":
            return "total"
        return f"{self.kind}_{self.labels[row] if self.labels else row}"

    def activity(self, per_token: Tensor, per_expert: Tensor) -> Tensor:
        """What each constraint counts, (R,), from the row sums (T,) and column sums (E,) of x.

        Side rows weigh single pairs: `weights.counted` is theirs.

        Raises:
            TypeError: side rows.
        """
        if self.weights is not None:
            raise TypeError("side rows count single pairs: use weights.counted(x)")
        if self.kind == "total":
            return per_expert.sum().reshape(1)
        amounts = per_token if self.kind.startswith("token") else per_expert
        return amounts if self.members is None else self.members.to(amounts.dtype) @ amounts

    def matrix(self, token: Any, expert: Any, T: int, E: int) -> Any:
        """How much each constraint counts of some pairs, scipy sparse (R, n).

        Args:
            token: int64 (n,), token of each pair.
            expert: int64 (n,), expert of each pair.
            T: number of tokens.
            E: number of experts.
        """
        pairs = len(token)
        if self.weights is not None:
            return self.weights.matrix()[:, token * E + expert]
        if self.kind == "total":
            return sp.csr_array(np.ones((1, pairs)))
        touched, size = (token, T) if self.kind.startswith("token") else (expert, E)
        if self.members is None:
            entries = (np.ones(pairs), (touched, np.arange(pairs)))
            return sp.csr_array(entries, shape=(size, pairs))
        return sp.csc_array(self.members.cpu().numpy().astype(float))[:, touched]

    def spread(self, prices: Tensor) -> Tensor:
        """Prices of the constraints (R,) added up for each token (T,) or expert (E,) they touch."""
        if self.members is None:
            return prices
        step = max(1, CHUNK // len(prices))  # in chunks, as float64 takes 8 times the memory
        starts = range(0, self.members.shape[1], step)
        parts = [self.members[:, start : start + step] for start in starts]
        return torch.cat([prices @ part.to(prices.dtype) for part in parts])


KINDS = {
    "token": "tokens",
    "expert": "experts",
    "total": "total",
    "token_group": "token groups",
    "expert_group": "expert groups",
    "row": "side rows",
}
"""Names of the kinds in sentences."""


def families_in_words(families: Iterable[Family]) -> str:
    """The bounds of a problem, such as "tokens at_most(2), experts at_most(160)"."""
    return ", ".join(_family_in_words(family) for family in families) or "no bounds"


def _family_in_words(family: Family) -> str:
    low, high = _range(family.lower), _range(family.upper)
    if torch.equal(family.lower, family.upper):
        bounds = f"exactly({low})"
    elif not bool(family.demands.any()):
        bounds = f"at_most({high})"
    elif bool((family.upper == float("inf")).all()):
        bounds = f"at_least({low})"
    else:
        bounds = f"between({low}, {high})"
    count = f"{len(family)} " if family.labels else ""
    name = KINDS[family.kind].removesuffix("s") if count == "1 " else KINDS[family.kind]
    return f"{count}{name} {bounds}"


def _range(values: Tensor) -> str:
    """`2`, or `1..3` where rows differ."""
    least, most = float(values.min()), float(values.max())
    return f"{least:.10g}" if least == most else f"{least:.10g}..{most:.10g}"


def group_family(kind: Kind, groups: Iterable[Group | tuple[Members, Bounds]], size: int) -> Family:
    """Check `token_groups=` or `expert_groups=` against the number (`size`) they index."""
    argument, thing = f"{kind}s", kind.removesuffix("_group")
    if isinstance(groups, Group) or not isinstance(groups, Iterable):
        raise InputError(f"{argument}: expected a list of Group, got {type(groups).__name__}.")
    masks, lower, upper, labels = [], [], [], []
    for index, entry in enumerate(groups):
        try:
            group = entry if isinstance(entry, Group) else Group(*entry)
        except TypeError as error:
            raise InputError(
                f"{argument}[{index}]: expected a Group or a pair (members, bounds), got {entry!r}."
            ) from error
        if not isinstance(group.bounds, Bounds):
            raise InputError(bare_number(f"{argument}[{index}]", group.bounds))
        where = f"{argument}[{index}]"
        masks.append(_member_mask(group.members, size, where, thing))
        low, high = group.bounds.per_row(1, where, thing)
        lower.append(low)
        upper.append(high)
        labels.append(as_instance(group.name, str, f"{where}: name", "text") or str(index))
    if not masks:
        raise InputError(f"{argument} is empty; leave it out, or give at least one Group.")
    if len(set(labels)) < len(labels):
        raise InputError(f"{argument} have the names {labels}: give each group its own name.")
    return Family(kind, torch.cat(lower), torch.cat(upper), torch.stack(masks), tuple(labels))


def bare_number(argument: str, received: object) -> str:
    """The error for a bare number as a bound."""
    return (
        f"{argument}={received!r} does not say whether it is a limit or a demand, and these are "
        f"different problems with different optima: write exactly({received!r}), "
        f"at_most({received!r}), at_least({received!r}) or between(lower, upper)."
    )


def _member_mask(members: Members, size: int, where: str, thing: str) -> Tensor:
    values = as_tensor(members, where, f"{thing} indices or {size} booleans").cpu()
    if not values.numel():
        raise InputError(f"{where} has no members; leave it out.")
    if values.dtype == torch.bool and values.shape == (size,):
        mask = values
    elif values.dtype != torch.bool and values.ndim == 1 and not values.is_floating_point():
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < size):
            raise InputError(
                f"{where}: {thing} indices must lie in 0..{size - 1}, "
                f"got {int(values.min())}..{int(values.max())}."
            )
        mask = torch.zeros(size, dtype=torch.bool)
        mask[values.long()] = True
    else:
        raise InputError(
            f"{where}: expected {thing} indices or {size} booleans, "
            f"got {values.dtype} of shape {tuple(values.shape)}."
        )
    if not mask.any():
        raise InputError(f"{where} has no members; leave it out.")
    return mask


def obstacle(families: Iterable[Family]) -> str | None:
    """None where bounds are whole and groups are nested on each side; else what is not."""
    families = list(families)
    for family in families:
        if family.kind == "row":
            return f"{family.name(0)} gives pairs weights of their own, which is not a flow"
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
        if family.kind == "row":  # a sum of weights may be any number
            rounded.append(family)
            continue
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
