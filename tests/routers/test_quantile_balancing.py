"""`QuantileBalancing`: hand-worked rounds, a slow loop, the dual that never rises, claim O3."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.dual_updates import QuantileBalancing, balancing_round

NEVER = float("-inf")


def raw(k, **options):
    return QuantileBalancing(k, score="logits", **options)


def bound(scores, k, prices):
    return lpr.dual_bound(lpr.problems.balanced(scores, k), lpr.Prices(experts=prices))


# Two tokens, two experts, k = 1: both like expert 0, token 0 by 4 and token 1 by 1.
#   Tokens pay their second best: 1 and 2. Expert 0 is left with (4, 1) and takes one: its price
#   is the second, 1. Expert 1 is left with (0, 0): price 0. Centred: (1/2, -1/2).
#   Now token 1 is indifferent (2.5, 2.5) and stays, by the lower index; the load is (2, 0).
# In the middle: tokens pay 3 and 2.5, expert 0 lies between .5 and 2 and asks 1.25, expert 1
#   between -.5 and -2 and asks -1.25: token 1 (1.75, 3.25) moves and the loads are equal.
TWO = torch.tensor([[5.0, 1.0], [3.0, 2.0]], dtype=torch.float64)


def test_a_round_by_hand():
    assert balancing_round(TWO, torch.zeros(2).double(), 1).tolist() == [0.5, -0.5]
    routed, state = raw(1)(TWO)
    assert state.tolist() == [0.5, -0.5]
    assert routed.x.int().tolist() == [[1, 0], [1, 0]]
    routed, state = raw(1, place=0.5)(TWO)
    assert state.tolist() == [1.25, -1.25]
    assert routed.x.int().tolist() == [[1, 0], [0, 1]]
    assert lpr.certify(lpr.problems.balanced(TWO, 1), routed, lpr.Prices(experts=state)).gap == 0


def test_uneven_loads_let_an_expert_take_one_more_before_it_has_a_price():
    # Three tokens like expert 0, by 4, 2 and 1; loads are 1 or 2. Two of them may have it; from a
    # price of 1 on the third keeps off. Expert 1 has nothing to ask for.
    scores = torch.tensor([[4.0, 0.0], [2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert balancing_round(scores, torch.zeros(2).double(), 1).tolist() == [1, 0]
    # Two like it and one does not: it takes those two for nothing.
    scores[2] = torch.tensor([0.0, 1.0])
    assert balancing_round(scores, torch.zeros(2).double(), 1).tolist() == [0, 0]


def test_padding_has_no_share_of_the_load():
    # The same three tokens and one of padding: still two may have expert 0, not three.
    scores = torch.tensor([[4.0, 0.0], [NEVER, NEVER], [2.0, 0.0], [1.0, 0.0]]).double()
    assert balancing_round(scores, torch.zeros(2).double(), 1).tolist() == [1, 0]


# Claim O3. (100, 100, 1) twice and (50, 50, 1), k = 2, equal loads: the best is 352 (200 + 101 +
# 51). At prices (49, 49, 0) the last token is left with (1, 1, 1), all three pay 1, and neither
# half can improve alone: the bound stays at 402. Both together could: (99, 99, 0) proves 352.
STALL = torch.tensor([[100, 100, 1], [100, 100, 1], [50, 50, 1]], dtype=torch.float64)


def test_it_can_stall_above_the_optimum():
    problem = lpr.problems.balanced(STALL, 2)
    assert lpr.solve(problem).value == 352
    assert bound(STALL, 2, torch.tensor([99.0, 99.0, 0.0])) == 352
    for rounds in (1, 2, 50):
        routed, state = raw(2, rounds=rounds)(STALL)
        assert torch.allclose(state - state[2], torch.tensor([49.0, 49.0, 0.0]).double())
        assert bound(STALL, 2, state) == pytest.approx(402)
        assert routed.load.tolist() == [3, 3, 0]


def test_the_middle_of_the_minimisers_comes_closer_on_the_same_case():
    _, state = raw(2, rounds=50, place=0.5)(STALL)
    assert 352 <= bound(STALL, 2, state) < 365


def test_on_a_usual_batch_the_lowest_minimisers_stall_and_the_middle_ones_hardly_do():
    draw = torch.Generator().manual_seed(5)
    logits = torch.randn(256, 8, generator=draw, dtype=torch.float64) + torch.linspace(1, -1, 8)
    scores = torch.softmax(logits, -1)
    best = lpr.solve(lpr.problems.balanced(scores, 2)).value
    ends = [bound(scores, 2, raw(2, rounds=60, place=p)(scores)[1]) for p in (0.0, 0.5)]
    later = bound(scores, 2, raw(2, rounds=120)(scores)[1])
    assert later == pytest.approx(ends[0], rel=1e-12)  # it has stopped
    assert ends[0] - best > 1e-5 * best
    assert -1e-9 <= ends[1] - best < (ends[0] - best) / 3


def by_loop(scores, prices, k):
    """One round with place 0 and equal loads, -inf allowed where enough is left."""
    T, E = len(scores), len(scores[0])
    token = [
        sorted((s - q for s, q in zip(row, prices, strict=True)), reverse=True) for row in scores
    ]
    token = [row[k] if k < E and row[k] > NEVER else row[k - 1] for row in token]
    C, new = T * k // E, []
    for e in range(E):
        column = sorted((scores[t][e] - token[t] for t in range(T)), reverse=True)
        new.append(column[C] if C < T and column[C] > NEVER else column[C - 1])
    return [q - sum(new) / E for q in new]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_round_equals_the_slow_loop(k):
    for seed in range(8):
        draw = torch.Generator().manual_seed(seed)
        scores = torch.randint(0, 9, (8, 4), generator=draw).double()
        scores[0, seed % 4] = NEVER if k < 4 else 0.0
        prices = torch.randint(0, 3, (4,), generator=draw).double()
        received = balancing_round(scores, prices, k)
        expected = by_loop(scores.tolist(), prices.tolist(), k)
        assert torch.allclose(received, torch.tensor(expected).double(), atol=1e-12)
        # the loop is not idle; with k = E nothing need move
        assert k == 4 or not torch.allclose(received, prices - prices.mean())


@st.composite
def batches(draw):
    """Scores in quarters, (T, E) of any sizes, E dividing T k or not, and k."""
    T, E = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    quarter = st.integers(-8, 8).map(lambda n: n / 4)
    entry = st.one_of(quarter, quarter, quarter, quarter, st.just(NEVER))
    rows = draw(st.lists(st.lists(entry, min_size=E, max_size=E), min_size=T, max_size=T))
    return torch.tensor(rows, dtype=torch.float64), draw(st.integers(1, E))


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@given(batch=batches())
def test_the_dual_value_never_rises_and_never_falls_below_the_optimum(place, batch):
    scores, k = batch
    try:
        solution = lpr.solve(lpr.problems.balanced(scores, k))
    except lpr.InputError:  # a token with fewer than k allowed experts
        return
    state, last = torch.zeros(scores.shape[1]).double(), math.inf
    for _ in range(5):
        state = balancing_round(scores, state, k, place)
        assert state.isfinite().all()
        if solution.status is not lpr.Status.OPTIMAL:
            continue  # no equal loads exist, and the dual has no minimum
        now = bound(scores, k, state)
        assert solution.value - 1e-9 <= now <= last + 1e-9
        last = now


def test_each_half_is_an_exact_minimiser_where_loads_cannot_be_equal():
    # T k = 7, E = 3: loads 2, 2, 3. No single price, moved alone with the tokens' prices held,
    # lowers the dual: its terms are written out here.
    draw = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 20, (7, 3), generator=draw).double()
    for place in (0.0, 0.5, 1.0):
        before = torch.tensor([3.0, -2.0, 0.5]).double()
        after = balancing_round(scores, before, 1, place)
        best = (scores - before).sort(-1, descending=True).values
        alpha = best[:, 1] + place * (best[:, 0] - best[:, 1])

        def dual(beta, alpha=alpha):
            excess = (scores - alpha[:, None] - beta).clamp(min=0).sum()
            return excess + alpha.sum() + torch.maximum(3 * beta, 2 * beta).sum()

        for j in range(3):
            for step in (-4.0, -1.0, -0.25, 0.25, 1.0, 4.0):
                moved = after.clone()
                moved[j] += step
                assert dual(moved) >= dual(after)
        assert dual(after) < dual(before)


def test_a_warm_start_goes_on_where_the_last_batch_stopped():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(64, 8, generator=draw, dtype=torch.float64) + torch.linspace(0, 1, 8)
    _, once = raw(2, rounds=6)(scores)
    state = None
    for _ in range(6):
        _, state = raw(2)(scores, state)
    assert torch.equal(once, state)
    solution = lpr.solve(lpr.problems.balanced(scores, 2))
    assert solution.value <= bound(scores, 2, state) < bound(scores, 2, torch.zeros(8))


def test_it_balances_far_better_than_top_k():
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(512, 16, generator=draw) + torch.linspace(2, -2, 16)
    routed, _ = QuantileBalancing(2, rounds=20)(logits)
    assert routed.load.max() < 1.2 * 64
    assert TopK(2)(logits).load.max() > 2 * 64


def test_with_lag_a_batch_is_routed_with_the_prices_it_came_with():
    assert QuantileBalancing(1, lag=True).causal
    assert not QuantileBalancing(1).causal
    prices = torch.tensor([3.0, 0.0]).double()
    routed, state = raw(1, lag=True)(TWO, prices)
    assert routed.x.int().tolist() == [[1, 0], [0, 1]]  # (2, 1) and (0, 2)
    assert torch.equal(state, raw(1)(TWO, prices)[1])


@given(batch=batches(), padded=st.integers(0, 7))
def test_every_token_takes_k_allowed_experts_and_padding_plays_no_part(batch, padded):
    scores, k = batch
    mask = torch.arange(len(scores)) >= padded
    routed, state = raw(k, rounds=2)(scores, mask=mask)
    allowed = (scores > NEVER) & mask[:, None]
    assert torch.equal(routed.x.sum(-1), allowed.sum(-1).clamp(max=k))
    assert not (routed.x & ~allowed).any()
    if mask.any():
        alone, of_alone = raw(k, rounds=2)(scores[mask])
        assert torch.equal(routed.x[mask], alone.x)
        assert torch.equal(state, of_alone)
    else:
        assert not state.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_leading_dimensions_are_routed_each_with_prices_of_its_own(dtype):
    draw = torch.Generator().manual_seed(4)
    logits = torch.randint(0, 9, (2, 3, 7, 4), generator=draw).to(dtype)
    mask, prices = torch.rand(2, 3, 7, generator=draw) < 0.7, torch.rand(2, 3, 4)
    router = QuantileBalancing(2, rounds=2, normalise="kept")
    routed, after = router(logits, prices, mask=mask)
    for b in range(2):
        for c in range(3):
            alone, state = router(logits[b, c], prices[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)
            assert torch.allclose(after[b, c], state, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"rounds": 0}, r"rounds=0: it must be at least 1"),
        ({"place": 1.5}, r"place=1\.5: expected a number from 0"),
        ({"place": math.nan}, r"place=nan: expected a number from 0"),
        ({"lag": 1}, r"lag=1: expected True or False"),
        ({"score": "tanh"}, r"score 'tanh': expected"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        QuantileBalancing(**{"k": 1, **arguments})


def test_a_state_of_other_experts_and_too_large_a_k_are_refused():
    with pytest.raises(
        lpr.InputError, match=r"the experts' prices.* of shape \(2,\), got .*\(3,\)"
    ):
        raw(1)(TWO, torch.zeros(3))
    with pytest.raises(lpr.InputError, match=r"k=3 is more than E"):
        raw(3)(TWO)
