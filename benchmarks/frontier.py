"""What a whole frontier costs: `python -m benchmarks.frontier`; rows go to `frontier.csv`.

The curve of the total budget in units of `torch.topk(scores, K)`; that of the capacity, 20 solved
points, in units of its first. Side by side in this process, medians of `--repeats`.
"""

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.cli.options import versions
from lp_routing.frontier import over_capacity, over_total

K, SEED = 2, 0
TOTALS = ((65_536, 64), (1_048_576, 64))
CAPACITIES = ((1_024, 64), (16_384, 64), (65_536, 64))
FIRST, POINTS = 3, 22
"""One and 20 solved capacities; both ends of the curve cost no solve."""


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of a call, and what it returned."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def total_row(name: str, scores: Tensor, repeats: int) -> dict[str, Any]:
    """The exact curve of every total budget, beside `topk`."""
    units, whole = [], []
    for _ in range(repeats):
        units.append(seconds_of(lambda: scores.topk(K))[0])
        seconds, curve = seconds_of(lambda: over_total(lpr.RoutingProblem(scores)))
        whole.append(seconds)
    return {
        "case": name,
        "unit": f"topk(scores, {K})",
        "unit_seconds": median(units),
        "seconds": median(whole),
        "units": median(whole) / median(units),
        "budgets": curve.last - curve.first + 1,
        "status": "exact",
        "relative_gap": 0.0,
    }


def capacity_row(name: str, scores: Tensor, repeats: int) -> dict[str, Any]:
    """20 solved capacities beside the first of them."""
    units, whole = [], []
    for _ in range(repeats):
        units.append(seconds_of(lambda: over_capacity(scores, K, points=FIRST))[0])
        seconds, curve = seconds_of(lambda: over_capacity(scores, K, points=POINTS))
        whole.append(seconds)
    apart = (curve.bounds - curve.values).abs() / curve.values.abs().clamp(min=1e-300)
    return {
        "case": name,
        "unit": "the first solved capacity",
        "unit_seconds": median(units),
        "seconds": median(whole),
        "units": median(whole) / median(units),
        "budgets": len(curve.budgets),
        "status": f"{len(curve.budgets) - 2} solved; between them within "
        f"{curve.gap / float(curve.values[-1]):.1e}",
        "relative_gap": float(apart.max()),
    }


def rows(quick: bool, repeats: int) -> Sequence[dict[str, Any]]:
    """All rows, printed as they come."""
    sample = lpr.scores.softmax(lpr.traces.sample().layer(0))
    cases: list[tuple[Callable[..., dict[str, Any]], str, Tensor]] = []
    for T, E in TOTALS[: 1 if quick else None]:
        cases.append((total_row, f"total, skewed {T}x{E}", skewed_scores(T, E, SEED)))
    cases.append((capacity_row, f"capacity, sample {len(sample)}x{sample.shape[1]}", sample))
    for T, E in CAPACITIES[: 1 if quick else None]:
        cases.append((capacity_row, f"capacity, skewed {T}x{E}", skewed_scores(T, E, SEED)))
    found = []
    for measure, name, scores in cases:
        row = measure(name, scores, repeats) | {"k": K, "seed": SEED, "repeats": repeats}
        found.append(row | {"threads": torch.get_num_threads(), "versions": versions()})
        print(
            f"{name}: {row['seconds']:.2f} s, {row['units']:.1f} of {row['unit']} "
            f"({row['unit_seconds']:.3f} s); {row['status']}",
            flush=True,
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small cases, once; no file")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each (3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    found = rows(options.quick, 1 if options.quick else options.repeats)
    if not options.quick:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, found[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
