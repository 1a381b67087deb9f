"""Rows over the processes of a group: each passes over its own, and they exchange what is small.

Loads, curvature and windows are combined; open rows and samples are gathered, and every process
makes the same exchanges among them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.process_group import ProcessGroup
from lp_routing.solvers.min_cost_flow.cpu import Read, Rows
from lp_routing.solvers.min_cost_flow.device import DeviceRows

Array = np.ndarray[Any, np.dtype[Any]]


class SharedRows:
    """This process's rows and those of the others; the methods are those of `cpu.Rows`.

    Args:
        own: this process's rows.
        processes: those that hold the tokens.
    """

    def __init__(self, own: Rows | DeviceRows, processes: ProcessGroup) -> None:
        self.own, self.processes = own, processes
        facts = processes.gathered((len(own), own.units, own.uneven))
        counts = [fact[0] for fact in facts]
        self.before, self.T = sum(counts[: processes.rank]), sum(counts)
        self.units = sum(fact[1] for fact in facts)
        self.uneven = any(fact[2] for fact in facts)

    @property
    def shape(self) -> tuple[int, int]:
        """T of all processes, and E."""
        return self.T, self.own.shape[1]

    @property
    def passes(self) -> int:
        """Passes over the rows."""
        return self.own.passes

    def __len__(self) -> int:
        return self.T

    def total(self, number: int) -> int:
        """A number added up over the processes."""
        return sum(map(int, self.processes.gathered(number)))

    def added(self, array: Array) -> Array:
        """An array added up over the processes, in the order of ranks."""
        parts: list[Array] = self.processes.gathered(array)
        return sum(parts[1:], start=parts[0])

    def take(self, index: Array) -> Rows:
        """Some rows of all processes, on every one."""
        mine = index[(index >= self.before) & (index < self.before + len(self.own))] - self.before
        read = self.read(mine, torch.zeros_like(self.own.scores, dtype=torch.uint8), np.zeros(0))
        return Rows(torch.from_numpy(read.scores), read.terms, read.null, self.own.leaves)

    def respond(self, price: Array) -> Array:
        """One pass; the loads of all rows."""
        return self.added(self.own.respond(price))

    def curvature(self, width: Array) -> Array:
        """Units that change from leaf to leaf for each unit of price, of all rows."""
        return self.added(self.own.curvature(width))

    def place(self, price: Array, target: Array) -> tuple[Tensor, Array]:
        """This process's choices, ties spread over its part of the target; the loads of all."""
        x, load = self.own.place(price, target // self.processes.size)
        return x, self.added(load)

    def closest(self, want: int) -> tuple[Array, Array]:
        """Each process opens its own nearest rows."""
        opened, window = self.own.closest(-(-want // self.processes.size))
        return opened, np.max(self.processes.gathered(window), axis=0)

    def suboptimal(
        self, price: Array, reach: float, opened: Array, x: Tensor, exact: bool
    ) -> Array:
        """This process's rows that would choose otherwise."""
        return self.own.suboptimal(price, reach, opened, x, exact)

    def open_candidates(
        self, price: Array, up: Array, down: Array, widened: Array, opened: Array, x: Tensor
    ) -> None:
        """Opens this process's rows."""
        self.own.open_candidates(price, up, down, widened, opened, x)

    def read(self, at: Array, x: Tensor, opened: Array) -> Read:
        """Some rows of each process, on every one."""
        own = self.own.read(at, x, opened)
        parts = self.processes.gathered((own.scores, own.terms, own.null, own.held, own.whole))
        lengths = [len(part[0]) for part in parts]
        start = sum(lengths[: self.processes.rank])
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        scores, terms, null, held, whole = columns
        return Read(scores, terms, null, held, whole, slice(start, start + len(own.scores)))
