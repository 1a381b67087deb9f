"""The rows of `benchmarks.gap`: what one holds, its file, and what a file of them says."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.evaluation.evaluate import NOT_JUDGED, NOT_TRIED, OK, RouterResult
from lp_routing.files import write_whole


@dataclass(frozen=True)
class Measured:
    """One line of the file: a router on a case.

    Attributes:
        warm_up: steps on the same batch that a router with a state had behind it.
        limit_s: seconds that it might take on a case, four times as long with its warm-up; one
            that is expected to take longer is not tried.
    """

    case: str
    scores: str
    T: int
    E: int
    K: int
    factor: float
    capacity: int
    warm_up: int
    row: RouterResult
    limit_s: float
    seed: int
    versions: str
    machine: str

    @property
    def column(self) -> tuple[str, int, float]:
        """Cases that differ only in layer or size."""
        return self.scores, self.K, self.factor

    @property
    def key(self) -> tuple[str, str, int]:
        """What is not measured twice."""
        return self.case, self.row.router, self.warm_up


def append(path: Path, new: Sequence[Measured]) -> None:
    """Add lines; whoever reads or stops this finds all of them in the file, or none."""
    records = [{**vars(line), **line.row.as_record()} for line in new]
    for record in records:
        del record["row"]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    if path.exists():  # an older file may lack columns: they are empty then
        with path.open(newline="") as file:
            writer.writerows(csv.DictReader(file))
    writer.writerows(records)
    write_whole(path, text.getvalue())


def read(path: Path) -> list[Measured]:
    """All lines of a file; none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Measured(row=RouterResult(**_values(RouterResult, line)), **_values(Measured, line))
            for line in csv.DictReader(file)
        ]


def _values(kind: Any, line: dict[str, str]) -> dict[str, Any]:
    """The cells of a line that are fields of `kind`, as what they were."""
    return {
        field.name: _cell(line[field.name], field.type)
        for field in fields(kind)
        if field.name in line
    }


def _cell(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if text == "":
        return float("nan") if kind is float else None
    if kind in (bool, bool | None):
        return text == "True"
    return int(text) if kind in (int, int | None) else float(text)


def progress(line: Measured) -> str:
    """One line for one row."""
    row = line.row
    if not row.judged:
        return f"{line.case:26} {row.label:36} {row.status[:100]}"
    gap = f"gap {row.relative_gap:.2%}" if row.feasible else f"INFEASIBLE by {row.violation:g}"
    return f"{line.case:26} {row.label:36} {gap}, {row.topk_units:.3g} topk"


def table(lines: Sequence[Measured]) -> Table:
    """Median relative gap of each router in each column of cases; x where a bound was broken."""
    columns = sorted({line.column for line in lines})
    result = Table(
        title="relative gap to the certified optimum [%], median; x breaks bounds; - no row; "
        "* not tried on the larger cases; topk: median time",
        title_justify="left",
    )
    result.add_column("router", no_wrap=True)
    for scores, K, factor in columns:
        result.add_column(f"{scores}\nK={K}\n{factor:g}", justify="right")
    result.add_column("topk", justify="right")
    for name in dict.fromkeys(line.row.label for line in lines):
        own = [line for line in lines if line.row.label == name]
        units = [line.row.topk_units for line in own if line.row.runs]
        cells = [_median_gap([x.row for x in own if x.column == column]) for column in columns]
        result.add_row(name, *cells, f"{median(units):.3g}" if units else "")
    return result


def _median_gap(rows: Sequence[RouterResult]) -> str:
    judged = [row for row in rows if row.judged]
    left_out = [row for row in rows if row.status.startswith((NOT_JUDGED, NOT_TRIED))]
    if len(judged) + len(left_out) < len(rows):
        return "failed"
    if not judged:
        return "-" if rows else ""
    star = "*" if left_out else ""
    if any(row.status != OK for row in judged):
        return f"x{star}"
    return f"{100 * median(row.relative_gap for row in judged):.2f}{star}"


def wrong(lines: Sequence[Measured]) -> list[str]:
    """What cannot be true, or was not proved, in words."""
    found = [
        f"{line.case}: {line.row.label} keeps all bounds and beats the bound by {-line.row.gap:g}"
        for line in lines
        if line.row.feasible and line.row.relative_gap < -TOLERANCE
    ]
    unproved = {
        f"{line.case}: optimum {line.row.optimum_status}"
        for line in lines
        if line.row.optimum_status not in ("OPTIMAL", "")
    }
    return found + sorted(unproved)
