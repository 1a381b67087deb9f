"""Ctrl-C, a full or closed output, no memory: a command ends soon, in words, and alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lp_routing.cli import main
from lp_routing.cli.ending import GRACE_S
from lp_routing.errors import OUT_OF_MEMORY, InputError, WorkerError, is_out_of_memory
from lp_routing.sweep import ERROR, sweep

SOON_S = 5.0
"""Seconds: a second or two, and what a loaded machine may add."""


def begun(command, until, tmp_path, stdout=subprocess.DEVNULL):
    """Start a command in its own process group, and wait until its stderr says something."""
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, start_new_session=True, cwd=Path.cwd()
        )
    for _ in range(600):
        if until in log.read_text() or process.poll() is not None:
            break
        time.sleep(0.05)
    return process, log


def lp_routing(*arguments):
    return [sys.executable, "-m", "lp_routing", *map(str, arguments)]


def interrupted(process):
    """Press Ctrl-C, which reaches every process of the group; seconds until it has ended."""
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    return time.monotonic() - began


def alive(group):
    """Whether some process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def large(tmp_path):
    logits = np.random.default_rng(0).normal(size=(6, 1024, 16)).astype(np.float32)
    np.savez(tmp_path / "large.npz", router_logits=logits)
    return tmp_path / "large.npz"


@pytest.mark.parametrize(
    ("options", "until"),
    [
        (("verify", "--jobs", 1), "proving: 1 of"),
        (("verify", "--jobs", 2), "proving: 1 of"),
        (("claims", "--jobs", 2), "checking: 1 of"),
        (("audit", "--layers", "all"), "1 of"),
        (("report", "-o", "/dev/null"), "1 of"),
    ],
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, tuple) else "",
)
def test_ctrl_c_ends_a_command_soon_and_all_its_processes(options, until, large, tmp_path):
    name, *rest = options
    process, log = begun(
        lp_routing(name, large, "--k", 2, "--tokens", "all", *rest), until, tmp_path
    )
    assert process.poll() is None, log.read_text()
    took = interrupted(process)
    says = log.read_text()
    assert process.returncode == 130, says
    assert took < SOON_S
    assert "Interrupted" in says
    assert "Traceback" not in says
    for _ in range(40):  # workers that were killed may take a moment to be gone
        if not alive(process.pid):
            break
        time.sleep(0.05)
    assert not alive(process.pid)


STUCK = """
import hashlib, sys
from lp_routing.cli import main, verify
from lp_routing.files import whole_file
from pathlib import Path
def work(options):
    with whole_file(Path(sys.argv[1])) as part:
        part.write_text("half")
        print("begun", file=sys.stderr, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2_000_000_000)  # minutes
verify.run = work
main(["verify"])
"""


def test_ctrl_c_ends_a_solver_that_does_not_listen(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    process, log = begun([sys.executable, "-c", STUCK, folder / "a"], "begun", tmp_path)
    took = interrupted(process)
    assert process.returncode == 130, log.read_text()
    assert GRACE_S <= took < SOON_S
    assert log.read_text() == "begun\nInterrupted.\n"
    assert list(folder.iterdir()) == []


COMPUTING = """
import sys, threading, time, torch
from lp_routing.cli import verify
from lp_routing.__main__ import run
def compute():
    while True:
        torch.randn(300, 300) @ torch.randn(300, 300)
def work(options):
    for _ in range(4):
        threading.Thread(target=compute, daemon=True).start()
    time.sleep(0.5)
    print("begun", file=sys.stderr, flush=True)
    time.sleep(60)
verify.run = work
sys.argv = ["lp-routing", "verify"]
run()
"""


def test_ctrl_c_ends_a_process_whose_threads_still_compute(tmp_path):
    process, log = begun([sys.executable, "-c", COMPUTING], "begun", tmp_path)
    assert interrupted(process) < SOON_S
    assert process.returncode == 130, log.read_text()
    assert log.read_text() == "begun\nInterrupted.\n"


def ended(callback, monkeypatch):
    monkeypatch.setattr("lp_routing.cli.verify.run", callback)
    return CliRunner().invoke(main, ["verify"])


def raises(error):
    def work(options):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (InputError("k=9 is more than E."), 2, "Error: k=9 is more than E.\n"),
        (MemoryError(), 2, f"Error: {OUT_OF_MEMORY}\n"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 2, f"Error: {OUT_OF_MEMORY}\n"),
        (WorkerError("a process ended"), 1, "Error: a process ended\n"),
        (OSError(28, "No space left"), 1, "Error: standard output cannot be written to (No spac"),
    ],
)
def test_every_early_end_has_a_sentence_and_a_status(error, status, says, monkeypatch):
    result = ended(raises(error), monkeypatch)
    assert result.exit_code == status
    assert result.stderr.startswith(says)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), OSError(2, "No such file", "a")])
def test_other_errors_are_not_hidden(error, monkeypatch):
    assert ended(raises(error), monkeypatch).exception is error


def no_memory(_point):
    return {"a": float(torch.empty(10**14, dtype=torch.float64)[0])}


def test_what_says_that_memory_is_short():
    with pytest.raises(RuntimeError) as told:
        no_memory(1)
    assert is_out_of_memory(told.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert sweep(no_memory, [1]) == [{ERROR: OUT_OF_MEMORY}]


def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(small, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np, "load", full)
    result = CliRunner().invoke(main, ["verify", str(small), "--k", "1"])
    assert (result.exit_code, result.stderr) == (2, f"Error: {OUT_OF_MEMORY}\n")


@pytest.fixture
def small(tmp_path):
    logits = np.random.default_rng(0).normal(size=(1, 64, 8)).astype(np.float32)
    np.savez(tmp_path / "small.npz", router_logits=logits)
    return tmp_path / "small.npz"


def test_a_full_output_is_told(small):
    with Path("/dev/full").open("w") as full:
        command = lp_routing("audit", small, "--k", 1, "--routers", "token-choice")
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    last = told.stderr.splitlines()[-1]
    assert last == "Error: standard output cannot be written to (No space left on device)."
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_full_output_is_told_of_help_too(option):
    with Path("/dev/full").open("w") as full:
        command = lp_routing(option)
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr == "Error: standard output cannot be written to (No space left on device).\n"


def test_ctrl_c_in_python_code_ends_with_status_130(monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lp_routing.cli.claims.run", interrupted)
    result = CliRunner().invoke(main, ["claims"])
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


EARLY = """
import sys
from lp_routing.__main__ import run
class Interrupts:
    def find_spec(self, name, *_):
        if name == "lp_routing.cli.commands":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
run()
"""


def test_ctrl_c_before_the_command_has_begun():
    told = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (130, "Interrupted.\n")


def test_a_closed_pipe_is_told(small):
    reading, writing = os.pipe()
    os.close(reading)
    command = lp_routing("audit", small, "--k", 1, "--routers", "token-choice")
    told = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].startswith(
        "Error: standard output cannot be written to (Broken pipe)."
    )
    assert "Traceback" not in told.stderr
    assert "Exception ignored" not in told.stderr
