"""Which experts to keep: HiGHS, greedy, counting and bounds against brute force; the benchmark."""

import csv
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from benchmarks import experts_kept as benchmark
from lp_routing.extensions import expert_pruning
from lp_routing.extensions.expert_pruning import (
    best_kept,
    bound_on_kept,
    greedy,
    heavy_hitters,
    kept_value,
)
from lp_routing.solvers.highs import NothingFound

NEVER = float("-inf")
# A and B are twins: either serves the first four tokens almost as well. Counts 2, 2, 1 and sums
# 10, 10, 3 keep A and B, worth 4 * 3 = 12; A and C are worth 3 + 3 + 2 + 2 + 3 = 13.
TWINS = torch.tensor([[3.0, 2, 0], [3, 2, 0], [2, 3, 0], [2, 3, 0], [0, 0, 3]])


def by_brute_force(scores, keep, k, counts) -> float:
    values = scores.clamp(min=0).tolist()
    return max(
        sum(
            n * sum(sorted((row[j] for j in some), reverse=True)[:k])
            for row, n in zip(values, counts, strict=True)
        )
        for some in combinations(range(scores.shape[1]), keep)
    )


@pytest.mark.parametrize("by", ["tokens", "score"])
def test_counting_keeps_twins_and_loses_the_only_expert_of_a_token(by):
    found = heavy_hitters(TWINS, 2, 1, by=by)
    assert (found.x.tolist(), found.value) == ([True, True, False], 12)
    # without C the last token is worth nothing: its gain is 3, and all experts are worth 15
    assert found.bound == 15


def test_greedy_and_highs_keep_one_twin_and_the_only_expert():
    # first A (10, as B, the lower one), then B would add 1 + 1, C adds 3
    assert greedy(TWINS, 2, 1).x.tolist() == [True, False, True]
    best = best_kept(TWINS, 2, 1)
    assert (best.value, best.gap, best.ended) == (13, 0, "branch and bound (HiGHS)")
    # slots at 2 for the first four tokens and 3 for the last cost 11, and A and B earn 2 each: 15;
    # at 2.5, 2.5, 2.5, 2.5 and 1 they cost 11, A and B earn 1 each and C 2: 11 + 1 + 2 = 14; steps
    # go on to the LP's own value
    assert bound_on_kept(TWINS, 2, 1) == pytest.approx(13, abs=0.05)


def test_a_kept_expert_adds_nothing_to_its_own_bound():
    # A and B are kept, worth 5 + 2 to the first token. Any two others would add 1 + 1; keeping A
    # again would add nothing, though it beats B by 3. All experts together are worth 10.
    scores = torch.zeros(4, 5)
    scores[0, :2] = torch.tensor([5.0, 2.0])
    scores[range(1, 4), range(2, 5)] = 1.0
    found = greedy(scores, 2, 2)
    assert (found.x.tolist(), found.value) == ([True, True, False, False, False], 7)
    assert found.bound == 9


def test_greedy_can_miss_the_best_choice():
    # A is second for all; B and C together are first for all
    scores = torch.tensor([[2.0, 3, 0], [2, 0, 3], [2, 3, 0], [2, 0, 3]])
    # A is worth 8, B and C 6 each; A then adds B: 3 + 2 + 3 + 2 = 10; B and C are worth 12
    assert greedy(scores, 2, 1).value == 10
    assert best_kept(scores, 2, 1).value == 12


@st.composite
def stocks(draw):
    T, E = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    entry = st.one_of(st.integers(0, 4), st.integers(0, 4), st.just(NEVER))
    rows = draw(st.lists(st.lists(entry, min_size=E, max_size=E), min_size=T, max_size=T))
    counts = draw(st.lists(st.integers(0, 3), min_size=T, max_size=T))
    keep = draw(st.integers(1, E))
    return torch.tensor(rows, dtype=torch.float64), keep, draw(st.integers(1, keep)), counts


@settings(deadline=None)
@given(stocks())
def test_choices_stay_below_the_best_greedy_keeps_its_promise_and_bounds_stay_above(case):
    scores, keep, k, counts = case
    best = by_brute_force(*case)
    choices = [
        greedy(scores, keep, k, counts=counts),
        heavy_hitters(scores, keep, k, counts=counts),
        heavy_hitters(scores, keep, k, counts=counts, by="score"),
    ]
    for choice in choices:
        assert int(choice.x.sum()) == keep
        assert choice.value == kept_value(scores, choice.x, k, counts=counts) <= best
        assert choice.bound >= best
    assert choices[0].value >= (1 - 1 / math.e) * best - 1e-9
    assert bound_on_kept(scores, keep, k, counts=counts, steps=30) >= best - 1e-9
    if keep == 1:
        assert choices[2].value == best


@settings(deadline=None, max_examples=40)
@given(stocks())
def test_highs_finds_the_best_choice_of_all(case):
    scores, keep, k, counts = case
    found = best_kept(scores, keep, k, counts=counts)
    assert found.value == pytest.approx(by_brute_force(*case), abs=1e-9)
    assert found.gap == pytest.approx(0, abs=1e-6)
    assert int(found.x.sum()) == keep


def test_counts_are_copies_of_a_row():
    draw = torch.Generator().manual_seed(3)
    scores = torch.rand(6, 5, generator=draw, dtype=torch.float64)
    counts = torch.tensor([1, 3, 2, 0, 1, 4])
    copies = scores.repeat_interleave(counts, 0)
    for function in (heavy_hitters, greedy, best_kept):
        weighed, copied = function(scores, 3, 2, counts=counts), function(copies, 3, 2)
        assert torch.equal(weighed.x, copied.x)
        assert weighed.value == pytest.approx(copied.value)


def test_the_bound_comes_down_to_the_lp_and_no_lower():
    scores = torch.rand(60, 12, generator=torch.Generator().manual_seed(0)).double()
    best = best_kept(scores, 5, 2)
    first, last = (bound_on_kept(scores, 5, 2, steps=steps) for steps in (0, 400))
    assert best.value <= last < first
    assert last == pytest.approx(best.value, rel=0.02)


def test_a_search_that_ends_without_a_choice_gives_the_greedy_one(monkeypatch):
    def found_nothing(*args, **kwargs):
        raise NothingFound("HiGHS found no choice within time_limit_s=1")

    monkeypatch.setattr(expert_pruning, "search", found_nothing)
    found = best_kept(TWINS, 2, 1)
    assert (found.value, found.bound) == (13, bound_on_kept(TWINS, 2, 1))
    assert found.ended == "greedy, since HiGHS found no choice within time_limit_s=1"


def test_a_search_that_is_stopped_is_bounded_by_the_dual():
    scores = torch.rand(300, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = best_kept(scores, 8, 2, time_limit_s=0)
    assert found.value == greedy(scores, 8, 2).value
    assert found.value < found.bound <= 1.02 * found.value < greedy(scores, 8, 2).bound
    assert found.ended.startswith("greedy, since HiGHS found no choice within time_limit_s=0")


def test_a_token_may_go_without_where_nothing_it_can_use_is_kept():
    scores = torch.tensor([[NEVER, 1.0], [5.0, NEVER]])
    assert best_kept(scores, 1, 1).value == 5
    assert best_kept(torch.full((2, 2), NEVER), 1, 1).value == 0


@pytest.mark.parametrize(
    ("scores", "keep", "k", "options", "says"),
    [
        (-TWINS, 2, 1, {}, "expected numbers >= 0, got -3"),
        (TWINS * math.inf, 2, 1, {}, "is nan|is inf"),
        (TWINS, 4, 1, {}, "keep=4 is more than E"),
        (TWINS, 0, 1, {}, "keep=0"),
        (TWINS, 2, 3, {}, "k=3 is more than keep"),
        (TWINS, 2, 1, {"counts": [1, 2]}, "expected 5 finite numbers >= 0"),
        (TWINS, 2, 1, {"counts": [1, 2, 3, 4, -1]}, "expected 5 finite numbers >= 0"),
    ],
)
def test_bad_input_is_refused_in_words(scores, keep, k, options, says):
    for function in (heavy_hitters, greedy, best_kept, bound_on_kept):
        with pytest.raises(lpr.InputError, match=says):
            function(scores, keep, k, **options)


def test_bad_options_are_refused_in_words():
    with pytest.raises(lpr.InputError, match="by='gate'"):
        heavy_hitters(TWINS, 2, 1, by="gate")
    with pytest.raises(lpr.InputError, match="expected 3 booleans"):
        kept_value(TWINS, torch.tensor([1, 0, 1]), 1)
    with pytest.raises(lpr.InputError, match="time_limit_s=-1"):
        best_kept(TWINS, 2, 1, time_limit_s=-1)


def test_the_benchmark_reads_all_kinds_of_data_and_writes_its_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "GPT_OSS_LAYERS", (0,))
    monkeypatch.setattr(benchmark, "KEPT", (0.5,))
    draw = np.random.default_rng(0)
    ids = np.stack([draw.permutation(32)[:4] for _ in range(20)])[None].astype(np.uint8)
    probs = np.full(ids.shape, 0.25, np.float16)
    np.savez(tmp_path / "gpt_oss_20b_mmlu_dev.npz", expert_ids=ids, probs=probs)
    counts = draw.integers(0, 9, (30, 64)).astype(np.int32)
    np.savez(tmp_path / "olmoe_1b_7b_github.npz", counts_L7=counts)
    monkeypatch.setattr(lpr.traces, "sample", lambda: few_tokens())
    out = tmp_path / "kept.csv"
    assert benchmark.main(["--data", str(tmp_path), "--rows", "12", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "olmoe_1b_7b_wikipedia.npz is absent" in said
    assert "16 of 32" in said
    with out.open() as file:
        rows = list(csv.DictReader(file))
    names = ["sample, layer 0", "gpt-oss, layer 0", "olmoe github, layer 7"]
    assert [(row["case"], row["scope"]) for row in rows] == [
        (name, scope) for name in names for scope in ("sample", "all")
    ]
    assert all(float(row["greedy"]) <= float(row["bound"]) + 1e-9 for row in rows)


def few_tokens():
    logits = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(0))
    return lpr.traces.Trace(logits, "a few tokens")


def test_the_benchmark_finds_a_choice_that_beats_the_bound(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lpr.traces, "sample", lambda: few_tokens())
    monkeypatch.setattr(benchmark, "bound_on_kept", lambda *args, **kwargs: 0.0)
    out = tmp_path / "kept.csv"
    assert benchmark.main(["--data", str(tmp_path), "--rows", "5", "--out", str(out)]) == 1
    assert "a choice beats the bound" in capsys.readouterr().out
