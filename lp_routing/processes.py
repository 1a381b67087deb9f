"""The points of some work over fresh processes, which never outlive the one that asked."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any

import torch

from lp_routing.errors import InputError


class WorkerError(RuntimeError):
    """A process that computed points ended on its own, as for want of memory."""


def over_processes(
    work: Callable[[Any], Any], todo: Mapping[str, Any], jobs: int
) -> Generator[tuple[str, Any], None, None]:
    """Key and result of every point, as they come; the processes end with this generator.

    Args:
        work: point -> result; what it raises is raised here, and ends all. It is sent to each
            process once, by value.
        todo: key -> point.
        jobs: processes, each with one torch thread.

    Raises:
        InputError: work that cannot be sent to another process.
        WorkerError: a process ended on its own.
    """
    with NamedTemporaryFile(prefix="lp-routing-") as sent:  # a pipe of so much would hold us up
        try:
            pickle.dump(work, sent)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"jobs={jobs}: the task cannot be sent to another process ({error}); give a "
                f"function of a module, or a functools.partial of one."
            ) from error
        sent.flush()
        before = set(multiprocessing.active_children())
        spawn = multiprocessing.get_context("spawn")  # forks of a process with threads can hang
        pool = ProcessPoolExecutor(jobs, spawn, initializer=_begin, initargs=(sent.name,))
        try:
            futures = _submitted(pool, todo)
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException as error:
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise WorkerError(_ended(jobs)) from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, todo: Mapping[str, Any]) -> dict[Future[Any], str]:
    """The points on their way, with their keys.

    Ctrl-C reaches every process of a terminal: workers inherit that it is not for them.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_point, point): key for key, point in todo.items()}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _ended(jobs: int) -> str:
    return (
        f"jobs={jobs}: a process ended on its own, perhaps for want of memory; try fewer. A script "
        f'of your own needs `if __name__ == "__main__":` around the call.'
    )


_work: Callable[[Any], Any]


def _begin(sent: str) -> None:
    """Make a fresh process ready for points."""
    global _work
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, args=(sent,), daemon=True).start()
    with Path(sent).open("rb") as file:
        _work = pickle.load(file)


def _end_with_parent(sent: str) -> None:
    """A worker whose parent was killed would wait for points for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    Path(sent).unlink(missing_ok=True)
    os._exit(1)


def _point(point: Any) -> Any:
    return _work(point)
