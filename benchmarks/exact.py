"""Exact solvers side by side: `python -m benchmarks.exact` (see `benchmarks/README.md`).

Every solver gets the same problems in processes of their own, in turns. Rows go to a CSV file as
they come; at the end a table, the aims and a plot. `--quick` takes about two minutes.
"""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from benchmarks.side_by_side.cases import FACTORS, QUICK, Case, all_cases
from benchmarks.side_by_side.harness import Plan, run
from benchmarks.side_by_side.plot import draw
from benchmarks.side_by_side.rows import Row, append, read
from benchmarks.side_by_side.solvers import SOLVERS
from benchmarks.side_by_side.table import aims, comparison, growth, wrong

HERE = Path(__file__).parent
QUICK_LIMIT_S = 20.0
"""Seconds for a single solve with `--quick`: HiGHS and POT need longer on the larger cases."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where answers disagree or break bounds, 2 for senseless options."""
    options = parsed(arguments)
    known = read(options.out)
    if known and not (options.resume or options.report):
        print(f"{options.out} holds {len(known)} rows: go on with --resume, show with --report.")
        return 2
    if not options.report:
        cases, absent = all_cases(options.data)
        print(*absent, sep="\n", end="\n" if absent else "")
        chosen = selected(cases, options.cases)
        if not chosen:
            print(
                f"No case matches {options.cases}; there are: " + ", ".join(c.name for c in cases)
            )
            return 2
        for new in run(chosen, plan_of(options), known):
            append(options.out, new)
            print(progress(new), flush=True)
    return report(read(options.out), options.out.with_suffix(".png"))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--quick` stands for some of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="small cases, one solve each")
    add("--cases", nargs="+", default=["*"], help='names or patterns, such as "gpt-oss-*"')
    add("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    add("--repeats", type=int, help="solves in one process (by size: 5, 2 or 1)")
    add("--rounds", type=int, default=2, help="processes for each case and solver, in turns")
    add("--limit", type=float, help="seconds for a single solve (by solver: 60 or 600)")
    add("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="trace files")
    add("--out", type=Path, default=HERE / "exact.csv", help="CSV file; the plot goes beside it")
    add("--resume", action="store_true", help="skip what the file already has")
    add("--report", action="store_true", help="measure nothing: table and plot of the file")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cases = list(QUICK) if options.cases == ["*"] else options.cases
        options.repeats, options.rounds = options.repeats or 1, 1
        options.limit = options.limit or QUICK_LIMIT_S
    options.data = options.data.resolve()
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """The options that say how to measure."""
    return Plan(options.solvers, options.repeats, options.rounds, options.data, options.limit)


def selected(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose name matches one of the patterns."""
    return [case for case in cases if any(fnmatch(case.name, pattern) for pattern in patterns)]


def progress(row: Row) -> str:
    """One line for one row."""
    took = "" if row.seconds is None else f" {row.seconds:.3g} s, {row.topk_units:.3g} topk"
    memory = row.memory_over_scores
    held = "" if memory is None else f", memory {memory:.2f} x scores"
    return f"{row.case:32} {row.solver:9} {row.status}{took}{held}"


def report(rows: Sequence[Row], picture: Path) -> int:
    """Print the table, growth and aims, draw the plot; 1 where something is wrong."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(comparison(rows))
    for factor in FACTORS:
        for solver in SOLVERS:
            exponent = growth(rows, solver, factor)
            if exponent is not None:
                print(f"{solver}, factor {factor:g}: time grows as T^{exponent:.2f} from 65536 up")
    print("\n".join(aims(rows)))
    draw(rows, picture)
    print(f"Plot: {picture}")
    disturbed = [f"{row.case} ({row.solver})" for row in rows if row.disturbed]
    if disturbed:
        print(f"{len(disturbed)} rows measured beside other work, measure again:", *disturbed)
    found = wrong(rows)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
