"""An assignment of tokens to experts: what routers return and certificates measure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lp_routing.display import as_html, as_text, data_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Assignment:
    """Amounts x of token-expert pairs, over any leading dimensions.

    Attributes:
        x: (..., T, E); boolean for a router's choice, whole numbers where a row stands for
            several tokens, fractions where an LP optimum has them.
        weights: (..., T, E), combine weights of the chosen pairs; 0 elsewhere. None where the
            assignment comes from a solver.
        mask: boolean (..., T), True for real tokens; None where there is no padding.
    """

    x: Tensor
    weights: Tensor | None = None
    mask: Tensor | None = None

    @property
    def amounts(self) -> Tensor:
        """x as float64 (..., T, E)."""
        return self.x.double()

    @property
    def load(self) -> Tensor:
        """Tokens per expert, float64 (..., E)."""
        return _sum(self.x, -2)

    @property
    def experts_per_token(self) -> Tensor:
        """Experts per token, float64 (..., T)."""
        return _sum(self.x, -1)

    @property
    def dropped(self) -> Tensor:
        """Boolean (..., T): the real tokens that reach no expert (less than half a slot)."""
        unserved = self.experts_per_token < 0.5
        return unserved if self.mask is None else unserved & self.mask

    @property
    def is_whole(self) -> bool:
        """Whether every amount is a whole number."""
        return not self.x.is_floating_point() or bool((self.x == self.x.round()).all())

    def __getitem__(self, index: int) -> "Assignment":
        """One entry of the first leading dimension (one batch, one layer)."""
        if self.x.ndim < 3:
            raise IndexError("this assignment has no leading dimension to take an entry from")
        weights = None if self.weights is None else self.weights[index]
        mask = self.mask if self.mask is None or self.mask.ndim < 2 else self.mask[index]
        return Assignment(self.x[index], weights, mask)

    def to_frame(self) -> "pandas.DataFrame":
        """The pairs taken, one a row: token, expert, amount, and the weight where there are any.

        Leading dimensions come first, as "dim 0" and so on.

        Example:
            >>> taken = lpr.Assignment(torch.tensor([[1, 0], [1, 1]]))
            >>> taken
            Assignment(tokens=2, experts=2, pairs=3, dropped=0, load=[2, 1])
            >>> print(taken.to_frame().to_string(index=False))
             token  expert  amount
                 0       0     1.0
                 1       0     1.0
                 1       1     1.0
        """
        at = self.x.nonzero().unbind(1)
        names = [*(f"dim {n}" for n in range(self.x.ndim - 2)), "token", "expert"]
        columns = {name: where.cpu().numpy() for name, where in zip(names, at, strict=True)}
        columns["amount"] = self.x[at].double().cpu().numpy()
        if self.weights is not None:
            columns["weight"] = self.weights[at].double().cpu().numpy()
        return data_frame("to_frame")(columns)

    def _shown(self) -> dict[str, object]:
        *leading, tokens, experts = self.x.shape
        return {
            "leading": "x".join(map(str, leading)) or None,
            "tokens": tokens,
            "experts": experts,
            "pairs": float(_sum(self.x, -1).sum()),
            "dropped": int(self.dropped.sum()),
            "load": self.load,
        }

    __repr__ = as_text
    _repr_html_ = as_html


def _sum(x: Tensor, dim: int) -> Tensor:
    if x.dtype == torch.bool:
        return x.sum(dim).double()
    return x.sum(dim, dtype=torch.float64)
