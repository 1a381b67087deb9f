"""One solver on one case, in a process of its own: `harness` starts it and reads one JSON line."""

import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import lp_routing as lpr
from benchmarks.side_by_side.cases import Case, Instance, build
from benchmarks.side_by_side.solvers import SOLVERS, Answer, evaluate

TOPK_RUNS, TOPK_S = 5, 0.1
"""Least number of timed runs of `torch.topk`, and the least seconds of them together."""
BROKEN = 1e-6
"""Pairs by which a bound may be missed: solvers that return fractions round by less."""


@dataclass(frozen=True)
class Order:
    """What the process is asked to do; `limit_s` holds for a single solve."""

    case: Case
    solver: str
    repeats: int
    limit_s: float
    data: str


@dataclass
class Record:
    """What one process measured; seconds are one entry a solve, bytes None if not measurable."""

    status: str = ""
    bounds: str = ""
    value: float | None = None
    bound: float | None = None
    seconds: list[float] = field(default_factory=list)
    topk_seconds: list[float] = field(default_factory=list)
    memory_bytes: int | None = None
    scores_bytes: int = 0


class PeakMemory:
    """The largest resident memory since `start`, beyond what was resident then."""

    def __init__(self) -> None:
        self.before: int | None = None

    def start(self) -> None:
        """Give freed memory back, set the kernel's high-water mark to what is resident now."""
        gc.collect()
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status_bytes("VmRSS")
        except (OSError, AttributeError):  # not Linux with glibc: not measured
            self.before = None

    def beyond(self) -> int | None:
        """Bytes."""
        return None if self.before is None else max(0, _status_bytes("VmHWM") - self.before)


def measure(order: Order) -> Record:
    """Build, warm up on a small problem, then solve `repeats` times or for half the limit."""
    torch.set_num_threads(1)  # as the flow solvers have
    instance = build(order.case, Path(order.data))
    solve, K = SOLVERS[order.solver], order.case.K
    solve(small(order.case))
    torch.topk(instance.scores[:1], K)
    record = Record(bounds=instance.bounds, scores_bytes=instance.scores.nbytes)
    memory = PeakMemory()
    memory.start()
    while True:
        seconds, answer = timed(lambda: limited(solve, instance, order.limit_s))
        record.seconds.append(seconds)
        if len(record.seconds) >= order.repeats or sum(record.seconds) > order.limit_s / 2:
            break
        del answer
        record.topk_seconds += topk_seconds(instance, K)
    record.memory_bytes = memory.beyond()
    record.topk_seconds += topk_seconds(instance, K)
    judge(record, instance, answer)
    return record


def judge(record: Record, instance: Instance, answer: Answer) -> None:
    """Evaluate the last answer, whoever gave it, by the same few lines."""
    record.status, record.bound = answer.status, answer.bound
    if answer.prices is not None:
        record.bound = lpr.dual_bound(instance.problem(), answer.prices)
    if answer.x is None:
        return
    record.value, broken = evaluate(instance, answer.x)
    if answer.status == "OPTIMAL" and not broken <= BROKEN:
        record.status = f"BROKEN: called optimal, breaks a bound by {broken:g}"


def small(case: Case) -> Instance:
    """A problem of the same kind to warm up on: imports, caches, threads."""
    tiny = Case("skewed", "", 256, 16, min(case.K, 2), 1.0)
    return build(tiny, Path())


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of one call, and what it returns: other work on the machine takes no part."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def limited(solve: Callable[[Instance], Answer], instance: Instance, limit_s: float) -> Answer:
    """Solve; the process is ended by SIGALRM where the limit is passed, whatever it is doing."""
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    answer = solve(instance)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return answer


def topk_seconds(instance: Instance, K: int) -> list[float]:
    """The unit of cost: at least some runs, and as many as fit into a tenth of a second."""
    seconds: list[float] = []
    while len(seconds) < TOPK_RUNS or sum(seconds) < TOPK_S:
        seconds.append(timed(lambda: torch.topk(instance.scores, K))[0])
    return seconds


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name} in /proc/self/status")


def main() -> None:
    """Read an order from the command line, print its record."""
    text = json.loads(sys.argv[1])
    order = Order(**text | {"case": Case(**text["case"])})
    if Path("/proc/self/oom_score_adj").exists():  # if memory runs out, let it be this process
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    print(json.dumps(asdict(measure(order))), flush=True)
    os._exit(0)  # freeing gigabytes at exit is of no use


if __name__ == "__main__":
    main()
