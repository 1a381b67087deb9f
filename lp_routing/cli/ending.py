"""How a command ends early, at once and with a message: Ctrl-C, no memory, output that fails.

Ctrl-C raises `KeyboardInterrupt` only in Python code. A solver may run for minutes in C++, so a
thread also waits for the signal, and ends the process if the command has not ended a moment later.
"""

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from lp_routing.errors import OUT_OF_MEMORY, InputError, WorkerError, is_out_of_memory
from lp_routing.files import remove_unfinished

INTERRUPTED = 130
"""Exit status of a command that ended by Ctrl-C, as in a shell."""

GRACE_S = 1.0
"""Seconds that a command has to end by itself after Ctrl-C, with its results so far.

Longer makes users wait for solvers that do not react; shorter may lose the page of partial results,
which takes some 0.3 s to write.
"""

NO_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
"""Errors of writing to standard output: its reader has left, the disk is full, it is closed."""


@contextmanager
def ends_in_words() -> Iterator[None]:
    """Run a command inside: `errors_in_words`, and Ctrl-C ends it also while C++ computes."""
    with _interrupts_watched(), errors_in_words():
        yield


@contextmanager
def errors_in_words() -> Iterator[None]:
    """An error that ends the block becomes one line on stderr and an exit status.

    130 after Ctrl-C; 2 on bad input or where memory does not suffice; 1 where a process of `--jobs`
    ended on its own, or standard output cannot be written to.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end(INTERRUPTED, "Interrupted.")
    except InputError as error:
        _end(2, f"Error: {error}")
    except WorkerError as error:
        _end(1, f"Error: {error}")
    except OSError as error:
        if error.errno not in NO_OUTPUT or error.filename is not None:
            raise
        _discard_output()
        _end(1, f"Error: standard output cannot be written to ({error.strerror}).")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _end(2, f"Error: {OUT_OF_MEMORY}")


def _end(status: int, says: str) -> None:
    with suppress(OSError):  # stderr may be closed as well
        click.echo(says, err=True)
    sys.exit(status)


def _discard_output() -> None:
    """Redirect buffered output to nowhere, so that flushing it at exit does not fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interrupts_watched() -> Iterator[None]:
    """End the process `GRACE_S` after Ctrl-C, if the block has not ended by then."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signals here
        return
    reading, writing = os.pipe()
    if sys.platform != "win32":  # where a full pipe cannot be told from one that waits
        os.set_blocking(writing, False)
    ended = threading.Event()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the watcher
        watcher.join()
        os.close(reading)


def _watch(reading: int, ended: threading.Event) -> None:
    """Wait for signals, whose numbers come as bytes; act on the first Ctrl-C."""
    while number := os.read(reading, 1):
        if number[0] == signal.SIGINT and not ended.wait(GRACE_S):
            with suppress(OSError):  # Windows removes no file that is open
                remove_unfinished()
            for worker in multiprocessing.active_children():
                worker.kill()
            with suppress(OSError):
                os.write(2, b"Interrupted.\n")
            os._exit(INTERRUPTED)
