"""`NoisyTopK` and `Sampled`: no noise is row top-k, frequencies, laws, errors."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.random import NoisyTopK, Sampled
from lp_routing.routers.selection import normal

NEVER = float("-inf")
TOKENS = 20_000
both = pytest.mark.parametrize("kind", [NoisyTopK, Sampled])


def often(chosen: torch.Tensor, expected: float) -> bool:
    """Whether a frequency is within four standard errors of what is expected."""
    error = math.sqrt(expected * (1 - expected) / chosen.numel())
    return abs(float(chosen.double().mean()) - expected) < 4 * error


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0, 3.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=6,
)


# Shazeer et al., eq. 3 to 5 without noise: Softmax(KeepTopK(logits)).
@given(tables, st.integers(1, 4))
def test_a_softmax_over_the_kept_logits_is_the_softmax_divided_by_its_kept_sum(table, k):
    logits = torch.tensor(table, dtype=torch.float64)
    routed = TopK(k, normalise="kept")(logits)
    after = torch.softmax(logits.masked_fill(~routed.x, NEVER), -1).nan_to_num(0.0)
    assert torch.allclose(routed.weights, after, rtol=1e-12, atol=0)
    not_divided = TopK(k)(logits)
    if k == 1 and (routed.x.any(-1) & ((logits > NEVER).sum(-1) > 1)).any():
        assert not torch.allclose(not_divided.weights, after)


@given(tables, st.integers(1, 4), st.integers(0, 9))
def test_without_noise_it_is_row_top_k_whatever_the_seed(table, k, seed):
    logits = torch.tensor(table)
    noisy, plain = NoisyTopK(k, std=0.0, seed=seed)(logits), TopK(k, normalise="kept")(logits)
    assert torch.equal(noisy.x, plain.x)
    assert torch.equal(noisy.weights, plain.weights)


# Two logits d apart, each with normal noise of variance 1: the higher stays ahead with probability
# Phi(d / sqrt 2). With noise on the lower alone, of deviation 2, with Phi(d / 2).
@pytest.mark.parametrize(("std", "spread"), [(1.0, math.sqrt(2)), (torch.tensor([0.0, 2.0]), 2.0)])
def test_noise_reverses_an_order_as_often_as_the_normal_distribution_says(std, spread):
    routed = NoisyTopK(1, std)(torch.tensor([[1.0, 0.0]]).repeat(TOKENS, 1))
    assert often(routed.x[:, 0], NormalDist().cdf(1 / spread))
    assert not often(routed.x[:, 0], NormalDist().cdf(1.2 / spread))


def test_the_weights_are_the_softmax_of_the_kept_noisy_logits():
    logits = torch.randn(2, 30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    std = torch.rand(2, 30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy = logits + std * normal(5, logits.shape, logits.device, "NoisyTopK")
    routed = NoisyTopK(2, std, seed=5)(logits)
    assert torch.equal(routed.x, TopK(2, score="logits")(noisy).x)
    expected = torch.softmax(noisy.masked_fill(~routed.x, NEVER), -1)
    assert torch.allclose(routed.weights, expected, rtol=1e-12, atol=0)
    assert not torch.equal(routed.x, TopK(2)(logits).x)


def test_gradients_reach_the_logits_and_the_standard_deviations():
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    std = torch.full((4,), 0.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda values, deviations: NoisyTopK(2, deviations)(values).weights,
        (logits.requires_grad_(), std.requires_grad_()),
    )


# Softmax 1/2, 3/10, 1/5: one draw takes them so often. Of two draws without replacement, experts 0
# and 1 are both taken with probability 5/10 * 3/5 + 3/10 * 5/7 = 18/35.
def test_experts_are_drawn_in_proportion_to_their_scores():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(TOKENS, 1)
    one, two = Sampled(1)(logits), Sampled(2)(logits)
    assert all(often(one.x[:, e], p) for e, p in enumerate((0.5, 0.3, 0.2)))
    assert not often(one.x[:, 0], 0.52)
    assert often(two.x[:, 0] & two.x[:, 1], 18 / 35)
    assert torch.allclose(one.weights.sum(-1), one.x.float() @ torch.tensor([0.5, 0.3, 0.2]))


def test_a_score_of_zero_is_drawn_only_where_nothing_else_is_left():
    # The softmax of 0 and -2000 underflows.
    logits = torch.tensor([[0.0, -2000.0, NEVER]]).repeat(50, 1)
    assert Sampled(1)(logits).x.int().tolist() == [[1, 0, 0]] * 50
    assert Sampled(2)(logits).x.int().tolist() == [[1, 1, 0]] * 50


@both
@given(table=tables, k=st.integers(1, 4), padded=st.integers(0, 6), seed=st.integers(0, 9))
def test_k_allowed_experts_are_taken_where_there_are_so_many(kind, table, k, padded, seed):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    allowed = (logits > NEVER) & mask[:, None]
    routed = kind(k, seed=seed)(logits, mask=mask)
    assert torch.equal(routed.x.sum(-1), allowed.sum(-1).clamp(max=k))
    assert not (routed.x & ~allowed).any()
    assert (routed.weights[~routed.x] == 0).all()


@both
@given(table=tables, later=tables)
def test_tokens_appended_later_change_no_earlier_row(kind, table, later):
    together = kind(2)(torch.tensor(table + later)).x
    assert kind(2).causal
    assert torch.equal(together[: len(table)], kind(2)(torch.tensor(table)).x)


@both
def test_the_draws_are_a_function_of_the_seed_and_differ_between_entries_of_a_batch(kind):
    logits = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).expand(3, 40, 8)
    one, again, other = (kind(2, seed=seed)(logits).x for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_anything_is_drawn(kind, dtype):
    logits = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(kind(2)(logits).x, kind(2)(logits.float()).x)
    assert kind(2)(logits).weights.dtype == torch.float32


@both
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"seed": -1}, r"seed=-1: it must be at least 0"),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"normalise": "sum"}, r"normalise='sum': expected .kept., .all. or None"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(kind, arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        kind(**{"k": 1, **arguments})


@pytest.mark.parametrize(
    ("std", "says"),
    [
        (-1.0, r"std=-1\.0: expected a finite number >= 0"),
        (math.nan, r"std=nan: expected"),
        (math.inf, r"std=inf: expected"),
        (True, r"std=True: expected"),
        ("1", r"std='1': expected"),
        (None, r"std=None: expected"),
        (torch.tensor([1.0, -1.0]), r"std=tensor\(\[ 1\., -1\.\]\): expected"),
        (torch.full((9,), math.nan), r"std=torch\.float32 of shape \(9,\): expected"),
        (torch.tensor([1, 2]), r"std=tensor\(\[1, 2\]\): .* floating-point tensor"),
    ],
    ids=str,
)
def test_bad_standard_deviations_are_refused(std, says):
    with pytest.raises(lpr.InputError, match=says):
        NoisyTopK(1, std)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 4)])
def test_standard_deviations_that_do_not_broadcast_are_refused(shape):
    with pytest.raises(lpr.InputError, match=r"does not broadcast to logits of shape \(2, 4\)"):
        NoisyTopK(1, torch.ones(shape))(torch.zeros(2, 4))


def test_negative_scores_cannot_be_drawn_by():
    with pytest.raises(lpr.InputError, match=r"in proportion to the scores, but some are negative"):
        Sampled(1, score="logits")(torch.tensor([[1.0, -1.0]]))


@both
def test_more_experts_per_token_than_there_are_experts_is_refused(kind):
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        kind(5)(torch.zeros(3, 4))
