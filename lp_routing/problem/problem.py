"""The routing problem: scores and bounds, checked once, solved elsewhere.

maximise    sum_ij s_ij x_ij
subject to  bounds on  sum_j x_ij               (each token)
                       sum_i x_ij               (each expert)
                       sum_ij x_ij              (the total)
                       sum_{i in g, j} x_ij     (each group of tokens)
                       sum_{i, j in h} x_ij     (each group of experts)
                       sum_ij a_ij x_ij         (rows of one's own)
            0 <= x_ij <= m_i,   x_ij = 0 where s_ij = -inf
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.problem.bounds import Bounds
from lp_routing.problem.constraints import (
    Family,
    Group,
    Members,
    bare_number,
    families_in_words,
    group_family,
    obstacle,
    rounded_inwards,
)
from lp_routing.problem.lp_text import lp_text
from lp_routing.problem.side_rows import SideRows, read_side_rows
from lp_routing.validation import Scores, as_scores, as_tensor, read_scores

if TYPE_CHECKING:
    import pandas

LARGEST_SUM = 1e279
"""Score: larger sums of scores are refused.

Shadow prices, up to E times the largest score, could then exceed the 1e280 that `Prices` accept.
"""
CHUNK_ENTRIES = 1 << 19
"""Entries of the score matrix processed together: 4 MiB of float64, which stays in the cache.

Larger chunks fall out of the cache, smaller ones cost more calls: `dual_bound` of 131,072 x 64
scores on one core takes 42 to 50 ms at 2**17 to 2**20, 54 ms at 2**16 and 91 ms at 2**22.
"""

WRITTEN_OUT = 12
"""Most pairs of a problem that shows its LP: some thirty lines."""

Groups = Iterable[Group | tuple[Members, Bounds]]


class RoutingProblem:
    """Token-expert assignment as one linear program.

    Args:
        scores: (T, E), what each token-expert pair is worth; -inf forbids the pair. Any real
            dtype on any device; kept as it is, computed with in float64. Floats are read in place,
            memory-mapped ones too, once and in chunks of rows.
        tokens: how many experts each token takes.
        experts: how many tokens each expert takes (its capacity).
        total: how many pairs are taken in all (the budget).
        token_groups: bounds on groups of tokens, such as sequences.
        expert_groups: bounds on groups of experts, such as devices.
        multiplicity: (T,), row i stands for this many identical tokens; 1 where left out.
        rows: constraints of one's own, each (matrix, low, high): low <= sum(matrix * x) <= high,
            -inf or inf for none. Matrices are (T, E), or (E,) or (T, 1) where tokens or experts
            weigh alike; numpy, torch, or sparse. A dictionary gives them names. Only their weights
            other than 0 are stored, 32 bytes each. The problem is then no network flow, and HiGHS
            solves it.

    Attributes:
        scores: (T, E) tensor.
        families: the constraints, at most one family of each kind, in the order of the arguments.
        multiplicity: float64 (T,), or None where every row is one token.

    Raises:
        InputError: NaN or +inf, not a matrix, empty (but for a shard of a process group, which may
            be without tokens), a bound without a word such as `exactly`, contradictory
            bounds, k > E, a token that needs an expert and may go to none, or weights of `rows`
            that are not finite or of another shape.

    Source:
        The named special cases and their papers are in `lp_routing.problem.named`.
    """

    def __init__(
        self,
        scores: Scores,
        *,
        tokens: Bounds | None = None,
        experts: Bounds | None = None,
        total: Bounds | None = None,
        token_groups: Groups | None = None,
        expert_groups: Groups | None = None,
        multiplicity: Sequence[int] | np.ndarray[Any, Any] | Tensor | None = None,
        rows: SideRows | None = None,
    ) -> None:
        self.scores = as_scores(scores)
        self._facts = read_scores(self.scores, self.row_chunks())
        self.multiplicity = _check_multiplicity(multiplicity, self.T, self.scores.device)
        self._check_range()
        families = [
            _family("token", "tokens", tokens, self.T),
            _family("expert", "experts", experts, self.E),
            _family("total", "total", total, 1),
            None if token_groups is None else group_family("token_group", token_groups, self.T),
            None if expert_groups is None else group_family("expert_group", expert_groups, self.E),
            None if rows is None else _side_family(rows, self.T, self.E),
        ]
        self.families = tuple(
            _to(family, self.scores.device) for family in families if family is not None
        )
        self._check_tokens_can_be_served()

    @property
    def T(self) -> int:
        """Number of rows (tokens)."""
        return self.scores.shape[0]

    @property
    def E(self) -> int:
        """Number of experts."""
        return self.scores.shape[1]

    @property
    def allowed(self) -> Tensor:
        """Boolean (T, E): the pairs that are not forbidden; computed anew each time."""
        return self.scores > float("-inf")

    @property
    def allowed_per_token(self) -> Tensor:
        """Int32 (T,): how many pairs of each row are not forbidden."""
        return self._facts.allowed

    @property
    def score_scale(self) -> float:
        """The largest |score| of an allowed pair; 0 where all are 0 or forbidden."""
        return self._facts.largest

    @property
    def smallest_score(self) -> float:
        """The smallest |score| of an allowed pair that is not 0; 0 where all are 0."""
        return self._facts.smallest if self._facts.smallest < float("inf") else 0.0

    @cached_property
    def typical_score(self) -> float:
        """The median over tokens of |best score|: the usual scale of a token's gain.

        Over the tokens with a positive score where there are any, so that masks do not count.
        """
        return self._facts.typical

    def family(self, kind: str) -> Family | None:
        """The constraints of one kind, or None where the problem has none."""
        return next((family for family in self.families if family.kind == kind), None)

    @property
    def constraint_names(self) -> list[str]:
        """`token_5`, `expert_3`, `total`, `token_group_a`, `row_0`, in the order of `families`."""
        return [family.name(row) for family in self.families for row in range(len(family))]

    def token_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of each token's row, float64 (T,); 0 and inf where unbounded."""
        family = self.family("token")
        if family is not None:
            return family.lower, family.upper
        zero = torch.zeros(self.T, dtype=torch.float64, device=self.scores.device)
        return zero, zero + float("inf")

    def copies(self) -> Tensor:
        """The multiplicity of each row, float64 (T,)."""
        if self.multiplicity is not None:
            return self.multiplicity
        return torch.ones(self.T, dtype=torch.float64, device=self.scores.device)

    def row_chunks(self) -> Iterator[slice]:
        """Slices that cover all rows, each small enough to work on in float64."""
        step = max(1, CHUNK_ENTRIES // self.E)
        for start in range(0, self.T, step):
            yield slice(start, min(start + step, self.T))

    @property
    def is_integral(self) -> bool:
        """Whether the LP has a whole-number optimum for all scores."""
        return self.why_not_integral is None

    @cached_property
    def why_not_integral(self) -> str | None:
        """None where bounds are whole and groups are nested on each side; else what is not."""
        return obstacle(self.families)

    def with_whole_bounds(self) -> "RoutingProblem":
        """The same problem for whole-number assignments: fractional bounds rounded inwards.

        Raises:
            InputError: a bound that no whole number satisfies, such as between(2.2, 2.8).
        """
        return self.with_families(rounded_inwards(self.families))

    def with_families(self, families: tuple[Family, ...]) -> "RoutingProblem":
        """The same scores under other constraints (already checked)."""
        problem = copy.copy(self)
        vars(problem).pop("why_not_integral", None)  # it is about the families
        problem.families = families
        return problem

    def with_scores(self, scores: Scores) -> "RoutingProblem":
        """Other scores (T, E) under the same constraints."""
        problem = RoutingProblem(scores)
        if problem.scores.shape != self.scores.shape:
            raise InputError(
                f"with_scores: expected shape {tuple(self.scores.shape)}, "
                f"got {tuple(problem.scores.shape)}."
            )
        problem.multiplicity, problem.families = self.multiplicity, self.families
        problem._check_range()
        problem._check_tokens_can_be_served()
        return problem

    def to_frame(self) -> "pandas.DataFrame":
        """The constraints, one a row: kind, name, lower and upper bound.

        Example:
            >>> problem = lpr.problems.capacity([[3, 1], [2, 1]], k=1, capacity=1)
            >>> print(problem.to_frame().to_string(index=False))
              kind     name  lower  upper
             token  token_0    0.0    1.0
             token  token_1    0.0    1.0
            expert expert_0    0.0    1.0
            expert expert_1    0.0    1.0
        """
        families = self.families
        columns = {
            "kind": [family.kind for family in families for _ in range(len(family))],
            "name": self.constraint_names,
            "lower": [limit for family in families for limit in family.lower.tolist()],
            "upper": [limit for family in families for limit in family.upper.tolist()],
        }
        return data_frame("to_frame")(columns)

    def _shown(self) -> dict[str, object]:
        small = self.T * self.E <= WRITTEN_OUT
        return {
            "T": self.T,
            "E": self.E,
            "bounds": families_in_words(self.families),
            "LP": "".join(lp_text(self, self.constraint_names)).rstrip() if small else None,
        }

    __repr__ = as_text
    _repr_html_ = as_html

    def _check_range(self) -> None:
        pairs = float(self.copies().sum()) * self.E
        if self.score_scale * pairs > LARGEST_SUM:
            raise InputError(
                f"scores: the largest is {self.score_scale:g}, so that sums could leave the range "
                f"of float64; rescale them."
            )
        self._facts.refuse_masks()

    def _check_tokens_can_be_served(self) -> None:
        lower, _ = self.token_bounds()
        room = self.copies() * self.E
        if bool((lower > room).any()):
            i = int((lower > room).nonzero()[0])
            raise InputError(
                f"token_{i} must take {lower[i]:g} experts, but there are only E={self.E} "
                f"and each can be taken {self.copies()[i]:g} time(s): at most {room[i]:g} fit."
            )
        stranded = (lower > 0) & (self.allowed_per_token == 0)
        if bool(stranded.any()):
            rows = stranded.nonzero().flatten()
            raise InputError(
                f"token_{int(rows[0])} must take at least {lower[rows[0]]:g} expert(s), but all "
                f"its scores are -inf, which forbids every pair ({len(rows)} such token(s)): give "
                f"it an allowed expert, remove the row, or bound it with at_most."
            )


def check_problem(problem: Any, who: str) -> None:
    """Raise `InputError` unless it is a `RoutingProblem`; `who` asks, such as "solve"."""
    if not isinstance(problem, RoutingProblem):
        raise InputError(
            f"{who} expects a RoutingProblem first, got {type(problem).__name__}; "
            f"write RoutingProblem(scores, tokens=exactly(2), ...)."
        )


def _check_multiplicity(
    multiplicity: Sequence[int] | np.ndarray[Any, Any] | Tensor | None, T: int, device: torch.device
) -> Tensor | None:
    if multiplicity is None:
        return None
    values = as_tensor(multiplicity, "multiplicity", "whole numbers, one a row")
    if values.is_complex():
        raise InputError(f"multiplicity: expected whole numbers, got {values.dtype}.")
    values = values.to(device=device, dtype=torch.float64)
    if values.shape != (T,):
        raise InputError(
            f"multiplicity: expected {T} whole numbers, one a row, got shape {tuple(values.shape)}."
        )
    if not bool(((values >= 1) & (values == values.round()) & values.isfinite()).all()):
        raise InputError(
            "multiplicity: row i stands for m_i identical tokens, so every entry must be a whole "
            f"number >= 1; got values from {values.min():g} to {values.max():g}."
        )
    return values


def _family(kind: Any, argument: str, bounds: Bounds | None, rows: int) -> Family | None:
    if bounds is None:
        return None
    if not isinstance(bounds, Bounds):
        raise InputError(bare_number(argument, bounds))
    lower, upper = bounds.per_row(rows, argument, kind)
    return Family(kind, lower, upper)


def _side_family(rows: SideRows, T: int, E: int) -> Family:
    lower, upper, weights, labels = read_side_rows(rows, T, E)
    return Family("row", lower, upper, labels=labels, weights=weights)


def _to(family: Family, device: torch.device) -> Family:
    members = None if family.members is None else family.members.to(device)
    weights = None if family.weights is None else family.weights.to(device)
    lower, upper = family.lower.to(device), family.upper.to(device)
    return replace(family, lower=lower, upper=upper, members=members, weights=weights)
