"""`PriceRouter` beside `Optimal`, gap and cost: `python -m benchmarks.price_router`.

Problem `capacity`: at most K experts a token, at most C = ceil(factor T K / E) tokens an expert.
Cold: the whole layer from nothing. Warm: the second half of the layer from the prices of the first
half. Gaps are relative to a certified optimum, found apart; costs in units of `torch.topk(scores,
K)` on the same scores, each the median of ratios measured in turns, in processor time on one
thread, from scores to the chosen pairs. `--steps` gives the points between cost and gap of
`PriceRouter`; `--only skewed` the synthetic layers alone.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from benchmarks.side_by_side.cases import GPT_OSS, Case, build
from lp_routing.cli.options import versions
from lp_routing.routers import Optimal, PriceRouter
from lp_routing.routers.price import STEPS

FACTORS = (1.0, 1.25, 1.5)
LAYERS = (0, 5, 11, 17, 23)
SKEWED, SEED = (1_024, 4_096, 65_536), 0
"""Tokens of the synthetic layers, 64 experts, and their seed."""
REPEATS = 15
"""Timed pairs of calls a figure: more give steadier medians, in more time."""
Make = Callable[[int], PriceRouter | Optimal]
AIMS = (("cold gap", 1e-4), ("cold units", 6.0), ("warm gap", 1e-4), ("warm units", 3.0))
"""Aims: the largest relative gap, and the largest cost in units of `topk`."""


def units(work: Callable[[], object], scores: Tensor, k: int) -> float:
    """Median of the time of `work` over that of a `topk` just before it."""
    ratios = []
    for _ in range(REPEATS):
        began = time.process_time()
        torch.topk(scores, k)
        between = time.process_time()
        work()
        ratios.append((time.process_time() - between) / (between - began))
    return median(ratios)


def gap(scores: Tensor, k: int, capacity: int, x: Tensor) -> float:
    """What `x` misses of the optimum, relative to it; raises where `x` is not feasible."""
    best = lpr.solve(lpr.problems.capacity(scores, k, capacity), lpr.MinCostFlow())
    proof = lpr.certify(best.problem, x, best.prices)
    if best.status is not lpr.Status.OPTIMAL or not proof.keeps_bounds():
        raise RuntimeError(f"{best.status.name}: {proof.violations}")
    return 1 - float(proof.value) / float(best.value)


def row(make: Make, scores: Tensor, k: int, factor: float) -> tuple[float, ...]:
    """Gap and cost of a router, cold and warm; `make` builds it for a capacity."""
    T, E = scores.shape
    first, second = scores[: T // 2], scores[T // 2 :]
    whole, halves = (math.ceil(factor * n * k / E) for n in (T, len(second)))
    router, half = make(whole), make(halves)
    _, state = half.step(first, half.initial(first))

    def cold() -> Tensor:
        return router.step(scores, router.initial(scores))[0]

    def warm() -> Tensor:
        return half.step(second, state)[0]

    return (
        gap(scores, k, whole, cold()),
        units(cold, scores, k),
        gap(second, k, halves, warm()),
        units(warm, second, k),
    )


def layers(data: Path) -> Iterator[tuple[str, Tensor]]:
    """Synthetic layers, the sample's and, where the file is there, some of gpt-oss."""
    for T in SKEWED:
        yield f"skewed-{T}", skewed_scores(T, 64, SEED)
    trace = lpr.traces.sample()
    for layer in range(trace.layers):
        yield f"sample-{layer}", lpr.scores.softmax(trace.layer(layer))
    if not (data / GPT_OSS).is_file():
        print(f"{data / GPT_OSS} is absent: its layers are left out.")
        return
    for layer in LAYERS:
        case = Case("gpt-oss", f"{layer:02d}", 10591, 32, 1, 1.0)
        yield f"gpt-oss-{layer}", build(case, data).scores


def main() -> None:
    """Print one row for each layer, K and factor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=STEPS, help="Newton steps on all tokens")
    parser.add_argument("--only", default="", help="layers whose name begins so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {SEED} of skewed layers; medians of {REPEATS}; 1 thread; {versions()}")
    print(f"{options.steps} steps of PriceRouter")
    print("router   layer        K factor   cold gap  units   warm gap  units")
    rows: dict[str, list[tuple[float, ...]]] = {"prices": [], "optimal": []}
    for name, scores in layers(options.data):
        if not name.startswith(options.only):
            continue
        for k in (1, 2):
            makers: dict[str, Make] = {
                "prices": partial(PriceRouter, k, steps=options.steps),
                "optimal": partial(Optimal, k),
            }
            for factor in FACTORS:
                for router, make in makers.items():
                    found = row(make, scores, k, factor)
                    text = "{:10.2e} {:6.1f} {:10.2e} {:6.1f}".format(*found)
                    print(f"{router:8} {name:12} {k} {factor:<5g} {text}", flush=True)
                    rows[router].append(found)
    for router, found_all in rows.items():
        for column, (what, aim) in enumerate(AIMS):
            values = [found[column] for found in found_all]
            met = sum(value <= aim for value in values)
            print(
                f"{router}, {what}: {met} of {len(values)} within {aim:g}, "
                f"median {median(values):.2g}"
            )


if __name__ == "__main__":
    main()
