"""Long work point by point: kept as it comes, gone on with after a kill, over processes."""

import json
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.processes import over_processes
from lp_routing.result_file import ResultFile
from lp_routing.validation import whole

Record = dict[str, Any]
Task = Callable[[Any], Mapping[str, Any]]
Found = Generator[tuple[str, Record], None, None]

ERROR = "error"
"""The key under which a record says why its point failed."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a sweep has come.

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
) -> list[Record]:
    """The records of all points; with a file, those that it holds are not computed again.

    Args:
        task: point -> a mapping of JSON values; a function of some module, or a `partial` of one,
            which holds all that it depends on besides the point.
        points: JSON values; one that comes twice is computed once.
        path: where each record is appended as it comes. Killed at any moment, a run loses at most
            the points it was computing; the same call goes on from there. The file's header holds
            the task's name, its bound arguments (of tensors a sha256) and the package's version.
        jobs: processes. With more than one, each is a fresh interpreter with one torch thread:
            sums that torch would split over threads may then differ in the last bits.
        progress: told at the beginning and after every point.

    Returns:
        Records in the order of `points`, as JSON has them: lists for tuples, None for NaN and
        infinities. A task that raises costs its own point alone: `{"error": ..., "traceback": ...}`
        (no traceback for an `InputError`). Such a point is tried again by a later run.

    Raises:
        InputError: bad arguments, or a file that answers another question, is damaged, in use by
            another process, or cannot be written.
        WorkerError: a process ended on its own, as for want of memory.
        KeyboardInterrupt: after its processes were ended.
    """
    jobs, points = whole(jobs, "jobs", 1), list(points)
    keys = [_key(point, number) for number, point in enumerate(points)]
    with ExitStack() as stack:
        file = None if path is None else stack.enter_context(ResultFile(Path(path), asked(task)))
        found = {} if file is None else _kept(file)
        todo = {k: point for k, point in zip(keys, points, strict=True) if k not in found}
        began, computed = time.monotonic(), 0

        def tell() -> None:
            records = [found.get(key) for key in keys]
            each = (time.monotonic() - began) / computed if computed else None
            left = None if each is None else each * (len(todo) - computed)
            if progress is not None:
                progress(Progress(len(keys) - records.count(None), len(keys), left, records))

        tell()
        for key, record in stack.enter_context(closing(_computed(task, todo, jobs))):
            if file is not None:
                file.append({"point": todo[key], "record": record})
            found[key], computed = record, computed + 1
            tell()
    return [found[key] for key in keys]


def asked(task: Task) -> dict[str, Any]:
    """What a task answers, in JSON values: its name, its bound arguments, the package's version.

    Raises:
        InputError: no named function, or an argument that cannot be described.
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
    """JSON values that differ wherever arguments do; of arrays a hash."""
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
    """The records of an earlier run, but for points that failed."""
    found: dict[str, Record] = {}
    for number, line in enumerate(file.lines, 2):
        record = line.get("record")
        if "point" not in line or not isinstance(record, dict):
            raise InputError(f"{file.path}: line {number} holds no record of a point; take it out.")
        if ERROR not in record:
            found[_key(line["point"], number)] = record
    return found


def _record(task: Task, point: Any) -> Record:
    """What the task says of a point, as JSON has it; or why it failed."""
    try:
        result = task(point)
        if not isinstance(result, Mapping):
            raise TypeError(f"the task returned a {type(result).__name__}, not a mapping")
        record: Record = json.loads(json.dumps(_finite(result), allow_nan=False))
        return record
    except InputError as error:
        return {ERROR: str(error)}
    except Exception as error:
        says = f"{type(error).__name__}: {error}"
        return {ERROR: says, "traceback": traceback.format_exc()}


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no number for."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def _computed(task: Task, todo: Mapping[str, Any], jobs: int) -> Found:
    """Key and record of every point, as they come."""
    if jobs > 1 and todo:
        yield from over_processes(partial(_record, task), todo, min(jobs, len(todo)))
    else:
        for key, point in todo.items():
            yield key, _record(task, point)
