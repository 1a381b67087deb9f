"""Tasks of tests/test_sweep.py, in a module of their own so that other processes can import them.

`main` is a sweep to be killed; a task is known by its module's name, so this is no script.
"""

import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch

from lp_routing.errors import InputError
from lp_routing.sweep import sweep

POINTS = list(range(40))


def square(point):
    """Quick, and different for every point."""
    return {"square": point * point, "root": math.sqrt(point), "shape": (point, 1)}


def doubled(point):
    """Twice a tensor."""
    return 2 * point


def slow_square(point, *, folder):
    """Leaves a note of who computed what; takes its time unless there is a file "quick"."""
    with (Path(folder) / "begun").open("a") as notes:
        notes.write(f"{point} {os.getpid()}\n")
    if not (Path(folder) / "quick").exists():
        time.sleep(0.3)
    return square(point)


def picky(point):
    """Two ways to fail, one to end, and numbers that JSON does not have."""
    if point == "bad input":
        raise InputError("point: expected a better one.")
    if point == "bug":
        raise ZeroDivisionError("by nothing")
    if point == "end":
        os._exit(3)
    if point == "no mapping":
        return [1]
    if point == "no JSON":
        return {"value": torch.ones(1)}
    return {"value": [math.nan, -math.inf, 1.5], "threads": torch.get_num_threads()}


def main():
    """A sweep of slow points."""
    folder, jobs = Path(sys.argv[1]), int(sys.argv[2])
    task = partial(slow_square, folder=str(folder))
    sweep(task, POINTS, path=folder / "kept.jsonl", jobs=jobs)
