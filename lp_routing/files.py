"""Files that are written whole or not at all: a reader never sees a part of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

from lp_routing.errors import InputError

UNFINISHED: set[Path] = set()
"""Files that this process is writing; they are removed if it has to end at once."""


@contextmanager
def whole_file(path: Path, option: str = "") -> Iterator[Path]:
    """A path to write to, which replaces `path` when the block ends without an error.

    It lies in the same folder, so that on a full disk, after an error or a kill `path` is
    unchanged. Through a symbolic link, the file that it points to is replaced. A pipe or a device
    is written to directly when the block ends.

    Args:
        path: the file.
        option: of a command, named at the start of an error.

    Yields:
        A path with the same ending that does not exist yet.

    Raises:
        InputError: it cannot be written, as on a full disk.
    """
    part = None
    try:
        whole = _target(path)
        part = _part(whole)
        UNFINISHED.add(part)
        yield part
        with part.open("r+b") as written:  # Windows syncs no file that is open for reading alone
            if _is_special(whole):
                with whole.open("wb") as into:
                    shutil.copyfileobj(written, into)
                return
            os.fsync(written.fileno())
        if whole.exists():
            shutil.copymode(whole, part)
        part.replace(whole)
    except OSError as error:
        raise _refusal("cannot be written", path, option, error) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
            UNFINISHED.discard(part)


def write_whole(path: Path, content: str | bytes, option: str = "") -> None:
    """Write a file whole or not at all; text as UTF-8, its line ends as they are.

    Raises:
        InputError: as `whole_file`.
    """
    with whole_file(path, option) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: Path, option: str = "") -> None:
    """Raise before any work is done where a file cannot be written; nothing is changed.

    Raises:
        InputError: with the reason.
    """
    try:
        whole = _target(path)
        if not _is_special(whole):
            part = _part(whole)
            part.touch()
            part.unlink()
    except OSError as error:
        raise _refusal("cannot be written", path, option, error) from error


def remove_unfinished() -> None:
    """Remove the unfinished files of this process, before it ends at once."""
    for part in list(UNFINISHED):
        part.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """The file behind symbolic links, if it may be written."""
    if _is_special(path):
        return path
    try:
        whole = path.resolve()
    except RuntimeError as error:  # links that point at each other
        raise OSError(40, "Too many levels of symbolic links") from error
    if whole.is_dir():
        raise IsADirectoryError(21, "Is a directory")
    if whole.exists() and not os.access(whole, os.W_OK):
        raise PermissionError(13, "Permission denied")
    return whole


def _is_special(path: Path) -> bool:
    """Whether it is a pipe or a device, or the name of an open one, such as /dev/stdout."""
    named = any(path.is_relative_to(folder) for folder in ("/dev", "/proc"))
    return path.exists() and not path.is_dir() and (named or not path.is_file())


def _part(whole: Path) -> Path:
    folder = Path(gettempdir()) if _is_special(whole) else whole.parent
    return folder / f".lp-routing-{uuid4().hex[:12]}.part{whole.suffix}"


def _refusal(says: str, path: Path, option: str, error: OSError) -> InputError:
    return InputError(f"{option} {path}: {says} ({error.strerror or error}).".lstrip())
