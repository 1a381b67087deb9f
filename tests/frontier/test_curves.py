"""Concave curves: by hand, brute force over splits, laws, bad input."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lp_routing.errors import InputError
from lp_routing.frontier.curves import CertifiedCurve, ExactCurve, merged
from lp_routing.frontier.questions import RouterCurve
from lp_routing.frontier.refine import Point, _open_between
from lp_routing.frontier.summary import _summed, attains


def curve(start, *slopes):
    return ExactCurve(start, torch.tensor(slopes, dtype=torch.float64))


# From 1 up by 3, up by 1, down by 2: values 1, 4, 5, 3.
BENT = curve(1, 3, 1, -2)


def test_values_and_slopes_by_hand():
    assert BENT.values.tolist() == [1, 4, 5, 3]
    assert BENT.value(torch.tensor([0, 3, 1])).tolist() == [1, 3, 4]
    assert [float(BENT.value(n)) for n in (0.5, 2.5)] == [2.5, 4]
    assert [float(BENT.left(n)) for n in (0, 0.5, 1, 3)] == [math.inf, 3, 3, -2]
    assert [float(BENT.right(n)) for n in (0, 0.5, 1, 3)] == [3, 3, 1, -math.inf]


def test_the_smallest_budget_that_attains_a_value_by_hand():
    assert [BENT.smallest(v) for v in (-9, 1, 1.5, 4, 4.5, 5, 5.5)] == [0, 0, 1, 1, 2, 2, None]


def test_merging_by_hand_ties_go_to_the_earlier_curve():
    # slopes 3, 1 and 2, 1, 0: in order 3 (first), 2 (second), 1 (first), 1 (second), 0
    both = merged([curve(1, 3, 1), curve(10, 2, 1, 0)])
    assert both.total.values.tolist() == [11, 14, 16, 17, 18, 18]
    assert both.owners.tolist() == [0, 1, 0, 1, 1]
    assert [both.split(n).tolist() for n in (0, 3, 3.5)] == [[0, 0], [2, 1], [2, 1.5]]


def test_curves_without_units():
    none = merged([curve(1), curve(2)])
    assert none.total.values.tolist() == [3]
    assert none.split(0).tolist() == [0, 0]


slopes = st.lists(st.integers(-3, 3), max_size=4).map(lambda s: sorted(s, reverse=True))
curves = st.lists(st.builds(lambda a, s: curve(a, *s), st.integers(-5, 5), slopes), min_size=1)


@given(curves.filter(lambda some: len(some) <= 4))
def test_no_split_is_worth_more(some):
    best = merged(some)
    splits = list(product(*(range(len(c.slopes) + 1) for c in some)))
    for n in range(len(best.owners) + 1):
        worth = [
            sum(float(c.value(m)) for c, m in zip(some, split, strict=True))
            for split in splits
            if sum(split) == n
        ]
        assert float(best.total.value(n)) == max(worth)
        parts = best.split(n)
        assert parts.sum() == n
        assert sum(float(c.value(m)) for c, m in zip(some, parts, strict=True)) == max(worth)


@given(curves)
def test_slopes_support_the_curve_from_above(some):
    total = merged(some).total
    places = torch.arange(len(total.slopes) + 1)
    for n in places.tolist():
        assert total.left(n) >= total.right(n)
        for price in (float(total.left(n)), float(total.right(n))):
            if math.isfinite(price):
                assert bool((total.values <= total.value(n) + price * (places - n)).all())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: curve(0, 1, 2), "not concave"),
        (lambda: curve(0, math.nan), "finite"),
        (lambda: curve(0, -math.inf), "finite"),
        (lambda: curve(math.nan, 1), "start"),
        (lambda: ExactCurve(0, torch.zeros(2, 2)), "vector"),
        (lambda: ExactCurve(0, torch.zeros(2, dtype=torch.bool)), "vector"),
        (lambda: BENT.value(3.5), "0 to 3"),
        (lambda: BENT.left(-1), "0 to 3"),
        (lambda: BENT.right(math.nan), "0 to 3"),
        (lambda: BENT.smallest(math.nan), "value"),
        (lambda: merged([BENT]).split(4), "0 to 3"),
        (lambda: merged([]), "at least one"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says):
        make()


# Solved at 0 (worth 0, a unit brings at most 4) and at 4 (worth 8, price 1): the chord is 2 n, the
# tangents are 4 n and 4 + n.
BETWEEN = CertifiedCurve(*(torch.tensor(c) for c in ([0, 4], [0, 8], [0, 8], [4, 1])))


@pytest.mark.parametrize(
    ("n", "least", "most"),
    [
        # value(1) - bound(0) = 2; the mean slope up to 4 is 2, too; the tangent brings 4
        (0, 2, 4),
        # value(3) - bound(2) = 0, but 4 is worth 8 and 2 at most 6: 1 a unit. Of 3 at most 7: a
        # third of that, since 0 is worth 0, which is less than 7 - 4 = 3.
        (2, 1, 7 / 3),
        (3, 1, 2),
    ],
)
def test_between_solved_budgets_a_unit_adds_what_chords_and_tangents_allow(n, least, most):
    assert [float(side) for side in BETWEEN.right(n)] == pytest.approx([least, most])
    assert [float(side) for side in BETWEEN.left(n + 1)] == pytest.approx([least, most])


def test_the_next_budget_is_solved_where_tangents_meet():
    # 4 n and 5 + n meet at 5/3. At 1 the chord, 2 n, is 2 below; at 2, min(8, 7) - 4 = 3.
    low, high = Point(0, 0, 0, 4), Point(5, 10, 10, 1)
    assert _open_between(low, high)[:2] == (-3, 2)
    assert _open_between(low, low._replace(budget=1))[:2] == (0, 0)


def test_rounding_hides_no_budget_that_attains_a_value():
    # 0.7 + 0.2 + 0.1 is a little less than 1 in float64
    units = curve(0, 0.7, 0.2, 0.1)
    assert float(units.value(3)) < 1
    assert attains(units, 1.0) == [3, 3]
    assert attains(units, 0.9) == [2, 2]
    assert attains(units, 1.001) is None


def test_layers_together_are_feasible_where_each_is():
    parts = [
        RouterCurve("a", torch.tensor([2, 4]), torch.tensor([1.0, 5.0]), torch.tensor(feasible))
        for feasible in ([True, True], [False, True])
    ]
    both = _summed(parts)
    assert (both.budgets.tolist(), both.values.tolist()) == ([4, 8], [2, 10])
    assert both.feasible.tolist() == [False, True]


def test_a_curve_from_a_budget_on_keeps_what_was_solved_there():
    values, prices = torch.tensor([0.0, 6, 8]), torch.tensor([1.5, 0.5, 0.5])
    curve = CertifiedCurve(torch.tensor([0, 4, 8]), values, values, prices)
    assert curve.since(3).budgets.tolist() == [4, 8]
    assert curve.since(4).values.tolist() == [6, 8]
    assert curve.since(9).budgets.tolist() == [8]
