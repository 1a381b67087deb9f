"""The table hides no broken bound, the frontier no better router, the plot is a file."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import lp_routing as lpr
from lp_routing.evaluation.evaluate import EXACT, RouterResult, shape_of
from lp_routing.report.gap import (
    LAYER_LEGEND,
    _layer_row,
    gap_table,
    in_percent,
    remarks,
    summary_sentences,
    summary_table,
    verdict,
)
from lp_routing.report.layer_results import dropped_at_best, examine_layer
from lp_routing.report.plots.gap_against_time import Point, draw, pareto_front, points

GOOD = RouterResult(
    router="good",
    problem="tokens at_most(2)",
    value=9.0,
    optimum=10.0,
    bound=10.0,
    gap=1.0,
    relative_gap=0.1,
    feasible=True,
    violation=0.0,
    dropped=3,
    pairs=8.0,
    max_over_mean=1.5,
    load_cv=0.25,
    load_entropy=0.875,
    overlap=0.5,
    seconds=0.02,
    topk_units=4.0,
    runs=5,
    optimum_status="OPTIMAL",
)
WORSE = replace(GOOD, router="worse", relative_gap=0.3, gap=3.0, topk_units=2.0)
CHEAT = replace(
    GOOD,
    router="cheat",
    value=15.0,
    gap=float("nan"),
    relative_gap=float("nan"),
    status="INFEASIBLE",
    feasible=False,
    violation=7.0,
    breaks="expert_1 counts 12, at most 5 (and 2 more)",
)
EXACTLY = replace(GOOD, router="optimum", gap=0.0, relative_gap=0.0, topk_units=30.0, seeks=EXACT)
FAILED = RouterResult(
    router="failed one",
    problem="tokens at_most(2)",
    optimum=10.0,
    optimum_status="OPTIMAL",
    status="RuntimeError: no",
)
UNASKED = replace(FAILED, router="relu", status="not judged: give logits")
UNTRIED = replace(FAILED, router="auction", status="not tried: too slow")
ROWS = [FAILED, CHEAT, WORSE, EXACTLY, GOOD]


def shown(rows, wide=False, width=80) -> list[str]:
    """The lines of the table as text."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(gap_table("Layer [3]", rows, wide))
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def test_the_table_goes_from_the_best_to_those_that_break_bounds_or_fail():
    lines = shown(ROWS)
    assert lines[0] == "Layer [3]"
    assert [line.split()[0] for line in lines[3:]] == [
        "optimum",
        "good",
        "worse",
        "cheat",
        "failed",
    ]
    assert lines[4].split() == ["good", "10.00", "%", "3", "1.50", "50.0", "%", "4"]
    assert lines[3].split()[:3] == ["optimum", "0", "exactly"]
    assert lines[7].split() == ["failed", "one", "failed"]


def test_a_router_that_breaks_bounds_shows_no_gap_but_that_it_does():
    line = next(line for line in shown(ROWS) if "cheat" in line)
    assert line.split()[1:3] == ["INFEASIBLE", "7"]
    assert "-50" not in line


def test_a_wide_terminal_shows_all_of_the_load():
    header = shown(ROWS, wide=True, width=120)[1]
    assert {"max/mean", "CV", "entropy"} <= set(header.split())
    assert "0.875" in "".join(shown(ROWS, wide=True, width=120))


def test_long_names_are_folded_and_never_cut():
    names = ["drop-by-position", "drop-token-major"]
    text = " ".join(shown([replace(CHEAT, router=name) for name in names], width=60))
    assert "drop-by-position" in text
    assert "drop-token-major" in text


def test_the_verdict_names_the_best_that_keeps_all_bounds():
    assert verdict(ROWS) == (
        "tokens at_most(2): the optimum is 10. Best of those that keep all bounds: good, gap "
        "10.00 %, at 4 topk; 2 routers break bounds or gave no answer."
    )
    assert "No router keeps all bounds" in verdict([CHEAT, EXACTLY])


def test_an_optimum_that_is_not_proved_or_not_there_is_said():
    late = replace(GOOD, optimum_status="TIME_LIMIT: stopped", bound=11.0)
    assert "as far as is known (TIME_LIMIT: stopped; at most 11)" in verdict([late])
    none = replace(CHEAT, optimum=float("nan"), optimum_status="INFEASIBLE: too few")
    assert verdict([none]) == ("tokens at_most(2): no optimum to compare with. INFEASIBLE: too few")


def test_what_broke_and_what_failed_is_said():
    assert remarks(ROWS) == [
        "failed one failed: RuntimeError: no",
        "cheat is INFEASIBLE: expert_1 counts 12, at most 5 (and 2 more)",
    ]
    assert remarks([GOOD]) == []
    assert remarks([UNASKED, UNTRIED]) == [
        "relu is not judged: give logits",
        "auction is not tried: too slow",
    ]


def test_who_gave_no_answer_stands_last_and_says_why_in_the_gap_column():
    lines = shown([UNASKED, UNTRIED, GOOD])
    assert [line.split() for line in lines[4:]] == [
        ["relu", "not", "judged"],
        ["auction", "not", "tried"],
    ]


def test_a_rule_with_a_memory_says_how_old_it_is():
    assert "good, cold" in "\n".join(shown([replace(GOOD, state="cold")]))
    assert "Best of those that keep all bounds: good, cold," in verdict(
        [replace(GOOD, state="cold")]
    )


def test_the_legend_says_what_breaks_by_counts():
    assert "breaks by: the worst broken bound" in LAYER_LEGEND


@pytest.mark.parametrize(
    ("gap", "relative", "text"),
    [(0.0, 0.0, "0 exactly"), (1e-7, 1e-8, "1e-06 %"), (1.0, 0.0123, "1.23 %")],
)
def test_gaps_in_percent(gap, relative, text):
    assert in_percent(replace(GOOD, gap=gap, relative_gap=relative)) == text
    assert in_percent(FAILED) == "-"


def test_points_are_medians_and_feasible_only_where_all_rows_are():
    layers = [GOOD, replace(GOOD, relative_gap=0.2, topk_units=6.0), WORSE, CHEAT, FAILED]
    layers += [replace(CHEAT, router="worse"), replace(GOOD, state="cold"), UNASKED, UNTRIED]
    found = {point.router: point for point in points(layers)}
    assert list(found) == ["good", "worse", "cheat", "good, cold"]
    assert found["good"] == Point("good", 5.0, pytest.approx(0.15))
    assert found["good"].feasible
    assert (found["worse"].units, found["worse"].feasible) == (3.0, False)
    assert not found["cheat"].feasible


def test_the_frontier_holds_who_is_beaten_by_nobody_feasible():
    fast, good, exact = Point("fast", 1.0, 0.3), Point("good", 2.0, 0.1), Point("exact", 9.0, 0.0)
    slow, worse = Point("slow", 3.0, 0.1), Point("worse", 2.0, 0.2)
    cheat = Point("cheat", 1.0, float("nan"))
    assert pareto_front([slow, cheat, exact, worse, good, fast]) == [fast, good, exact]
    assert pareto_front([cheat]) == []


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
def test_the_plot_is_written_with_every_router_named(tmp_path, name):
    pytest.importorskip("matplotlib")
    draw({"one": ROWS, "empty": [FAILED], "two": [CHEAT]}, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert len(content) > 1000
    if name == "a.svg":
        for router in ("good", "worse", "optimum"):
            assert f"<!-- {router} -->".encode() in content
        assert b"cheat (" in content
        assert b"Pareto front" in content
        assert b"failed one" not in content


def test_bad_plots_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(lpr.InputError, match=r"expected a file ending in \.png, \.pdf, \.svg"):
        draw({"one": ROWS}, tmp_path / "a.txt")
    with pytest.raises(lpr.InputError, match="nothing to draw"):
        draw({"one": [FAILED]}, tmp_path / "a.png")


def test_a_gap_below_0_is_shown_as_it_is():
    assert in_percent(replace(GOOD, gap=-1.0, relative_gap=-0.1)) == "-10.00 %"
    assert in_percent(EXACTLY) == "0 exactly"


def test_a_layers_row_tells_the_dearest_slot_and_no_drop_of_a_token_that_may_go_nowhere():
    # Token 1 has the one place of expert 0, token 0 goes to 1, and token 2 may go nowhere. Token 0
    # loses 2 by it, token 1 would lose 3: one more place at expert 0 costs 2 to 3.
    never = float("-inf")
    logits = torch.tensor([[4.0, 2.0], [3.0, 0.0], [never, never]])
    problem = lpr.problems.capacity(logits, 1, 1)
    each = examine_layer(0, logits, problem, shape_of(problem), ["token-choice"])
    assert dropped_at_best(each) == 0
    cells = _layer_row(each)
    assert (cells[1].value, cells[5].value) == (5, 0)
    assert 2 <= cells[8].value <= 3


TWO_LAYERS = {
    3: [
        EXACTLY,
        replace(GOOD, dropped_fraction=0.1),
        WORSE,
        replace(CHEAT, seeks="balanced"),
        FAILED,
    ],
    5: [
        EXACTLY,
        replace(GOOD, relative_gap=0.2, dropped_fraction=0.2, seconds=0.04, topk_units=6.0),
        replace(CHEAT, router="worse", violation=2.0, breaks="expert_0 counts 7, at most 5"),
        replace(CHEAT, seeks="balanced", violation=9.0, breaks="expert_2 counts 14, at most 5"),
        replace(GOOD, router="failed one"),
    ],
}


def test_one_table_over_the_layers_tells_mean_worst_time_and_reasons():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table("capacity", "capacity", TWO_LAYERS))
    lines = [line.rstrip() for line in console.export_text().splitlines() if line.strip()]
    assert [line[1:19].strip() for line in lines[3:8]] == [
        "optimum",
        "good",
        "worse",
        "cheat",
        "failed one",
    ]
    text = " ".join(" ".join(lines).split())
    assert "optimum 0 exactly 0 exactly" in text
    assert "good 15.00 % 20.00 % (5) 15.0 % 30 5" in text  # means of 10, 20 %; medians of times
    assert "seeks balanced; expert_2 counts 14, at most 5 (layer 5; in 2 of 2)" in text
    assert "expert_0 counts 7, at most 5 (layer 5; in 1 of 2)" in text
    assert "failed: RuntimeError: no (layer 3; in 1 of 2)" in text


def test_the_summary_names_the_best_that_keeps_all_bounds_in_every_layer():
    (says,) = summary_sentences(TWO_LAYERS)
    assert says == (
        "tokens at_most(2): the optimum is 10 on average. Best of those that keep all bounds: "
        "good, gap 15.00 % on average, 30 ms, 5 topk. 3 routers break bounds or gave no "
        "answer."
    )
    (none,) = summary_sentences({0: [CHEAT]})
    assert "No router keeps all bounds in every layer. 1 router breaks" in none


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_is_not_cut(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary_table("capacity", "capacity", TWO_LAYERS, wide=width == 100))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"counts", "balanced;", "expert_2", "RuntimeError:"} <= set(words)
