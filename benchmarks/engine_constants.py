"""What each constant of `MinCostFlow` trades: `python -m benchmarks.engine_constants`.

Each is halved and doubled alone, on the same skewed batches. Counted, not timed: passes over all
rows, entries of rows opened for exchanges, and searches for paths, all added up.
"""

import argparse
from importlib import import_module
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.solvers.min_cost_flow import newton, search, solver

BATCHES = [(1024, 64, 2, 1.0), (4096, 64, 2, 1.0), (4096, 64, 2, 1.25), (8192, 128, 8, 1.0)]
"""T, E, k and capacity factor."""
CONSTANTS = {
    newton: [
        "ROUNDS", "CLEARED", "SLOW", "PATIENCE", "DAMPING", "EASED",
        "RAISED", "KEPT", "BROKEN", "FEWEST", "FORGOTTEN", "RENEWED", "STEPS", "RESIDUAL",
    ],
    search: ["FIRST", "GROWTH", "NEAREST", "WIDER", "TOO_MANY", "ROUNDS_BEFORE_ALL", "MASSES",
        "WIDEST", "UNITS_PER_LEAF", "STEPS_AT_A_TIME",
    ],
}  # fmt: skip
FACTORS = (0.5, 2.0)


def work(seeds: int) -> tuple[int, int, int]:
    """Passes, open entries and searches of all batches, which must all end optimal."""
    found = []
    searched = search.search

    def noted(*arguments: Any, **options: Any) -> Any:
        found.append(searched(*arguments, **options))
        return found[-1]

    with patch.object(solver, "search", noted):
        for T, E, k, factor in BATCHES:
            for seed in range(seeds):
                scores = skewed_scores(T, E, seed)
                problem = lpr.problems.capacity(scores, k, -int(-T * k * factor // E))
                assert lpr.solve(problem).status is lpr.Status.OPTIMAL
    counts = [each.counts for each in found]
    entries = sum(int(row[1]) for each in counts for row in each.log)
    return sum(each.passes for each in counts), entries, sum(int(each.paths[0]) for each in counts)


def main() -> None:
    """Print one line for each constant as it is, halved and doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="names of constants")
    parser.add_argument("--seeds", type=int, default=8, help="of each batch size")
    options = parser.parse_args()
    seeds = options.seeds
    table = Table("constant", "value", "passes", "entries", "searches")
    table.add_row("all as they are", "", *map(str, work(seeds)))
    for module, names in CONSTANTS.items():
        for name in names if options.only is None else set(names) & set(options.only):
            usual = getattr(import_module(module.__name__), name)
            for factor in FACTORS:
                value = type(usual)(usual * factor)
                with patch.object(module, name, value):
                    table.add_row(name, f"{value:g}", *map(str, work(seeds)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
