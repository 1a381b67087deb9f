"""Exchange between the processes of a `torch.distributed` group over which tokens are sharded.

Every exchange gathers one value from each rank, together with a flag that says whether the rank has
failed. So a rank that fails stops the others at their next exchange, and a lost rank stops them at
the group's time-out; no rank waits forever.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from lp_routing.errors import InputError

T = TypeVar("T")


class GroupError(RuntimeError):
    """A process of the group failed, left, or did not answer in time."""


class ProcessGroup:
    """The processes that hold a problem's tokens; with group=None, this process alone.

    Args:
        group: a `torch.distributed` process group, such as `torch.distributed.group.WORLD`.

    Raises:
        InputError: not a process group, or none is initialised.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.rank, self.size = 0, 1
        if group is None:
            return
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise InputError(
                "group: torch.distributed is not initialised; call "
                "torch.distributed.init_process_group first, or leave group out."
            )
        if not isinstance(group, torch.distributed.ProcessGroup):
            raise InputError(
                f"group: expected a torch.distributed process group, such as "
                f"torch.distributed.group.WORLD, got {type(group).__name__}."
            )
        self.rank = torch.distributed.get_rank(group)
        self.size = torch.distributed.get_world_size(group)
        if self.rank < 0:
            raise InputError("group: this process is not a member of it.")

    @property
    def alone(self) -> bool:
        """Whether no other process holds tokens."""
        return self.group is None

    def gathered(self, value: T) -> list[T]:
        """The value of each rank, in the order of ranks, on every rank."""
        if self.alone:
            return [value]
        return self._exchange((None, value))

    def same(self, who: str, **options: object) -> None:
        """Check that all ranks call `who` with the same options.

        Raises:
            InputError: on every rank, where they differ.
        """
        stated = self.gathered(options)
        for rank, others in enumerate(stated):
            for name, first in stated[0].items():
                if others[name] != first:
                    raise InputError(
                        f"{who}(group=...): ranks 0 and {rank} were given different options: "
                        f"{name}={first} and {name}={others[name]}; give all ranks the same."
                    )

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error raised inside on this rank is raised on the others as well, with its message."""
        try:
            yield
        except GroupError:
            raise
        except Exception as error:
            if not self.alone:
                self._exchange((f"{type(error).__name__}: {error}", None), raises=False)
            raise

    def _exchange(self, value: Any, raises: bool = True) -> list[Any]:
        received: list[Any] = [None] * self.size
        try:
            torch.distributed.all_gather_object(received, value, group=self.group)
        except RuntimeError as error:
            if not raises:
                return []
            raise GroupError(
                f"rank {self.rank} of {self.size}: another process of the group failed, left or "
                f"did not answer within the group's time-out. Look at the other ranks' output. "
                f"({str(error).splitlines()[0]})"
            ) from error
        for rank, (failure, _) in enumerate(received):
            if failure is not None and raises:
                raise GroupError(f"rank {rank} of {self.size} failed: {failure}")
        return [value for _, value in received]


ALONE = ProcessGroup()
