"""What the constants of `PriceRouter` and `Auction` trade: `python -m benchmarks.router_constants`.

Each constant at half and at twice its value, the others as they are. `PriceRouter`: problem
`capacity` with k = 2 and capacity factors 1.0 and 1.25, cold, on softmax scores of every layer of
the sample and of four seeded batches of 4,096 tokens (32 and 64 experts, normal logits without and
with experts that all tokens like), and "crowded": three such batches of which nearly all tokens
prefer one of 32 experts, by 3, 6 or 20 logits. `Auction`: problem `balanced` with k = 2, 1,024
tokens of every layer of the sample. Gaps are relative to the optimum of `MinCostFlow`. Times are in
units of `torch.topk` on the same scores, processor time on one thread.
"""

import math
import time
from collections.abc import Iterator
from statistics import mean, median
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

import lp_routing as lpr
from lp_routing.cli.options import versions
from lp_routing.routers import auction, dual_ascent, price, repair

K = 2
PRICES: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (price, ("SAMPLE", "SHARE", "SAMPLE_STEPS", "STEPS", "LAST_SHARE", "LAST_STEPS")),
    (price, ("NOISE", "ENOUGH", "MISPLACED", "MOVABLE", "LEAVERS")),
    (dual_ascent, ("REACH", "WINDOW_TOKENS", "WIDTH", "GAIN", "EMPTY_SHARE", "EXCESS")),
    (dual_ascent, ("CLOSER", "WIDER")),
    (repair, ("ROUNDS",)),
)
AUCTION = ("USUAL", "COARSE", "FINER")


class Figures(NamedTuple):
    """Mean and worst gap, and what a call takes: units of `topk`, or rounds of bidding."""

    mean_gap: float
    worst_gap: float
    cost: float


def batches() -> Iterator[Tensor]:
    """Softmax scores (T, E)."""
    trace, draw = lpr.traces.sample(), torch.Generator().manual_seed(0)
    for layer in range(trace.layers):
        yield torch.softmax(trace.layer(layer).float(), -1)
    for E in (32, 64):
        yield torch.softmax(torch.randn(4096, E, generator=draw), -1)
        liked = 1.5 * torch.randn(E, generator=draw)
        yield torch.softmax(torch.randn(4096, E, generator=draw) + liked, -1)


def crowded() -> Iterator[Tensor]:
    """Softmax scores (4096, 32) of batches in which nearly all tokens prefer the first expert."""
    draw = torch.Generator().manual_seed(0)
    for more in (3, 6, 20):
        logits = torch.randn(4096, 32, generator=draw)
        logits[:, 0] += more
        yield torch.softmax(logits, -1)


def with_optima(batches: Iterator[Tensor]) -> list[tuple[Tensor, int, float]]:
    """Scores, capacity at factors 1.0 and 1.25, and optimal value."""
    cases = []
    for scores in batches:
        for factor in (1.0, 1.25):
            capacity = math.ceil(factor * len(scores) * K / scores.shape[1])
            best = lpr.solve(lpr.problems.capacity(scores, K, capacity), lpr.MinCostFlow()).value
            cases.append((scores, capacity, float(best or 0)))
    return cases


def of_prices(cases: list[tuple[Tensor, int, float]]) -> Figures:
    """`PriceRouter` on scores, capacity and optimal value of each case."""
    gaps, units = [], []
    for scores, capacity, best in cases:
        router = price.PriceRouter(K, capacity, steps=price.STEPS)
        cold, ratios = router.initial(scores), []
        for _ in range(4):
            began = time.process_time()
            torch.topk(scores, K)
            between = time.process_time()
            x, _ = router.step(scores, cold)
            ratios.append((time.process_time() - between) / (between - began))
        units.append(median(ratios[1:]))
        gaps.append(1 - float(scores.double()[x].sum()) / best)
    return Figures(mean(gaps), max(gaps), median(units))


def of_auction(cases: list[tuple[Tensor, float]]) -> Figures:
    """`auction` on scores and optimal value of each case; the cost is rounds."""
    sold = [auction.auction(scores, K) for scores, _ in cases]
    values = [
        float(s.double()[each.chosen].sum()) for each, (s, _) in zip(sold, cases, strict=True)
    ]
    gaps = [1 - value / best for value, (_, best) in zip(values, cases, strict=True)]
    return Figures(mean(gaps), max(gaps), mean(each.rounds for each in sold))


def varied(
    module: ModuleType, name: str, factors: tuple[float, ...] = (0.5, 2.0)
) -> Iterator[float]:
    """The constant at some multiples of its value, and back in the end."""
    usual = getattr(module, name)
    for factor in factors:
        value = type(usual)(max(1, usual * factor)) if isinstance(usual, int) else usual * factor
        setattr(module, name, value)
        yield value
    setattr(module, name, usual)


def line(name: str, figures: Figures, unit: str) -> str:
    """One line of the table."""
    gaps = f"gap {figures.mean_gap:.2e} mean, {figures.worst_gap:.2e} worst"
    return f"{name:<28} {gaps}, {figures.cost:.4g} {unit}"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"seed 0; {versions()}")
    cases, one_expert = with_optima(batches()), with_optima(crowded())
    of_prices(cases)
    print(line("prices, as they are", of_prices(cases), "topk"))
    for module, names in PRICES:
        for name in names:
            for value in varied(module, name):
                print(line(f"{name} = {value:g}", of_prices(cases), "topk"), flush=True)
    print(line("crowded, as it is", of_prices(one_expert), "topk"))
    for value in varied(price, "MISPLACED", (0.5, 2.0, math.inf)):
        print(line(f"crowded, MISPLACED = {value:g}", of_prices(one_expert), "topk"), flush=True)
    sold = []
    for layer in range(lpr.traces.sample().layers):
        scores = torch.softmax(lpr.traces.sample().layer(layer)[:1024].float(), -1)
        best = lpr.solve(lpr.problems.balanced(scores, K), lpr.MinCostFlow()).value
        sold.append((scores, float(best or 0)))
    print(line("auction, as it is", of_auction(sold), "rounds"))
    for name in AUCTION:
        for value in varied(auction, name):
            print(line(f"{name} = {value:g}", of_auction(sold), "rounds"), flush=True)


if __name__ == "__main__":
    main()
