"""Identical rows merged into one: whether an assignment exists does not depend on the scores.

Two rows with the same allowed pairs, the same bounds for each copy and the same groups can be
swapped in every assignment, so averaging over them keeps all bounds (they are convex): only the sum
of what they take matters. One row with the sum of their bounds and multiplicities is equivalent.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ProcessGroup

Array = np.ndarray[Any, np.dtype[Any]]

WORD = 64
"""Booleans packed into one uint64, to be compared together."""


@dataclass(frozen=True, eq=False)
class AggregatedProblem:
    """A problem without scores, in which no two rows are identical.

    Attributes:
        problem: D rows in the order in which they first occur; scores 0, or -inf where forbidden.
            It has an assignment exactly where the problem it comes from has one, the dual bound
            of any prices is that of the same prices there on scores of zero, and the least total
            amount by which bounds must be broken is the same. On the CPU.
        row: int64 (T,), the row of each token in it.
        families: the constraints before anything was merged.
    """

    problem: RoutingProblem
    row: Array
    families: tuple[Family, ...]


def aggregate_rows(problem: RoutingProblem) -> AggregatedProblem:
    """Merge the rows that differ in nothing but their scores; O(T) memory beside the scores."""
    lower, upper, unit = _per_unit(problem)
    row = _told_apart(_columns(problem, lower, upper, unit), problem.T)
    if problem.family("row") is not None:  # whose weights may differ between any two tokens
        row = np.arange(problem.T)
    groups = problem.family("token_group")
    if groups is not None and groups.members is not None:
        _split(row, groups.members)
    row, first = _in_order(row)
    # whole numbers add up exactly; fractions are multiplied once, as a long sum would round
    units = np.bincount(row, (problem.copies() / unit).cpu().numpy(), minlength=len(first))
    at = torch.as_tensor(first, device=problem.scores.device)

    def in_all(per_unit: Tensor) -> Tensor:
        return torch.as_tensor(per_unit[at].cpu().numpy() * units)

    def merged(family: Family) -> Family:
        if family.kind == "token":
            return replace(family, lower=in_all(lower), upper=in_all(upper))
        members = family.members
        if members is not None and family.kind == "token_group":
            members = members[:, at]
        members = None if members is None else members.cpu()
        weights = None if family.weights is None else family.weights.to(torch.device("cpu"))
        lower_of, upper_of = family.lower.cpu(), family.upper.cpu()
        return replace(family, lower=lower_of, upper=upper_of, members=members, weights=weights)

    without_scores = torch.zeros(len(first), problem.E)
    without_scores[(problem.scores[at] == float("-inf")).cpu()] = float("-inf")
    alike = RoutingProblem(without_scores, multiplicity=in_all(unit))
    alike = alike.with_families(tuple(merged(family) for family in problem.families))
    return AggregatedProblem(alike, row, problem.families)


def aggregate_rows_of_all_ranks(
    problem: RoutingProblem, processes: ProcessGroup
) -> AggregatedProblem:
    """The same for the tokens of all ranks, on every rank; only merged rows are exchanged.

    Args:
        problem: this rank's tokens under the bounds of all, without groups of tokens.
        processes: those that hold the tokens.
    """
    own = aggregate_rows(problem)
    if processes.alone:
        return own
    bounds = [_on_cpu(each.token_bounds()) for each in (problem, own.problem)]
    facts = own.problem.scores, own.problem.copies(), *bounds, torch.as_tensor(own.row)
    scores, copies, before, within, rows = zip(*processes.gathered(facts), strict=True)
    firsts = np.cumsum([0, *map(len, scores)])[:-1].tolist()
    others = tuple(family for family in own.problem.families if family.kind != "token")
    joined = RoutingProblem(torch.cat(scores), multiplicity=torch.cat(copies))
    again = aggregate_rows(joined.with_families((_tokens(within), *others)))
    row = np.concatenate([part.numpy() + first for part, first in zip(rows, firsts, strict=True)])
    return AggregatedProblem(again.problem, again.row[row], (_tokens(before), *others))


def _on_cpu(sides: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return sides[0].cpu(), sides[1].cpu()


def _tokens(parts: tuple[tuple[Tensor, Tensor], ...]) -> Family:
    """The token rows of all ranks, in the order of ranks."""
    lower, upper = zip(*parts, strict=True)
    return Family("token", torch.cat(lower), torch.cat(upper))


def _per_unit(problem: RoutingProblem) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of a unit of each row and the copies that make a unit, three times float64 (T,).

    A unit is one copy if its bounds are whole numbers, and so not rounded; else the whole row, and
    then only rows of the same multiplicity can be identical.
    """
    lower, upper = problem.token_bounds()
    copies = problem.copies()
    if problem.multiplicity is None:
        return lower, upper, copies
    whole = (lower % copies == 0) & (upper.isinf() | (upper % copies == 0))
    parts = torch.where(whole, copies, 1.0)
    return lower / parts, upper / parts, copies / parts


def _columns(
    problem: RoutingProblem, lower: Tensor, upper: Tensor, unit: Tensor
) -> Iterator[Array]:
    """The columns (T,) in which identical rows agree, except for groups."""
    for numbers in (lower, upper, unit):
        yield numbers.cpu().numpy()
    if bool((problem.allowed_per_token < problem.E).any()):
        yield from _allowed_words(problem).T


def _allowed_words(problem: RoutingProblem) -> Array:
    """Which pairs each row allows, as bits: uint64 (T, E / 64 rounded up)."""
    words = np.zeros((problem.T, -(-problem.E // WORD)), dtype=np.uint64)
    octets = words.view(np.uint8)
    for rows in problem.row_chunks():
        allowed = (problem.scores[rows] > float("-inf")).cpu().numpy()
        packed = np.packbits(allowed, axis=1)
        octets[rows, : packed.shape[1]] = packed
    return words


def _told_apart(columns: Iterable[Array], T: int) -> Array:
    """Numbers (T,) that two rows share exactly if they agree in all columns (T,)."""
    row = np.zeros(T, dtype=np.int64)
    for column in columns:
        if bool((column == column[:1]).all()):
            continue  # all values are equal, so nothing needs sorting
        values, inverse = np.unique(column, return_inverse=True)
        row = np.unique(row * len(values) + inverse, return_inverse=True)[1]
    return row


def _split(row: Array, groups: Tensor) -> None:
    """Give rows of different groups different numbers; cost: all the groups' members."""
    unused = len(row)
    for group in groups:
        members = np.flatnonzero(group.cpu().numpy())
        values, inverse = np.unique(row[members], return_inverse=True)
        row[members] = unused + inverse
        unused += len(values)


def _in_order(row: Array) -> tuple[Array, Array]:
    """The same classes numbered by first occurrence, (T,), and the first row of each."""
    _, first, row = np.unique(row, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[row], first[order]
