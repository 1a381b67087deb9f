"""What each rank of a process group runs: `torchrun tests/sharded.py ...` (test_process_group).

Arguments: what to do, a folder for results, and the number of rows of each rank.
"""

import datetime
import json
import sys
from pathlib import Path

import torch
from torch import distributed

import lp_routing as lpr

TIME_OUT_S = 20


def scores(T):
    """The same on every rank: skewed, with a few forbidden pairs."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(T, 4, generator=generator) @ torch.randn(4, 16, generator=generator)
    values = (torch.softmax(logits, 1) * 2**20).round().double() / 2**20
    return values.masked_fill(torch.rand(T, 16, generator=generator) < 0.05, float("-inf"))


def problem(values, T, factor=1.25):
    """Two experts a token; the capacity is that of all ranks together."""
    capacity = -(-int(factor * T * 2) // 16)
    return lpr.RoutingProblem(values, tokens=lpr.exactly(2), experts=lpr.at_most(capacity))


def solved(shard, group, rank, folder):
    """Solve, certify and bound over the group; write down what this rank got."""
    solution = lpr.solve(shard, lpr.MinCostFlow(group=group))
    exact = lpr.certify(shard, solution.assignment, solution.prices, exact=True, group=group)
    found = {
        "status": solution.status.name,
        "value": float(solution.value),
        "gap": float(exact.gap),
        "violations": exact.violation_count,
        "prices": solution.prices.experts.tolist(),
        "bound": lpr.dual_bound(shard, solution.prices, group=group),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.save(solution.assignment.x, folder / f"{rank}.pt")


def crowded(values):
    """Every eleventh token may only go to experts 0-3, which cannot take them all."""
    values = values.clone()
    values[::11, 4:] = float("-inf")
    values[::11, :4] = 0.5
    return values


def refused(call):
    """The type and the words of what a call raises."""
    try:
        call()
    except (lpr.InputError, lpr.process_group.GroupError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def impossible(T, mine, first, group, rank, folder):
    """Batches without an assignment, then calls that ranks disagree about; all end in words."""
    counted = problem(mine, T, 0.98)
    stuck = crowded(scores(T))[first : first + len(mine)]
    masked = lpr.RoutingProblem(
        stuck, tokens=lpr.exactly(2), experts=lpr.at_most([T // 25] * 4 + [T] * 12)
    )
    solutions = [lpr.solve(shard, lpr.MinCostFlow(group=group)) for shard in (counted, masked)]
    feasible = problem(mine, T)
    found = {
        "status": [solution.status.name for solution in solutions],
        "says": [solution.explanation for solution in solutions],
        "options": refused(lambda: lpr.solve(feasible, lpr.MinCostFlow(seed=rank, group=group))),
        "gaps": refused(
            lambda: lpr.solve(feasible, lpr.MinCostFlow(relative_gap=0.1 * rank, group=group))
        ),
        "after": lpr.solve(feasible, lpr.MinCostFlow(group=group)).status.name,
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))


def main():
    """Do as the command line says."""
    what, folder, counts = sys.argv[1], Path(sys.argv[2]), [int(n) for n in sys.argv[3].split(",")]
    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIME_OUT_S))
    group, rank = distributed.group.WORLD, distributed.get_rank()
    T, first = sum(counts), sum(counts[:rank])
    mine = scores(T)[first : first + counts[rank]]
    try:
        if what == "leaves" and rank == 1:
            return
        if what == "raises" and rank == 1:
            mine = mine.clone()
            mine[0, 0] = float("nan")
        if what == "impossible":
            impossible(T, mine, first, group, rank, folder)
            return
        wrong = what == "disagrees" and rank == 1
        shard = problem(mine, T, 1.5 if wrong else 1.25)
        if what == "fails" and rank == 1:
            from lp_routing.solvers.min_cost_flow import solver as engine

            def broken(*_args, **_options):
                raise ValueError("planted on rank 1")

            engine.search = broken
        solved(shard, group, rank, folder)
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
