"""Solved points of a curve on the disk: a kill within a layer loses only the one at work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lp_routing.errors import InputError
from lp_routing.frontier.refine import Point
from lp_routing.sweep import ResultFile


@dataclass(init=False)
class Beside:
    """Where the points of each place are kept: beside the file of records.

    It has no fields: where results lie is no part of what was asked.
    """

    def __init__(self, records: Path) -> None:
        self.records = records

    def of(self, layers: Sequence[int]) -> Path:
        """The file of a place."""
        return self.records.with_name(f"{self.records.name}.{'-'.join(map(str, layers))}.points")

    def forget(self, places: Sequence[Sequence[int]]) -> None:
        """Remove the files of places whose records are kept."""
        for layers in places:
            self.of(layers).unlink(missing_ok=True)


class KeptPoints(dict[int, Point]):
    """Points by budget; each that is set is on the disk at once.

    Args:
        file: open as long as points are set.

    Raises:
        InputError: a line of the file that is no point.
    """

    def __init__(self, file: ResultFile) -> None:

        super().__init__()
        self.file = file
        for number, line in enumerate(file.lines, 2):
            values: list[Any] = [line.get(name) for name in Point._fields]
            if not all(isinstance(value, int | float) for value in values):
                raise InputError(f"{file.path}: line {number} holds no point; take it out.")
            super().__setitem__(values[0], Point(*values))

    def __setitem__(self, budget: int, point: Point) -> None:
        self.file.append(point._asdict())
        super().__setitem__(budget, point)
