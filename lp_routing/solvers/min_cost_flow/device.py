"""Rows on another device, with torch: what `cpu.Rows` does with numba, where the scores are.

Each pass runs on the device; what reaches this machine's memory is small: loads, curvature, a
sample, and the open rows. Rows that are indifferent, and those whose order rounding decides, are
looked at here, by the compiled code of the CPU. Ties within a row go as `torch.topk` orders them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.solvers.min_cost_flow.cpu import Read, Rows
from lp_routing.solvers.min_cost_flow.rows import NONE, TIE

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 24
"""Pairs in work at a time: 128 MiB of float64; fewer take less memory, more fewer launches."""


class Block(NamedTuple):
    """Some rows on the device: earnings (n, E) in float64; what each must, may, copies, null."""

    rows: slice
    earned: Tensor
    must: Tensor
    may: Tensor
    copies: Tensor
    null: Tensor


class DeviceRows:
    """The rows of a matrix on a device; the methods are those of `cpu.Rows`."""

    def __init__(self, scores: Tensor, terms: Array, null: Array, leaves: int) -> None:
        self.scores, self.terms, self.null, self.leaves = scores, terms, null, leaves
        self.device = scores.device
        T, E = scores.shape
        self.units = int(terms[:, 1].sum()) * (T if len(terms) == 1 else 1)
        self.ranks = min(int((-(-terms[:, 1] // terms[:, 2])).max(initial=0)) + 1, E)
        self.edge = torch.empty(T, 3, dtype=torch.int64, device=self.device)
        self.margin = torch.empty(T, 2, dtype=torch.float64, device=self.device)
        self.tied = torch.empty(T, dtype=torch.bool, device=self.device)
        self.load = np.zeros(leaves, np.int64)
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

    def blocks(self, price: Array) -> Iterator[Block]:
        """The rows, some at a time, at leaf prices."""
        T, E = self.shape
        paid = self.there(price)
        step = max(1, BLOCK // E)
        for start in range(0, T, step):
            rows = slice(start, min(T, start + step))
            n = rows.stop - start
            terms = self.there(np.broadcast_to(self.terms, (T, 3))[rows])
            null = self.there(np.broadcast_to(self.null, T)[rows].astype(np.int64))
            must, may, copies = terms.expand(n, 3).unbind(1)
            yield Block(rows, self.scores[rows].double() - paid[:E], must, may, copies, null)

    def there(self, array: Array) -> Tensor:
        """An array on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)

    def take(self, index: Array) -> "DeviceRows":
        """Some rows as rows of their own, on the device."""
        scores = self.scores[self.there(index)]
        terms, null = (each if len(each) == 1 else each[index] for each in (self.terms, self.null))
        return DeviceRows(scores, terms, null, self.leaves)

    def here(self) -> Rows:
        """The same rows in this machine's memory."""
        return Rows(self.scores.cpu(), self.terms, self.null, self.leaves)

    def respond(self, price: Array, x: Tensor | None = None) -> Array:
        """One pass: loads of the leaves; the choices are written into x (T, E) where given."""
        self.passes += 1
        paid, total = self.there(price), torch.zeros(self.leaves, dtype=torch.int64)
        total = total.to(self.device)
        for block in self.blocks(price):
            value, expert = block.earned.topk(self.ranks, 1)
            must, may, copies = block.must, block.may, block.copies
            at_null = -paid[block.null]
            rank = torch.arange(self.ranks, device=self.device)
            wanted = (value > at_null[:, None]) & (rank < (-(-may // copies))[:, None])
            units = torch.minimum(torch.maximum(wanted.sum(1) * copies, must), may)
            held = (units[:, None] - rank * copies[:, None]).clamp(min=0)
            held = torch.minimum(held, copies[:, None])
            idle = may - units
            total.index_add_(0, expert.flatten(), held.flatten())
            total.index_add_(0, block.null, idle)
            if x is not None:
                x[block.rows].scatter_(1, expert, held.to(x.dtype))
            self._boundary(block, paid, value, expert, units, idle, at_null)
        self.load = total.cpu().numpy()
        return self.load.copy()

    def _boundary(
        self,
        block: Block,
        paid: Tensor,
        value: Tensor,
        expert: Tensor,
        units: Tensor,
        idle: Tensor,
        at_null: Tensor,
    ) -> None:
        """Where each row's choice could change first: edges and margins (see `rows`)."""
        full = units // block.copies
        part = units - full * block.copies > 0
        n, infinite = len(full), torch.full_like(at_null, float("inf"))[:, None]
        values = torch.cat([infinite, value, -infinite], 1)  # rank r stands in column r + 1
        none = torch.full((n, 1), NONE, device=self.device)
        experts = torch.cat([none, expert, none], 1)

        def at(rank: Tensor) -> tuple[Tensor, Tensor]:
            column = (rank + 1).clamp(max=self.ranks + 1)[:, None]
            return values.gather(1, column)[:, 0], experts.gather(1, column)[:, 0]

        low, out = at(full - 1)
        middle, pivot = at(full)
        high, into = at(full + part.long())
        pivot = torch.where(part, pivot, NONE)
        into = torch.where(high > float("-inf"), into, NONE)
        spare = block.may - block.must
        between = (idle > 0) & (idle < spare)
        pivot = torch.where(between, block.null, pivot)
        middle = torch.where(between, at_null, middle)
        leaves = (idle > 0) & ~between & (at_null < low)
        out, low = torch.where(leaves, block.null, out), torch.where(leaves, at_null, low)
        comes = (idle == 0) & (spare > 0) & (at_null > high)
        into, high = torch.where(comes, block.null, into), torch.where(comes, at_null, high)
        none_between = pivot == NONE
        first = low - torch.where(none_between, high, middle)
        second = torch.where(none_between, float("inf"), middle - high)
        self.edge[block.rows] = torch.stack([out, pivot, into], 1)
        self.margin[block.rows] = torch.stack([first, second], 1)
        worth = torch.where(none_between, low, middle)
        leaf = torch.where(none_between, out, pivot)
        near = TIE * (worth.abs() + 2 * paid[leaf.clamp(min=0)].abs())
        self.tied[block.rows] = (out != NONE) & (torch.minimum(first, second) <= near)

    def curvature(self, width: Array) -> Array:
        """Units that change from leaf to leaf for each unit of price, within the wider width."""
        wide = self.there(width)
        copies = self.there(np.broadcast_to(self.terms[:, 2], len(self)).copy()).double()
        between = torch.zeros(self.leaves**2, dtype=torch.float64, device=self.device)
        out, pivot, into = self.edge.unbind(1)
        middle = torch.where(pivot == NONE, into, pivot)
        pairs = ((out, middle, self.margin[:, 0]), (pivot, into, self.margin[:, 1]))
        for a, b, margin in pairs:
            within = torch.maximum(wide[a.clamp(min=0)], wide[b.clamp(min=0)])
            counts = (a != NONE) & (b != NONE) & (margin < within)
            between.index_add_(0, (a * self.leaves + b)[counts], (copies / (2 * within))[counts])
        return between.reshape(self.leaves, self.leaves).cpu().numpy()

    def place(self, price: Array, target: Array) -> tuple[Tensor, Array]:
        """The choices at the prices as amounts (T, E), ties spread; and the loads."""
        one = len(self.terms) == 1 and self.terms[0, 2] == 1
        kind = torch.uint8 if one else torch.int32 if self.units < 1 << 31 else torch.int64
        x = torch.zeros(self.shape, dtype=kind, device=self.device)
        load = self.respond(price, x)
        at = self.tied.nonzero()[:, 0].cpu().numpy()
        if len(at):
            tied, held = self.take(at).here(), self.read(at, x, np.zeros(0, np.uint8))
            load[: self.shape[1]] -= held.held.sum(0)
            np.subtract.at(load, held.null, held.terms[:, 1] - held.held.sum(1))
            tied.respond(price)
            chosen, spread = tied.place(price, target - load)
            x[self.there(at)] = chosen.to(x)
            load += spread
        return x, load

    def closest(self, want: int) -> tuple[Array, Array]:
        """For each leaf the `want` rows next to changing it: uint8 (T,), 1 for open; windows."""
        margin = self.margin.amin(1).repeat(3)
        leaf, row = self.edge.T.flatten(), torch.arange(len(self), device=self.device).repeat(3)
        order = torch.argsort(margin.masked_fill(leaf == NONE, float("inf")))
        order = order[torch.argsort(leaf[order], stable=True)]
        leaf, row, margin = leaf[order], row[order], margin[order]
        first = torch.searchsorted(leaf, torch.arange(self.leaves, device=self.device))
        near = torch.arange(len(leaf), device=self.device) - first[leaf.clamp(min=0)] < want
        near &= (leaf != NONE) & (margin < float("inf"))
        opened = torch.zeros(len(self), dtype=torch.uint8, device=self.device)
        opened[row[near]] = 1
        window = torch.zeros(self.leaves, dtype=torch.float64, device=self.device)
        # 1.5: between 1.4 and 2, as the half octaves of `rows.closest` round up
        window.scatter_reduce_(0, leaf[near], 1.5 * margin[near], "amax")
        return opened.cpu().numpy(), window.cpu().numpy()

    def _ends(self, block: Block, paid: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The worst that each row holds, the best it could take, and what it leaves empty."""
        held = x[block.rows].long()
        idle = block.may - held.sum(1)
        low = block.earned.masked_fill(held == 0, float("inf")).amin(1)
        high = block.earned.masked_fill(held >= block.copies[:, None], float("-inf")).amax(1)
        at_null = -paid[block.null]
        low = torch.where(idle > 0, torch.minimum(low, at_null), low)
        high = torch.where(idle < block.may - block.must, torch.maximum(high, at_null), high)
        return low, high, idle

    def suboptimal(
        self, price: Array, reach: float, opened: Array, x: Tensor, exact: bool
    ) -> Array:
        """Rows that would choose otherwise at these prices."""
        paid, state = self.there(price), self.there(opened)
        look = (state == 1) | ((state == 0) & (self.margin.amin(1) <= reach))
        doubtful = torch.zeros(len(self), dtype=torch.bool, device=self.device)
        for block in self.blocks(price):
            low, high, _ = self._ends(block, paid, x)
            near = 4 * TIE * (low.abs() + high.abs() + 4 * paid.abs().max())
            doubtful[block.rows] = look[block.rows] & (high - low > -near)
        at = doubtful.nonzero()[:, 0].cpu().numpy()
        if not len(at):
            return at
        rows = self.take(at).here()
        held = x[self.there(at)].cpu()
        return at[rows.suboptimal(price, np.inf, np.ones(len(at), np.uint8), held, exact)]

    def open_candidates(
        self, price: Array, up: Array, down: Array, widened: Array, opened: Array, x: Tensor
    ) -> None:
        """Opens the rows that hold a widened leaf and could leave it within the windows."""
        E = self.shape[1]
        stuck, rise, fall = self.there(widened), self.there(up), self.there(down)
        for block in self.blocks(price):
            held, null = x[block.rows].long(), block.null
            idle = block.may - held.sum(1)
            at_null = -self.there(price)[null]
            leaving = (block.earned - rise[:E]).masked_fill((held == 0) | ~stuck[:E], float("inf"))
            low = leaving.amin(1)
            empty = torch.where((idle > 0) & stuck[null], at_null - rise[null], float("inf"))
            low = torch.minimum(low, empty)
            full = (held >= block.copies[:, None]) | stuck[:E]
            high = (block.earned + fall[:E]).masked_fill(full, float("-inf")).amax(1)
            room = (idle < block.may - block.must) & ~stuck[null]
            high = torch.maximum(high, torch.where(room, at_null + fall[null], float("-inf")))
            opens = ((low < float("inf")) & (high > float("-inf")) & (high >= low)).cpu().numpy()
            some = opened[block.rows]
            some[opens & (some == 0)] = 1

    def read(self, at: Array, x: Tensor, opened: Array) -> Read:
        """Some rows, copied here in wide types; `opened` (T,) may be empty."""
        index = self.there(at)
        terms = np.broadcast_to(self.terms, (len(self), 3))
        null = np.broadcast_to(self.null, len(self))
        whole = opened[at] == 2 if len(opened) else np.ones(len(at), bool)
        scores = self.scores[index].double().cpu().numpy()
        held = x[index].cpu().numpy().astype(np.int64)
        return Read(scores, terms[at], null[at], held, whole, slice(None))

    def total(self, number: int) -> int:
        """A number added up over the processes: here this one alone."""
        return int(number)
