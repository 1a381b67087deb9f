"""Soft top-k: known values, bisection as oracle, gradients, certificates, `SoftTopK`, budgets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.soft_top_k import (
    SoftTopK,
    layer_budgets,
    masses,
    soft_gap,
    soft_top_k,
)

NEVER = float("-inf")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# Equal entries share the mass. For (1, 0) and k = 1 the threshold is 1/2 by symmetry, and
# p = 1 - e^(-1/2)/2 and e^(-1/2)/2. For (3, 0) and k = 1/2 it lies above 3 where e^(3-t) + e^(-t)
# = 1, so p is a softmax, halved.
def test_by_hand():
    assert soft_top_k(doubles(2, 2, 2, 2), 1.0, 0.3).tolist() == pytest.approx([0.25] * 4)
    half = math.exp(-0.5) / 2
    assert soft_top_k(doubles(1, 0), 1, 1.0).tolist() == pytest.approx([1 - half, half])
    expected = torch.softmax(doubles(3, 0), 0) / 2
    assert torch.allclose(soft_top_k(doubles(3, 0), 0.5, 1.0), expected)


def by_bisection(r, k, alpha):
    """theta where the mass is k, by halving; plain numbers only."""

    def cdf(x):
        return 1 - math.exp(-x) / 2 if x >= 0 else math.exp(x) / 2

    finite = [v for v in r if v > NEVER]
    low, high = min(finite) - 800 * alpha, max(finite) + 800 * alpha
    for _ in range(200):
        middle = (low + high) / 2
        if sum(cdf((v - middle) / alpha) for v in finite) > k:
            low = middle
        else:
            high = middle
    return [cdf((v - low) / alpha) if v > NEVER else 0.0 for v in r]


rows = st.lists(
    st.one_of(st.floats(-5, 5), st.integers(-3, 3).map(float), st.just(NEVER)),
    min_size=2,
    max_size=8,
).filter(lambda r: sum(v > NEVER for v in r) >= 2)


@given(
    row=rows,
    share=st.floats(0.02, 0.98),
    alpha=st.sampled_from([1e-4, 0.01, 0.3, 1.0, 50.0]),
    shift=st.sampled_from([0.0, 1000.0]),
)
def test_it_equals_bisection_and_the_mass_is_k(row, share, alpha, shift):
    k = share * sum(v > NEVER for v in row)
    p = soft_top_k(doubles(*row) + shift, k, alpha)
    assert p.sum() == pytest.approx(k, rel=1e-9)
    assert torch.allclose(p, doubles(*by_bisection(row, k, alpha)), atol=1e-8)


@given(row=rows, k=st.integers(1, 7), alpha=st.sampled_from([1e-300, 1e-9, 1e-3]))
def test_small_alpha_is_hard_and_never_nan(row, k, alpha):
    # Claim S8: the smaller alpha, the harder.
    values = doubles(*row)
    if k >= len(row):
        return
    p = soft_top_k(values, k, alpha)
    allowed = (values > NEVER).sum()
    assert p.isfinite().all()
    assert p.sum() == pytest.approx(min(k, allowed))
    assert (p[values == NEVER] == 0).all()
    wide = soft_top_k(values, k, 10.0)
    assert (p * values).nansum() >= (wide * values).nansum() - 1e-9


def test_extreme_logits_do_not_overflow():
    for scale in (1e30, 1e200):
        p = soft_top_k(doubles(1, 0.5, -1) * scale, 2, 1.0)
        assert p.tolist() == [1, 1, 0]
        p = soft_top_k(doubles(1, 0.5, -1) * scale, 1.5, 1.0)
        assert p.tolist() == pytest.approx([1, 0.5, 0])


def test_a_line_with_too_few_allowed_entries_takes_them_all_without_gradient():
    r = torch.tensor([[1.0, NEVER, NEVER], [NEVER] * 3], dtype=torch.float64, requires_grad=True)
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    p = soft_top_k(r, k, 1.0)
    assert p.tolist() == [[1, 0, 0], [0, 0, 0]]
    p.sum().backward()
    assert r.grad.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert k.grad == 0


# Claims S1, S7: gradients in r, k and alpha; lines of different k and alpha.
@pytest.mark.parametrize("k", [0.3, 1.0, 2.5, 4.9])
@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_the_gradients_are_those_of_finite_differences(k, alpha):
    draw = torch.Generator().manual_seed(0)
    r = torch.randn(3, 6, generator=draw, dtype=torch.float64, requires_grad=True)
    ks = (torch.rand(3, generator=draw, dtype=torch.float64) * 0.1 + k).requires_grad_()
    widths = doubles(alpha, alpha * 1.5, alpha / 2).requires_grad_()
    assert gradcheck(soft_top_k, (r, ks, widths))
    single = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda r, k: soft_top_k(r, k, alpha), (r, single))


def test_the_gradients_are_those_of_the_closed_form():
    r = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p, alpha = soft_top_k(r, 2, 0.7), 0.7
    s = torch.minimum(p, 1 - p) / alpha
    q = s / s.sum()
    jacobian = torch.autograd.functional.jacobian(lambda r: soft_top_k(r, 2, alpha), r)
    assert torch.allclose(jacobian, torch.diag(s) - torch.outer(s, q))
    by_k = torch.autograd.functional.jacobian(lambda k: soft_top_k(r, k, alpha), doubles(2)[0])
    assert torch.allclose(by_k, q)
    by_width = torch.autograd.functional.jacobian(lambda a: soft_top_k(r, 2, a), doubles(alpha)[0])
    assert torch.allclose(by_width, -(s / alpha) * (r - q @ r))


def test_second_derivatives_are_refused_and_not_wrong():
    r = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(soft_top_k(r, 2, 1.0).square().sum(), r, create_graph=True)
    with pytest.raises(RuntimeError):
        g.sum().backward()


# Claim S7: a certificate for each line. k = 2.5 takes half of the third best.
@given(row=rows, share=st.floats(0.02, 0.98), alpha=st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
def test_the_loss_against_the_hard_choice_is_certified(row, share, alpha):
    r, n = doubles(*row), len(row)
    k = share * (r > NEVER).sum().item()
    gap, limit = soft_gap(r, k, alpha)
    assert -1e-9 <= gap <= limit + 1e-9
    assert limit <= alpha * n / 2 + 1e-9


def test_the_certificate_by_hand_and_against_the_lp():
    gap, _ = soft_gap(doubles(3, 1, 0, 0), 2.5, 1e-6)
    assert gap == pytest.approx(0, abs=1e-5)
    r = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    problem = lpr.RoutingProblem(r, tokens=lpr.exactly(1.5))
    value = float((soft_top_k(r, 1.5, 0.3) * r).sum())
    gap, _ = soft_gap(r, 1.5, 0.3)
    assert lpr.solve(problem).value - value == pytest.approx(float(gap.sum()))
    # It would notice another p: the best soft choice for a wider edge breaks the narrow bound.
    _, narrow = soft_gap(r, 1.5, 0.001)
    assert gap.sum() > narrow.sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_leading_dimensions_and_dtypes(dtype):
    r = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    k = torch.tensor([1.0, 2.0])[:, None, None]
    p = soft_top_k(r, k, 0.5)
    assert p.dtype == dtype
    for b in range(2):
        for c in range(3):
            assert torch.equal(p[b, c], soft_top_k(r[b, c], b + 1, 0.5))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1.0], 1, 1), r"expected a tensor of floating-point numbers"),
        ((torch.zeros(2, dtype=torch.long), 1, 1), r"expected a tensor of floating-point"),
        ((doubles(0, math.nan), 1, 1), r"soft_top_k: r\[1\] is nan"),
        ((doubles(0, 1), 2, 1), r"k=2: expected 0 < k < n, the number of entries \(2\)"),
        ((doubles(0, 1), 0, 1), r"k=0: expected 0 < k"),
        ((doubles(0, 1), math.nan, 1), r"k=nan: expected 0 < k"),
        ((doubles(0, 1), 1, 0.0), r"alpha=0\.0: expected a finite number above 0"),
        ((doubles(0, 1), 1, math.inf), r"alpha=inf: expected a finite number above 0"),
        ((torch.zeros(2, 3), torch.ones(5), 1), r"broadcasts to shape \(2,\)"),
        ((torch.zeros(2, 3), "two", 1), r"k='two': expected a number"),
    ],
    ids=str,
)
def test_bad_arguments_of_the_function_are_refused(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        soft_top_k(*arguments)


# --- the router ---------------------------------------------------------------------------------

# p for (1, 0) is (.70, .30) (see above); for (2, 2) it is (1/2, 1/2).
PAIR = torch.tensor([[1.0, 0.0], [2.0, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1, 1], [1, 1]]),
        ({"truncate": 0.4}, [[1, 0], [1, 1]]),
        ({"truncate": 0.4, "most": 1}, [[1, 0], [1, 0]]),
        ({"truncate": 0.5}, [[1, 0], [0, 0]]),  # 1/2 is not above 1/2
        ({"truncate": 0.6}, [[1, 0], [0, 0]]),
    ],
)
def test_truncation_and_the_limit_by_hand(options, expected):
    routed = SoftTopK(1, 1.0, **options)(PAIR)
    assert routed.x.int().tolist() == expected
    assert torch.allclose(routed.weights, soft_top_k(PAIR, 1, 1.0) * routed.x)


# Claim S3: mass, active count and kept mass are three numbers.
@given(
    table=st.lists(st.lists(st.floats(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    k=st.floats(0.5, 5.5),
    tau=st.sampled_from([0.01, 0.1, 0.3]),
    alpha=st.sampled_from([0.05, 0.5, 5.0]),
)
def test_mass_active_count_and_kept_mass_are_three_things(table, k, tau, alpha):
    router = SoftTopK(k, alpha, truncate=tau)
    logits = torch.tensor(table, dtype=torch.float64)
    routed = router(logits)
    seen = masses(router.scores(logits), routed.x)
    assert torch.allclose(seen.mass, torch.full_like(seen.mass, k))
    assert (seen.active >= (k - 6 * tau) / (1 - tau) - 1e-9).all()
    assert (seen.active <= k / tau + 1e-9).all()
    assert torch.allclose(seen.kept, routed.weights.sum(-1))
    assert (seen.kept <= seen.mass + 1e-9).all()
    assert (seen.kept >= seen.mass - 6 * tau).all()


def test_with_a_narrow_edge_it_is_top_k():
    logits = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(4))
    soft = SoftTopK(3, 1e-6, truncate=0.5)(logits)
    assert torch.equal(soft.x, TopK(3)(logits).x)


def test_weights_have_the_gradients_of_p_and_padding_and_forbidden_pairs_none():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    mask = torch.tensor([True, True, False])
    logits[0, 2] = NEVER
    router = SoftTopK(2, 0.8, truncate=0.05)
    routed = router(logits, mask=mask)
    assert not routed.x[2].any()
    assert not routed.x[0, 2]
    free = (logits > NEVER) & mask[:, None]

    def weights(values):
        return router(logits.masked_scatter(free, values), mask=mask).weights

    assert gradcheck(weights, logits[free].clone().requires_grad_())


def test_the_router_is_causal_and_routes_leading_dimensions_each_on_its_own():
    logits = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(6))
    router = SoftTopK(1.5, 0.5, truncate=0.1, most=2, normalise="kept")
    routed = router(logits)
    assert router.causal
    assert torch.equal(routed.x[1, 2, :3], router(logits[1, 2, :3]).x)
    assert torch.equal(routed.weights[1, 2], router(logits[1, 2]).weights)
    assert torch.allclose(routed.weights.sum(-1), routed.x.any(-1).float())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: expected a number above 0"),
        ({"k": True}, r"k=True: expected a number above 0"),
        ({"alpha": 0}, r"alpha=0: expected a number above 0"),
        ({"alpha": math.inf}, r"alpha=inf: expected a number above 0"),
        ({"truncate": 1}, r"truncate=1: expected a number from 0 to below 1"),
        ({"truncate": -0.1}, r"truncate=-0\.1: expected"),
        ({"most": 0}, r"most=0: it must be at least 1"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        SoftTopK(**{"k": 1, "alpha": 1.0, **arguments})


def test_a_mass_of_e_or_more_is_refused_when_e_is_known():
    with pytest.raises(
        lpr.InputError, match=r"k=2: expected 0 < k < n, the number of entries \(2\)"
    ):
        SoftTopK(2, 1.0)(PAIR)


# --- budgets of layers --------------------------------------------------------------------------


def test_layer_budgets_add_up_and_each_is_more_than_one():
    assert layer_budgets(torch.zeros(4), 8).tolist() == [2, 2, 2, 2]
    eta = torch.tensor([5.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    budgets = layer_budgets(eta, 9.5)
    assert budgets.sum().item() == pytest.approx(9.5)
    assert (budgets > 1).all()
    assert gradcheck(lambda eta: layer_budgets(eta, 9.5), eta)


def test_budgets_that_cannot_be_met_are_refused():
    # Claim S1: with B - L + 1 > E the map can ask one layer for more experts than there are.
    assert layer_budgets(torch.tensor([50.0, 0.0]), 9, experts=8)[0] == pytest.approx(8)
    with pytest.raises(lpr.InputError, match=r"total=10 could ask one of 2 layers for 9 of 8"):
        layer_budgets(torch.zeros(2), 10, experts=8)
    with pytest.raises(lpr.InputError, match=r"total=2: expected more than L.* \(2\)"):
        layer_budgets(torch.zeros(2), 2)
    for eta in (torch.zeros(2, 2), torch.tensor([0.0, float("nan")]), torch.tensor([0, 1])):
        with pytest.raises(lpr.InputError, match=r"expected eta"):
            layer_budgets(eta, 9)


@pytest.mark.parametrize(
    ("p", "chosen"),
    [
        (torch.ones(2, 3), torch.ones(2, 3)),
        (torch.ones(2, 3), torch.ones(2, 2, dtype=torch.bool)),
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)),
        ([[1.0]], torch.ones(1, 1, dtype=torch.bool)),
    ],
)
def test_masses_of_other_shapes_or_types_are_refused(p, chosen):
    with pytest.raises(lpr.InputError, match="masses: expected"):
        masses(p, chosen)
