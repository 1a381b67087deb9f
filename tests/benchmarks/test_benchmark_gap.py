"""The benchmark of gaps: nothing is measured twice, no failure is lost, nothing untrue passes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gap
from benchmarks.gap import WARM_STEPS, all_cases, main, panels
from benchmarks.gap_rows import append, read, table, wrong
from lp_routing.routers import CATALOGUE
from tests.evaluation.test_compare import Priced

CASE = ("--cases", "skewed-1024x64-k2-f1.25", "--repeats", "1")
FEW = ("--routers", "optimum", "token-choice", "drop-by-score")


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """Drawing takes longer than measuring, and one test looks at it."""
    if "drawn" not in request.node.name:
        monkeypatch.setattr(gap, "draw", lambda panels, path, **_: None)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "gap.csv"


def test_the_plot_shows_the_largest_synthetic_case_and_the_medians_of_the_layers(out):
    main(["--cases", "skewed-1024*f1.25", *FEW, "--data", "absent", "--out", str(out)])
    line = read(out)[0]
    layer = replace(line, scores="sample", case="a", T=8, E=4)
    small = replace(line, case="small", T=512)
    assert list(panels([line, small, layer, replace(layer, case="b")])) == [
        "skewed, 1024 x 64, K = 2, capacity factor 1.25",
        "sample, 8 x 4, K = 2, capacity factor 1.25, medians of 2 layers",
    ]


def run(out, *arguments) -> int:
    """The command on one small case."""
    return main([*CASE, *FEW, "--data", "absent", "--out", str(out), *arguments])


def test_a_case_is_measured_written_read_and_drawn(out, capsys):
    assert run(out) == 0
    said = capsys.readouterr().out
    assert "absent/gpt_oss_20b_mmlu_dev.npz is absent" in said
    assert "token-choice" in said
    assert out.with_suffix(".png").stat().st_size > 1000
    lines = read(out)
    assert [line.row.router for line in lines] == ["optimum", "token-choice", "drop-by-score"]
    assert {line.capacity for line in lines} == {40}  # 1.25 * 1024 * 2 / 64
    optimum, top, drop = (line.row for line in lines)
    assert (optimum.gap, optimum.feasible, optimum.optimum_status) == (0.0, True, "OPTIMAL")
    assert (top.feasible, top.status) == (False, "INFEASIBLE")
    assert {line.row.routed_on for line in lines} == {"logits"}
    assert 0 < drop.relative_gap < 1
    assert drop.runs == 1
    assert {line.seed for line in lines} == {0}
    assert all("torch" in line.versions for line in lines)


def test_a_line_that_was_written_is_read_as_it_was(out):
    run(out)
    lines = read(out)
    copy = out.with_name("copy.csv")
    append(copy, lines[:2])
    append(copy, lines[2:])
    assert copy.read_text() == out.read_text()
    assert repr(read(copy)) == repr(lines)


def test_lines_are_added_to_a_file_that_lacks_a_column(out):
    assert main([*CASE, *FEW, "--out", str(out)]) == 0
    lines = read(out)
    kept = [line.rpartition(",")[0] for line in out.read_text().splitlines()]  # none has a note
    out.write_text("\n".join(kept) + "\n")
    append(out, [replace(lines[0], row=replace(lines[0].row, router="new", note="some"))])
    again = read(out)
    assert [line.row.status for line in again[:-1]] == [line.row.status for line in lines]
    assert [line.row.note for line in again] == [""] * len(lines) + ["some"]


def test_a_file_holds_all_of_what_is_added_or_nothing(out, monkeypatch):
    run(out)
    before, lines = out.read_text(), read(out)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lp_routing.files.os.fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        append(out, lines)
    assert out.read_text() == before


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
    arguments = ["--routers", "priced", "token-choice", "--data", "absent", "--out", str(out)]
    assert main([*CASE, *arguments]) == 0
    assert [(line.row.label, line.warm_up) for line in read(out)] == [
        ("priced, cold", 0),
        ("token-choice", 0),
        (f"priced, after {WARM_STEPS} step(s)", WARM_STEPS),
    ]
    assert main([*CASE, *arguments, "--resume"]) == 0
    assert len(read(out)) == 3


def test_a_router_that_was_slow_on_a_smaller_case_is_not_tried_on_a_larger_one(out, monkeypatch):
    def on(case, limit):
        arguments = ["--routers", "token-choice", "priced", "--data", "absent", "--out", str(out)]
        assert main([*arguments, "--cases", case, "--limit", limit, "--resume"]) == 0
        rows = [line.row for line in read(out) if line.case == case]
        return {row.label: row.status for row in rows}

    monkeypatch.setitem(CATALOGUE, "priced", lambda shape: Priced())
    small, large = "skewed-1024x64-k2-f1.25", "sample-0-k2-f1.25"
    assert on(small, "60")["priced, after 30 step(s)"] != ""
    (unit,) = (line.row.seconds for line in read(out) if line.row.label == "priced, cold")
    # 131,072 pairs here, 65,536 there: one call is expected to take 2 units, 31 calls 62
    found = on(large, f"{10 * unit}")
    assert found["priced, cold"] in ("ok", "INFEASIBLE")
    warm = found["priced, after 30 step(s)"]
    assert re.fullmatch(
        r"not tried: it took \S+ s on \S+, so 31 call\(s\) here would take .*", warm
    )
    assert on("skewed-4096x64-k2-f1", "1e-9")["token-choice"].startswith("not tried: it took")
    again = on("skewed-16384x64-k2-f1", "60")["token-choice"]
    assert again == "not tried: nor was it on skewed-4096x64-k2-f1"
    cells = [list(column.cells) for column in table(read(out)).columns]
    assert ["-" in column for column in cells].count(True) >= 2


def test_recorded_probabilities_judge_no_rule_that_needs_the_logits_themselves(tmp_path, out):
    ids = np.stack([np.random.default_rng(i).permutation(32)[:4] for i in range(64)])
    probs = np.tile([0.4, 0.3, 0.2, 0.1], (64, 1)).astype(np.float16)
    np.savez(
        tmp_path / "gpt_oss_20b_mmlu_dev.npz",
        expert_ids=ids[None].astype(np.uint8),
        probs=probs[None],
    )
    arguments = ["--routers", "token-choice", "relu", "--data", str(tmp_path), "--out", str(out)]
    assert main(["--cases", "gpt-oss-00-k1-f1", *arguments]) == 0
    top, relu = (line.row for line in read(out))
    assert (top.routed_on, top.pairs) == ("log of scores", 64)
    assert relu.status.startswith("not judged: its scores change")


def test_a_router_that_fails_is_a_line_and_the_case_goes_on(out, monkeypatch):
    def no(shape):
        raise RuntimeError("no")

    monkeypatch.setitem(CATALOGUE, "broken", no)
    arguments = ["--routers", "broken", "token-choice", "--data", "absent", "--out", str(out)]
    assert main([*CASE, *arguments]) == 0
    assert [line.row.status for line in read(out)] == ["RuntimeError: no", "INFEASIBLE"]


def test_a_row_that_beats_the_bound_or_has_no_proof_is_found_out(out):
    run(out)
    optimum, top, drop = read(out)
    assert wrong([optimum, top, drop]) == []
    above = replace(drop, row=replace(drop.row, gap=-1.0, relative_gap=-0.01))
    assert "drop-by-score keeps all bounds and beats the bound by 1" in wrong([above])[0]
    late = replace(drop, row=replace(drop.row, optimum_status="TIME_LIMIT: late"))
    assert wrong([late]) == ["skewed-1024x64-k2-f1.25: optimum TIME_LIMIT: late"]
    out.unlink()
    append(out, [above])
    assert main(["--report", "--out", str(out)]) == 1


def test_the_table_marks_who_breaks_bounds(out):
    run(out)
    cells = [list(column.cells) for column in table(read(out)).columns]
    assert cells[0] == ["optimum", "token-choice", "drop-by-score"]
    assert cells[1][:2] == ["0.00", "x"]


def test_the_cases_are_the_sample_the_recorded_layers_and_synthetic_ones(tmp_path):
    cases, absent = all_cases(tmp_path)
    assert len(cases) == len({case.name for case in cases}) == 4 * 3 + 4 * 2 * 3
    assert len(absent) == 1
    ids = np.array([[[3, 1, 0, 2]], [[5, 4, 3, 2]]], np.uint8)
    np.savez(tmp_path / "gpt_oss_20b_mmlu_dev.npz", expert_ids=ids, probs=ids)
    cases, absent = all_cases(tmp_path)
    assert (len(cases), absent) == (36 + 2 * 2 * 3, [])
    ids = np.zeros((24, 1, 4), np.uint8)
    np.savez(tmp_path / "gpt_oss_20b_mmlu_dev.npz", expert_ids=ids, probs=ids)
    parts = {case.part for case in all_cases(tmp_path)[0] if case.scores == "gpt-oss"}
    assert parts == {"00", "12", "23"}
    assert len(all_cases(tmp_path, all_layers=True)[0]) == 36 + 24 * 2 * 3
    assert max(case.T * case.E for case in cases) == 65536 * 64


def test_senseless_options_are_refused(out, capsys):
    assert main(["--cases", "none", "--data", "absent", "--out", str(out)]) == 2
    assert "No case matches" in capsys.readouterr().out
    assert main(["--report", "--out", str(out)]) == 2
    for bad in (["--routers", "topk"], ["--limit", "0"], ["--repeats", "0"]):
        with pytest.raises(SystemExit):
            main(bad)
    assert not Path(out).exists()
