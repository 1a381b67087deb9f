"""What an assignment takes, and which constraints it breaks, by name and by how much."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.exact_arithmetic import Dot, Number, float_dot
from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem
from lp_routing.router_outputs import (
    NoRouterOutput,
    forms_of,
    read_output,
    weights_as_choices,
)
from lp_routing.validation import as_tensor

ROUNDING = 1e-12
"""Relative: by how much float64 sums that should be equal, or ordered, may miss it.

An allowance for rounding: sums of a million fractions are off by at most some 1e-13 of themselves.
Fractional sums that miss a limit by less are not reported; whole amounts have no tolerance.
"""

NAMED = 1000
"""Most broken constraints of one kind that are listed, the worst ones; all are counted.

It keeps memory and messages small where a million tokens break their bounds.
"""


class Violation(NamedTuple):
    """One broken constraint: its name, by how many pairs it is broken, a sentence, the limit."""

    name: str
    amount: float
    says: str
    limit: float


@dataclass(frozen=True, eq=False)
class BrokenBounds:
    """Broken constraints of one kind; at most `NAMED` are kept, the worst ones.

    Attributes:
        where: int64 (n, 2), token and expert of a pair; row of the family and 0 otherwise.
        counted: float64 (n,), the amount that breaks the limit.
        limit: float64 (n,), what it should not exceed, or fall short of.
        excess: float64 (n,), by how much it does.
        count: how many are broken in all.
    """

    where: Tensor
    counted: Tensor
    limit: Tensor
    excess: Tensor
    count: int

    def __add__(self, other: "BrokenBounds") -> "BrokenBounds":
        """The broken constraints of both; the worst are kept, in their order."""
        if not self.count or not other.count:
            return self if self.count else other
        where, *columns = map(torch.cat, zip(self._columns(), other._columns(), strict=True))
        counted, limit, excess = columns
        return _worst(where, counted, limit, excess, count=self.count + other.count)

    def rows(self) -> Iterator[tuple[list[int], float, float, float]]:
        """The kept ones, one after the other, as numbers."""
        return zip(*(column.tolist() for column in self._columns()), strict=True)

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.where, self.counted, self.limit, self.excess


@dataclass(frozen=True, eq=False)
class PrimalSums:
    """What an assignment takes, summed over tokens: shards of the tokens add up with `+`.

    Attributes:
        value: sum of s_ij x_ij over allowed pairs.
        size: sum of |s_ij| x_ij over them.
        load: float64 (E,), sum of x_ij over tokens.
        groups: float64 (G,), the pairs of each group of tokens; (0,) where there are none.
        rows: float64 (R, 2), what each side row counts, and its sum of sizes; (0, 2) without.
        whole: whether all amounts are whole numbers.
        pairs: those that are negative, forbidden, or taken more often than the row has copies.
        tokens: the rows that break their bounds.
    """

    value: Number
    size: float
    load: Tensor
    groups: Tensor
    rows: Tensor
    whole: bool
    pairs: BrokenBounds
    tokens: BrokenBounds

    def __add__(self, other: "PrimalSums") -> "PrimalSums":
        """What two sets of tokens take together."""
        return PrimalSums(
            self.value + other.value,
            self.size + other.size,
            self.load + other.load,
            self.groups + other.groups,
            self.rows + other.rows,
            self.whole and other.whole,
            self.pairs + other.pairs,
            self.tokens + other.tokens,
        )


def no_primal_sums(problem: RoutingProblem) -> PrimalSums:
    """The sums over no tokens: where adding up starts."""
    groups, rows = problem.family("token_group"), problem.family("row")

    def none(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=problem.scores.device)

    nobody = BrokenBounds(none(0, 2).long(), none(0), none(0), none(0), 0)
    return PrimalSums(
        value=0,  # adds to fractions
        size=0.0,
        load=none(problem.E),
        groups=none(0 if groups is None else len(groups)),
        rows=none(0 if rows is None else len(rows), 2),
        whole=True,
        pairs=nobody,
        tokens=nobody,
    )


def primal_sums(
    problem: RoutingProblem, rows: slice, scores: Tensor, x: Tensor, dot: Dot = float_dot
) -> PrimalSums:
    """What some rows of a problem take: scores (n, E) and amounts x (n, E) of these rows.

    Raises:
        InputError: NaN or infinite amounts.
    """
    x = x.to(scores.device)
    if not x.dtype.is_signed and x.dtype.itemsize > 1:
        x = x.double()  # torch finds no nonzero entries of wide unsigned integers
    pairs = x.nonzero()  # usually few pairs are taken: look at these only
    token, expert = pairs.unbind(1)
    amounts, worth = x[token, expert].double(), scores[token, expert].double()
    _refuse_infinite(amounts, token + rows.start, expert)
    allowed, noise = worth > float("-inf"), _noise(amounts)
    worth = worth.where(allowed, 0.0)
    per_token = amounts.new_zeros(len(x)).index_add_(0, token, amounts)
    token_noise = torch.zeros_like(per_token).index_fill_(0, token[noise > 0], ROUNDING)
    return PrimalSums(
        value=dot(amounts, worth),
        size=float_dot(amounts, worth.abs()),
        load=amounts.new_zeros(problem.E).index_add_(0, expert, amounts),
        groups=_in_groups(problem, rows, per_token),
        rows=_in_side_rows(problem, rows, x),
        whole=not bool(noise.any()),
        pairs=_broken_pairs(problem, rows, pairs, amounts, allowed),
        tokens=_broken_tokens(problem, rows, per_token, token_noise),
    )


def assignment_amounts(problem: RoutingProblem, assignment: Any) -> tuple[Tensor, str]:
    """The (T, E) amounts of an assignment, where they are, and a note on how they were read.

    An `Assignment`'s amounts are taken as they are. So are arrays (T, E) without fractions; others
    are read as a router's answer (`lp_routing.router_outputs.read_output`), weights as choices.

    Raises:
        InputError: wrong shape, no real numbers, fractions that are no weights and stand in no
            `Assignment`. What reads the amounts refuses NaN and inf.
    """
    stated, scores = isinstance(assignment, Assignment), problem.scores
    given = assignment.x if isinstance(assignment, Assignment) else assignment
    try:
        if isinstance(given, tuple | list) and any(isinstance(g, Tensor) for g in given):
            read = read_output(given, scores, said="got")
            return read.amounts, read.note
        x = as_tensor(given, "assignment", "amounts (tokens x experts)")
        if x.is_complex():
            raise InputError(f"assignment: expected real amounts, got {x.dtype}.")
        if x.shape == scores.shape:
            return (x, "") if stated else weights_as_choices(x, scores)
        if not stated and forms_of(x, scores):
            read = read_output(x, scores, said="got")
            return read.amounts, read.note
    except NoRouterOutput as error:
        raise InputError(f"assignment: {error}.") from error
    raise InputError(
        f"assignment: expected amounts of shape {tuple(scores.shape)} (tokens x experts), "
        f"got {tuple(x.shape)}; certify one layer or batch at a time."
    )


def amounts_counted(problem: RoutingProblem, x: Tensor) -> list[Tensor]:
    """What each constraint counts of amounts x (T, E), float64 (R,), family by family."""
    per_token, per_expert = x.double().sum(1), x.double().sum(0)
    return [
        family.activity(per_token, per_expert)
        if family.weights is None
        else family.weights.counted(x)[:, 0]
        for family in problem.families
    ]


def violations_of(problem: RoutingProblem, x: Tensor) -> tuple[tuple[Violation, ...], int]:
    """The constraints that amounts x (T, E) break, worst first, and how many there are in all.

    At most `NAMED` of each kind are named, the worst ones.

    Raises:
        InputError: NaN or infinite amounts.
    """
    taken = no_primal_sums(problem)
    for rows in problem.row_chunks():
        taken += primal_sums(problem, rows, problem.scores[rows], x[rows])
    return violations_in(problem, taken)


def violations_in(problem: RoutingProblem, taken: PrimalSums) -> tuple[tuple[Violation, ...], int]:
    """As `violations_of`, from the sums over all tokens."""
    found, count = _pairs_in_words(taken.pairs), taken.pairs.count
    noise = taken.load.new_full((1,), 0.0 if taken.whole else ROUNDING)
    for family in problem.families:
        if family.kind == "token":
            broken = taken.tokens
        elif family.kind == "row":
            counted, sizes = taken.rows.unbind(1)
            broken = _outside(
                counted, family.lower, family.upper, noise.new_tensor(ROUNDING), of=sizes
            )
        else:
            in_groups = family.kind == "token_group"
            counted = taken.groups if in_groups else family.activity(taken.load[:0], taken.load)
            broken = _outside(counted, family.lower, family.upper, noise)
        found += _bounds_in_words(family, broken)
        count += broken.count
    return tuple(sorted(found, key=lambda violation: -violation.amount)), count


def _refuse_infinite(amounts: Tensor, token: Tensor, expert: Tensor) -> None:
    if not bool(amounts.isfinite().all()):
        first = int((~amounts.isfinite()).nonzero()[0])
        where = [int(token[first]), int(expert[first])]
        raise InputError(f"assignment{where} is {float(amounts[first])}: amounts must be finite.")


def _in_groups(problem: RoutingProblem, rows: slice, per_token: Tensor) -> Tensor:
    """What some rows add to the count of each token group (G,)."""
    groups = problem.family("token_group")
    if groups is None or groups.members is None:
        return per_token[:0]
    return groups.members[:, rows].double() @ per_token


def _in_side_rows(problem: RoutingProblem, rows: slice, x: Tensor) -> Tensor:
    """What some rows of tokens add to the count of each side row, (R, 2)."""
    family = problem.family("row")
    if family is None or family.weights is None:
        return torch.zeros(0, 2, dtype=torch.float64, device=x.device)
    return family.weights.of_tokens(rows).counted(x)


def _broken_pairs(
    problem: RoutingProblem, rows: slice, pairs: Tensor, amounts: Tensor, allowed: Tensor
) -> BrokenBounds:
    """Those of the taken pairs (n, 2) that are negative, forbidden or taken too often."""
    most = allowed.double()
    if problem.multiplicity is not None:
        most *= problem.multiplicity[rows][pairs[:, 0]]
    excess = torch.maximum(amounts - most, -amounts)
    bad = (excess > _noise(amounts) * most.clamp(min=1)).nonzero().squeeze(1)
    where = pairs[bad] + torch.tensor([rows.start, 0], device=pairs.device)
    return _worst(where, amounts[bad], most[bad], excess[bad], count=len(bad))


def _broken_tokens(
    problem: RoutingProblem, rows: slice, counted: Tensor, noise: Tensor
) -> BrokenBounds:
    family = problem.family("token")
    if family is None:
        return _outside(counted[:0], counted[:0], counted[:0], noise[:0])
    return _outside(counted, family.lower[rows], family.upper[rows], noise, first=rows.start)


def _noise(amounts: Tensor) -> Tensor:
    """The share of a limit by which each amount may exceed it: only fractions may, by rounding."""
    return ROUNDING * (amounts != amounts.round()).double()


def _outside(
    counted: Tensor,
    lower: Tensor,
    upper: Tensor,
    noise: Tensor,
    first: int = 0,
    of: Tensor | None = None,
) -> BrokenBounds:
    """Rows of a family, from number `first`, whose count (n,) lies outside their bounds (n,).

    `noise` is the share `of` the sizes (n,) added up, else of the limit, that may be rounding.
    """
    excess = torch.maximum(counted - upper, lower - counted)
    limit = torch.where(counted > upper, upper, lower)
    bad = (excess > noise * (limit.clamp(min=1) if of is None else of)).nonzero()
    where = torch.cat([bad + first, torch.zeros_like(bad)], 1)
    bad = bad.squeeze(1)
    return _worst(where, counted[bad], limit[bad], excess[bad], count=len(bad))


def _worst(
    where: Tensor, counted: Tensor, limit: Tensor, excess: Tensor, count: int
) -> BrokenBounds:
    """The `NAMED` worst of some broken constraints, in their own order."""
    if len(excess) > NAMED:
        kept = torch.topk(excess, NAMED).indices.sort().values
        where, counted, limit, excess = where[kept], counted[kept], limit[kept], excess[kept]
    return BrokenBounds(where, counted, limit, excess, count)


def _pairs_in_words(broken: BrokenBounds) -> list[Violation]:
    found = []
    for (i, j), amount, most, excess in broken.rows():
        limit = "at least 0" if amount < 0 else f"at most {most:g}"
        why = "" if most else " (score -inf forbids the pair)"  # a row has a copy or more
        name = f"x_{i}_{j}"
        found.append(Violation(name, excess, f"{name} is {amount:g}, {limit}{why}", most))
    return sorted(found, key=lambda violation: -violation.amount)


def _bounds_in_words(family: Family, broken: BrokenBounds) -> list[Violation]:
    found = []
    for (row, _), counted, limit, excess in broken.rows():
        word = "at most" if counted > limit else "at least"
        name = family.name(row)
        says = f"{name} counts {counted:g}, {word} {limit:g}"
        found.append(Violation(name, excess, says, limit))
    return found
