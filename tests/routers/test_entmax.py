"""Entmax and its budget: known values, bisection as oracle, gradients, laws, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import lp_routing as lpr
from lp_routing.routers.sparse import (
    Entmax,
    EntmaxBudget,
    budget_temperature,
    entmax,
    entry_temperatures,
)

NEVER = float("-inf")
both = pytest.mark.parametrize("alpha", [1.5, 2])


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


# Sparsemax of (0.5, 0) lifts both by 1/4: (3/4, 1/4). Of (1, 0): (1, 0), just so; further apart
# the same. Three equal: thirds.
# 1.5-entmax of (1, 0): with x = z / 2, (1/2 - t)^2 + t^2 = 1 has t = (1 - sqrt 7) / 4 = -.4114,
# p = (.8307, .1693). (2, 0) is where the second leaves: (1 - t)^2 + t^2 = 1 has t = 0.
def test_by_hand():
    assert entmax(doubles([0.5, 0.0]), 2).tolist() == [[0.75, 0.25]]
    assert entmax(doubles([1.0, 0.0], [7.0, 0.0]), 2).tolist() == [[1, 0], [1, 0]]
    assert entmax(doubles([3.0, 3.0, 3.0]), 2).tolist() == [pytest.approx([1 / 3] * 3)]
    t = (1 - math.sqrt(7)) / 4
    expected = [(0.5 - t) ** 2, t**2]
    assert entmax(doubles([1.0, 0.0])).tolist() == [pytest.approx(expected)]
    assert entmax(doubles([2.0, 0.0], [9.0, 0.0])).tolist() == [
        pytest.approx([1, 0], abs=1e-15),
        [1, 0],
    ]


def by_bisection(row, alpha):
    z = [(alpha - 1) * (v - max(row)) for v in row]

    def p(tau):
        return [max(0.0, v - tau) ** (1 / (alpha - 1)) for v in z]

    low, high = -1.0, 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(p(middle)) > 1 else (low, middle)
    return p(low)


rows = st.lists(
    st.one_of(st.floats(-3, 3), st.integers(-3, 3).map(float), st.just(NEVER)),
    min_size=1,
    max_size=8,
).filter(lambda row: max(row) > NEVER)


@both
@given(row=rows, shift=st.sampled_from([0.0, -100.0, 1e4]))
def test_it_equals_bisection_and_sums_to_one(alpha, row, shift):
    p = entmax(doubles(row) + shift, alpha)[0]
    assert p.sum() == pytest.approx(1)
    assert torch.allclose(p, doubles(by_bisection(row, alpha))[0], atol=1e-9)
    assert (p[doubles(row)[0] == NEVER] == 0).all()


@both
def test_the_gradients_are_those_of_finite_differences(alpha):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 6, generator=draw, dtype=torch.float64).requires_grad_()
    assert 1 < (entmax(logits, alpha) > 0).sum(-1).double().mean() < 5
    assert gradcheck(lambda z: entmax(z, alpha), logits)
    alone = doubles([50.0, 0.0, -50.0]).requires_grad_()
    assert gradcheck(lambda z: entmax(z, alpha), alone)


@both
def test_forbidden_tokens_have_no_probability_and_no_gradient(alpha):
    logits = doubles([NEVER, NEVER], [1.0, NEVER]).requires_grad_()
    p = entmax(logits, alpha)
    assert p.tolist() == [[0, 0], [1, 0]]
    p.sum().backward()
    assert logits.grad.tolist() == [[0, 0], [0, 0]]


# The second expert of (1, 0) is active for sparsemax when 1 / temperature < 1; for 1.5-entmax when
# (1 / 2) / temperature < 1. The third of (2, 1, 0) at (2 + 1) / temperature < 1, and at
# sqrt(1 + 1/4) / temperature < 1.
def test_entry_temperatures_by_hand():
    rows = doubles([1.0, 0.0, NEVER], [1.0, 2.0, 0.0])
    assert entry_temperatures(rows, 2).tolist() == [[0, 1, math.inf], [1, 0, 3]]
    assert entry_temperatures(rows).tolist() == [
        [0, 0.5, math.inf],
        [0.5, 0, pytest.approx(math.sqrt(1.25))],
    ]


@both
@given(row=rows, warmer=st.sampled_from([0.5, 0.9, 1.1, 3.0]))
def test_an_expert_is_active_just_above_its_entry_temperature(alpha, row, warmer):
    logits = doubles(row)
    entry = entry_temperatures(logits, alpha)[0]
    for pivot in entry[(entry > 1e-6) & (entry < math.inf)]:
        temperature = pivot * warmer
        clear = (entry / temperature - 1).abs() > 1e-9
        active = entmax(logits / temperature, alpha)[0] > 0
        assert torch.equal(active[clear], (entry < temperature)[clear])


@both
@pytest.mark.parametrize("budget", [1, 1.5, 2, 3.3, 5, 6, 9])
def test_the_budget_is_met_exactly_where_nothing_ties(alpha, budget):
    logits = torch.randn(3, 50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(3, 50, generator=torch.Generator().manual_seed(2)) < 0.8
    routed = EntmaxBudget(budget, alpha)(logits, mask=mask)
    tokens = mask.sum(-1)
    wanted = torch.floor(tokens * budget + 1e-9).clamp(max=6 * tokens)
    assert torch.equal(routed.x.flatten(-2).sum(-1), wanted.long())
    assert (routed.x.any(-1) == mask).all()
    assert torch.allclose(routed.weights.sum(-1), mask.double())


tables = st.lists(
    st.lists(st.sampled_from([NEVER, -1.0, 0.0, 0.5, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=6,
)


@both
@given(table=tables, budget=st.floats(1, 5))
def test_with_ties_it_stays_below_but_for_experts_that_tie_as_best(alpha, table, budget):
    logits = doubles(*table)
    routed = EntmaxBudget(budget, alpha)(logits)
    allowed = logits > NEVER
    best = allowed & (logits == logits.amax(-1, keepdim=True))
    tokens = int(allowed.any(-1).sum())
    assert not (routed.x & ~allowed).any()
    assert not (best & ~routed.x).any()
    assert int(routed.x.sum()) <= max(math.floor(tokens * budget + 1e-9), int(best.sum()))
    temperature = budget_temperature(logits, budget, alpha)
    assert 0 < temperature < math.inf


def test_a_budget_that_float64_rounds_down_is_met_in_whole_pairs():
    logits = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    assert int(EntmaxBudget(1.15)(logits).x.sum()) == 115  # 1.15 * 100 is 114.999... in float64


def test_more_heat_never_takes_fewer_experts():
    logits = torch.randn(30, 8, generator=torch.Generator().manual_seed(3))
    for alpha in (1.5, 2):
        counts = [int(Entmax(alpha, t)(logits).x.sum()) for t in (1e-4, 0.3, 1, 3, 30)]
        assert counts == sorted(counts)
        assert counts[0] == 30
        assert counts[-1] == 240
    assert Entmax(2)(logits).x.sum() < Entmax(1.5)(logits).x.sum()


@pytest.mark.parametrize(
    "router", [Entmax(), Entmax(2, 0.5), EntmaxBudget(2), EntmaxBudget(1.7, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_leading_dimensions_are_routed_each_on_its_own(router, dtype):
    logits = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(4)).to(dtype)
    mask = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(5)) < 0.8
    routed = router(logits, mask=mask)
    assert torch.equal(routed.x.any(-1), mask)
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


def test_entmax_is_causal_and_the_budget_is_not():
    logits = doubles([2.0, 1.0, 0.0], [2.0, 1.9, 1.8])
    assert Entmax.causal
    assert torch.equal(Entmax()(logits[:1]).x, Entmax()(logits).x[:1])
    assert not EntmaxBudget.causal
    assert EntmaxBudget(2)(logits[:1]).x.int().tolist() == [[1, 1, 0]]
    assert EntmaxBudget(2)(logits).x.int().tolist() == [[1, 0, 0], [1, 1, 1]]


@both
def test_weights_have_the_gradients_of_p(alpha):
    draw = torch.Generator().manual_seed(6)
    logits = torch.randn(8, 5, generator=draw, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda z: Entmax(alpha, 0.7)(z).weights, logits)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Entmax(1.7), r"alpha=1\.7: expected 1\.5 \(entmax\) or 2"),
        (lambda: Entmax(temperature=0), r"temperature=0: expected a number above 0"),
        (lambda: Entmax(temperature=math.inf), r"temperature=inf: expected"),
        (lambda: EntmaxBudget(0.5), r"budget=0\.5: expected a number of experts per token"),
        (lambda: EntmaxBudget(math.nan), r"budget=nan: expected"),
        (lambda: EntmaxBudget(2, 3), r"alpha=3: expected"),
        (lambda: entmax(torch.zeros(3)), r"logits: expected floating-point numbers"),
        (lambda: entmax(doubles([math.nan, 0.0])), r"logits\[0, 0\] is nan"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_received(make, says):
    with pytest.raises(lpr.InputError, match=says):
        make()
