"""Tokens over replicas: LP, flow and bound against all ways to split; the edge-wise rule."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.extensions import replicas
from lp_routing.extensions.replicas import confined_load, edge_wise, spread


def table(*rows):
    return torch.tensor(rows, dtype=torch.bool)


CHAIN = table([1, 1, 0], [0, 1, 1], [0, 0, 1])


def test_a_confined_pair_of_experts_bounds_the_load():
    # experts 0 and 1 (5 and 4 tokens) live on devices 0 and 1 only: 9 / 2 = 4.5 at the least;
    # expert 2 has 2 tokens and device 2 for itself
    places = table([1, 1, 0], [1, 1, 0], [0, 1, 1])
    found = spread([5, 4, 2], places)
    assert (found.value, found.bound, found.devices) == (pytest.approx(4.5), 4.5, (0, 1))
    assert found.tokens.sum(1).tolist() == pytest.approx([5, 4, 2])
    whole = spread([5, 4, 2], places, integral=True)
    assert (whole.value, whole.bound, whole.gap) == (5, 5, 0)
    assert whole.tokens.sum(1).tolist() == [5, 4, 2]
    assert confined_load([5, 4, 2], places, [0, 1]) == 9
    assert confined_load([5, 4, 2], places, [2]) == 0


def test_one_sweep_is_not_the_limit():
    # home loads (6, 3, 0). First 0 and 1 level at 4.5, then 1 and 2 at 2.25: the largest is 4.5.
    # In the end all have 3.
    home = [0, 1, 2]
    once = edge_wise([6, 3, 0], CHAIN, home, sweeps=1)
    assert once.tokens.sum(0).tolist() == [4.5, 2.25, 2.25]
    assert (once.value, once.bound, once.gap) == (4.5, 3, 1.5)
    assert once.ended == "edge-wise, 1 sweep(s), stopped"
    settled = edge_wise([6, 3, 0], CHAIN, home)
    assert settled.value == pytest.approx(3)
    assert not settled.ended.endswith("stopped")


def test_whole_tokens_get_stuck_on_a_chain():
    stuck = edge_wise([2, 1, 0], CHAIN, [0, 1, 2], integral=True)
    assert (stuck.value, stuck.bound) == (2, 1)
    assert spread([2, 1, 0], CHAIN, integral=True).value == 1


def test_without_replicas_everything_stays_at_home():
    places = torch.eye(3, dtype=torch.bool)
    for found in (spread([3, 1, 2], places), edge_wise([3, 1, 2], places, [0, 1, 2])):
        assert (found.value, found.bound, found.devices) == (3, 3, (0,))
    assert spread([0, 0, 0], places).value == 0


@st.composite
def placements(draw):
    E, D = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    load = draw(st.lists(st.integers(0, 6), min_size=E, max_size=E))
    rows = draw(
        st.lists(
            st.lists(st.booleans(), min_size=D, max_size=D).filter(any), min_size=E, max_size=E
        )
    )
    return load, torch.tensor(rows)


def hall(load, places) -> Fraction:
    """The largest of confined tokens over devices, among all sets of devices."""
    D = places.shape[1]
    sets = [some for n in range(1, D + 1) for some in combinations(range(D), n)]
    return max(Fraction(confined_load(load, places, some), len(some)) for some in sets)


@settings(deadline=None)
@given(placements())
def test_the_least_load_is_halls_bound_and_in_whole_tokens_it_is_rounded_up(case):
    load, places = case
    least = hall(*case)
    found, whole = spread(load, places), spread(load, places, integral=True)
    assert found.value == pytest.approx(float(least), abs=1e-9)
    assert found.bound == pytest.approx(float(least), abs=1e-12)
    assert (whole.value, whole.bound) == (-(-least // 1), -(-least // 1))
    for split in (found.tokens, whole.tokens):
        assert split.sum(1).tolist() == pytest.approx(load)
        assert not split[~places].any()
        assert (split >= 0).all()
    assert bool((whole.tokens == whole.tokens.round()).all())


@settings(deadline=None)
@given(placements())
def test_edge_wise_with_fractions_ends_at_the_optimum_and_whole_tokens_not_below(case):
    load, places = case
    home = places.int().argmax(1)
    least = float(hall(*case))
    limit = edge_wise(load, places, home)
    assert limit.value == pytest.approx(least, abs=1e-9)
    assert limit.bound == pytest.approx(least, abs=1e-9)
    whole = edge_wise(load, places, home, integral=True)
    assert whole.value >= whole.bound
    assert whole.value >= -(-hall(*case) // 1)
    assert bool((whole.tokens == whole.tokens.round()).all())


def ways(tokens, devices):
    """All ways to give whole tokens to devices."""
    if len(devices) == 1:
        yield {devices[0]: tokens}
        return
    for first in range(tokens + 1):
        for rest in ways(tokens - first, devices[1:]):
            yield {devices[0]: first} | rest


def test_whole_tokens_agree_with_all_ways_to_split():
    draw = np.random.default_rng(0)
    for _ in range(10):
        load = draw.integers(0, 5, 3).tolist()
        places = torch.as_tensor(draw.random((3, 3)) < 0.5) | torch.eye(3, dtype=torch.bool)
        held = [row.nonzero().flatten().tolist() for row in places]
        splits = product(*(ways(n, where) for n, where in zip(load, held, strict=True)))
        best = min(max(sum(s.get(d, 0) for s in split) for d in range(3)) for split in splits)
        assert spread(load, places, integral=True).value == best


def test_an_uneven_split_and_an_empty_set_show_in_the_gap(monkeypatch):
    # a solver that leaves all tokens on the first place, with prices that say nothing
    def lazy(load, held):
        amounts = np.zeros(held.shape)
        amounts[np.arange(len(load)), held.argmax(1)] = load
        return amounts, np.zeros(held.shape[1])

    monkeypatch.setattr(replicas, "_by_lp", lazy)
    found = spread([6, 3, 0], CHAIN)
    assert (found.value, found.bound, found.gap) == (6, 3, 3)


@pytest.mark.parametrize(
    ("loads", "places", "says"),
    [
        ([1, 2], CHAIN, "expected booleans"),
        ([1, 2, 0.5], CHAIN, "expected whole numbers >= 0"),
        ([1, 2, -1], CHAIN, "expected whole numbers >= 0"),
        ([1, 2, float("nan")], CHAIN, "expected whole numbers >= 0"),
        ([], CHAIN, "expected whole numbers >= 0"),
        ([2**31, 0, 0], CHAIN, "more than 2"),
        ([1, 2, 3], CHAIN.int(), "expected booleans"),
        ([1, 2, 3], table([1, 0], [0, 0], [0, 1]), "expert 1 is on no device"),
    ],
)
def test_bad_input_is_refused_in_words(loads, places, says):
    with pytest.raises(lpr.InputError, match=says):
        spread(loads, places)
    with pytest.raises(lpr.InputError, match=says):
        edge_wise(loads, places, [0, 1, 2])


@pytest.mark.parametrize(
    ("home", "says"),
    [
        ([0, 1], "expected 3 devices"),
        ([0.0, 1.0, 2.0], "expected 3 devices"),
        ([0, 0, 2], "expert 1 has no replica on device 0"),
        ([0, 1, 3], "expert 2 has no replica on device 3"),
    ],
)
def test_a_home_must_hold_its_expert(home, says):
    with pytest.raises(lpr.InputError, match=says):
        edge_wise([1, 2, 3], CHAIN, home)


def test_devices_must_exist():
    with pytest.raises(lpr.InputError, match="device=3"):
        confined_load([1, 2, 3], CHAIN, [3])
