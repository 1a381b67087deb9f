"""Where `MinCostFlow` spends its time: `python -m benchmarks.where_time_goes [T ...]`.

One solve under cProfile for each T (x 64, K = 2, capacity factor 1.25, skewed scores), after a
small one that loads what loads late. Shown are the parts of the story, in `topk` units of the same
matrix: each with all that it calls, so that parts inside others are counted twice.
"""

import cProfile
import pstats
import sys
import time
from statistics import median

import torch

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.cli.options import versions

E, K, FACTOR, SEED = 64, 2, 1.25, 0
PARTS = {
    "building the problem": ("problem.py", "__init__"),
    "prices": ("search.py", "prices"),
    "of that: Newton's steps": ("newton.py", "newton_steps"),
    "passes over all rows": ("cpu.py", "respond"),
    "exchanges": ("exchange.py", "exchange"),
    "certificate": ("certificate.py", "certify"),
}


def unit(scores: torch.Tensor) -> float:
    """Median seconds of `torch.topk`."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        torch.topk(scores, K)
        times.append(time.perf_counter() - began)
    return median(times)


def profiled(T: int) -> None:
    """Solve once and print the parts."""
    scores = skewed_scores(T, E, SEED)
    topk = unit(scores)
    profile = cProfile.Profile()
    began = time.perf_counter()
    experts = lpr.at_most(int(-(-FACTOR * T * K // E)))
    problem = profile.runcall(lpr.RoutingProblem, scores, tokens=lpr.exactly(K), experts=experts)
    solution = profile.runcall(lpr.solve, problem, lpr.MinCostFlow())
    seconds = time.perf_counter() - began
    print(f"T={T}: {seconds:.3f} s, {seconds / topk:.1f} topk, {solution.status.name}")
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for words, (file, function) in PARTS.items():
        rows = [row for key, row in stats.items() if key[0].endswith(file) and key[2] == function]
        calls, spent = sum(row[1] for row in rows), sum(row[3] for row in rows)
        print(f"  {words}: {spent:.3f} s in {calls} call(s), {spent / topk:.1f} topk")


def main() -> None:
    """Profile each size."""
    lpr.solve(lpr.problems.capacity(torch.rand(64, 4), 1, 20), lpr.MinCostFlow())
    for T in [int(T) for T in sys.argv[1:]] or [4096, 65536, 1048576]:
        profiled(T)
    print(versions())


if __name__ == "__main__":
    main()
