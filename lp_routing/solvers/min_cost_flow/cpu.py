"""Rows in this machine's memory, with numba: what the search asks of them.

Scores are read where they are, memory-mapped or not; half precision is widened in blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.solvers.min_cost_flow import rows as kernels

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 20
"""Entries of half precision that are widened at a time: 4 MiB of float32. A pass over 65,536 x 64
of bfloat16 takes 2.9 ms; 3.6 ms with blocks of four times as many, 2.7 ms with a quarter."""
WIDE = {torch.float32, torch.float64}


def put(x: Tensor, at: Array, held: Array) -> None:
    """Write amounts (n, E) into rows of x, on its device."""
    if x.device.type == "cpu":
        x.numpy()[at] = held
    else:
        x[torch.as_tensor(at, device=x.device)] = torch.from_numpy(held).to(x)


def rows_of(x: Tensor, at: Array) -> Array:
    """Amounts (n, E) of some rows of x, in its own type."""
    taken: Array = (
        x.numpy()[at]
        if x.device.type == "cpu"
        else x[torch.as_tensor(at, device=x.device)].cpu().numpy()
    )
    return taken


@dataclass(frozen=True, eq=False)
class Read:
    """Rows as the exchanges take them.

    Attributes:
        scores: float64 (n, E).
        terms: int64 (n, 3).
        null: int16 (n,).
        held: int64 (n, E), units held.
        whole: boolean (n,), whether all entries are open.
        mine: which of them are rows of this process.
    """

    scores: Array
    terms: Array
    null: Array
    held: Array
    whole: Array
    mine: slice


class Rows:
    """The rows of one process and what the last pass found of them.

    Args:
        scores: (T, E) of any float dtype.
        terms: int64 (T or 1, 3): each row's must, may, copies.
        null: int16 (T or 1,), its null.
        leaves: experts and nulls.
    """

    def __init__(self, scores: Tensor, terms: Array, null: Array, leaves: int) -> None:
        self.scores, self.terms, self.null, self.leaves = scores, terms, null, leaves
        T, E = scores.shape
        self.units = int(terms[:, 1].sum()) * (T if len(terms) == 1 else 1)
        ranks = int((-(-terms[:, 1] // terms[:, 2])).max(initial=0))
        self.best = np.empty((T, min(ranks + 1, E)), np.int16)
        self.taken = np.empty(T, np.int32 if self.units < 1 << 31 else np.int64)
        self.edge = np.empty((T, 3), np.int16)
        self.margin = np.empty((T, 2))
        self.turn = np.empty((0, 2))
        self.load = np.zeros(leaves, np.int64)
        self.copies = float(terms[:, 2].mean()) if len(terms) else 1.0
        self.passes = 0

    @property
    def shape(self) -> tuple[int, int]:
        """T and E."""
        return len(self.scores), self.scores.shape[1]

    @property
    def uneven(self) -> bool:
        """Whether rows stand for several tokens, some for more than others."""
        return len(self.terms) > 1 and bool(self.terms[:, 2].max() > 1)

    def __len__(self) -> int:
        return len(self.scores)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """The scores as NumPy arrays, all at once where nothing is widened."""
        T, E = self.scores.shape
        if self.scores.dtype in WIDE and self.scores.is_contiguous():
            yield slice(0, T), self.scores.numpy()
            return
        step = max(1, BLOCK // E)
        for start in range(0, T, step):
            rows = slice(start, min(T, start + step))
            yield rows, self.values(rows)

    def values(self, rows: Any) -> Array:
        """Scores of some rows as an array of float32 or float64."""
        block = self.scores[rows]
        dtype = block.dtype if block.dtype in WIDE else torch.float32
        return block.to(dtype).contiguous().numpy()

    def of(self, each: Array, rows: slice) -> Array:
        """The part of terms or nulls that some rows have."""
        return each if len(each) == 1 else each[rows]

    def take(self, index: Array) -> "Rows":
        """Some rows as rows of their own, scores copied."""
        if self.scores.dtype in WIDE:
            scores = torch.from_numpy(self.scores.numpy()[index])
        else:
            scores = self.scores[torch.as_tensor(index)].float()
        terms, null = (each if len(each) == 1 else each[index] for each in (self.terms, self.null))
        return Rows(scores, terms, null, self.leaves)

    def here(self) -> "Rows":
        """The rows in this machine's memory: these."""
        return self

    def respond(self, price: Array) -> Array:
        """One pass: every row's choice at leaf prices; the loads of the leaves."""
        self.load[:] = 0
        warm = self.passes > 0
        self.passes += 1
        for rows, scores in self.blocks():
            load = np.zeros_like(self.load)
            turn = self.turn[rows] if len(self.turn) else self.turn
            kernels.respond(
                scores, price, self.of(self.terms, rows), self.of(self.null, rows),
                self.best[rows], self.taken[rows], self.edge[rows], self.margin[rows], turn, load,
                warm,
            )  # fmt: skip
            self.load += load
        return self.load.copy()

    def curvature(self, width: Array) -> Array:
        """Units that change from leaf to leaf for each unit of price, within the wider width."""
        between = np.zeros((self.leaves, self.leaves))
        kernels.curvature(self.edge, self.margin, self.terms, width, between)
        return between

    def place(self, price: Array, target: Array) -> tuple[Tensor, Array]:
        """The choices of the last pass as amounts (T, E), ties spread; and the loads."""
        T, E = self.scores.shape
        one = len(self.terms) == 1 and self.terms[0, 2] == 1
        x = np.zeros((T, E), np.uint8 if one else np.int32 if self.units < 1 << 31 else np.int64)
        load = self.load.copy()
        for rows, scores in self.blocks():
            terms, null = self.of(self.terms, rows), self.of(self.null, rows)
            kernels.place(self.best[rows], self.taken[rows], terms, x[rows])
            kernels.spread(
                scores,
                price,
                terms,
                null,
                self.edge[rows],
                self.margin[rows],
                target,
                x[rows],
                load,
            )
        return torch.from_numpy(x), load

    def closest(self, want: int) -> tuple[Array, Array]:
        """For each leaf the `want` rows next to changing it: uint8 (T,), 1 for open; windows."""
        window, opened = np.empty(self.leaves), np.zeros(len(self), np.uint8)
        kernels.closest(self.edge, self.margin, want, window, opened)
        return opened, window

    def suboptimal(
        self, price: Array, reach: float, opened: Array, x: Tensor, exact: bool
    ) -> Array:
        """Rows that would choose otherwise at these prices."""
        found = [np.empty(0, np.int64)]
        for rows, scores in self.blocks():
            wrong = np.empty(len(scores), np.int64)
            count = kernels.suboptimal(
                scores, price, self.of(self.terms, rows), self.of(self.null, rows),
                self.margin[rows], reach, opened[rows], exact, x[rows].numpy(), wrong,
            )  # fmt: skip
            found.append(wrong[:count] + rows.start)
        return np.concatenate(found)

    def open_candidates(
        self, price: Array, up: Array, down: Array, widened: Array, opened: Array, x: Tensor
    ) -> None:
        """Opens the rows that hold a widened leaf and could leave it within the windows."""
        for rows, scores in self.blocks():
            kernels.open_candidates(
                scores, price, up, down, widened, self.of(self.terms, rows),
                self.of(self.null, rows), opened[rows], x[rows].numpy(),
            )  # fmt: skip

    def read(self, at: Array, x: Tensor, opened: Array) -> Read:
        """Some rows, copied in wide types; `opened` (T,) may be empty."""
        terms = np.broadcast_to(self.terms, (len(self), 3))
        null = np.broadcast_to(self.null, len(self))
        whole = opened[at] == 2 if len(opened) else np.ones(len(at), bool)
        held = x.numpy()[at].astype(np.int64)
        if self.scores.dtype in WIDE:  # NumPy: torch's threads wait for each other on busy machines
            scores = self.scores.numpy()[at].astype(np.float64)
        else:
            scores = self.scores[torch.as_tensor(at)].double().numpy()
        return Read(scores, terms[at], null[at], held, whole, slice(None))

    def total(self, number: int) -> int:
        """A number added up over the processes: here this one alone."""
        return int(number)
