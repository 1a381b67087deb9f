"""Tokens over several processes: the same optimum as on one, and no rank that waits for ever."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lp_routing as lpr
from lp_routing.process_group import ProcessGroup
from tests import kkt
from tests.sharded import TIME_OUT_S, crowded, problem, scores

ROOT = Path(__file__).parents[1]


def run(what, folder, counts):
    """Start one process for each count with torchrun; what they wrote, and their output."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(counts)}"]
    arguments = [str(ROOT / "tests" / "sharded.py"), what, str(folder), ",".join(map(str, counts))]
    return subprocess.run(
        [sys.executable, *launch, *arguments],
        capture_output=True,
        text=True,
        timeout=TIME_OUT_S + 60,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("counts", [(700, 324), (300, 0, 500, 224)], ids=["two", "four, one empty"])
def test_ranks_get_their_parts_of_the_optimum_of_one_process(counts, tmp_path):
    ended = run("solve", tmp_path, counts)
    assert ended.returncode == 0, ended.stderr[-3000:]
    T = sum(counts)
    whole = problem(scores(T), T)
    alone = lpr.solve(whole, lpr.MinCostFlow())
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(len(counts))]
    x = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in range(len(counts))])
    assert [len(torch.load(tmp_path / f"{rank}.pt")) for rank in range(len(counts))] == [*counts]
    assert kkt.primal_feasibility(whole, x) == 0
    for one in found:
        assert one["status"] == "OPTIMAL"
        assert one["value"] == float(alone.value)
        assert (one["gap"], one["violations"]) == (0, 0)
        assert one["prices"] == found[0]["prices"]
        assert float(alone.value) <= one["bound"] <= 1.001 * float(alone.value)
    prices = lpr.Prices(experts=torch.tensor(found[0]["prices"]).double())
    assert lpr.certify(whole, x, prices, exact=True).gap == 0


def test_a_rank_that_fails_inside_ends_the_others_with_its_words(tmp_path):
    ended = run("fails", tmp_path, (600, 424))
    assert ended.returncode != 0
    assert "GroupError: rank 1 of 2 failed: ValueError: planted on rank 1" in ended.stderr


@pytest.mark.parametrize("what", ["leaves", "raises"])
def test_a_rank_that_never_arrives_ends_the_others_within_the_time_out(what, tmp_path):
    began = time.perf_counter()
    ended = run(what, tmp_path, (600, 424))
    assert ended.returncode != 0
    assert "GroupError" in ended.stderr or "InputError" in ended.stderr
    assert time.perf_counter() - began < TIME_OUT_S + 40


def test_ranks_that_state_different_bounds_are_told(tmp_path):
    ended = run("disagrees", tmp_path, (600, 424))
    assert ended.returncode != 0
    assert "ranks 0 and 1 state different bounds" in ended.stderr


def test_what_cannot_be_is_said_on_every_rank_in_the_words_of_one_process(tmp_path):
    counts = (400, 0, 300)
    ended = run("impossible", tmp_path, counts)
    assert ended.returncode == 0, ended.stderr[-3000:]
    T = sum(counts)
    room = lpr.at_most([T // 25] * 4 + [T] * 12)
    problems = [
        problem(scores(T), T, 0.98),
        lpr.RoutingProblem(crowded(scores(T)), tokens=lpr.exactly(2), experts=room),
    ]
    alone = [lpr.solve(each, lpr.MinCostFlow()) for each in problems]
    for rank in range(len(counts)):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["status"] == ["INFEASIBLE", "INFEASIBLE"]
        assert found["says"] == [solution.explanation for solution in alone]
        assert "seed=0 and seed=1; give all ranks the same" in found["options"]
        assert "relative_gap=0.0 and relative_gap=0.1" in found["gaps"]
        assert found["after"] == "OPTIMAL"


def test_a_group_that_is_none_is_refused():
    with pytest.raises(lpr.InputError, match=r"torch\.distributed is not initialised"):
        lpr.MinCostFlow(group="world")


def test_options_of_the_second_rank_that_differ_are_told():
    class TwoRanks(ProcessGroup):
        def gathered(self, value):
            return [value, {**value, "seed": 1}]

    TwoRanks().same("solve", seed=1, gap=0.0)
    with pytest.raises(lpr.InputError, match=r"ranks 0 and 1 .* seed=0 and seed=1"):
        TwoRanks().same("solve", gap=0.0, seed=0)
