"""Files are written whole or not at all: on a full disk, over a file, through a link."""

import os
import resource
import stat
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.files import UNFINISHED, check_writable, remove_unfinished, whole_file, write_whole
from lp_routing.report import plots

LOGITS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
PROBLEM = lpr.problems.token_choice(LOGITS, 1)
TAKEN = lpr.routers.TopK(1)(LOGITS)


@contextmanager
def full_disk(left=100):
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "a.txt": lambda path: write_whole(path, "a page " * 99),
    "a.bin": lambda path: write_whole(path, b"bytes" * 99),
    "a.png": lambda path: plots.save(plots.assignment(TAKEN, TAKEN), path),
    "a.svg": lambda path: plots.save(plots.assignment(TAKEN, TAKEN), path),
    "a.pdf": lambda path: plots.save(plots.assignment(TAKEN, TAKEN), path),
    "a.lp": lambda path: lpr.solvers.write(PROBLEM, path),
    "a.mps": lambda path: lpr.solvers.write(PROBLEM, path),
    "a.mps.gz": lambda path: lpr.solvers.write(PROBLEM, path),
    "a.npz": lambda path: lpr.traces.Trace(LOGITS[None], "here").save(path),
    "a.safetensors": lambda path: lpr.traces.Trace(LOGITS[None], "here").save(path),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


@every_writer
def test_on_a_full_disk_the_file_stays_what_it_was(tmp_path, name):
    path = tmp_path / name
    for content in (None, "as it was"):
        if content is not None:
            path.write_text(content)
        with full_disk(), pytest.raises(lpr.InputError, match=f"{name}: cannot be written"):
            WRITERS[name](path)
        assert [each.name for each in tmp_path.iterdir()] == ([] if content is None else [name])
        assert content is None or path.read_text() == content
    assert not UNFINISHED


@every_writer
def test_what_is_written_is_whole_over_a_file_and_through_a_link(tmp_path, name):
    fresh, old = tmp_path / name, tmp_path / "folder" / name
    old.parent.mkdir()
    old.write_text("as it was")
    old.chmod(0o640)
    link, relative = tmp_path / f"link-{name}", tmp_path / f"relative-{name}"
    link.symlink_to(old)
    relative.symlink_to(link.name)
    WRITERS[name](fresh)
    with old.open() as reader:
        WRITERS[name](relative)
        assert reader.read() == "as it was"  # who reads the old one keeps it
    assert link.is_symlink()
    assert relative.is_symlink()
    assert old.stat().st_size == fresh.stat().st_size > 100
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 4
    assert list(old.parent.iterdir()) == [old]


def test_a_link_to_nothing_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "new").read_text() == "text"
    assert (tmp_path / "link").is_symlink()


def test_links_that_point_at_each_other_a_folder_and_a_protected_file_are_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    cases = {tmp_path / "a": "symbolic links", tmp_path: "Is a directory"}
    cases[tmp_path / "no" / "a"] = "No such file"
    for path, says in cases.items():
        for refused in (lambda path: write_whole(path, ""), check_writable):
            with pytest.raises(lpr.InputError, match=f"cannot be written .*{says}"):
                refused(path)


def half_written(path, error):
    with whole_file(path) as part:
        part.write_text("half")
        raise error


def test_an_error_while_writing_is_raised_and_leaves_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_text("as it was")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            half_written(path, error)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_at_the_last_moment_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("as it was")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(lpr.InputError, match="No space left on device"):
        write_whole(path, "half a page")
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_ends_at_once_removes_what_it_has_begun(tmp_path):
    whole = whole_file(tmp_path / "a")
    whole.__enter__().write_text("half")
    assert len(list(tmp_path.iterdir())) == len(UNFINISHED) == 1
    remove_unfinished()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(lpr.InputError, match="No such file"):
        whole.__exit__(None, None, None)
    assert not UNFINISHED


def test_checking_changes_nothing(tmp_path):
    path = tmp_path / "a"
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("as it was")
    before = path.stat()
    check_writable(path)
    assert path.read_text() == "as it was"
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_pipes_and_devices_are_written_to_as_they_are(tmp_path):
    pipe, told = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: told.append(pipe.read_text()))
    reader.start()
    check_writable(pipe)
    write_whole(pipe, "a page")
    reader.join()
    assert told == ["a page"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_whole(Path("/dev/null"), "gone")
    with pytest.raises(lpr.InputError, match=r"--json /dev/full: cannot be written \(No space"):
        write_whole(Path("/dev/full"), "a page", "--json")


def test_what_a_trace_saves_is_read_again_after_a_failed_attempt(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, router_logits=LOGITS.numpy())
    with full_disk(), pytest.raises(lpr.InputError):
        lpr.traces.Trace(2 * LOGITS[None], "here").save(path)
    assert torch.equal(lpr.traces.read(path).layer(0), LOGITS)
