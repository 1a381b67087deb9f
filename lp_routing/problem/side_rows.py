"""Custom rows: low <= sum_ij a_ij x_ij <= high, with any weight a_ij for each pair.

For limits that no bound on a token, an expert or a group can state: memory of devices, experts of
unequal cost, a share that must go to some experts. With such rows the problem is no network flow,
so the optimum may be fractional; the proof is the same weak duality, with one price for each row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import Scores, as_reals

LARGEST_WEIGHT = 1e12
"""Largest |weight|: HiGHS refuses 1e15, and its tolerances are absolute."""

Matrix = Scores | Sequence[float]
SideRow = tuple[Matrix, float, float]
SideRows = Iterable[SideRow] | Mapping[str, SideRow]


@dataclass(frozen=True, eq=False)
class PairWeights:
    """The weights of pairs in several rows: entries of a sparse array (R, T, E), tokens ascending.

    Attributes:
        row: int64 (n,).
        token: int64 (n,).
        expert: int64 (n,).
        weight: float64 (n,), finite.
        shape: R, T, E.
    """

    row: Tensor
    token: Tensor
    expert: Tensor
    weight: Tensor
    shape: tuple[int, int, int]

    def of_tokens(self, tokens: slice) -> "PairWeights":
        """The entries of tokens start..stop - 1, which are then numbered from 0."""
        ends = torch.tensor([tokens.start, tokens.stop], device=self.token.device)
        first, last = torch.searchsorted(self.token, ends).tolist()
        part = slice(first, last)
        shape = (self.shape[0], tokens.stop - tokens.start, self.shape[2])
        token = self.token[part] - tokens.start
        return PairWeights(self.row[part], token, self.expert[part], self.weight[part], shape)

    def counted(self, x: Tensor) -> Tensor:
        """Float64 (R, 2): what each row counts of amounts x (T, E), and the same of |a| |x|."""
        part = self.weight * x[self.token, self.expert].double()
        sums = self.weight.new_zeros(self.shape[0], 2)
        return sums.index_add_(0, self.row, torch.stack([part, part.abs()], 1))

    def charged(self, prices: Tensor) -> Tensor:
        """Float64 (T, E): what each pair pays to rows at these prices (R,)."""
        paid = self.weight.new_zeros(*self.shape[1:])
        each = prices[self.row] * self.weight
        return paid.index_put_((self.token, self.expert), each, accumulate=True)

    def to(self, device: torch.device) -> "PairWeights":
        """The same on a device."""
        row, token, expert = (part.to(device) for part in (self.row, self.token, self.expert))
        return PairWeights(row, token, expert, self.weight.to(device), self.shape)

    def matrix(self) -> Any:
        """A scipy sparse matrix (R, T * E), pairs in row-major order."""
        rows, tokens, experts = self.shape
        columns = (self.token * experts + self.expert).cpu().numpy()
        entries = (self.weight.cpu().numpy(), (self.row.cpu().numpy(), columns))
        return sp.csr_array(entries, shape=(rows, tokens * experts))


def read_side_rows(
    rows: SideRows, T: int, E: int
) -> tuple[Tensor, Tensor, PairWeights, tuple[str, ...]]:
    """Check `rows=`: lower and upper limits float64 (R,), weights, names ("" where none is given).

    Raises:
        InputError: no list of (matrix, low, high), weights that are not finite or of another shape,
            limits that contradict each other or limit nothing.
    """
    listed, names = _listed(rows)
    entries, limits = [], []
    for at, (name, given) in enumerate(zip(names, listed, strict=True)):
        where = f"rows[{name!r}]" if name else f"rows[{at}]"
        if not isinstance(given, tuple | list) or len(given) != 3:
            raise InputError(
                f"{where}: expected (matrix, low, high) with low <= sum(matrix * x) <= high, got "
                f"{_kind(given)}."
            )
        matrix, low, high = given
        entries.append(_entries(matrix, where, T, E))
        limits.append(_limits(low, high, where))
    sizes = [len(weight) for *_, weight in entries]
    row = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    token, expert, weight = (torch.cat(part) for part in zip(*entries, strict=True))
    order = torch.argsort(token, stable=True)
    row, token, expert, weight = row[order], token[order], expert[order], weight[order]
    weights = PairWeights(row, token, expert, weight, (len(sizes), T, E))
    lower, upper = torch.tensor(limits, dtype=torch.float64).unbind(1)
    return lower, upper, weights, tuple(name or str(at) for at, name in enumerate(names))


def _listed(rows: Any) -> tuple[list[Any], list[str]]:
    """The rows and their names, "" where they have none."""
    if isinstance(rows, str | bytes | Tensor | np.ndarray) or not isinstance(rows, Iterable):
        raise InputError(
            f"rows: expected a list of (matrix, low, high), or a dictionary of them by name, got "
            f"{_kind(rows)}."
        )
    if isinstance(rows, Mapping):
        names, listed = list(rows), list(rows.values())
        wrong = [name for name in names if not isinstance(name, str) or not name]
        if wrong:
            raise InputError(f"rows: expected names that are text, got {wrong[0]!r}.")
    else:
        listed = list(rows)
        names = [""] * len(listed)
    if not listed:
        raise InputError("rows is empty; leave it out, or give at least one (matrix, low, high).")
    return listed, names


def _entries(matrix: Any, where: str, T: int, E: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token, expert and weight of the entries that are not 0."""
    sparse = _sparse(matrix)
    if sparse is None:
        dense = as_reals(matrix, f"{where}: matrix", f"weights of shape ({T}, {E})").cpu()
        try:
            spread = dense.broadcast_to(T, E)
        except RuntimeError as error:
            raise InputError(_wrong_shape(where, tuple(dense.shape), T, E)) from error
        at = spread.nonzero()
        weight = spread[at[:, 0], at[:, 1]]
    else:
        at, values, shape = sparse
        if shape != (T, E):
            raise InputError(_wrong_shape(where, shape, T, E))
        weight = as_reals(values, f"{where}: matrix", "weights")
    bad = ~(weight.abs() <= LARGEST_WEIGHT)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise InputError(
            f"{where}: weight {at[first].tolist()} is {float(weight[first]):g} ({int(bad.sum())} "
            f"such entries); weights must be finite, of at most {LARGEST_WEIGHT:g}."
        )
    return at[:, 0], at[:, 1], weight


def _sparse(matrix: Any) -> tuple[Tensor, Any, tuple[int, ...]] | None:
    """Places (n, 2), values (n,) and shape of a sparse matrix of torch or scipy; else None."""
    if sp.issparse(matrix):
        entries = matrix.tocoo()
        entries.sum_duplicates()
        places = np.stack([entries.row, entries.col], 1).astype(np.int64)
        return torch.from_numpy(places), entries.data, tuple(entries.shape)
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided and matrix.ndim == 2:
        coalesced = matrix.detach().cpu().to_sparse().coalesce()
        return coalesced.indices().T, coalesced.values(), tuple(coalesced.shape)
    return None


def _limits(low: Any, high: Any, where: str) -> tuple[float, float]:
    numbers = []
    for side, limit in (("low", low), ("high", high)):
        value = as_reals(limit, f"{where}: {side}", "a number").cpu()
        if value.numel() != 1 or bool(value.isnan()):
            raise InputError(f"{where}: {side}={limit!r}: expected a number, or -inf or inf.")
        numbers.append(float(value))
    least, most = numbers
    if least > most:
        raise InputError(f"{where}: low={least:g} is above high={most:g}.")
    if least == float("inf") or most == float("-inf"):
        raise InputError(f"{where}: no sum lies between {least:g} and {most:g}.")
    if (least, most) == (float("-inf"), float("inf")):
        raise InputError(f"{where} limits nothing: low is -inf and high is inf; leave it out.")
    return least, most


def _wrong_shape(where: str, shape: tuple[int, ...], T: int, E: int) -> str:
    return (
        f"{where}: expected weights of shape ({T}, {E}) (tokens x experts), or one an expert "
        f"({E},), or one a token ({T}, 1), got {shape}."
    )


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple) else "")
