"""`LossFree`: hand-worked batches, a slow loop, the dual it descends (claim O2), laws, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.dual_updates import LossFree

NEVER = float("-inf")


def tied(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 8, shape, generator=draw).to(dtype) / 8
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 10, NEVER)


# Three tokens like expert 0 best, by 1, 2 and 3; k = 1 and the step is 1.
#   bias (0, 0): loads (3, 0), mean 1.5: the bias becomes (-1, 1).
#   bias (-1, 1): token 0 (4 < 5) leaves, token 1 ties (6 = 6) and stays with the lower expert.
#   loads (2, 1): the bias becomes (-2, 2) and all three leave: (-1, 1) again.
STORY = torch.tensor([[5.0, 4.0], [7.0, 5.0], [9.0, 6.0]])


def test_the_bias_moves_against_the_load_and_weighs_nothing():
    router, state = LossFree(1, rate=1.0, score="logits"), None
    seen = []
    for _ in range(3):
        routed, state = router(STORY, state)
        seen.append((routed.x.int().tolist(), state.tolist()))
    assert seen == [
        ([[1, 0], [1, 0], [1, 0]], [-1.0, 1.0]),
        ([[0, 1], [1, 0], [1, 0]], [-2.0, 2.0]),
        ([[0, 1], [0, 1], [0, 1]], [-1.0, 1.0]),
    ]
    assert routed.weights.tolist() == [[0, 4], [0, 5], [0, 6]]


def test_the_proportional_step_is_as_long_as_the_load_is_wrong():
    _, state = LossFree(1, rate=0.5, update="proportional", score="logits")(STORY)
    assert state.tolist() == [-0.75, 0.75]


def by_loop(scores, k, bias, rate, update):
    T, E = len(scores), len(scores[0])
    x, load = [[0] * E for _ in range(T)], [0] * E
    for t in range(T):
        liked = [e for e in range(E) if scores[t][e] > NEVER]
        for e in sorted(liked, key=lambda e: -(scores[t][e] + bias[e]))[:k]:
            x[t][e], load[e] = 1, load[e] + 1
    short = [sum(load) / E - n for n in load]
    sign = [(s > 0) - (s < 0) for s in short]
    step = sign if update == "sign" else short
    return x, [b + rate * s for b, s in zip(bias, step, strict=True)]


@pytest.mark.parametrize("update", ["sign", "proportional"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_it_equals_the_slow_loop_where_many_scores_tie(k, update):
    router = LossFree(k, rate=0.25, update=update, score="logits")
    for seed in range(5):
        state, bias = None, [0.0] * 4
        for batch in tied(4, 7, 4, seed=seed):
            routed, state = router(batch, state)
            x, bias = by_loop(batch.tolist(), k, bias, 0.25, update)
            assert routed.x.int().tolist() == x
            assert state.tolist() == bias


def test_the_loop_would_notice_a_step_the_other_way():
    batch = tied(7, 4).tolist()
    assert by_loop(batch, 2, [0.0] * 4, 0.25, "sign") != by_loop(batch, 2, [0.0] * 4, -0.25, "sign")


# Claim O2: D(beta), the dual of the balanced problem, has slope T k / E - load_j in beta_j, and
# the bias is -beta. Away from ties D is linear nearby, so differences give its slope exactly.
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_update_is_a_subgradient_step_on_the_dual_of_balanced(k):
    draw = torch.Generator().manual_seed(k)
    scores = torch.rand(12, 4, generator=draw, dtype=torch.float64)
    beta = torch.rand(4, generator=draw, dtype=torch.float64)
    problem, small = lpr.problems.balanced(scores, k), 1e-7

    def dual(prices):
        return lpr.dual_bound(problem, lpr.Prices(experts=prices))

    steps = torch.eye(4, dtype=torch.float64) * small
    slope = torch.tensor([(dual(beta + h) - dual(beta - h)) / (2 * small) for h in steps])
    routed, _ = LossFree(k, score="logits")(scores, -beta)
    assert torch.allclose(slope.double(), 12 * k / 4 - routed.load, atol=1e-6)
    for update, direction in (("proportional", slope.round()), ("sign", slope.round().sign())):
        _, bias = LossFree(k, rate=0.01, update=update, score="logits")(scores, -beta)
        assert torch.allclose(-bias, beta - 0.01 * direction.double(), atol=1e-12)


def test_the_steps_balance_a_skewed_batch_and_their_prices_certify_how_well():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(256, 8, generator=draw, dtype=torch.float64)
    logits = logits + torch.linspace(2, -2, 8, dtype=torch.float64)
    router, state = LossFree(2, rate=0.01), None
    problem = lpr.problems.balanced(torch.sigmoid(logits), 2)
    first, _ = router(logits)
    start = lpr.certify(problem, first, lpr.Prices())
    for _ in range(300):
        routed, state = router(logits, state)
    end = lpr.certify(problem, routed, lpr.Prices(experts=-state))
    assert first.load.max() > 1.8 * 64
    assert routed.load.max() < 1.25 * 64
    assert end.bound < start.bound - 1


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=7,
)


@given(table=tables, k=st.integers(1, 4), padded=st.integers(0, 7))
def test_every_token_takes_k_allowed_experts_and_padding_none(table, k, padded):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    allowed = (logits > NEVER) & mask[:, None]
    bias = torch.tensor([3.0, -3.0, 0.5, 0.0])
    routed, after = LossFree(k)(logits, bias, mask=mask)
    assert torch.equal(routed.x.sum(-1), allowed.sum(-1).clamp(max=k))
    assert not (routed.x & ~allowed).any()
    assert after.isfinite().all()


@given(table=tables, k=st.integers(1, 4))
def test_without_bias_it_is_top_k_of_the_same_score_and_rate_0_keeps_it_so(table, k):
    logits = torch.tensor(table)
    routed, state = LossFree(k, rate=0, normalise="kept")(logits)
    plain = TopK(k, score="sigmoid", normalise="kept")(logits)
    assert torch.equal(routed.x, plain.x)
    assert torch.equal(routed.weights, plain.weights)
    assert not state.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_leading_dimensions_are_routed_each_with_a_bias_of_its_own(dtype):
    logits, mask = tied(2, 3, 6, 4, dtype=dtype, seed=1), torch.rand(2, 3, 6) < 0.8
    bias = torch.rand(2, 3, 4)
    router = LossFree(2, rate=0.1)
    routed, after = router(logits, bias, mask=mask)
    for b in range(2):
        for c in range(3):
            alone, state = router(logits[b, c], bias[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)
            assert torch.equal(after[b, c], state)


def test_given_the_state_it_is_causal():
    logits, bias = tied(9, 4), torch.tensor([0.3, 0.0, -0.3, 0.1])
    assert LossFree.causal
    whole, _ = LossFree(2)(logits, bias)
    for t in range(1, 9):
        assert torch.equal(LossFree(2)(logits[:t], bias)[0].x, whole.x[:t])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"rate": -1}, r"rate=-1: expected a number >= 0"),
        ({"rate": math.nan}, r"rate=nan: expected a number >= 0"),
        ({"update": "adam"}, r'update=\'adam\': expected "sign" or "proportional"'),
        ({"score": "tanh"}, r"score 'tanh': expected"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        LossFree(**{"k": 1, **arguments})


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ([0.0, 0.0], r"expected the biases of experts, a tensor of shape \(2,\), got list"),
        (torch.zeros(3), r"floating-point numbers of shape \(2,\), got torch.float32 .*\(3,\)"),
        (torch.zeros(2, dtype=torch.long), r"got torch.int64 of shape \(2,\)"),
        (torch.tensor([0.0, math.nan]), r"must be finite"),
    ],
    ids=str,
)
def test_a_state_of_other_experts_or_another_kind_is_refused(state, says):
    with pytest.raises(lpr.InputError, match=says):
        LossFree(1)(STORY, state)
    with pytest.raises(lpr.InputError, match=r"k=3 is more than E"):
        LossFree(3)(STORY)
