"""Does the suite notice a fault? Plants those of `tests/faults.toml` one at a time; run by hand.

    python -m tests.plant_faults [--only WORDS]... [--jobs N] [--limit SECONDS] [--all]

Every fault changes one file of a copy of the repository in a temporary folder; the working tree is
never touched. Its tests then run on the copy until one fails; that one is run again without the
fault and must pass. The table says which faults were caught, and by which test. A fault whose text
is no longer in its file is named and not counted.
"""

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
FINDS_TEXTS = "tests/test_plant_faults.py"
"""It looks for the text without the fault, so that it would catch them all."""
RUNNING: set[int] = set()
"""Processes of tests, each the leader of its group."""


class Fault(NamedTuple):
    """What is wrong; the file; its text; the text with the fault; tests that should notice."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def all_faults() -> list[Fault]:
    """The list of `tests/faults.toml`, with paths from the root of the repository."""
    listed = tomllib.loads((ROOT / "tests" / "faults.toml").read_text())["fault"]
    found = [Fault(**{**each, "tests": tuple(each["tests"])}) for each in listed]
    return [
        fault._replace(
            file=f"lp_routing/{fault.file}", tests=tuple(f"tests/{test}" for test in fault.tests)
        )
        for fault in found
    ]


class Outcome(NamedTuple):
    """What became of a fault; by what; seconds.

    The verdict is "caught", "missed", "too slow", "no verdict" or "not found".
    """

    fault: Fault
    verdict: str
    by: str
    seconds: float


def with_fault(fault: Fault, root: Path = ROOT) -> str:
    """The file's text with the fault in it.

    Raises:
        ValueError: the old text is not found exactly once, or is the new one.
    """
    text = (root / fault.file).read_text()
    found = text.count(fault.old)
    if found != 1 or fault.old == fault.new:
        raise ValueError(
            f"{fault.what!r}: expected its old text once in {fault.file} and another one in its "
            f"place, found it {found} time(s): {fault.old!r}; change tests/faults.toml."
        )
    return text.replace(fault.old, fault.new)


@contextmanager
def planted(fault: Fault, copy: Path) -> Iterator[None]:
    """The fault stands in the copy."""
    path, before = copy / fault.file, copy / ".before"
    text = with_fault(fault, copy)
    shutil.copy2(path, before)
    path.write_text(text)
    try:
        yield
    finally:
        shutil.copy2(before, path)  # with its time, so that numba's cache holds


def environment(copy: Path, as_python: bool = False) -> dict[str, str]:
    """Python imports the copy, on one thread; numba compiles nothing where `as_python`.

    numba keeps compiled functions by the file they stand in and does not see that one which they
    call has changed, and to compile all of them again takes a minute.
    """
    own = {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(copy / ".numba")}
    return {**os.environ, **own, "NUMBA_DISABLE_JIT": str(int(as_python))}


def is_compiled(fault: Fault) -> bool:
    """Whether the fault stands in a file of functions that numba compiles."""
    return "@njit" in (ROOT / fault.file).read_text()


def run_tests(
    tests: Sequence[str], copy: Path, env: dict[str, str], limit: float
) -> tuple[str, str]:
    """A verdict and the first test that failed, or pytest's last lines where there is none."""
    quiet = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", f"--ignore={FINDS_TEXTS}"]
    command = [sys.executable, "-m", "pytest", *quiet, *tests]
    process = subprocess.Popen(
        command, cwd=copy, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    RUNNING.add(process.pid)
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "too slow", f"more than {limit:g} s"
    finally:
        RUNNING.discard(process.pid)
    if process.returncode == 0:
        return "missed", ""
    # a module of tests that cannot be imported, as its cases do not exist any more, is an ERROR
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    if process.returncode in (1, 2) and failed:
        return "caught", failed[0]
    return "no verdict", " / ".join(said.splitlines()[-3:])


def examine(fault: Fault, copy: Path, limit: float, whole_suite: bool) -> Outcome:
    """Plant one fault in the copy, run its tests, and the whole suite where they miss it."""
    start, as_python = time.monotonic(), is_compiled(fault)
    with planted(fault, copy):
        verdict, by = run_tests(fault.tests, copy, environment(copy, as_python), limit)
        if verdict == "missed" and whole_suite:
            as_python = False
            if is_compiled(fault):
                shutil.rmtree(copy / ".numba", ignore_errors=True)
            verdict, by = run_tests(["tests"], copy, environment(copy), 10 * limit)
            if is_compiled(fault):
                shutil.rmtree(copy / ".numba", ignore_errors=True)
    if verdict == "caught" and not passes(by.partition("[")[0], copy, as_python, limit):
        verdict, by = "no verdict", f"{by} fails without the fault too"
    return Outcome(fault, verdict, by, time.monotonic() - start)


@cache
def passes(test: str, copy: Path, as_python: bool, limit: float) -> bool:
    """Whether a test, with all its parameters, passes on the copy as it is; asked once a test."""
    return run_tests([test], copy, environment(copy, as_python), limit)[0] == "missed"


def cannot_be_planted(fault: Fault, root: Path = ROOT) -> Outcome | None:
    """The outcome of a fault whose text does not stand once in its file, else None."""
    try:
        with_fault(fault, root)
    except (ValueError, FileNotFoundError) as error:
        return Outcome(fault, "not found", str(error), 0.0)
    return None


def examine_all(
    faults: Sequence[Fault], jobs: int, limit: float, whole_suite: bool
) -> list[Outcome]:
    """All faults, on `jobs` copies; each outcome is printed as soon as available."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(shutil.copytree(ROOT, Path(folder) / str(number), ignore=LEFT_OUT))

        def one(fault: Fault) -> Outcome:
            copy = copies.get()
            try:
                outcome = examine(fault, copy, limit, whole_suite)
            finally:
                copies.put(copy)
            print(line(outcome), flush=True)
            return outcome

        tried = (cannot_be_planted(fault, Path(folder) / "0") for fault in faults)
        not_found = [outcome for outcome in tried if outcome is not None]
        for outcome in not_found:
            print(line(outcome), flush=True)
        names = {outcome.fault.what for outcome in not_found}
        found = [fault for fault in faults if fault.what not in names]
        pool = ThreadPoolExecutor(jobs)
        try:
            return [*not_found, *pool.map(one, found)]
        finally:  # also after Ctrl-C, which the tests do not get
            pool.shutdown(wait=False, cancel_futures=True)
            for pid in list(RUNNING):
                os.killpg(pid, signal.SIGKILL)


def line(outcome: Outcome) -> str:
    """One row of the table."""
    fault, verdict, by, seconds = outcome
    file = fault.file.removeprefix("lp_routing/")
    return f"{verdict:10} {seconds:5.0f} s  {file:35} {fault.what}  [{by}]"


def main() -> None:
    """Read the options, plant the faults, print the table; status 1 where one was not caught."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.plant_faults", description=about)
    parser.add_argument(
        "--only", action="append", help="faults whose file or description contains this; adds up"
    )
    parser.add_argument("--jobs", type=int, default=1, help="copies that are examined at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of a fault")
    parser.add_argument(
        "--all", action="store_true", help="the whole suite where its tests miss it"
    )
    options = parser.parse_args()
    only = options.only or [""]
    faults = [
        fault
        for fault in all_faults()
        if any(words in f"{fault.file} {fault.what}" for words in only)
    ]
    if not faults:
        sys.exit(f"--only {only}: no fault's file or description contains it.")
    try:
        outcomes = examine_all(faults, options.jobs, options.limit, options.all)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    caught = [outcome for outcome in outcomes if outcome.verdict == "caught"]
    absent = sum(outcome.verdict == "not found" for outcome in outcomes)
    print(f"\n{len(caught)} of {len(outcomes) - absent} faults caught", end="")
    print(f", {absent} not found in the code." if absent else ".")
    for outcome in outcomes:
        if outcome.verdict != "caught":
            print(line(outcome))
    sys.exit(len(caught) < len(outcomes))


if __name__ == "__main__":
    main()
