"""How commands run long work: `--jobs`, `--resume`, progress, and Ctrl-C.

`long_work` is a sweep over similar points. `run_steps` does a few unequal steps, with an estimate
of the time left; a step that fails does not stop the others.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from lp_routing.cli.ending import INTERRUPTED
from lp_routing.errors import InputError, WorkerError
from lp_routing.report.document import Attempt, attempt
from lp_routing.sweep import ERROR, Progress, Record, Task, sweep


def check_resumable(path: Path | None, others: Sequence[Path | None]) -> None:
    """Raise before any work is done where results cannot be kept; no file is made or changed.

    Raises:
        InputError: a path that cannot be written, or that another option names.
    """
    if path is None:
        return
    if any(other is not None and other.resolve() == path.resolve() for other in others):
        raise InputError(f"--resume {path}: this file is read or written already; name another.")
    usable = path.is_file() if path.exists() else path.parent.is_dir()
    if not usable or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--resume {path}: cannot be written; name a file in a folder of yours.")


def long_work(
    console: Console,
    task: Task,
    points: Sequence[Any],
    doing: str,
    *,
    path: Path | None,
    jobs: int,
    show: Callable[[int, Record], object] = lambda _, __: None,
    question: Task | None = None,
    enough: Callable[[Sequence[Record | None]], bool] | None = None,
    says: Callable[[Progress], str] = str,
) -> list[Record]:
    """`sweep` with progress: a bar on a terminal, lines on stderr elsewhere.

    Args:
        console: where results are printed.
        task, points, path, jobs, question, enough: as `lp_routing.sweep.sweep`.
        says: the progress in words.
        doing: what is done, for the bar.
        show: place of a point and its record, in the order of the points, as soon as available.

    Exits with status 130 on Ctrl-C, saying how to go on, and with 1 where a process died.
    """
    seen = 0
    latest: Progress | None = None
    texts = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[says]}")
    with Bar(
        SpinnerColumn(), *texts, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        line = bar.add_task(doing, total=len(points), says="")

        def update(progress: Progress) -> None:
            nonlocal seen, latest
            latest = progress
            bar.update(line, completed=progress.done, says=says(progress))
            if not console.is_terminal and progress.done:
                click.echo(f"{doing}: {says(progress)}", err=True)
            while seen < progress.total and (record := progress.records[seen]) is not None:
                show(seen, record)
                seen += 1

        try:
            return sweep(
                task,
                points,
                path=path,
                jobs=jobs,
                progress=update,
                question=question,
                enough=enough,
            )
        except KeyboardInterrupt:
            status, ended = INTERRUPTED, "Interrupted"
        except WorkerError as error:
            status, ended = 1, f"Error: {error}"
    click.echo(f"{ended}{_go_on(latest, path)}", err=True)
    sys.exit(status)


def _go_on(latest: Progress | None, path: Path | None) -> str:
    """How many points are done, and how to continue."""
    where = "" if latest is None else f" {latest.done} of {latest.total} are done"
    if path is None:
        return f".{where}, and nothing is kept: --resume PATH.jsonl keeps results as they come."
    return f".{where}; the same command with --resume {path} goes on from there."


def raise_failures(records: Sequence[Record], places: Sequence[str]) -> None:
    """Raise where points failed, with the message and the place of each.

    Raises:
        InputError: all of them failed on bad input.
        RuntimeError: some failed otherwise; with the traceback of the first.
    """
    failed = [(r, place) for r, place in zip(records, places, strict=True) if ERROR in r]
    says = " ".join(f"{record[ERROR]} {place}" for record, place in failed)
    traces = [record["traceback"] for record, _ in failed if "traceback" in record]
    if traces:
        raise RuntimeError(f"{says}\n{traces[0]}")
    if failed:
        raise InputError(says)


class ReportStep(NamedTuple):
    """A step.

    Attributes:
        name: what is done.
        weight: how long it takes, relative to the other steps.
        work: does it.
    """

    name: str
    weight: float
    work: Callable[[], Any]


def run_steps(steps: Sequence[ReportStep], done: dict[str, Attempt[Any]]) -> bool:
    """Do the steps in turn, with progress on stderr.

    Args:
        steps: which.
        done: name -> attempt, filled step by step, so that later steps can use it; where a step
            fails, or Ctrl-C ends the work before it, the attempt says so.

    Returns:
        Whether Ctrl-C came.
    """
    began, total = time.monotonic(), sum(step.weight for step in steps)
    spent, interrupted = 0.0, False
    with Console(stderr=True).status("") as status:
        for number, step in enumerate(steps):
            says = f"{number} of {len(steps)} done"
            if spent:
                left = (time.monotonic() - began) * (total - spent) / spent
                says += f", about {left:.0f} s left"
            status.update(f"{says}: {step.name} ...")
            if not sys.stderr.isatty():
                click.echo(f"{says}: {step.name}", err=True)
            try:
                done[step.name] = attempt(step.work)
            except KeyboardInterrupt:
                interrupted = True
                break
            spent += step.weight
    for step in steps:
        done.setdefault(step.name, Attempt(None, "Interrupted before it was computed."))
    return interrupted
