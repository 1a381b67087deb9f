"""Long work point by point: results kept at once, resumed after a kill, over several processes.

`over_processes` runs points in fresh processes, which end with their parent. `ResultFile` keeps
each result as a JSON line, which no kill can lose. `sweep` combines both.
"""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from multiprocessing import connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from lp_routing.errors import OUT_OF_MEMORY, InputError, WorkerError, is_out_of_memory
from lp_routing.validation import as_callable, as_int, as_list, as_path


def over_processes(
    work: Callable[[Any], Any], todo: Mapping[str, Any], jobs: int
) -> Generator[tuple[str, Any], None, None]:
    """Key and result of every point as soon as available; the processes end with this generator.

    Args:
        work: point -> result; its exceptions are raised here and end all work. It is sent to each
            process once, by value.
        todo: key -> point.
        jobs: processes, each with one torch thread.

    Raises:
        InputError: work that cannot be sent to another process.
        WorkerError: a process ended unexpectedly.
    """
    with TemporaryDirectory(prefix="lp-routing-", ignore_cleanup_errors=True) as folder:
        sent = Path(folder) / "work"  # a pipe would block until the worker reads
        try:
            sent.write_bytes(pickle.dumps(work))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"jobs={jobs}: the task cannot be sent to another process ({error}); give a "
                f"function of a module, or a functools.partial of one."
            ) from error
        before = set(multiprocessing.active_children())
        spawn = multiprocessing.get_context("spawn")  # forks of a process with threads can hang
        pool = ProcessPoolExecutor(jobs, spawn, initializer=_begin, initargs=(sent,))
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
    """The submitted points, with their keys.

    Ctrl-C reaches every process of a terminal; workers inherit the blocked signal, so only the
    parent reacts.
    """
    mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
    blocked = mask and mask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_point, ByValue(point)): key for key, point in todo.items()}
    finally:
        if mask:
            mask(signal.SIG_SETMASK, blocked)


class ByValue:
    """Unpickles as `value`, with its tensors copied.

    A process pool would share tensors through a thread that prints a traceback if a worker is ended
    meanwhile. A point is pickled only when a worker is about to take it.
    """

    def __init__(self, value: object) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(self.value),)


def _ended(jobs: int) -> str:
    return (
        f"jobs={jobs}: a process ended on its own, perhaps out of memory; try fewer. A script "
        f'of your own needs `if __name__ == "__main__":` around the call.'
    )


_work: Callable[[Any], Any]


def _begin(sent: Path) -> None:
    """Initialise a worker process."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, args=(sent,), daemon=True).start()
    _work = pickle.loads(sent.read_bytes())


def _end_with_parent(sent: Path) -> None:
    """End this worker when its parent is gone: it would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    shutil.rmtree(sent.parent, ignore_errors=True)
    os._exit(1)


def _point(point: Any) -> Any:
    return ByValue(_work(point))


Json = dict[str, object]
HEADER = "header"


class ResultFile:
    """A file to which JSON lines are appended; its first line, the header, states the question.

    A line is on the disk when `append` returns. A kill leaves at most one incomplete line, which is
    dropped when the file is opened again. While it is open, no other process can open it; the lock,
    on a file `PATH.lock`, ends with the process.

    Args:
        path: of the file; made where there is none.
        header: the question, JSON values.

    Attributes:
        lines: the lines in the file when it was opened, without the header.

    Raises:
        InputError: a file that cannot be written, is open elsewhere, holds something else, or
            answers another question.
    """

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        self.path = path
        with ExitStack() as stack:
            try:
                # unbuffered, so that nothing is left to write at close
                self._file = stack.enter_context(path.open("a+b", buffering=0))
                stack.enter_context(_locked(path))
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror}).") from error
            self.lines = self._read(header)
            self._close = stack.pop_all().close

    def append(self, line: Mapping[str, object]) -> None:
        """Add a line of JSON values and wait until it is on the disk.

        Raises:
            InputError: it cannot be written, as on a full disk.
        """
        self._write(_text(line))

    def _read(self, header: Mapping[str, object]) -> list[Json]:
        """The lines of an earlier run with the same header; a new file gets the header."""
        self._file.seek(0)
        whole, newline, torn = self._file.read().rpartition(b"\n")
        first = _text({HEADER: header})
        if not newline:  # new, or killed while the header was written
            if not first.startswith(torn):
                raise _foreign(self.path)
            self._file.truncate(0)
            self._write(first)
            return []
        begun, *others = whole.split(b"\n")
        _check_header(begun, json.loads(first)[HEADER], self.path)
        lines = [_parsed(line, self.path, number) for number, line in enumerate(others, 2)]
        if torn:
            self._file.truncate(len(whole) + 1)
        return lines

    def _write(self, text: bytes) -> None:
        try:
            while text:
                text = text[self._file.write(text) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); the results before are kept."
            ) from error

    def close(self) -> None:
        """Close the file and release its lock."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the file against other processes; the lock file is removed before its release."""
    lock = FileLock(f"{os.path.realpath(path)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{path}: another process is writing to it; wait for its end, or name another file."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            Path(lock.lock_file).unlink()
        lock.release()


def _text(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _parsed(line: bytes, path: Path, number: int) -> Json:
    try:
        content = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: line {number} is damaged; take it out to go on from the others.")
    return content


def _check_header(line: bytes, asked: Json, path: Path) -> None:
    """Raise unless the first line of a file states the same question."""
    try:
        there = json.loads(line)
    except ValueError as error:
        raise _foreign(path) from error
    if not isinstance(there, dict) or not isinstance(there.get(HEADER), dict):
        raise _foreign(path)
    found = _differences(there[HEADER], asked)
    if found:
        raise InputError(
            f"{path}: holds the results of another question: {'; '.join(found)}. Ask the same "
            f"as before, or name another file."
        )


def _foreign(path: Path) -> InputError:
    return InputError(
        f"{path}: is not a file of results; name one that is new, or of a run before."
    )


def _differences(there: object, here: object, name: str = "") -> list[str]:
    """`k was 2, is 4`, for every difference."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = dict.fromkeys((*there, *here))
        return [d for key in names for d in _differences(there.get(key), here.get(key), key)]
    same = there == here and isinstance(there, bool) == isinstance(here, bool)
    return [] if same else [f"{name} was {json.dumps(there)}, is {json.dumps(here)}"]


Record = dict[str, Any]
Task = Callable[[Any], Mapping[str, Any]]
Found = Generator[tuple[str, Record], None, None]

ERROR = "error"
"""The key under which a record says why its point failed."""


@dataclass(frozen=True, eq=False)
class Progress:
    """The progress of a sweep.

    Attributes:
        done: points with a record, those of earlier runs included.
        total: points in all.
        seconds_left: estimated from the mean of this run; None before its first point.
        records: one for each point in their order, None where there is none yet.
    """

    done: int
    total: int
    seconds_left: float | None
    records: Sequence[Record | None]

    def __str__(self) -> str:
        """`3 of 29, about 12 s left`."""
        says = f"{self.done} of {self.total}"
        if self.seconds_left is None or self.done == self.total:
            return says
        for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
            if self.seconds_left >= 2 * size or unit == "s":
                return f"{says}, about {round(self.seconds_left / size)} {unit} left"
        raise AssertionError("seconds come last")


def sweep(
    task: Task,
    points: Sequence[Any],
    *,
    path: Path | str | None = None,
    jobs: int = 1,
    progress: Callable[[Progress], object] | None = None,
    question: Task | None = None,
    enough: Callable[[Sequence[Record | None]], bool] | None = None,
) -> list[Record]:
    """Compute the records of all points; those in the file are not computed again.

    Args:
        task: point -> a mapping of JSON values; a module-level function, or a `partial` of one that
            binds all other arguments.
        points: JSON values; duplicates are computed once.
        path: where each record is appended as soon as available. Killed at any moment, a run loses
            at most the points it was computing; the same call goes on from there. The file's header
            holds the task's name, its bound arguments (of tensors a sha256) and the package's
            version.
        jobs: processes. With more than one, each is a fresh interpreter with one torch thread:
            sums that torch would split over threads may then differ in the last bits.
        progress: called at the beginning and after every point.
        question: the task as the file's header states it; left out, `task`. For tasks with
            arguments that do not change the records, such as another file to write.
        enough: told the records as they are in `Progress`; where it is true, no further point is
            computed, and those of which there is no record get an empty one.

    Returns:
        Records in the order of `points`, as JSON has them: lists for tuples, None for NaN and
        infinities. A task that raises gives its point the record `{"error": ..., "traceback": ...}`
        (no traceback for an `InputError`). It is tried again by a later run.

    Raises:
        InputError: bad arguments, or a file that answers another question, is damaged, in use by
            another process, or cannot be written.
        WorkerError: a process ended on its own, for example out of memory.
        KeyboardInterrupt: after its processes were ended.
    """
    jobs, points = as_int(jobs, "jobs", 1), as_list(points, "points", "a list of JSON values")
    as_callable(task, "task", "a function of a point")
    if progress is not None:
        as_callable(progress, "progress", "a function of the progress")
    keys = [_key(point, number) for number, point in enumerate(points)]
    with ExitStack() as stack:
        file = (
            None
            if path is None
            else stack.enter_context(ResultFile(as_path(path, "path"), asked(question or task)))
        )
        found = {} if file is None else _kept(file)
        todo = {k: point for k, point in zip(keys, points, strict=True) if k not in found}
        began, computed = time.monotonic(), 0

        def tell() -> None:
            records = [found.get(key) for key in keys]
            each = (time.monotonic() - began) / computed if computed else None
            left = None if each is None else each * (len(todo) - computed)
            if progress is not None:
                progress(Progress(len(keys) - records.count(None), len(keys), left, records))

        def is_enough() -> bool:
            return enough is not None and enough([found.get(key) for key in keys])

        tell()
        if is_enough():
            todo = {}
        for key, record in stack.enter_context(closing(_computed(task, todo, jobs))):
            if file is not None:
                file.append({"point": todo[key], "record": record})
            found[key], computed = record, computed + 1
            tell()
            if is_enough():
                break
    return [found.get(key, {}) for key in keys]


def asked(task: Task) -> dict[str, Any]:
    """The question of a task, as JSON values: its name, its bound arguments, the package's version.

    Raises:
        InputError: not a named function, or an argument that has no JSON form.
    """
    call = task if isinstance(task, partial) else partial(task)
    name = getattr(call.func, "__qualname__", None)
    if name is None:
        raise InputError(
            f"task: expected a function or a functools.partial of one, got {type(task).__name__}."
        )
    given = {f"argument {number}": value for number, value in enumerate(call.args)} | call.keywords
    try:
        package = version("lp-routing")
    except PackageNotFoundError:
        package = "not installed"
    described = {key: _described(value, key) for key, value in given.items()}
    return {"task": f"{call.func.__module__}.{name}", "version": package, "arguments": described}


def _described(value: Any, name: str) -> Any:
    """JSON values that differ wherever the arguments do; a hash for arrays."""
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        digest = sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"{kind} {tuple(tensor.shape)}, sha256 {digest[:32]}"
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _described(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_described(entry, f"{name}[{number}]") for number, entry in enumerate(value)]
    raise InputError(
        f"task: its argument {name} is a {type(value).__name__}, of which a file of results cannot "
        f"say later whether it is the same; give numbers, text, tensors or dataclasses of them."
    )


def _key(point: Any, number: int) -> str:
    try:
        return json.dumps(point, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"points[{number}]={point!r}: expected JSON values ({error}).") from error


def _kept(file: ResultFile) -> dict[str, Record]:
    """The records of an earlier run, without failed points."""
    found: dict[str, Record] = {}
    for number, line in enumerate(file.lines, 2):
        record = line.get("record")
        if "point" not in line or not isinstance(record, dict):
            raise InputError(f"{file.path}: line {number} holds no record of a point; take it out.")
        if ERROR not in record:
            found[_key(line["point"], number)] = record
    return found


def _record(task: Task, point: Any) -> Record:
    """The task's record of a point, as JSON values; or why it failed."""
    try:
        result = task(point)
        if not isinstance(result, Mapping):
            raise TypeError(f"the task returned a {type(result).__name__}, not a mapping")
        record: Record = json.loads(json.dumps(_finite(result), allow_nan=False))
        return record
    except InputError as error:
        return {ERROR: str(error)}
    except Exception as error:
        if is_out_of_memory(error):
            return {ERROR: OUT_OF_MEMORY}
        says = f"{type(error).__name__}: {error}"
        return {ERROR: says, "traceback": traceback.format_exc()}


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinity."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def _computed(task: Task, todo: Mapping[str, Any], jobs: int) -> Found:
    """Key and record of every point as soon as available."""
    if jobs > 1 and todo:
        yield from over_processes(partial(_record, task), todo, min(jobs, len(todo)))
    else:
        for key, point in todo.items():
            yield key, _record(task, point)
