"""The benchmark's harness loses no failure, and its table hides no disagreement."""

import csv
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import exact
from benchmarks.side_by_side import harness, solvers
from benchmarks.side_by_side.cases import FACTORS, QUICK, Case, all_cases, build
from benchmarks.side_by_side.plot import draw
from benchmarks.side_by_side.rows import append, disagreement, machine_in_words, read, row
from benchmarks.side_by_side.solvers import SOLVERS, highs
from benchmarks.side_by_side.table import aims, comparison, growth, ratio, wrong
from benchmarks.side_by_side.worker import Order, Record, measure

CASE = Case("skewed", "", 96, 8, 2, 1.0)
PLAN = harness.Plan(["HiGHS", "OR-tools"], repeats=1, rounds=2)


def result(solver="HiGHS", case=CASE, seconds=1.0, status="OPTIMAL", value=10.0):
    record = Record(status, "", value, value, [seconds], [0.1], 1000, 1000)
    return row(case, solver, 60.0, [record])


def grown(solver, exponent, sizes=(65536, 262144, 1048576), scale=1e-6):
    cases = [Case("skewed", "", T, 64, 2, 1.0) for T in sizes]
    return [result(solver, case, scale * case.T**exponent) for case in cases]


# the cases


def test_all_cases_have_names_of_their_own_and_absent_files_are_said(tmp_path):
    cases, absent = all_cases(tmp_path)
    assert len({case.name for case in cases}) == len(cases) == 18 + 6 + 4 + 6 + 12
    assert len(absent) == 3
    assert all("is absent" in sentence for sentence in absent)
    assert len(exact.selected(cases, QUICK)) == 14


def test_the_recorded_traces_state_the_problems_they_should(tmp_path):
    ids = np.array([[[3, 1, 0, 2], [5, 4, 3, 2]]], np.uint8)
    probs = np.array([[[0.5, 0.25, 0.125, 0.125]] * 2], np.float16)
    np.savez(tmp_path / "gpt_oss_20b_mmlu_dev.npz", expert_ids=ids, probs=probs)
    counts = np.array([[2] * 8 + [0, 0], [0] * 2 + [1] * 8], np.int32)
    np.savez(tmp_path / "olmoe_1b_7b_github.npz", counts_L7=counts)
    cases = {case.name: case for case in all_cases(tmp_path)[0]}

    gpt_oss = build(cases["gpt-oss-00-k2-f1.25"], tmp_path)
    assert gpt_oss.bounds == "tokens at_most(2), experts at_most(1)"
    assert gpt_oss.scores[1].isfinite().nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert gpt_oss.scores[0, 3] == 0.5

    olmoe = build(cases["olmoe-github-L7-k8-f1"], tmp_path)
    assert olmoe.multiplicity.tolist() == [2, 1]
    assert olmoe.supply.tolist() == [16, 8]
    assert olmoe.capacity == 3  # 24 / 10, rounded up
    assert olmoe.scores[0].tolist() == [0.0] * 8 + [-np.inf] * 2


def test_one_choice_on_synthetic_scores_is_what_pot_can_state():
    pot_cases = [case for case in all_cases(Path("absent"))[0] if solvers.applies("POT", case)]
    assert {(case.K, case.factor, case.T % case.E) for case in pot_cases} == {(1, 1.0, 0)}


# one process


def test_a_record_holds_times_memory_value_and_bound():
    record = measure(Order(CASE, "HiGHS", 2, 60.0, ""))
    assert record.status == "OPTIMAL"
    assert record.bound == pytest.approx(record.value, rel=1e-9)
    assert len(record.seconds) == 2
    assert len(record.topk_seconds) >= 10
    assert record.scores_bytes == 4 * 96 * 8
    assert record.memory_bytes is None or record.memory_bytes >= 0
    assert record.bounds == "tokens exactly(2), experts at_most(24)"


def test_no_further_solve_is_begun_after_half_the_limit(monkeypatch):
    monkeypatch.setattr("benchmarks.side_by_side.worker.limited", lambda *_: highs(build(CASE, "")))
    assert len(measure(Order(CASE, "HiGHS", 50, 1e-6, "")).seconds) == 1


def test_a_process_that_passes_the_limit_becomes_a_sentence_and_no_other_is_begun():
    limit = harness.Plan(["HiGHS"], repeats=1, rounds=2, limit_s=1e-4)
    larger = replace(CASE, T=192)
    late, untried = harness.run([CASE, larger], limit)
    assert late.status == "time limit (0.0001 s)"
    assert (late.seconds, late.repeats) == (None, 0)
    assert untried.status.startswith("not tried: HiGHS gave up at skewed-96x8-k2-f1 (time limit")


def ending(monkeypatch, returncode, stdout="", stderr=""):
    class Ended:
        pass

    Ended.returncode, Ended.stdout, Ended.stderr = returncode, stdout, stderr
    monkeypatch.setattr(harness.subprocess, "run", lambda *_, **__: Ended)
    return harness.process(Order(CASE, "HiGHS", 1, 60.0, ""))


def test_each_way_a_process_can_end_has_a_sentence(monkeypatch):
    assert ending(monkeypatch, 1, stderr="Traceback\nValueError: no") == "failed: ValueError: no"
    assert ending(monkeypatch, 3) == "failed: exit status 3"
    killed = ending(monkeypatch, -signal.SIGKILL)
    assert killed == "failed: killed by SIGKILL (out of memory?)"
    assert ending(monkeypatch, 0, 'noise\n{"status": "OPTIMAL"}').status == "OPTIMAL"


# the harness


def canned(monkeypatch, outcome):
    asked = []

    def process(order):
        asked.append((order.case.T, order.solver))
        return outcome(order)

    monkeypatch.setattr(harness, "process", process)
    return asked


def test_solvers_take_turns_and_rounds_are_pooled(monkeypatch):
    times = iter([1.0, 5.0, 3.0, 6.0])
    asked = canned(
        monkeypatch, lambda o: Record("OPTIMAL", "", 1.0, None, [next(times)], [0.5], 10, 10)
    )
    ours, theirs = harness.run([CASE], PLAN)
    assert asked == [(96, "HiGHS"), (96, "OR-tools")] * 2
    assert (ours.seconds, ours.seconds_min, ours.seconds_max, ours.repeats) == (2.0, 1.0, 3.0, 2)
    assert (theirs.seconds, theirs.topk_units, theirs.memory_over_scores) == (5.5, 11.0, 1.0)
    assert theirs.relative_gap is None


def test_a_failure_is_a_row_and_the_other_solver_goes_on(monkeypatch):
    good = Record("OPTIMAL", "", 1.0, 1.0, [1.0], [0.1], None, 10)
    canned(monkeypatch, lambda o: "failed: odd" if o.solver == "HiGHS" else good)
    larger = replace(CASE, T=192)
    statuses = [(row.solver, row.T, row.status) for row in harness.run([CASE, larger], PLAN)]
    assert statuses == [
        ("HiGHS", 96, "failed: odd"),
        ("OR-tools", 96, "OPTIMAL"),
        ("HiGHS", 192, "failed: odd"),  # a failure is no limit: the next one is tried
        ("OR-tools", 192, "OPTIMAL"),
    ]


def test_other_families_and_smaller_cases_are_tried_after_a_limit():
    late = result(status="time limit (60 s)")
    assert harness.gave_up_before(replace(CASE, T=192), "HiGHS", [late])
    assert not harness.gave_up_before(replace(CASE, T=48), "HiGHS", [late])
    assert not harness.gave_up_before(replace(CASE, T=192), "OR-tools", [late])
    for other in ({"factor": 1.25}, {"K": 1}, {"scores": "sample"}):
        assert not harness.gave_up_before(replace(CASE, **other), "HiGHS", [late])


def test_resuming_skips_what_is_known_and_remembers_limits(monkeypatch):
    good = Record("OPTIMAL", "", 1.0, 1.0, [1.0], [0.1], None, 10)
    asked = canned(monkeypatch, lambda _: good)
    known = [result("HiGHS", status="time limit (60 s)")]
    rows = list(harness.run([CASE, replace(CASE, T=192)], PLAN, known))
    assert asked == [(96, "OR-tools")] * 2 + [(192, "OR-tools")] * 2
    assert [row.status.split(":")[0] for row in rows] == ["OPTIMAL", "not tried", "OPTIMAL"]


# rows, table, plot


def test_rows_survive_the_file(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [result(), row(CASE, "POT", 60.0, 'failed: "a", b')]
    for one in rows:
        append(path, one)
    assert read(path) == rows
    assert read(tmp_path / "absent.csv") == []
    assert "cores" in machine_in_words()


def test_a_unit_that_other_work_has_disturbed_is_told():
    calm = Record("OPTIMAL", "", 1.0, 1.0, [1.0], [0.1, 0.11, 0.9])
    assert not row(CASE, "HiGHS", 60.0, [calm]).disturbed
    assert row(CASE, "HiGHS", 60.0, [replace(calm, topk_seconds=[0.1, 0.8, 0.9])]).disturbed
    assert not row(CASE, "HiGHS", 60.0, "failed: odd").disturbed


def test_answers_that_contradict_each_other_are_found():
    near = result("OR-tools", value=10.0 + 1e-7)
    far = result("OR-tools", value=10.0 + 1e-4)
    assert disagreement([result(), near]) == ""
    assert "DISAGREES: HiGHS OPTIMAL 10.0, OR-tools OPTIMAL 10.0001" in disagreement(
        [result(), far]
    )
    infeasible = result("OR-tools", status="INFEASIBLE", value=None)
    assert "DISAGREES" in disagreement([result(), infeasible])
    late = result("OR-tools", status="time limit (60 s)", value=99.0)
    assert disagreement([result(), late]) == ""
    assert wrong([result(), far]) == [disagreement([result(), far])]
    assert wrong([result(), near]) == []


def test_the_table_says_who_disagrees():
    rows = [result(), result("OR-tools", value=11.0)]
    assert list(comparison(rows).columns[-1].cells) == ["DISAGREES"]
    assert list(comparison(rows[:1]).columns[-1].cells) == [""]
    late = row(CASE, "HiGHS", 60.0, "time limit (60 s)")
    assert list(comparison([late]).columns[4].cells) == ["time limit"]


def test_ratios_growth_and_aims():
    assert growth(grown("MinCostFlow", 1.05), "MinCostFlow", 1.0) == pytest.approx(1.05)
    assert growth(grown("MinCostFlow", 1.05, (1024, 65536)), "MinCostFlow", 1.0) is None
    fast, slow = grown("MinCostFlow", 1.0), grown("OR-tools", 1.0, scale=48e-6)
    said = list(aims(fast + slow))
    assert "met: growth exponent, factor 1: 1.00 (aim: at most 1.1)" in said
    assert "met: OR-tools / MinCostFlow, 65536x64-k2, factor 1: 48.00 (aim: at least 40)" in said
    assert "met: topk units, 65536x64-k2, factor 1: 0.66 (aim: at most 3)" in said
    assert "MISSED: topk units, 1048576x64-k2, factor 1: 10.49 (aim: at most 2)" in said
    said = list(aims(grown("MinCostFlow", 1.2) + slow))
    assert "MISSED: growth exponent, factor 1: 1.20 (aim: at most 1.1)" in said
    assert any(line.startswith("MISSED: OR-tools / MinCostFlow, 65536x64-k2") for line in said)
    assert any(line.startswith("MISSED: topk units") for line in said)
    unended = {"MinCostFlow": fast[0], "OR-tools": replace(slow[0], status="failed: odd")}
    assert ratio(unended, "OR-tools") is None


def test_memory_is_judged_on_large_matrices():
    large = replace(grown("MinCostFlow", 1.0)[0], memory_over_scores=1.6)
    small = replace(result("MinCostFlow"), memory_over_scores=9.0)
    assert (
        "MISSED: largest memory / scores (from 65,536 tokens up): 1.60 (aim: at most 0.5)"
        in aims([large, small])
    )
    assert not any("memory" in line for line in aims([small]))


def test_the_plot_is_drawn_from_the_file(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [row for solver in SOLVERS for row in grown(solver, 1.0)]
    rows.append(row(Case("skewed", "", 4096, 64, 2, 1.0), "HiGHS", 60.0, "time limit (60 s)"))
    for one in rows:
        append(path, one)
    draw(read(path), tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


# the command


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch):
    monkeypatch.setattr(exact, "draw", lambda rows, path: path.write_text(f"{len(rows)} rows"))


def run_command(tmp_path, *options):
    return exact.main(["--data", str(tmp_path), "--out", str(tmp_path / "rows.csv"), *options])


def test_the_command_writes_rows_resumes_and_reports(tmp_path, monkeypatch, capsys):
    good = Record("OPTIMAL", "", 1.0, 1.0, [1.0], [0.1], None, 10)
    asked = canned(monkeypatch, lambda _: good)
    quick = ("--quick", "--solvers", "HiGHS", "OR-tools")
    assert run_command(tmp_path, *quick, "--cases", "sample-0-*") == 0
    assert len(asked) == 6
    assert "is absent: its cases are left out" in capsys.readouterr().out

    assert run_command(tmp_path, *quick) == 2
    assert "go on with --resume" in capsys.readouterr().out
    assert run_command(tmp_path, *quick, "--resume", "--cases", "sample-[01]-*") == 0
    assert len(asked) == 12
    assert run_command(tmp_path, "--report") == 0
    assert len(asked) == 12
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    assert (tmp_path / "rows.png").read_text() == "12 rows"


def test_the_command_fails_where_answers_disagree(tmp_path, monkeypatch, capsys):
    values = {"HiGHS": 1.0, "OR-tools": 2.0}
    canned(monkeypatch, lambda o: Record("OPTIMAL", "", values[o.solver], None, [1.0], [0.1]))
    options = ("--solvers", *values, "--cases", "sample-0-k2-f1")
    assert run_command(tmp_path, *options) == 1
    assert "sample-0-k2-f1 DISAGREES" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_answered_with_the_names(tmp_path, capsys):
    assert run_command(tmp_path, "--cases", "qwen") == 2
    assert "sample-0-k2-f1.25" in capsys.readouterr().out
    assert FACTORS == (1.0, 1.05, 1.25)
