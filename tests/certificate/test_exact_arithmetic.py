"""Exact sums against Python's own fractions."""

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.certificate.exact_arithmetic import exact_dot, grid_of, round_to_grid

numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


@given(numbers, numbers)
def test_a_dot_product_is_that_of_fractions(a, b):
    n = min(len(a), len(b))
    expected = sum(
        (Fraction(x) * Fraction(y) for x, y in zip(a[:n], b[:n], strict=True)), Fraction(0)
    )
    left, right = (torch.tensor(values[:n], dtype=torch.float64) for values in (a, b))
    assert exact_dot(left, right) == expected


@given(numbers)
def test_every_entry_is_a_multiple_of_the_grid_and_no_coarser_grid_fits(values):
    tensor = torch.tensor(values, dtype=torch.float64)
    power = grid_of(tensor)
    steps = [Fraction(v) / Fraction(2) ** power for v in values]
    assert all(step.denominator == 1 for step in steps)
    assert not any(values) or any(step.numerator % 2 for step in steps)


def test_rounding_to_a_grid_moves_to_the_nearest_multiple():
    values = torch.tensor([0.3, -0.7, 5.0], dtype=torch.float64)
    assert round_to_grid(values, -1).tolist() == [0.5, -0.5, 5.0]
    assert round_to_grid(values, -60).tolist() == values.tolist()


def test_cancellation_leaves_what_float64_would_lose():
    a = torch.tensor([1e300, 1.0, -1e300], dtype=torch.float64)
    assert exact_dot(a, torch.ones(3, dtype=torch.float64)) == 1


def test_prices_whose_sum_float64_would_round_prove_no_bound_below_the_optimum():
    """The pair pays 1 - 2**-60, 1 in float64; the bound would then be 1 - 2**-60, the value is 1.

    By hand: 1 for the expert, -2**-60 for the total and 2**-60 for the pair are 1.
    """
    problem = lpr.RoutingProblem([[1.0]], experts=lpr.at_most(1), total=lpr.exactly(1))
    prices = lpr.Prices(experts=torch.ones(1, dtype=torch.float64), total=-(2.0**-60))
    certificate = lpr.certify(problem, [[1]], prices, exact=True)
    assert (certificate.bound, certificate.gap) == (1, 0)
