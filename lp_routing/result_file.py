"""Results in a file, one JSON line each, so that no kill loses a line that was written."""

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from lp_routing.errors import InputError

Json = dict[str, object]
HEADER = "header"


class ResultFile:
    """A file to which lines are appended; a header in its first line says what they answer.

    A line is on the disk when `append` returns. A kill leaves at most one line without its end,
    which is dropped when the file is opened again. While it is open, no other process may open
    it; the lock ends with the process, however that ends (POSIX only: `flock`).

    Args:
        path: of the file; made where there is none.
        header: what was asked, JSON values.

    Attributes:
        lines: what the file held when it was opened, without the header.

    Raises:
        InputError: a file that cannot be written, is open elsewhere, holds something else, or
            answers another question.
    """

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        self.path = path
        self._file = _opened(path)
        try:
            _lock(self._file, path)
            self.lines = self._read(header)
        except BaseException:
            self._file.close()
            raise

    def append(self, line: Mapping[str, object]) -> None:
        """Add a line of JSON values and wait until it is on the disk.

        Raises:
            InputError: it cannot be written, as on a full disk.
        """
        self._write(_text(line))

    def _read(self, header: Mapping[str, object]) -> list[Json]:
        """The lines of an earlier run, where it asked the same; the header where there is none."""
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
        """Give the file back to others."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _opened(path: Path) -> FileIO:
    try:
        return path.open("a+b", buffering=0)  # nothing is left to write when it is closed
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error


def _lock(file: FileIO, path: Path) -> None:
    import fcntl  # not on Windows, where the rest of the package works

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{path}: another process is writing to it; wait for its end, or name another file."
        ) from error


def _text(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _parsed(line: bytes, path: Path, number: int) -> Json:
    try:
        content = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: line {number} is damaged; take it out to go on from the others.")
    return content


def _check_header(line: bytes, asked: Json, path: Path) -> None:
    """Raise unless the first line of a file asks the same."""
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
    """`k was 2, is 4`, for everything that is not the same."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = dict.fromkeys((*there, *here))
        return [d for key in names for d in _differences(there.get(key), here.get(key), key)]
    same = there == here and isinstance(there, bool) == isinstance(here, bool)
    return [] if same else [f"{name} was {json.dumps(there)}, is {json.dumps(here)}"]
