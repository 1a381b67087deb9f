"""Sweeps: what is kept, what a kill costs, what is refused, processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch

from lp_routing.errors import InputError, WorkerError
from lp_routing.sweep import Progress, ResultFile, asked, over_processes, sweep
from tests.sweeping import POINTS, doubled, picky, slow_square, square

ROOT = Path(__file__).parents[1]


def counting(task=square):
    """A task, and a list of the points that it was asked for."""
    calls = []

    def counted(point):
        calls.append(point)
        return task(point)

    return counted, calls


def tensor_task(point, *, logits, k=2):
    return {"value": float(logits.sum()) * k + point}


def kept(path):
    """The points of a file of results, in the order of its lines."""
    return [json.loads(line)["point"] for line in path.read_bytes().splitlines()[1:]]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_kill_costs_at_most_the_points_that_were_being_computed(tmp_path):
    """Killed amid its points, on two processes; gone on with here, on one."""
    path, notes = tmp_path / "kept.jsonl", tmp_path / "begun"
    code = "from tests import sweeping; sweeping.main()"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "2"], cwd=ROOT)
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") > 4)
    with pytest.raises(InputError, match="another process is writing to it"):
        sweep(partial(slow_square, folder=str(tmp_path)), POINTS, path=path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = {line.split()[1] for line in notes.read_text().splitlines()}
    wait_for(lambda: not any(map(alive, workers)))  # they do not outlive who asked
    finished = kept(path)
    begun = [int(line.split()[0]) for line in notes.read_text().splitlines()]
    assert 4 <= len(finished) < len(POINTS)
    assert len(set(begun) - set(finished)) <= 3  # two at work; one sent home, not yet written
    (tmp_path / "quick").touch()
    records = sweep(partial(slow_square, folder=str(tmp_path)), POINTS, path=path)
    counts = Counter(int(line.split()[0]) for line in notes.read_text().splitlines())
    assert all(counts[point] == 1 for point in finished)
    assert set(counts) == set(POINTS)
    assert records == sweep(square, POINTS)
    assert sorted(kept(path)) == POINTS


def test_the_records_are_those_of_one_process_in_the_order_of_the_points():
    points = [*POINTS[::-1], 3]
    assert sweep(square, points, jobs=2) == sweep(square, points)
    assert [record["square"] for record in sweep(square, points)] == [p * p for p in points]
    assert not multiprocessing.active_children()


def test_a_point_that_comes_twice_is_computed_once():
    task, calls = counting()
    assert [r["square"] for r in sweep(task, [2, 3, 2])] == [4, 9, 4]
    assert calls == [2, 3]
    assert sweep(task, []) == []


def test_records_are_json_whether_they_were_read_or_not(tmp_path):
    path = tmp_path / "a.jsonl"
    first = sweep(picky, ["fine"], path=path)
    assert first[0]["value"] == [None, None, 1.5]
    assert sweep(picky, ["fine"], path=path) == first
    assert sweep(square, [4]) == [{"square": 16, "root": 2.0, "shape": [4, 1]}]


def test_a_point_that_fails_costs_itself_alone_and_is_tried_again(tmp_path):
    points = ["bad input", "fine", "bug", "no mapping", "no JSON"]
    path = tmp_path / "a.jsonl"
    for _ in range(2):  # the second time, four are tried again
        bad, fine, bug, no_mapping, no_json = sweep(picky, points, path=path)
        assert bad == {"error": "point: expected a better one."}
        assert fine["value"] == [None, None, 1.5]
        assert bug["error"] == "ZeroDivisionError: by nothing"
        assert "in picky" in bug["traceback"]
        assert no_mapping["error"] == "TypeError: the task returned a list, not a mapping"
        assert "not JSON serializable" in no_json["error"]
    assert Counter(kept(path)) == {point: 1 if point == "fine" else 2 for point in points}


@pytest.mark.parametrize("cut", [0, 1, 9, 20])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    sweep(square, [1, 2, 3], path=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])  # at least its end is gone
    task = square
    assert sweep(task, [1, 2, 3, 4], path=path) == sweep(task, [1, 2, 3, 4])
    assert kept(path) == [1, 2, 3, 4]
    assert path.read_bytes().startswith(whole)


def test_a_file_killed_within_its_header_is_begun_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    sweep(square, [1], path=path)
    header = path.read_bytes().splitlines(keepends=True)[0]
    for length in (0, 1, len(header) - 1, len(header)):
        path.write_bytes(header[:length])
        assert sweep(square, [1], path=path) == sweep(square, [1])
        assert kept(path) == [1]


def test_points_may_be_added_and_left_out(tmp_path):
    path, logits = tmp_path / "a.jsonl", torch.arange(3.0)
    task = partial(tensor_task, logits=logits)
    sweep(task, [1, 2], path=path)
    assert sweep(task, [3, 2], path=path) == [{"value": 9.0}, {"value": 8.0}]
    assert kept(path) == [1, 2, 3]


@dataclass(frozen=True)
class Options:
    k: int
    names: tuple[str, ...]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"k": 4}, "k was 2, is 4"),
        ({"logits": torch.arange(4.0)}, r'logits was "float32 \(3,\), sha256 .*is "float32 \(4,\)'),
        ({"logits": torch.arange(3.0) + 1}, r"logits was .* is "),
        ({"logits": torch.arange(3.0).double()}, r"logits was .*is \"float64"),
        ({"k": True}, "k was 2, is true"),
    ],
)
def test_a_file_of_another_question_is_refused(tmp_path, other, says):
    path = tmp_path / "a.jsonl"
    given = {"logits": torch.arange(3.0), "k": 2}
    sweep(partial(tensor_task, **given), [1], path=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"holds the results of another question: {says}"):
        sweep(partial(tensor_task, **{**given, **other}), [1], path=path)
    with pytest.raises(InputError, match=r"task was .*tensor_task.*is .*square"):
        sweep(square, [1], path=path)
    assert path.read_bytes() == before


def test_what_a_task_answers_is_said_in_json_values():
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    task = partial(tensor_task, {"a": nan}, logits=half[:, :1], k=Options(2, ("x", "y")))
    said = asked(task)
    assert said["task"].endswith("test_sweep.tensor_task")
    arguments = said["arguments"]
    assert arguments["argument 0"] == {"a": "nan"}
    assert arguments["k"] == {"k": 2, "names": ["x", "y"]}
    assert (
        arguments["logits"]
        == asked(partial(square, logits=half[:, :1].clone()))["arguments"]["logits"]
    )
    assert arguments["logits"].startswith("bfloat16 (2, 1), sha256 ")
    array = asked(partial(square, a=np.arange(3), p=Path("x")))["arguments"]
    assert array == {"a": asked(partial(square, a=torch.arange(3)))["arguments"]["a"], "p": "x"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"notes of mine", "is not a file of results"),
        (b"notes of mine\n", "is not a file of results"),
        (b"[1]\n", "is not a file of results"),
        (b'{"point": 1}\n', "is not a file of results"),
        (b"\xff\xfe\n", "is not a file of results"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content, says):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        sweep(square, [1], path=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"{", b"[2]", b'{"point": 2}', b'{"point": 2, "record": 4}', b""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    sweep(square, [1], path=path)
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(InputError, match="line 3 "):
        sweep(square, [1, 2], path=path)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda folder: sweep(square, [1], jobs=0), "jobs=0: it must be at least 1"),
        (lambda folder: sweep(square, [1, {2}]), r"points\[1\]=\{2\}: expected JSON values"),
        (lambda folder: sweep(square, [inf]), r"points\[0\]=inf: expected JSON values"),
        (lambda folder: sweep(square, [1], path=folder), "cannot be written"),
        (lambda folder: sweep(square, [1], path=folder / "no" / "a"), "cannot be written"),
        (lambda folder: sweep(lambda p: {}, [1], jobs=2), "cannot be sent to another process"),
        (lambda folder: asked(partial(square, a=object())), "its argument a is a object"),
        (lambda folder: asked(torch.nn.ReLU()), "expected a function or a functools.partial"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(tmp_path, call, says):
    with pytest.raises(InputError, match=says):
        call(tmp_path)


def test_a_full_disk_is_said(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    file = ResultFile(tmp_path / "a.jsonl", {})
    with open("/dev/full", "wb", buffering=0) as full:
        os.dup2(full.fileno(), file._file.fileno())
    with file, pytest.raises(InputError, match="No space left on device"):
        file.append({"point": 1})


def test_progress_is_told_from_the_first_to_the_last(tmp_path):
    told = []
    path = tmp_path / "a.jsonl"
    sweep(square, [5], path=path)
    sweep(square, [4, 5, 6], path=path, progress=told.append)
    assert [progress.done for progress in told] == [1, 2, 3]
    assert [progress.seconds_left is None for progress in told] == [True, False, False]
    assert [record is None for record in told[0].records] == [True, False, True]
    assert (str(told[0]), str(told[2])) == ("1 of 3", "3 of 3")


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.2, "3 of 29, about 0 s left"),
        (12.4, "3 of 29, about 12 s left"),
        (119, "3 of 29, about 119 s left"),
        (150, "3 of 29, about 2 min left"),
        (7300, "3 of 29, about 2 h left"),
        (None, "3 of 29"),
    ],
)
def test_estimates_read_well(seconds, says):
    assert str(Progress(3, 29, seconds, [])) == says


def test_an_interruption_ends_the_processes_and_keeps_what_is_done(tmp_path):
    """Ctrl-C after the second record; points that fail are no reason to stop."""
    path, points = tmp_path / "a.jsonl", ["bug", *range(30)]

    def stop(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(picky, points, path=path, jobs=2, progress=stop)
    assert not multiprocessing.active_children()
    assert len(kept(path)) == 2
    lines = [json.loads(line)["record"] for line in path.read_text().splitlines()[1:]]
    assert {line["threads"] for line in lines if "error" not in line} == {1}


def test_tensors_go_to_processes_and_back_by_value():
    """Shared, a thread of ours would print a traceback where a worker ends as it asks for one."""
    sent = {"a": torch.arange(3.0), "b": torch.ones(2)}
    found = dict(over_processes(doubled, sent, 2))
    assert {key: value.tolist() for key, value in found.items()} == {"a": [0, 2, 4], "b": [2, 2]}
    assert [t.name for t in threading.enumerate() if "_serve" in t.name] == []


def test_the_lock_leaves_no_file_behind(tmp_path):
    with ResultFile(tmp_path / "a.jsonl", {}):
        assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.lock"}
        with pytest.raises(InputError, match="another process is writing to it"):
            ResultFile(tmp_path / "a.jsonl", {})
        assert (tmp_path / "a.jsonl.lock").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_process_that_ends_on_its_own_is_said(tmp_path):
    with pytest.raises(WorkerError, match="jobs=2: a process ended on its own"):
        sweep(picky, ["end", "fine"], path=tmp_path / "a.jsonl", jobs=2)
    assert not multiprocessing.active_children()


def test_the_time_left_is_that_of_the_points_that_are_left(tmp_path, monkeypatch):
    # Ten seconds a point; one of four is there already, as an earlier run left it.
    clock, told = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    sweep(square, [1], path=tmp_path / "a.jsonl")

    def tell(progress):
        told.append(progress.seconds_left)
        clock[0] += 10

    sweep(square, [1, 2, 3, 4], path=tmp_path / "a.jsonl", progress=tell)
    assert told == [None, 20, 10, 0]
