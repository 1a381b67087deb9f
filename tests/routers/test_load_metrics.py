"""Load metrics: worked by hand, against loops, and where nothing is loaded at all."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.evaluation.evaluate import (
    dropped_fraction,
    max_over_mean,
    max_violation,
    normalised_entropy,
    real_load,
    variation,
)

METRICS = (max_over_mean, max_violation, variation, normalised_entropy)
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
EVEN = (1.0, 0.0, 0.0, 1.0)

# Eight tokens on four experts: mean 2, deviations 2, 0, 0, -2, so the variance is 8 / 4 = 2.
# Shares 1/2, 1/4, 1/4, 0: entropy 1/2 log 2 + 2 * 1/4 log 4 = 3/2 log 2, of log 4 = 2 log 2.
UNEVEN = [4, 2, 2, 0]


def test_an_uneven_load_worked_by_hand():
    load = torch.tensor(UNEVEN)
    assert max_over_mean(load).item() == 2.0
    assert max_violation(load).item() == 1.0
    assert variation(load).item() == pytest.approx(math.sqrt(2) / 2)
    assert normalised_entropy(load).item() == pytest.approx(0.75)


@pytest.mark.parametrize("load", [[3, 3, 3], [7], [0, 0, 0], [0]], ids=str)
def test_equal_loads_are_even_zero_included(load):
    values = tuple(metric(torch.tensor(load)).item() for metric in METRICS)
    assert values == pytest.approx(EVEN)


def test_one_expert_that_has_it_all_is_the_other_end():
    load = torch.tensor([0, 0, 5, 0])
    values = tuple(metric(load).item() for metric in METRICS)
    assert values == pytest.approx((4.0, 3.0, math.sqrt(3), 0.0))


def by_loop(load):
    """The four definitions, one number at a time."""
    total, E = sum(load), len(load)
    if total == 0:
        return EVEN
    mean = total / E
    deviation = math.sqrt(sum((each - mean) ** 2 for each in load) / E)
    entropy = sum(each / total * math.log(total / each) for each in load if each)
    top = max(load) / mean
    return top, top - 1, deviation / mean, entropy / math.log(E) if E > 1 else 1.0


loads = st.lists(st.integers(0, 50), min_size=1, max_size=6)


def test_the_loop_gives_the_hand_worked_answer():
    assert by_loop(UNEVEN) == pytest.approx((2.0, 1.0, math.sqrt(2) / 2, 0.75))


@given(loads)
def test_the_metrics_equal_the_loop(load):
    values = tuple(metric(torch.tensor(load)).item() for metric in METRICS)
    assert values == pytest.approx(by_loop(load), abs=1e-12)


@every_metric
@given(load=loads, times=st.integers(1, 9))
def test_more_of_the_same_and_another_order_change_nothing(metric, load, times):
    plain = metric(torch.tensor(load)).item()
    assert metric(times * torch.tensor(load).flip(0)).item() == pytest.approx(plain)


@every_metric
def test_leading_dimensions_are_each_on_their_own(metric):
    load = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    load[0, 1] = 0
    values = metric(load)
    assert values.shape == (2, 3)
    assert values.dtype == torch.float64
    for b in range(2):
        for c in range(3):
            assert values[b, c] == metric(load[b, c])


@every_metric
@pytest.mark.parametrize(
    ("load", "says"),
    [
        (torch.tensor([1.0, -2.0]), r"cannot be -2\.0; give numbers >= 0"),
        (torch.tensor([math.nan, 1.0]), "cannot be nan"),
        (torch.tensor([1.0, math.inf]), "cannot be inf"),
        (torch.tensor(3.0), r"expected tokens per expert .* shape \(\)"),
        (torch.zeros(2, 0), r"at least one expert, got .* shape \(2, 0\)"),
        ("ab", "expected tokens per expert"),
    ],
    ids=str,
)
def test_what_is_no_load_is_refused(metric, load, says):
    with pytest.raises(lpr.InputError, match=says):
        metric(load)


# Tokens: served, dropped, dropped but padding, served although padding.
X = torch.tensor([[1, 0], [0, 0], [0, 0], [0, 1]], dtype=torch.bool)
MASK = torch.tensor([True, True, False, False])


def test_padding_is_neither_dropped_nor_counted():
    assert dropped_fraction(lpr.Assignment(X)).item() == 0.5
    assert dropped_fraction(lpr.Assignment(X, mask=MASK)).item() == 0.5
    assert dropped_fraction(lpr.Assignment(X[1:], mask=MASK[1:])).item() == 1.0
    assert dropped_fraction(lpr.Assignment(X, mask=torch.zeros(4, dtype=torch.bool))).item() == 0.0
    assert real_load(lpr.Assignment(X)).tolist() == [1.0, 1.0]
    assert real_load(lpr.Assignment(X, mask=MASK)).tolist() == [1.0, 0.0]


def test_dropped_tokens_and_loads_of_a_batch_equal_those_of_its_parts():
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(3, 6, 4, generator=draw) < 0.2
    mask = torch.rand(3, 6, generator=draw) < 0.7
    whole = lpr.Assignment(x, mask=mask)
    for b in range(3):
        alone = lpr.Assignment(x[b], mask=mask[b])
        assert dropped_fraction(whole)[b] == dropped_fraction(alone)
        assert torch.equal(real_load(whole)[b], real_load(alone))
