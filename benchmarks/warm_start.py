"""What the last batch's prices save: `python -m benchmarks.warm_start`.

Consecutive batches of one layer, each solved from nothing and from the prices of the batch before
it, alternating; medians of seconds over all batches but the first. Batches are stretches of the
sample's layers in reading order, and skewed synthetic scores of one layer (the same experts, other
tokens).
"""

from statistics import median

import torch
from torch import Tensor

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.cli.options import versions

K, FACTOR, SEED = 2, 1.25, 0


def batches_of_the_sample(layer: int, size: int) -> list[Tensor]:
    """Stretches of one layer of the sample."""
    scores = lpr.scores.softmax(lpr.traces.sample().layer(layer))
    return list(torch.split(scores, size))


def skewed_batches(T: int, E: int, count: int) -> list[Tensor]:
    """Tokens of one synthetic layer in several batches."""
    return list(torch.split(skewed_scores(count * T, E, SEED), T))


def row(name: str, batches: list[Tensor]) -> str:
    """Solve each batch twice, from nothing and from the prices before."""
    cold, warm = [], []
    prices = None
    worst = 0.0
    for scores in batches:
        T, E = scores.shape
        problem = lpr.problems.capacity(scores, K, int(-(-FACTOR * T * K // E)))
        fresh = lpr.solve(problem, lpr.MinCostFlow())
        if prices is not None:
            again = lpr.solve(problem, lpr.MinCostFlow(start=prices))
            cold.append(fresh.seconds)
            warm.append(again.seconds)
            for solution in (fresh, again):
                if solution.status is not lpr.Status.OPTIMAL or solution.certificate is None:
                    return f"{name}: {solution.status.name}: {solution.explanation}"
                worst = max(worst, abs(solution.certificate.relative_gap))
        prices = fresh.prices
    return (
        f"{name}: cold {median(cold):.3f} s, warm {median(warm):.3f} s, "
        f"cold/warm {median(cold) / median(warm):.2f}; OPTIMAL, relative gap <= {worst:.1e}"
    )


def main() -> None:
    """Print one row for each stream of batches."""
    print(f"K={K} capacity factor {FACTOR} seed={SEED}; {torch.get_num_threads()} threads")
    lpr.solve(
        lpr.problems.capacity(torch.rand(64, 4), 1, 20), lpr.MinCostFlow()
    )  # loads what loads late
    for layer in (0, 3):
        stream = batches_of_the_sample(layer, 1024)
        print(row(f"sample layer {layer}, {len(stream)} x 1,024 x 32", stream), flush=True)
    for T, count in ((4096, 8), (65536, 6), (262144, 4)):
        stream = skewed_batches(T, 64, count)
        print(row(f"skewed, {count} x {T:,} x 64", stream), flush=True)
    print(versions())


if __name__ == "__main__":
    main()
