"""How far routers are from the optimum: `python -m benchmarks.gap` (see `benchmarks/README.md`).

Every router of the catalogue is judged by the capacity problem of every case, side by side in this
process. Rows go to a CSV file case by case; at the end a table and a plot.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

import lp_routing as lpr
from benchmarks.gap_rows import Measured, append, progress, read, table, wrong
from benchmarks.scores import skewed_logits
from benchmarks.side_by_side.cases import GPT_OSS, GPT_OSS_EXPERTS, Case, build
from benchmarks.side_by_side.rows import machine_in_words, versions_in_words
from lp_routing.evaluation.compare import OPTIMUM, comparisons
from lp_routing.evaluation.evaluate import NOT_TRIED, RouterResult, bounds_in_words
from lp_routing.report.plots.gap_against_time import draw
from lp_routing.routers import CATALOGUE, Shape, StatefulRouter, router

HERE = Path(__file__).parent
FACTORS = (1.0, 1.25, 1.5)
SKEWED = ((1024, 64, 2), (4096, 64, 2), (16384, 64, 2), (65536, 64, 2))
QUICK = ("skewed-1024x64-k2-*", "skewed-4096x64-k2-f1.25", "sample-0-k2-*", "gpt-oss-00-k2-*")
GPT_OSS_LAYERS = 3
"""Recorded layers that are measured, evenly spaced from the first to the last."""
WARM_STEPS, WARM_FACTOR = 30, 1.25
"""Routers with a state are measured once more after this many steps on the same batch, at this
capacity factor only."""
LIMIT_S, WARM_LIMITS = 8.0, 4
"""Seconds that a router may take on a case, and the factor on that with its warm-up; a router that
is expected to take longer is not tried. Larger limits fill more cells of the table, in more
time."""
DRAWN = (2, 1.25)
"""K and capacity factor of the cases in the plot."""


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
        cases, absent = all_cases(options.data, options.seed, options.all_layers)
        print(*absent, sep="\n", end="\n" if absent else "")
        chosen = [c for c in cases if any(fnmatch(c.name, pattern) for pattern in options.cases)]
        if not chosen:
            print(f"No case matches {options.cases}; there are: {', '.join(c.name for c in cases)}")
            return 2
        for case in chosen:
            for new in measured(case, options, known):
                append(options.out, new)
                known += new
                print(*map(progress, new), sep="\n", flush=True)
    return report(read(options.out), options.out.with_suffix(".png"))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--quick` stands for some of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gap", description=__doc__)
    add = parser.add_argument
    names = [OPTIMUM, *CATALOGUE]
    add("--quick", action="store_true", help="a few small cases, one timed call each")
    add("--cases", nargs="+", default=["*"], help='names or patterns, such as "gpt-oss-*"')
    add("--all-layers", action="store_true", help=f"of gpt-oss, not {GPT_OSS_LAYERS} of them")
    add("--routers", nargs="+", default=names, choices=names, metavar="NAME", help="of these alone")
    add("--repeats", type=int, help="timed calls of each router, fewer of slow ones (5)")
    add(
        "--limit",
        type=float,
        default=LIMIT_S,
        help=f"seconds of a router on a case, beyond which it is not tried ({LIMIT_S:g}); "
        f"{WARM_LIMITS} times as long with its warm-up",
    )
    add("--seed", type=int, default=0, help="of synthetic scores and of routers that draw (0)")
    add("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="trace files")
    add("--out", type=Path, default=HERE / "gap.csv", help="CSV file; the plot goes beside it")
    add("--resume", action="store_true", help="skip what the file already has")
    add("--report", action="store_true", help="measure nothing: table and plot of the file")
    options = parser.parse_args(arguments)
    if not options.limit > 0:
        parser.error(f"--limit {options.limit:g}: expected a number of seconds above 0")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected at least 1")
    if options.quick and options.cases == ["*"]:
        options.cases = list(QUICK)
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


def all_cases(data: Path, seed: int = 0, all_layers: bool = False) -> tuple[list[Case], list[str]]:
    """All cases, the smallest matrices first, and a sentence for each file that is absent."""
    layers, T, E = lpr.traces.sample().router_logits.shape
    cases = [Case("skewed", "", *size, factor, seed) for size in SKEWED for factor in FACTORS]
    cases += _layers("sample", [f"{layer}" for layer in range(layers)], T, E)
    absent = []
    if (data / GPT_OSS).is_file():
        with np.load(data / GPT_OSS, allow_pickle=False) as file:
            layers, T, _ = file["expert_ids"].shape
        count = layers if all_layers else min(layers, GPT_OSS_LAYERS)
        spaced = [round(float(i)) for i in np.linspace(0, layers - 1, count)]
        cases += _layers("gpt-oss", [f"{i:02d}" for i in spaced], T, GPT_OSS_EXPERTS)
    else:
        absent.append(f"{data / GPT_OSS} is absent: its cases are left out.")
    return sorted(cases, key=lambda case: case.T * case.E), absent


def _layers(scores: str, parts: Sequence[str], T: int, E: int) -> list[Case]:
    return [Case(scores, part, T, E, K, f) for part in parts for K in (1, 2) for f in FACTORS]


def measured(
    case: Case, options: argparse.Namespace, known: Sequence[Measured]
) -> Iterator[list[Measured]]:
    """The rows of one case that the file lacks: all cold, then those with a state warm."""
    instance = build(case, options.data)
    logits = logits_of(case)
    problem = lpr.problems.capacity(instance.scores, case.K, instance.capacity)
    shape = Shape(case.K, instance.capacity, case.T, case.E)
    have = {line.key for line in known}
    new: list[Measured] = []
    for steps in (0, WARM_STEPS) if case.factor == WARM_FACTOR else (0,):
        names = [
            name
            for name in options.routers
            if (case.name, name, steps) not in have and (not steps or has_state(name, shape))
        ]
        reasons = {
            name: too_slow(name, case, steps, options.limit, [*known, *new]) for name in names
        }
        tried = [name for name in names if not reasons[name]]
        rows = _skipped(reasons, bounds_in_words(problem), steps)
        if tried:
            rows += comparisons(
                problem,
                tried,
                logits=logits,
                repeats=options.repeats,
                warm_up=steps,
                seed=options.seed,
                shape=shape,
            )
        rows.sort(key=lambda row: names.index(row.router))
        new = [_measured(case, instance.capacity, steps, row, options) for row in rows]
        if new:
            yield new


def _measured(
    case: Case, capacity: int, steps: int, row: RouterResult, options: argparse.Namespace
) -> Measured:
    return Measured(
        **{name: getattr(case, name) for name in ("scores", "T", "E", "K", "factor")},
        case=case.name,
        capacity=capacity,
        warm_up=steps,
        row=row,
        limit_s=options.limit,
        seed=options.seed,
        versions=versions_in_words(),
        machine=machine_in_words(),
    )


def logits_of(case: Case) -> Tensor | None:
    """The logits of a case (T, E); None for gpt-oss, of which probabilities were recorded."""
    if case.scores == "sample":
        return lpr.traces.sample().layer(int(case.part))
    return skewed_logits(case.T, case.E, case.seed) if case.scores == "skewed" else None


def too_slow(name: str, case: Case, steps: int, limit_s: float, known: Sequence[Measured]) -> str:
    """Why a router is not tried: its time elsewhere, scaled to this size; "" where it is.

    Judged by the slowest cold call on the largest cases up to this size, of the same kind of
    scores where there are such, times pairs (here over there) and calls (warm-up and one).
    """
    size = case.T * case.E
    cold = [
        line
        for line in known
        if line.row.router == name and line.warm_up == 0 and size >= line.T * line.E
    ]
    alike = [line for line in cold if line.scores == case.scores] or cold
    if not alike:
        return ""
    largest = max(line.T * line.E for line in alike)
    there = [line for line in alike if largest == line.T * line.E]
    slow = next((line for line in there if line.row.status.startswith(NOT_TRIED)), None)
    if slow is not None:
        return f"nor was it on {slow.case}"
    timed = [line for line in there if line.row.runs]
    if not timed:
        return ""
    worst = max(timed, key=lambda line: line.row.seconds)
    expected = worst.row.seconds * size / largest * (steps + 1)
    limit_s *= WARM_LIMITS if steps else 1
    if expected <= limit_s:
        return ""
    return (
        f"it took {worst.row.seconds:.3g} s on {worst.case}, so {steps + 1} call(s) here would "
        f"take about {expected:.3g} s, over {limit_s:g} s"
    )


def _skipped(reasons: dict[str, str], words: str, steps: int) -> list[RouterResult]:
    """A row for each router that is not tried."""
    age = f"after {steps} step(s)" if steps else ""
    return [
        RouterResult(router=name, problem=words, state=age, status=f"{NOT_TRIED}: {reason}")
        for name, reason in reasons.items()
        if reason
    ]


def has_state(name: str, shape: Shape) -> bool:
    """Whether the catalogue's router of that name carries something from batch to batch."""
    try:
        return name != OPTIMUM and isinstance(router(name, shape), StatefulRouter)
    except Exception:  # it cannot be built for this shape: its cold row says why
        return False


def report(lines: Sequence[Measured], picture: Path) -> int:
    """Print the table, draw the plot; 1 where something is wrong."""
    if not lines:
        print("There are no rows.")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table(lines))
    try:
        draw(panels(lines), picture, broken=False)
        print(f"Plot: {picture}")
    except lpr.InputError as error:
        print(f"No plot: {error}")
    found = wrong(lines)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def panels(lines: Sequence[Measured]) -> dict[str, list[RouterResult]]:
    """What is drawn: for each kind of scores K = 2, factor 1.25, of synthetic ones the largest."""
    K, factor = DRAWN
    found: dict[str, list[RouterResult]] = {}
    for scores in dict.fromkeys(line.scores for line in lines):
        own = [line for line in lines if line.column == (scores, K, factor)]
        size = max(((line.T, line.E) for line in own), default=(0, 0))
        largest = [line.row for line in own if size == (line.T, line.E)]
        layers = len({line.case for line in own if size == (line.T, line.E)})
        over = f", medians of {layers} layers" if layers > 1 else ""
        title = f"{scores}, {size[0]} x {size[1]}, K = {K}, capacity factor {factor:g}{over}"
        found[title] = largest
    return found


if __name__ == "__main__":
    sys.exit(main())
