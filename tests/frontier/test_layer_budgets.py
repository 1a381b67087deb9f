"""Budgets of layers: by hand, HiGHS on the whole linear program, laws, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from lp_routing.errors import InputError
from lp_routing.frontier.layers import best_budgets, bound_at, worth_of_budgets

NEVER = -math.inf
# Layer 1: tokens (5, 4) and (3, 0); layer 2: (1, 0) and (2, 1). Floors 5 + 3 and 1 + 2, worth 11;
# what is left: 4 and 0 in layer 1, 0 and 1 in layer 2.
TWO = torch.tensor([[[5.0, 4.0], [3.0, 0.0]], [[1.0, 0.0], [2.0, 1.0]]])


def test_by_hand():
    found = [best_budgets(TWO, n) for n in (4, 5, 6, 7, 8)]
    assert [f.value for f in found] == [11, 15, 16, 16, 16]
    assert [f.bound for f in found] == [11, 15, 16, 16, 16]
    assert [f.budgets.tolist() for f in found] == [[2, 2], [3, 2], [3, 3], [4, 3], [4, 4]]
    assert [f.price for f in found] == [4, 4, 1, 0, 0]
    assert worth_of_budgets(TWO, torch.tensor([2, 4])).tolist() == [8, 4]


def test_half_a_pair_is_worth_half():
    found = best_budgets(TWO, 4.5)
    assert (found.value, found.bound, found.price) == (13, 13, 4)
    assert found.budgets.tolist() == [2.5, 2]


def test_forbidden_pairs_and_one_expert():
    scores = torch.tensor([[[2.0, NEVER]], [[1.0, -1.0]]])
    assert [best_budgets(scores, n).value for n in (2, 3)] == [3, 2]  # it must be spent
    one = best_budgets(torch.ones(2, 3, 1), 6)
    assert (one.value, one.bound, one.price) == (6, 6, 0)


def by_highs(scores, pairs, integral):
    """The whole problem as it is written, one column for each pair."""
    L, T, E = scores.shape
    tokens = np.kron(np.eye(L * T), np.ones((1, E)))
    rows = np.vstack([tokens, np.ones((1, L * T * E))])
    found = milp(
        -scores.flatten().numpy(),
        constraints=LinearConstraint(
            rows, np.append(np.ones(L * T), pairs), np.append(np.full(L * T, np.inf), pairs)
        ),
        bounds=Bounds(0, 1),
        integrality=float(integral),
    )
    assert found.status == 0
    return -found.fun


@st.composite
def cases(draw):
    L, T, E = (draw(st.integers(1, 3)) for _ in range(3))
    entries = st.lists(st.integers(-8, 16), min_size=L * T * E, max_size=L * T * E)
    scores = torch.tensor(draw(entries), dtype=torch.float64).view(L, T, E) / 4
    return scores, draw(st.integers(L * T, L * T * E))


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([0.0, 0.5]))
def test_it_is_the_optimum_of_the_linear_program(case, part):
    scores, pairs = case
    found = best_budgets(scores, max(scores[..., 0].numel(), pairs - part))
    pairs = float(found.budgets.sum())
    assert found.value == found.bound
    assert found.value == pytest.approx(by_highs(scores, pairs, False), abs=1e-7)
    if pairs == int(pairs):
        assert found.value == pytest.approx(by_highs(scores, pairs, True), abs=1e-7)


@given(cases(), st.data())
def test_no_budgets_are_worth_more_and_every_price_bounds(case, data):
    scores, _ = case
    L, T, E = scores.shape
    each = [data.draw(st.floats(T, T * E)) for _ in range(L)]
    worth = float(worth_of_budgets(scores, torch.tensor(each, dtype=torch.float64)).sum())
    assert worth <= best_budgets(scores, sum(each)).value + 1e-9
    assert worth <= bound_at(scores, sum(each), data.draw(st.floats(-9, 9))) + 1e-9


@given(cases(), st.integers(0, 4))
def test_layers_in_other_units_get_other_budgets_not_other_floors(case, power):
    scores, pairs = case
    scaled = best_budgets(scores * 2.0**power, pairs)
    assert scaled.value == best_budgets(scores, pairs).value * 2.0**power
    assert bool((scaled.budgets >= scores.shape[1]).all())


def test_a_wrong_price_leaves_a_gap():
    assert bound_at(TWO, 5, 9.0) > best_budgets(TWO, 5).value
    assert bound_at(TWO, 5, 0.0) > best_budgets(TWO, 5).value


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: best_budgets(TWO, 3), "from 4"),
        (lambda: best_budgets(TWO, 9), "to 8"),
        (lambda: best_budgets(TWO, math.nan), "pairs"),
        (lambda: best_budgets(TWO[0], 4), "layers, tokens, experts"),
        (lambda: best_budgets(TWO[:0], 4), "layers, tokens, experts"),
        (lambda: best_budgets(TWO * math.nan, 4), "scores"),
        (lambda: best_budgets(torch.full((1, 1, 2), NEVER), 1), "no allowed expert"),
        (lambda: worth_of_budgets(TWO, torch.tensor([2.0])), "one per layer"),
        (lambda: worth_of_budgets(TWO, torch.tensor([2.0, 5.0])), r"budgets\[1\]=5"),
        (lambda: worth_of_budgets(TWO, torch.tensor([1.0, 3.0])), r"budgets\[0\]=1"),
        (lambda: worth_of_budgets(TWO, torch.tensor([2.0, math.nan])), "budgets"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()
