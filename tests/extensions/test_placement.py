"""Replicas and their devices: by hand, against all placements, laws, real sizes, refusals."""

from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.extensions import (
    Placement,
    greedy_placement,
    placement,
    running_mean,
    searched_placement,
    spread,
)

RULES = [greedy_placement, placement, searched_placement]


def least_peak(loads, D, S):
    """Every number of replicas, every way to fill the devices one after the other."""
    best = np.inf
    for copies in product(range(1, D * S + 1), repeat=len(loads)):
        if sum(copies) == D * S:
            share = [w / r for w, r in zip(loads, copies, strict=True)]
            best = min(best, filled(share, copies, D, S))
    return best


def filled(share, left, D, S):
    if D == 0:
        return 0.0
    peaks = [np.inf]
    for some in combinations_with_replacement(range(len(share)), S):
        rest = [n - some.count(j) for j, n in enumerate(left)]
        if min(rest) >= 0:
            peaks.append(max(sum(share[j] for j in some), filled(share, rest, D - 1, S)))
    return min(peaks)


def is_a_placement(found, loads, D, S):
    replicas = found.replicas
    assert replicas.dtype == torch.int64
    assert tuple(replicas.shape) == (len(loads), D)
    assert replicas.min() >= 0
    assert replicas.sum(1).min() >= 1
    assert replicas.sum(0).tolist() == [S] * D
    expected = [
        sum(w * int(n[d]) / int(n.sum()) for w, n in zip(loads, replicas, strict=True))
        for d in range(D)
    ]
    assert found.loads.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.value == found.loads.max()
    assert found.gap >= -1e-9 * max(1.0, found.value)


@pytest.mark.parametrize("rule", RULES)
def test_the_busy_expert_gets_the_free_slots(rule):
    # three devices of two slots, loads 9, 4, 3, 2: two slots more than experts; both for the first,
    # replicas serve 3 each; 18 tokens over 3 devices are 6 at least: 3 + 3, 4 + 2, 3 + 3
    found = rule([9, 4, 3, 2], 3, 2)
    is_a_placement(found, [9, 4, 3, 2], 3, 2)
    assert found.loads.tolist() == pytest.approx([6, 6, 6])
    assert (found.bound, found.gap, found.relative_gap) == pytest.approx((6, 0, 0))


@pytest.mark.parametrize("rule", RULES)
def test_one_large_expert_bounds_the_load(rule):
    # 12, 1, 1 on two devices of two slots: the spare slot halves the 12; no device has less than 6,
    # though the mean is 7
    found = rule([12, 1, 1], 2, 2)
    assert (found.value, found.bound) == pytest.approx((7, 7))
    # without a spare slot, 12 stay together: 12 / 1
    found = rule([12, 1], 2, 1)
    assert (found.value, found.bound) == pytest.approx((12, 12))


def test_largest_first_is_not_the_best():
    # 4 | 2, then 2 | 2 on the second and ones: 4 + 2 + 1 against 2 + 2 + 1; the exchange of the
    # first device's 2 for a 1 of the second gives 6 and 6
    loads = [4, 2, 2, 2, 1, 1]
    assert greedy_placement(loads, 2, 3).loads.tolist() == [7, 5]
    found = placement(loads, 2, 3)
    assert found.loads.tolist() == [6, 6]
    assert found.gap == 0


def test_eight_devices_with_a_greedy_peak_of_232_where_200_is_possible():
    # eight devices of three slots, each filled to 200 by three experts: nothing is more even
    parts = [
        *(168, 120, 120, 120, 104, 100, 100, 92, 80, 76, 72, 72),
        *(64, 60, 60, 60, 40, 28, 20, 16, 8, 8, 8, 4),
    ]
    assert greedy_placement(parts, 8, 3).value == 232
    assert greedy_placement(parts, 8, 3).bound == 200
    found = searched_placement(parts, 8, 3)
    is_a_placement(found, parts, 8, 3)
    assert (found.value, found.bound) == pytest.approx((200, 200))


@pytest.mark.parametrize(
    ("loads", "D", "S"),
    [([5, 4, 3], 2, 2), ([7, 5, 2], 3, 2), ([6, 5, 4, 4, 3, 2], 2, 3), ([9, 1, 1, 1], 2, 3)],
)
def test_branch_and_bound_against_all_placements(loads, D, S):
    best = least_peak(loads, D, S)
    found = searched_placement(loads, D, S)
    is_a_placement(found, loads, D, S)
    assert (found.value, found.bound) == pytest.approx((best, best))
    relaxed = searched_placement(loads, D, S, integral=False)
    assert relaxed.bound <= best + 1e-9
    assert relaxed.value >= best - 1e-9
    assert "linear program" in relaxed.ended


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_bound_below_the_best_and_exchanges_below_the_rule(loads, D, S):
    if len(loads) > D * S or D * S > 6:
        return
    best = least_peak(loads, D, S)
    rule, better = greedy_placement(loads, D, S), placement(loads, D, S)
    for found in (rule, better):
        is_a_placement(found, loads, D, S)
        assert found.bound <= best + 1e-9
    assert best - 1e-9 <= better.value <= rule.value


def test_tokens_split_unevenly_stay_above_the_bound():
    rng = np.random.default_rng(0)
    for _ in range(10):
        loads = rng.integers(0, 50, 6).tolist()
        found = placement(loads, 4, 2)
        free = spread(loads, found.replicas > 0)
        assert found.bound - 1e-9 <= free.value <= found.value + 1e-9


def test_deepseek_sizes_end_near_the_bound():
    # 256 experts and 64 replicas more on 64 devices
    for loads in np.random.default_rng(1).lognormal(0, 1, (3, 256)):
        rule, better = greedy_placement(loads, 64, 5), placement(loads, 64, 5)
        is_a_placement(better, loads, 64, 5)
        assert better.relative_gap < rule.relative_gap / 2
        assert better.relative_gap < 0.005


def test_loads_of_another_batch():
    found = placement([9, 4, 3, 2], 3, 2)
    assert found.loads_under([0, 0, 0, 6]).sum() == 6
    assert found.loads_under([0, 0, 0, 6]).max() == 6
    assert found.loads_under([9, 4, 3, 2]).tolist() == pytest.approx(found.loads.tolist())
    with pytest.raises(lpr.InputError, match="4, one per expert"):
        found.loads_under([1, 2])


def test_nothing_is_loaded():
    for rule in RULES:
        found = rule([0, 0], 2, 1)
        assert (found.value, found.bound, found.gap, found.relative_gap) == (0, 0, 0, 0)


def test_equal_loads_go_to_the_lower_expert_and_device():
    assert greedy_placement([1, 1, 1], 2, 2).replicas.tolist() == [[1, 1], [1, 0], [0, 1]]


def test_running_mean_by_hand():
    # weights 1/4, 1/2, 1 over 7/4
    steps = [[4.0, 0.0], [2.0, 2.0], [0.0, 7.0]]
    assert running_mean(steps, 0.5).tolist() == pytest.approx([8 / 7, 32 / 7])
    assert running_mean(steps, 0).tolist() == [0, 7]
    assert running_mean(steps, 1).tolist() == pytest.approx([2, 3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: placement([1, 2, 3], 2, 1), "fewer than the 3 experts; give at least slots=2"),
        (lambda: placement([1, -2], 2, 1), "finite numbers >= 0, one per expert"),
        (lambda: placement([1, float("nan")], 2, 1), "finite numbers >= 0"),
        (lambda: placement([[1, 2]], 2, 1), r"of shape \(1, 2\)"),
        (lambda: placement([], 2, 1), "finite numbers >= 0"),
        (lambda: placement([1, 2], 0, 1), "devices=0"),
        (lambda: placement([1, 2], 2, 1.5), "slots=1.5"),
        (lambda: searched_placement([1, 2], 2, 1, integral="no"), "integral"),
        (lambda: searched_placement([1, 2], 2, 1, time_limit_s=-1), "time_limit_s"),
        (lambda: running_mean([1, 2], 0.5), r"expected \(steps, ..., experts\)"),
        (lambda: running_mean([[1.0, float("inf")]], 0.5), "inf"),
        (lambda: running_mean([[1.0]], 2), "decay=2"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(lpr.InputError, match=words):
        call()


def test_the_gap_tells_when_a_placement_is_not_the_best():
    found = Placement(torch.tensor([[2, 0], [0, 2]]), torch.tensor([8.0, 2.0]).double(), 5.0, "x")
    assert (found.value, found.gap, found.relative_gap) == (8, 3, pytest.approx(0.6))
