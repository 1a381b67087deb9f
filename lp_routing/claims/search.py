"""The smallest counterexample: every small matrix of whole numbers, the fewest entries first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, islice, product

import torch
from torch import Tensor

from lp_routing.claims.claim import Breaks, Claim
from lp_routing.errors import InputError
from lp_routing.validation import whole

ENTRIES = ((0, 1), (0, 1, 2), (0, 1, -1))
"""The scores to choose from in turn, the plainest first."""
ENOUGH = 200
"""Matrices to look at of each shape and kind of scores: some seconds for the slowest claim."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search brought home.

    Attributes:
        scores: the first matrix that breaks the statement, float64 (T, E); None where none does.
        says: what it shows, in words; empty where none does.
        tried: how many matrices were looked at.
    """

    scores: Tensor | None
    says: str
    tried: int


def smallest(
    breaks: Breaks,
    *,
    most_tokens: int = 3,
    most_experts: int = 3,
    entries: Sequence[float] = (0, 1, 2),
    limit: int = 100_000,
) -> Found:
    """The first matrix that breaks a statement: fewest pairs T E, then fewest tokens.

    Rows come in one order only, the same as other orders up to the naming of tokens.

    Args:
        breaks: scores (T, E) -> what they show against the statement, or None.
        most_tokens, most_experts: the largest T and E to try.
        entries: the scores to choose from, the plainest first.
        limit: how many matrices to look at before giving up.

    Raises:
        InputError: no entries, or sizes below 1.
    """
    T, E = whole(most_tokens, "most_tokens", 1), whole(most_experts, "most_experts", 1)
    limit = whole(limit, "limit", 1)
    if not entries:
        raise InputError("entries: expected at least one number to choose scores from, got none.")
    tried = 0
    for scores in matrices(T, E, entries):
        if tried == limit:
            break
        tried += 1
        says = breaks(scores)
        if says is not None:
            return Found(scores, says, tried)
    return Found(None, "", tried)


@cache
def smallest_case(claim: Claim) -> Found:
    """The smallest case found against a claim: fewest pairs T E, none more than the one by hand.

    For every number of pairs in turn, and the scores of each of `ENTRIES` and of the case worked by
    hand, the first `ENOUGH` matrices of each shape; the plainest numbers win, then fewer tokens.

    Raises:
        InputError: a claim that has no counterexample.
    """
    if claim.counterexample is None or claim.breaks is None:
        raise InputError(f"{claim.id}: it has no counterexample, so there is none to search for.")
    by_hand, tried = claim.counterexample.tensor(), 0
    kinds = _with_news((*ENTRIES, sorted(set(by_hand.flatten().tolist()))))
    for pairs, (entries, new) in product(range(1, by_hand.numel() + 1), kinds):
        for T in (T for T in range(1, pairs + 1) if pairs % T == 0):
            for case in islice(_of_shape(T, pairs // T, entries, new), ENOUGH):
                tried += 1
                says = claim.breaks(case)
                if says is not None:
                    return Found(case, says, tried)
    return Found(None, "", tried)


def _with_news(kinds: Sequence[Sequence[float]]) -> list[tuple[Sequence[float], set[float]]]:
    """Kinds of scores, and which of them no kind before has; those without any are left out."""
    found, known = [], set[float]()
    for entries in kinds:
        new = set(entries) - known
        if new:
            found.append((entries, new))
        known |= new
    return found


def matrices(most_tokens: int, most_experts: int, entries: Sequence[float]) -> Iterator[Tensor]:
    """All matrices up to a size, float64 (T, E), the fewest pairs first, rows in one order."""
    sizes = product(range(1, most_tokens + 1), range(1, most_experts + 1))
    for T, E in sorted(sizes, key=lambda size: (size[0] * size[1], size[0])):
        yield from _of_shape(T, E, entries, set(entries))


def _of_shape(T: int, E: int, entries: Sequence[float], some: set[float]) -> Iterator[Tensor]:
    """All matrices float64 (T, E) in which one of some entries occurs, rows in one order."""
    for rows in combinations_with_replacement(product(entries, repeat=E), T):
        if any(not some.isdisjoint(row) for row in rows):
            yield torch.tensor(rows, dtype=torch.float64)
