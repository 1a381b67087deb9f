"""Shadow prices of experts, total, groups and side rows: what one more slot would be worth."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.exact_arithmetic import MANTISSA_BITS, grid_of
from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.problem.constraints import Family
from lp_routing.problem.side_rows import PairWeights
from lp_routing.validation import as_instance, as_tensor

if TYPE_CHECKING:
    import pandas

    from lp_routing.problem.problem import RoutingProblem


LARGEST = 1e280
"""Score per pair: larger prices are refused, as their sums over constraints could leave float64."""


LEAST_POWER = -1000
"""Power of two: float64 products that are whole multiples of 2**-1000 do not underflow."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Dual values in units of score per pair; positive where an upper bound binds.

    The prices of token rows are not stored: given these, each token's best one follows from its
    own row (`lp_routing.token_prices`), so E + 1 (+ G) numbers certify any number of tokens.

    Attributes:
        experts: (E,), or None for zero.
        total: a number.
        token_groups: (G,), or None for zero.
        expert_groups: (G,), or None for zero.
        rows: (R,), of side rows, in units of score per unit of their weights; or None for zero.
    """

    experts: Tensor | None = None
    total: float = 0.0
    token_groups: Tensor | None = None
    expert_groups: Tensor | None = None
    rows: Tensor | None = None

    def times(self, factor: float) -> "Prices":
        """All prices multiplied: those of the same problem with scores multiplied."""
        return Prices(
            experts=None if self.experts is None else self.experts * factor,
            total=self.total * factor,
            token_groups=None if self.token_groups is None else self.token_groups * factor,
            expert_groups=None if self.expert_groups is None else self.expert_groups * factor,
            rows=None if self.rows is None else self.rows * factor,
        )

    @property
    def given(self) -> bool:
        """Whether there is any price at all."""
        groups = (self.token_groups, self.expert_groups, self.rows)
        return self.total != 0 or any(part is not None for part in (self.experts, *groups))

    def to_frame(self) -> "pandas.DataFrame":
        """One price a row: kind of constraint, number within its kind, price.

        Example:
            >>> prices = lpr.Prices(experts=torch.tensor([2.0, 0.0]), total=0.5)
            >>> prices
            Prices(experts=[2, 0], total=0.5)
            >>> print(prices.to_frame().to_string(index=False))
              kind  row  price
            expert    0    2.0
            expert    1    0.0
             total    0    0.5
        """
        kinds = {
            "expert": self.experts,
            "total": self.total or None,
            "token_group": self.token_groups,
        }
        kinds |= {"expert_group": self.expert_groups, "row": self.rows}
        rows = [
            {"kind": kind, "row": row, "price": price}
            for kind, given in kinds.items()
            if given is not None
            for row, price in enumerate(_as_vector(given).tolist())
        ]
        return data_frame("to_frame")(rows, columns=["kind", "row", "price"])

    def _shown(self) -> dict[str, object]:
        return {
            "experts": None if self.experts is None else _as_vector(self.experts),
            "total": self.total or None,
            "token_groups": None if self.token_groups is None else _as_vector(self.token_groups),
            "expert_groups": None if self.expert_groups is None else _as_vector(self.expert_groups),
            "rows": None if self.rows is None else _as_vector(self.rows),
        }

    __repr__ = as_text
    _repr_html_ = as_html

    def of(self, family: Family) -> Tensor:
        """The prices of one family, float64 (R,) on its device; zero where none are given.

        A sign that the bounds do not allow is clipped to zero: a price is >= 0 where there is no
        lower bound, and <= 0 where there is no upper bound. A wrong price can therefore only weaken
        a bound, never fake one.

        Raises:
            InputError: NaN, infinite, beyond 1e280, or not one price per constraint.
        """
        given = {
            "expert": self.experts,
            "total": self.total,
            "token_group": self.token_groups,
            "expert_group": self.expert_groups,
            "row": self.rows,
        }[family.kind]
        if given is None:
            return torch.zeros_like(family.lower)
        values = as_tensor(given, f"prices of {family.kind}s", "numbers")
        if values.is_complex():
            raise InputError(
                f"prices of {family.kind}s: expected real numbers, got {values.dtype}."
            )
        values = values.to(family.lower).reshape(-1)
        if len(values) != len(family):
            raise InputError(
                f"prices of {family.kind}s: expected {len(family)}, got {len(values)}."
            )
        if not bool(values.isfinite().all()):
            raise InputError(
                f"prices of {family.kind}s must be finite, got {values[~values.isfinite()][0]}."
            )
        if bool((values.abs() > LARGEST).any()):
            raise InputError(
                f"prices of {family.kind}s: {values.abs().max():g} is too large for float64 sums."
            )
        values = torch.where(family.demands, values, values.clamp(min=0))
        return torch.where(family.upper.isfinite(), values, values.clamp(max=0))


def _as_vector(prices: Any) -> Tensor:
    return as_tensor(prices, "prices", "numbers").reshape(-1)


def from_table(problem: "RoutingProblem", table: dict[str, Any]) -> Prices:
    """Prices from one array (R,) for each kind of constraint; a "token" entry is dropped."""
    device = problem.scores.device
    values = {
        kind: torch.as_tensor(np.asarray(entries, dtype=np.float64), device=device)
        for kind, entries in table.items()
    }
    return Prices(
        experts=values.get("expert", torch.zeros(problem.E, dtype=torch.float64, device=device)),
        total=float(values["total"][0]) if "total" in values else 0.0,
        token_groups=values.get("token_group"),
        expert_groups=values.get("expert_group"),
        rows=values.get("row"),
    )


def clipped(problem: "RoutingProblem", prices: Prices) -> dict[str, Tensor]:
    """The prices of each family but the tokens', signs clipped: float64 (R,) by kind.

    Raises:
        InputError: prices that cannot be of this problem.
    """
    as_instance(prices, Prices, "prices", "Prices, such as those of a solution, or Prices()")
    for kind in ("token_group", "expert_group", "row"):
        if getattr(prices, f"{kind}s") is not None and problem.family(kind) is None:
            raise InputError(f"prices of {kind}s are given, but the problem has no {kind}s.")
    return {family.kind: prices.of(family) for family in problem.families if family.kind != "token"}


@dataclass(frozen=True, eq=False)
class PairPrices:
    """What a pair (i, j) pays besides its token row: `tokens[i] + experts[j]`, and to side rows.

    Attributes:
        tokens: float64 (T,), from groups of tokens.
        experts: float64 (E,), from experts, their groups and the total.
        rows: float64 (R,), prices of the side rows; (0,) where there are none.
        weights: the weights of the side rows; None where there are none.
    """

    tokens: Tensor
    experts: Tensor
    rows: Tensor
    weights: PairWeights | None

    def of(self, tokens: slice) -> Tensor:
        """What the pairs of some tokens pay, float64 (n, E)."""
        if self.weights is not None:
            charged = self.weights.of_tokens(tokens).charged(self.rows)
            return charged + (self.tokens[tokens, None] + self.experts)
        if bool(self.tokens.any()):
            return self.tokens[tokens, None] + self.experts
        # without prices of token groups all rows pay the same, which need not be written out
        return self.experts.expand(tokens.stop - tokens.start, -1)

    def rounding(self, tokens: slice) -> Tensor:
        """By how much `of` may be off at most, float64 (n, E); 0 where its sums are exact.

        They are where all terms are whole multiples of a power of two, and their sizes add up to
        less than 2**52 of it. Elsewhere each of n sums and products of a pair loses at most half a
        unit in the last place of what is added up (Higham 2002, section 4.2), here counted double.
        """
        sizes = (self.tokens[tokens].abs()[:, None] + self.experts.abs()).double()
        if self.weights is None:
            return torch.zeros_like(sizes)
        weights = self.weights.of_tokens(tokens)
        charged = replace(weights, weight=weights.weight.abs()).charged(self.rows.abs())
        sizes = sizes + charged
        power = min(
            grid_of(self.rows) + grid_of(weights.weight),
            grid_of(self.tokens),
            grid_of(self.experts),
        )
        exact = power > LEAST_POWER and float(sizes.max()) < 2.0 ** (power + MANTISSA_BITS - 1)
        if exact or not bool(self.rows.any()):
            return torch.zeros_like(sizes)
        ones = replace(weights, weight=torch.ones_like(weights.weight))
        terms = 3 + ones.charged(torch.ones_like(self.rows))
        return terms * (sizes * 2.0 ** (1 - MANTISSA_BITS) + 2.0**LEAST_POWER)


def pair_prices(problem: "RoutingProblem", table: dict[str, Tensor]) -> PairPrices:
    """What a pair pays besides its token row, from prices as `clipped` returns them."""
    on_tokens = torch.zeros(problem.T, dtype=torch.float64, device=problem.scores.device)
    on_experts = torch.zeros(problem.E, dtype=torch.float64, device=problem.scores.device)
    on_rows, weights = on_experts[:0], None
    for family in problem.families:
        if family.kind == "row":
            on_rows, weights = table[family.kind], family.weights
        elif family.kind == "token_group":
            on_tokens = on_tokens + family.spread(table[family.kind])
        elif family.kind != "token":
            on_experts = on_experts + family.spread(table[family.kind])
    return PairPrices(on_tokens, on_experts, on_rows, weights)
