"""How far routers are from the optimum: `python -m benchmarks.gap` (see `benchmarks/README.md`).

Every router of the catalogue is judged by the capacity problem of every case, side by side in this
process. Rows go to a CSV file case by case; at the end a table and a plot.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import lp_routing as lpr
from benchmarks.side_by_side.cases import GPT_OSS, GPT_OSS_EXPERTS, Case, build
from benchmarks.side_by_side.rows import machine_in_words, versions_in_words
from lp_routing.compare import OPTIMUM, comparisons
from lp_routing.judging import GapRow
from lp_routing.report.gap_plot import draw
from lp_routing.routers import CATALOGUE, Shape, StatefulRouter, router

HERE = Path(__file__).parent
FACTORS = (1.0, 1.25, 1.5)
SKEWED = ((1024, 64, 2), (4096, 64, 2), (16384, 64, 2), (65536, 64, 2))
QUICK = ("skewed-1024x64-k2-*", "skewed-4096x64-k2-f1.25", "sample-0-k2-*", "gpt-oss-00-k2-*")
WARM, WARM_STEPS = ", warm", 100
DRAWN = (2, 1.25)
ROUNDING = 1e-9


@dataclass(frozen=True)
class Measured:
    """One line of the file: a router on a case."""

    case: str
    scores: str
    T: int
    E: int
    K: int
    factor: float
    capacity: int
    warm_up: int
    row: GapRow
    seed: int
    versions: str
    machine: str

    @property
    def column(self) -> tuple[str, int, float]:
        """Cases that differ only in layer or size."""
        return self.scores, self.K, self.factor


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where a row cannot be true or is unproved, 2 for bad options."""
    options = parsed(arguments)
    known = read(options.out)
    if known and not (options.resume or options.report):
        print(f"{options.out} holds {len(known)} rows: go on with --resume, show with --report.")
        return 2
    if options.resume and any(line.seed != options.seed for line in known):
        print(f"{options.out} holds rows of another seed than {options.seed}; give another --out.")
        return 2
    if not options.report:
        cases, absent = all_cases(options.data, options.seed)
        print(*absent, sep="\n", end="\n" if absent else "")
        chosen = [c for c in cases if any(fnmatch(c.name, pattern) for pattern in options.cases)]
        if not chosen:
            print(f"No case matches {options.cases}; there are: {', '.join(c.name for c in cases)}")
            return 2
        have = {(line.case, line.row.router) for line in known}
        for case in chosen:
            for new in measured(case, options, have):
                append(options.out, new)
                print(progress(new), flush=True)
    return report(read(options.out), options.out.with_suffix(".png"))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--quick` stands for some of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gap", description=__doc__)
    add = parser.add_argument
    names = [OPTIMUM, *CATALOGUE]
    add("--quick", action="store_true", help="a few small cases, one timed call each")
    add("--cases", nargs="+", default=["*"], help='names or patterns, such as "gpt-oss-*"')
    add("--routers", nargs="+", default=names, choices=names, metavar="NAME", help="of these alone")
    add("--repeats", type=int, help="timed calls of each router (5)")
    add("--seed", type=int, default=0, help="of synthetic scores and of routers that draw (0)")
    add("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="trace files")
    add("--out", type=Path, default=HERE / "gap.csv", help="CSV file; the plot goes beside it")
    add("--resume", action="store_true", help="skip what the file already has")
    add("--report", action="store_true", help="measure nothing: table and plot of the file")
    options = parser.parse_args(arguments)
    if options.quick and options.cases == ["*"]:
        options.cases = list(QUICK)
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


def all_cases(data: Path, seed: int = 0) -> tuple[list[Case], list[str]]:
    """All cases, the smallest matrices first, and a sentence for each file that is absent."""
    layers, T, E = lpr.traces.sample().router_logits.shape
    cases = [Case("skewed", "", *size, factor, seed) for size in SKEWED for factor in FACTORS]
    cases += _layers("sample", [f"{layer}" for layer in range(layers)], T, E)
    absent = []
    if (data / GPT_OSS).is_file():
        with np.load(data / GPT_OSS, allow_pickle=False) as file:
            layers, T, _ = file["expert_ids"].shape
        cases += _layers("gpt-oss", [f"{i:02d}" for i in range(layers)], T, GPT_OSS_EXPERTS)
    else:
        absent.append(f"{data / GPT_OSS} is absent: its cases are left out.")
    return sorted(cases, key=lambda case: case.T * case.E), absent


def _layers(scores: str, parts: Sequence[str], T: int, E: int) -> list[Case]:
    return [Case(scores, part, T, E, K, f) for part in parts for K in (1, 2) for f in FACTORS]


def measured(
    case: Case, options: argparse.Namespace, have: set[tuple[str, str]]
) -> Iterator[Measured]:
    """The rows of one case that the file lacks; routers with a state cold, and once more warm."""
    instance = build(case, options.data)
    problem = lpr.capacity(instance.scores, case.K, instance.capacity)
    shape = Shape(case.K, instance.capacity, case.T, case.E)
    cold = [name for name in options.routers if (case.name, name) not in have]
    warm = [
        name
        for name in options.routers
        if (case.name, name + WARM) not in have and has_state(name, shape)
    ]
    for names, steps, suffix in ((cold, 0, ""), (warm, WARM_STEPS, WARM)):
        if not names:
            continue
        for row in comparisons(
            problem,
            names,
            repeats=options.repeats,
            warm_up=steps,
            seed=options.seed,
            shape=shape,
        ):
            yield Measured(
                **{name: getattr(case, name) for name in ("scores", "T", "E", "K", "factor")},
                case=case.name,
                capacity=instance.capacity,
                warm_up=steps,
                row=replace(row, router=row.router + suffix),
                seed=options.seed,
                versions=versions_in_words(),
                machine=machine_in_words(),
            )


def has_state(name: str, shape: Shape) -> bool:
    """Whether the catalogue's router of that name carries something from batch to batch."""
    try:
        return name != OPTIMUM and isinstance(router(name, shape), StatefulRouter)
    except Exception:  # it cannot be built for this shape: its cold row says why
        return False


def append(path: Path, new: Measured) -> None:
    """Write one more line, with the header before the first."""
    record = {**vars(new), **new.row.as_record()}
    del record["row"]
    begins = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(record), lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow(record)


def read(path: Path) -> list[Measured]:
    """All lines of a file; none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Measured(row=GapRow(**_values(GapRow, line)), **_values(Measured, line))
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
    if row.status != "ok":
        return f"{line.case:26} {row.router:30} failed: {row.status}"
    broken = "" if row.feasible else f", INFEASIBLE by {row.violation:g}"
    took = f"{row.topk_units:.3g} topk"
    return f"{line.case:26} {row.router:30} gap {row.relative_gap:.2%}, {took}{broken}"


def report(lines: Sequence[Measured], picture: Path) -> int:
    """Print the table, draw the plot; 1 where something is wrong."""
    if not lines:
        print("There are no rows.")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(lines))
    K, factor = DRAWN
    panels = {
        f"{scores}, K = {K}, capacity factor {factor:g}: medians": [
            line.row for line in lines if line.column == (scores, K, factor)
        ]
        for scores in dict.fromkeys(line.scores for line in lines)
    }
    try:
        draw(panels, picture)
        print(f"Plot: {picture}")
    except lpr.InputError as error:
        print(f"No plot: {error}")
    found = wrong(lines)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def table(lines: Sequence[Measured]) -> Table:
    """Median relative gap of each router in each column of cases; x where a bound was broken."""
    columns = sorted({line.column for line in lines})
    result = Table(title="relative gap to the certified optimum [%], median; x breaks bounds")
    result.add_column("router", no_wrap=True)
    for scores, K, factor in columns:
        result.add_column(f"{scores}\nK={K}\n{factor:g}", justify="right")
    result.add_column("topk", justify="right")
    for name in dict.fromkeys(line.row.router for line in lines):
        own = [line for line in lines if line.row.router == name]
        units = [line.row.topk_units for line in own if line.row.runs]
        cells = [_median_gap([x.row for x in own if x.column == column]) for column in columns]
        result.add_row(name, *cells, f"{median(units):.3g}" if units else "")
    return result


def _median_gap(rows: Sequence[GapRow]) -> str:
    if not rows:
        return ""
    if any(row.status != "ok" for row in rows):
        return "failed"
    if not all(row.feasible for row in rows):
        return "x"
    return f"{100 * median(row.relative_gap for row in rows):.2f}"


def wrong(lines: Sequence[Measured]) -> list[str]:
    """What cannot be true, or was not proved, in words."""
    found = [
        f"{line.case}: {line.row.router} keeps all bounds and beats the bound by {-line.row.gap:g}"
        for line in lines
        if line.row.feasible and line.row.relative_gap < -ROUNDING
    ]
    unproved = {
        f"{line.case}: optimum {line.row.optimum_status}"
        for line in lines
        if line.row.optimum_status != "OPTIMAL"
    }
    return found + sorted(unproved)


if __name__ == "__main__":
    sys.exit(main())
