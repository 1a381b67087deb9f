"""Smallest budgets that hold token choice's value: by hand, by the definition, by brute force."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.claims.helpers import best_by_trial
from lp_routing.claims.usmoe import serving
from lp_routing.claims.usmoe.serving import B8, Attained, best_served, in_order, inference_cost
from lp_routing.routers.selection import largest


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_by_hand():
    # k=1: token choice takes 6, 5 and 1, all of expert 1: value 12, 3 pairs, load 3.
    # Unified: 6 + 5 = 11, then 4: 15 at N = 3; 12 needs three pairs, (6, 4), (5, 3): load 2.
    # Served: 6 + 5 + 1 = 12 at N = 3. Capacity: all three want expert 1: C = 3, 6 slots.
    cost = inference_cost(matrix((6, 4), (5, 3), (1, 0)), 1, factors=(0.5, 1.0))
    assert (cost.pairs, cost.value, cost.makespan) == (3, 12, 3)
    assert cost.unified.tolist() == [0, 6, 11, 15, 18, 19, 19]
    assert cost.served.tolist() == [float("-inf")] * 3 + [12, 16, 19, 19]
    assert cost.unified_makespan.tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert cost.served_makespan.tolist() == [0, 1, 2, 3, 3, 3, 3]
    assert cost.at_unified == Attained(3, 2)
    assert cost.at_served == Attained(3, 3)
    assert cost.at_capacity == Attained(6, 3)
    # C = 1: 6 + 3 = 9 or 5 + 4 = 9; C = 2: 6 + 5 + 0 = 11, or 5 + 1 + 4 = 10
    assert [(p.capacity, p.slots, p.value) for p in cost.capacity] == [(1, 2, 9), (2, 4, 11)]


def test_ties_let_capacity_draw_level_earlier():
    # both tokens like both experts alike: one slot each is as good as two at expert 1
    cost = inference_cost(matrix((1, 1), (1, 1)), 1)
    assert cost.makespan == 2
    assert cost.at_capacity == Attained(2, 1)


def scores():
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 3))
    return sizes.flatmap(
        lambda size: st.lists(
            st.lists(st.integers(0, 5), min_size=size[1], max_size=size[1]),
            min_size=size[0],
            max_size=size[0],
        )
    ).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(scores=scores(), data=st.data())
def test_the_definitions(scores, data):
    T, E = scores.shape
    k = data.draw(st.integers(1, E))
    cost = inference_cost(scores, k, factors=(0.5, 1.0))
    assert in_order(cost)
    assert B8.refutes_verdict(scores) is None
    value = best_by_trial(scores, range(k, k + 1), range(T + 1))
    assert cost.value == value
    ordered = sorted(scores.flatten().tolist(), reverse=True)
    assert cost.unified.tolist() == [sum(ordered[:n]) for n in range(T * E + 1)]
    fair = [best_served(scores, n) for n in range(T, T * E + 1)]
    assert cost.served[T:].tolist() == fair
    for N in range(T * E + 1):  # the same pairs as the routers take
        chosen = largest(scores.flatten(), N).view_as(scores)
        assert cost.unified_makespan[N] == chosen.sum(0).max()
    assert cost.at_unified.budget == next(n for n in range(T * E + 1) if sum(ordered[:n]) >= value)
    assert cost.at_served.budget == next(T + n for n, worth in enumerate(fair) if worth >= value)
    capped = {c: best_by_trial(scores, range(k + 1), range(c + 1)) for c in range(T + 1)}
    for point in cost.capacity:
        assert point.value == pytest.approx(capped[point.capacity])
    level = next(c for c in range(T + 1) if capped[c] >= value)
    # where nothing is worth anything an empty expert would do, but the curve starts at one slot
    assert cost.at_capacity == Attained(E * max(level, 1), max(level, 1))


def test_budgets_that_are_not_the_smallest_are_noticed():
    cost = inference_cost(matrix((6, 4), (5, 3), (1, 0)), 1, factors=(0.5, 1.0))
    assert in_order(cost)
    assert not in_order(replace(cost, at_unified=Attained(2, 2)))
    assert not in_order(replace(cost, at_served=Attained(4, 2)))
    assert not in_order(replace(cost, at_capacity=Attained(4, 2)))
    assert not in_order(replace(cost, value=13.0))
    low = replace(cost.capacity[0], value=8.0)
    assert not in_order(replace(cost, capacity=(low,)))


def test_the_check_notices_a_wrong_curve(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 16, 4, generator=generator, dtype=torch.float64)
    assert B8.check(logits).agrees is True
    right = serving.inference_cost

    def late(scores, k, **options):
        cost = right(scores, k, **options)
        return replace(cost, at_unified=Attained(cost.at_unified.budget + 1, 1))

    monkeypatch.setattr(serving, "inference_cost", late)
    assert B8.check(logits).agrees is False


@pytest.mark.parametrize(
    ("scores", "options", "says"),
    [
        (matrix((1, -1)), {}, "expected scores >= 0"),
        (matrix((1, float("nan"))), {}, "nan"),
        (matrix((1, float("-inf"))), {}, "scores"),
        (matrix((1, 1)), {"k": 3}, "k"),
        (matrix((1, 1)), {"factors": (0.0,)}, "factors"),
    ],
)
def test_bad_input(scores, options, says):
    with pytest.raises(lpr.InputError, match=says):
        inference_cost(scores, **({"k": 1} | options))
