"""The rows of the CSV file: one for each case and solver, whatever came of it."""

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.side_by_side.cases import Case
from benchmarks.side_by_side.worker import Record
from lp_routing.cli.options import versions

ENDED = ("OPTIMAL", "INFEASIBLE")
AGREE = 1e-6
"""Relative: values of two solvers that differ by more disagree. It is POT's and CVXPY's
tolerance."""


@dataclass(frozen=True)
class Row:
    """One line of the file; None where there is nothing to say.

    Attributes:
        status: OPTIMAL or INFEASIBLE; "time limit ...", "failed: ...", "not tried: ...",
            "BROKEN: ..." or the solver's own words.
        value: of the assignment, evaluated in float64 by the same lines for every solver.
        bound: proved upper bound; None where the solver gives no prices (OR-tools).
        seconds: median over `repeats` solves; also the shortest and the longest.
        topk_seconds: median of `torch.topk(scores, K)`; also the shortest.
        topk_units: seconds / topk_seconds, both measured in the same processes.
        memory_over_scores: peak memory beyond the scores, as a multiple of their bytes.
        limit_s: a single solve was stopped after this time.
    """

    case: str
    scores: str
    T: int
    E: int
    K: int
    factor: float
    bounds: str
    solver: str
    status: str
    value: float | None
    bound: float | None
    relative_gap: float | None
    seconds: float | None
    seconds_min: float | None
    seconds_max: float | None
    repeats: int
    topk_seconds: float | None
    topk_seconds_min: float | None
    topk_units: float | None
    memory_over_scores: float | None
    memory_bytes: int | None
    limit_s: float
    seed: int
    versions: str
    machine: str

    @property
    def disturbed(self) -> bool:
        """Whether the machine had other work: topk often took over twice its shortest time."""
        usual, shortest = self.topk_seconds, self.topk_seconds_min
        return usual is not None and shortest is not None and usual > 2 * shortest

    @property
    def ended(self) -> bool:
        """Whether the solver came to an answer that counts."""
        return self.status in ENDED


def row(case: Case, solver: str, limit_s: float, outcome: str | Sequence[Record]) -> Row:
    """The row of some processes' records, or of a sentence that says why there are none."""
    records = [] if isinstance(outcome, str) else list(outcome)
    last = Record(status=outcome) if isinstance(outcome, str) else records[-1]
    seconds = sorted(second for record in records for second in record.seconds)
    topk = [second for record in records for second in record.topk_seconds]
    memory = [record.memory_bytes for record in records if record.memory_bytes is not None]
    middle, unit = (median(seconds), median(topk)) if seconds else (None, None)
    return Row(
        **{name: getattr(case, name) for name in ("scores", "T", "E", "K", "factor", "seed")},
        case=case.name,
        bounds=last.bounds,
        solver=solver,
        status=last.status,
        value=last.value,
        bound=last.bound,
        relative_gap=relative_gap(last.value, last.bound),
        seconds=middle,
        seconds_min=seconds[0] if seconds else None,
        seconds_max=seconds[-1] if seconds else None,
        repeats=len(seconds),
        topk_seconds=unit,
        topk_seconds_min=min(topk, default=None),
        topk_units=middle / unit if middle and unit else None,
        memory_over_scores=max(memory) / last.scores_bytes if memory else None,
        memory_bytes=max(memory) if memory else None,
        limit_s=limit_s,
        versions=versions_in_words(),
        machine=machine_in_words(),
    )


def relative_gap(value: float | None, bound: float | None) -> float | None:
    """(bound - value) / max(|value|, |bound|), or None where one is missing or infinite."""
    if value is None or bound is None or bound in (float("inf"), float("-inf")):
        return None
    size = max(abs(value), abs(bound))
    return (bound - value) / size if size else bound - value


def disagreement(rows: Sequence[Row]) -> str:
    """What the rows of one case say that cannot all be true; empty where they agree."""
    ended = [row for row in rows if row.ended]
    values = [row.value for row in ended if row.value is not None]
    if len({row.status for row in ended}) <= 1:
        size = max((abs(value) for value in values), default=0.0)
        if not values or max(values) - min(values) <= AGREE * size:
            return ""
    said = ", ".join(f"{row.solver} {row.status} {row.value}" for row in ended)
    return f"{rows[0].case} DISAGREES: {said}"


def append(path: Path, new: Row) -> None:
    """Write one more line, with the header before the first."""
    begins = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow(asdict(new))


def read(path: Path) -> list[Row]:
    """All rows of a file; none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    values: dict[str, Any] = {}
    for field in fields(Row):
        text = line[field.name]
        if field.type is str:
            values[field.name] = text
        elif text == "":
            values[field.name] = None
        else:
            values[field.name] = int(text) if field.type in (int, int | None) else float(text)
    return Row(**values)


@cache
def versions_in_words() -> str:
    """Everything that a figure depends on, in one cell."""
    found = versions() | {name: _version(name) for name in ("ortools", "pylmcf", "POT")}
    return "; ".join(f"{name} {installed}" for name, installed in found.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine_in_words() -> str:
    """Cores that may be used, architecture, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {memory:.0f} GiB"
