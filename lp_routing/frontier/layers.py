"""One budget of pairs shared by all layers, with every token served in each: the exact split.

    maximise    sum_lij s_lij x_lij
    subject to  sum_j x_lij >= 1 for each layer and token,  sum_lij x_lij = N,  0 <= x_lij <= 1

Only the budget row couples the layers. The value of n pairs in a layer is concave in n: it starts
with the best pair of every token and continues by score. So the optimum takes the best pair of
every token in each layer, then the N - L T largest remaining scores of all layers. The price of a
pair proves it:

    bound(p) = p N + sum_li (max_j (s_lij - p) + sum over the other j of max(s_lij - p, 0))

is an upper bound for every p (weak duality), and tight at the last score taken. A sum over layers
is meaningful only where their scores share a unit, as softmax probabilities do and raw logits do
not. SoftMoE (Zasada et al. 2026) learns the split instead:
`lp_routing.routers.soft_top_k.layer_budgets`.

`over_layers` gives the best total of every budget, `best_budgets` proves the split of one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.frontier.budgets import NEVER, over_total
from lp_routing.frontier.curves import ExactCurve, SharedBudget, merged
from lp_routing.problem.bounds import at_least
from lp_routing.problem.problem import RoutingProblem
from lp_routing.validation import (
    as_bool,
    as_float,
    as_reals,
    as_tensor,
    refuse_nan_and_inf,
)

if TYPE_CHECKING:
    import pandas


def over_layers(scores: Tensor, *, serve: bool = False) -> SharedBudget:
    """The best total value of every shared budget, and the layer that gets each pair.

    Args:
        scores: (L, T, E), in one unit for all layers, such as softmax probabilities, not raw
            logits; -inf forbids a pair.
        serve: every token gets at least one expert in every layer; the curve starts with these
            pairs.

    Returns:
        The merged curve, exact at every budget; ties go to the earlier layer.

    Raises:
        InputError: not (L, T, E), NaN, +inf; with `serve`, a token without an expert.

    A learnt rule for the same question is SoftMoE's (Zasada et al. 2026),
    `lp_routing.routers.soft_top_k.layer_budgets`; `lp_routing.frontier.best_budgets` proves
    one split by its price.

    Example:
        >>> shared = lpr.frontier.over_layers(torch.tensor([[[3.0, 1.0]], [[2.0, 2.0]]]))
        >>> shared.split(3).tolist(), shared.total.value(3).item()
        ([1.0, 2.0], 7.0)
    """
    values = as_tensor(scores, "scores", "numbers (layers, tokens, experts)")
    if values.ndim != 3 or not len(values):
        raise InputError(
            f"scores: expected numbers (layers, tokens, experts), got shape "
            f"{tuple(values.shape)}; of one layer write scores[None]."
        )
    tokens = at_least(1) if as_bool(serve, "serve") else None
    curves = []
    for layer, given in enumerate(values):
        try:
            curve = over_total(RoutingProblem(given, tokens=tokens))
        except InputError as error:
            raise InputError(f"layer {layer}: {error}") from error
        if isinstance(curve, ExactCurve):  # only tokens are bounded
            curves.append(curve)
    return merged(curves)


@dataclass(frozen=True, eq=False)
class Allocation:
    """The best budgets of the layers, and the price that proves it.

    Attributes:
        budgets: float64 (L,), pairs of each layer, at least T; whole where `pairs` is.
        value: what they are worth.
        price: of a pair, in the unit of the scores: what the last one adds.
        bound: an upper bound for any split: the dual at this price, evaluated over all pairs.
    """

    budgets: Tensor
    value: float
    price: float
    bound: float

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each layer: layer, budget."""
        budgets = self.budgets.tolist()
        return data_frame("to_frame")({"layer": range(len(budgets)), "budget": budgets})

    def _shown(self) -> dict[str, object]:
        return {
            "gap": self.gap,
            "value": self.value,
            "price": self.price,
            "budgets": self.budgets,
        }

    __repr__ = as_text
    _repr_html_ = as_html

    @property
    def gap(self) -> float:
        """Bound - value; up to rounding 0."""
        return self.bound - self.value


def best_budgets(scores: Tensor, pairs: float) -> Allocation:
    """The split of a budget over the layers that is worth most; ties go to the earlier layer.

    Args:
        scores: (L, T, E) in one unit; -inf forbids a pair.
        pairs: N over all layers, whole or not, from L T to the number of allowed pairs.

    Raises:
        InputError: bad scores, a token without an expert, a budget out of range.

    Cost: one sort of all scores.

    Example:
        >>> lpr.frontier.best_budgets(torch.tensor([[[3.0, 1.0]], [[2.0, 2.0]]]), pairs=3)
        Allocation(gap=0, value=7, price=2, budgets=[1, 2])
    """
    values = _checked(scores)
    L, T, _ = values.shape
    curves = _curves(values)
    whole = merged(curves)
    most = L * T + len(whole.owners)
    pairs = as_float(
        pairs,
        "pairs",
        f"a number from {L * T}, one for each token and layer, to {most}, all allowed pairs",
        lambda given: L * T <= given <= most,
    )
    extra = pairs - L * T
    parts = whole.split(extra)
    value = sum(float(curve.value(part)) for curve, part in zip(curves, parts, strict=True))
    slopes = (float(whole.total.left(extra)), float(whole.total.right(extra)), 0.0)
    price = next(slope for slope in slopes if abs(slope) < float("inf"))
    return Allocation(parts + T, value, price, bound_at(values, pairs, price))


def worth_of_budgets(scores: Tensor, budgets: Tensor) -> Tensor:
    """The best value of each layer at a given budget, with every token served; float64 (L,).

    Args:
        scores: as `best_budgets`.
        budgets: (L,) pairs of each layer, whole or not, from T to its number of allowed pairs.

    Raises:
        InputError: bad scores, or budgets out of range.

    Example:
        >>> scores = torch.tensor([[[3.0, 1.0]], [[2.0, 2.0]]])
        >>> lpr.frontier.worth_of_budgets(scores, torch.tensor([2, 1])).tolist()
        [4.0, 2.0]
    """
    values = _checked(scores)
    L, T, _ = values.shape
    given = as_reals(budgets, "budgets", "numbers, one per layer")
    if tuple(given.shape) != (L,):
        raise InputError(f"budgets: expected one per layer ({L}), got shape {tuple(given.shape)}.")
    curves = _curves(values)
    for layer, (curve, pairs) in enumerate(zip(curves, given.tolist(), strict=True)):
        if not T <= pairs <= T + len(curve.slopes):
            raise InputError(
                f"budgets[{layer}]={pairs:g}: expected {T}, one for each token, to "
                f"{T + len(curve.slopes)}, all allowed pairs."
            )
    return torch.stack([c.value(n) for c, n in zip(curves, given - T, strict=True)])


def bound_at(scores: Tensor, pairs: float, price: float) -> float:
    """The dual at any price: an upper bound for `pairs` pairs that serve all tokens."""
    over = scores.double() - price
    best = over.amax(-1)
    others = over.clamp(min=0).sum(-1) - best.clamp(min=0)
    return float(price * pairs + (best + others).sum())


def _curves(values: Tensor) -> list[ExactCurve]:
    """The curve of each layer, from one pair for each token on."""
    ordered = values.sort(dim=-1, descending=True).values
    rest = ordered[..., 1:].flatten(1).sort(dim=-1, descending=True).values
    floors = ordered[..., 0].sum(-1).tolist()
    return [ExactCurve(floor, r[r > NEVER]) for floor, r in zip(floors, rest, strict=True)]


def _checked(scores: Tensor) -> Tensor:
    values = as_tensor(scores, "scores", "numbers (layers, tokens, experts)")
    if values.ndim != 3 or values.numel() == 0 or values.is_complex() or values.dtype == torch.bool:
        raise InputError(
            f"scores: expected numbers (layers, tokens, experts), got {values.dtype} of shape "
            f"{tuple(values.shape)}; of one layer write scores[None]."
        )
    values = values.double()
    refuse_nan_and_inf(values, "scores")
    alone = (values == NEVER).all(-1)
    if bool(alone.any()):
        layer, token = alone.nonzero()[0].tolist()
        raise InputError(f"scores: token {token} of layer {layer} has no allowed expert.")
    return values
