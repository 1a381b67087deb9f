"""The benchmark of gaps: nothing is measured twice, no failure is lost, nothing untrue passes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gap
from benchmarks.gap import WARM, all_cases, append, main, read, table, wrong
from lp_routing.routers import CATALOGUE
from tests.test_compare import Priced

CASE = ("--cases", "skewed-1024x64-k2-f1.25", "--repeats", "1")
FEW = ("--routers", "optimum", "top-k", "drop by score")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "gap.csv"


def run(out, *arguments) -> int:
    """The command on one small case."""
    return main([*CASE, *FEW, "--data", "absent", "--out", str(out), *arguments])


def test_a_case_is_measured_written_read_and_drawn(out, capsys):
    assert run(out) == 0
    said = capsys.readouterr().out
    assert "absent/gpt_oss_20b_mmlu_dev.npz is absent" in said
    assert "top-k" in said
    assert out.with_suffix(".png").stat().st_size > 1000
    lines = read(out)
    assert [line.row.router for line in lines] == ["optimum", "top-k", "drop by score"]
    assert {line.capacity for line in lines} == {40}  # 1.25 * 1024 * 2 / 64
    optimum, top, drop = (line.row for line in lines)
    assert (optimum.gap, optimum.feasible, optimum.optimum_status) == (0.0, True, "OPTIMAL")
    assert not top.feasible
    assert 0 < drop.relative_gap < 1
    assert drop.runs == 1
    assert {line.seed for line in lines} == {0}
    assert all("torch" in line.versions for line in lines)


def test_a_line_that_was_written_is_read_as_it_was(out):
    run(out)
    lines = read(out)
    copy = out.with_name("copy.csv")
    for line in lines:
        append(copy, line)
    assert copy.read_text() == out.read_text()
    assert repr(read(copy)) == repr(lines)


def test_what_is_known_is_not_measured_again(out, monkeypatch, capsys):
    assert run(out) == 0
    before = out.read_text()
    assert run(out) == 2
    assert "go on with --resume" in capsys.readouterr().out
    assert run(out, "--resume", "--seed", "1") == 2

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(gap, "comparisons", never)
    assert run(out, "--resume") == 0
    assert run(out, "--report") == 0
    assert out.read_text() == before


def test_routers_with_a_state_are_measured_cold_and_warm(out, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "priced", lambda shape: Priced())
    arguments = ["--routers", "priced", "top-k", "--data", "absent", "--out", str(out)]
    assert main([*CASE, *arguments]) == 0
    assert [(line.row.router, line.warm_up) for line in read(out)] == [
        ("priced", 0),
        ("top-k", 0),
        ("priced" + WARM, 100),
    ]
    assert main([*CASE, *arguments, "--resume"]) == 0
    assert len(read(out)) == 3


def test_a_router_that_fails_is_a_line_and_the_case_goes_on(out, monkeypatch):
    def no(shape):
        raise RuntimeError("no")

    monkeypatch.setitem(CATALOGUE, "broken", no)
    arguments = ["--routers", "broken", "top-k", "--data", "absent", "--out", str(out)]
    assert main([*CASE, *arguments]) == 0
    assert [line.row.status for line in read(out)] == ["RuntimeError: no", "ok"]


def test_a_row_that_beats_the_bound_or_has_no_proof_is_found_out(out):
    run(out)
    optimum, top, drop = read(out)
    assert wrong([optimum, top, drop]) == []
    above = replace(drop, row=replace(drop.row, gap=-1.0, relative_gap=-0.01))
    assert "drop by score keeps all bounds and beats the bound by 1" in wrong([above])[0]
    late = replace(drop, row=replace(drop.row, optimum_status="TIME_LIMIT: late"))
    assert wrong([late]) == ["skewed-1024x64-k2-f1.25: optimum TIME_LIMIT: late"]
    out.unlink()
    append(out, above)
    assert main(["--report", "--out", str(out)]) == 1


def test_the_table_marks_who_breaks_bounds(out):
    run(out)
    cells = [list(column.cells) for column in table(read(out)).columns]
    assert cells[0] == ["optimum", "top-k", "drop by score"]
    assert cells[1][:2] == ["0.00", "x"]


def test_the_cases_are_the_sample_the_recorded_layers_and_synthetic_ones(tmp_path):
    cases, absent = all_cases(tmp_path)
    assert len(cases) == len({case.name for case in cases}) == 4 * 3 + 4 * 2 * 3
    assert len(absent) == 1
    ids = np.array([[[3, 1, 0, 2]], [[5, 4, 3, 2]]], np.uint8)
    np.savez(tmp_path / "gpt_oss_20b_mmlu_dev.npz", expert_ids=ids, probs=ids)
    cases, absent = all_cases(tmp_path)
    assert (len(cases), absent) == (36 + 2 * 2 * 3, [])
    assert max(case.T * case.E for case in cases) == 65536 * 64


def test_senseless_options_are_refused(out, capsys):
    assert main(["--cases", "none", "--data", "absent", "--out", str(out)]) == 2
    assert "No case matches" in capsys.readouterr().out
    assert main(["--report", "--out", str(out)]) == 2
    with pytest.raises(SystemExit):
        main(["--routers", "topk"])
    assert not Path(out).exists()
