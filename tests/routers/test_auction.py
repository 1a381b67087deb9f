"""`Auction`: hand-worked sales, brute force, the certificate of its own prices, ties, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.auction import Auction, _bids, _sell, auction
from lp_routing.routers.balance import loads_of
from lp_routing.routers.token_choice import TopK
from tests.balanced_checks import NEVER, broken, distinct, optimum, stated, tied
from tests.strategies import score_matrices


@pytest.mark.parametrize(
    ("scores", "k", "expected"),
    [
        # Both like expert 0, token 1 would miss it more: 2 + 3 instead of 3 + 0.
        ([[3, 2], [3, 0]], 1, [[0, 1], [1, 0]]),
        # Three tokens, two experts, loads 1 and 2: all but token 2, which does not care, take 0.
        ([[4, 0], [3, 1], [2, 2]], 1, [[1, 0], [1, 0], [0, 1]]),
        # Each does without one expert, and each expert without one token. Someone has to do without
        # expert 0: token 2, which loses least by it. The others do without 1 and without 2.
        ([[9, 3, 2], [9, 3, 2], [9, 8, 3]], 2, [[1, 0, 1], [1, 1, 0], [0, 1, 1]]),
        # One token, two of four experts: nobody competes.
        ([[1, 4, 2, 3]], 2, [[0, 1, 0, 1]]),
    ],
)
def test_hand_worked_sales(scores, k, expected):
    scores = torch.tensor(scores, dtype=torch.float64)
    sold = auction(scores, k, epsilon=2.0**-7)
    value = (scores * torch.tensor(expected)).sum()
    assert broken(sold.chosen, scores, k) == []
    assert scores[sold.chosen].sum() == value == optimum(scores, k)


def test_a_bid_goes_up_to_the_next_best_expert_plus_epsilon():
    # Earned 5 - 1, 3 - 0, 4 - 3, so 4, 3, 1. One missing: 4 - 3 above the price of 1, plus 1/8.
    worth, prices = torch.tensor([[5.0, 3.0, 4.0]]).double(), torch.tensor([1.0, 0.0, 3.0]).double()
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    one = _bids(worth, nothing, torch.tensor([[1]]), prices, 0.125)
    assert one.tolist() == [[2.125, NEVER, NEVER]]
    # Two missing: both up to where expert 2 earns as much: 5 - 1 and 3 - 1.
    two = _bids(worth, nothing, torch.tensor([[2]]), prices, 0.125)
    assert two.tolist() == [[4.125, 2.125, NEVER]]
    # Expert 0 is held: it is not bid for again, and expert 2 is next.
    held = torch.tensor([[True, False, False]])
    assert _bids(worth, held, torch.tensor([[1]]), prices, 0.125).tolist() == [
        [NEVER, 2.125, NEVER]
    ]
    # All are missing: each goes for 1 more than what makes it as good as the worst, which earns 1.
    every = _bids(worth, nothing, torch.tensor([[3]]), prices, 0.125)
    assert every.tolist() == [[5.125, 3.125, 4.125]]


@given(
    scores=score_matrices(),
    k=st.integers(1, 3),
    capacity=st.one_of(st.none(), st.integers(1, 6)),
)
def test_on_a_grid_the_auction_is_exact_or_says_that_nothing_fits(scores, k, capacity):
    # Scores are multiples of 1/4; there are at most 36 places, and 36/256 < 1/4.
    best = optimum(scores, k, capacity)
    if best == NEVER:
        with pytest.raises(lpr.InputError):
            auction(scores, k, capacity, 2.0**-8)
        return
    sold = auction(scores, k, capacity, 2.0**-8)
    assert broken(sold.chosen, scores, k, capacity) == []
    assert scores[sold.chosen].sum() == best


@given(
    scores=score_matrices(max_tokens=8, max_experts=5, forbid=False),
    k=st.integers(1, 5),
    capacity=st.one_of(st.none(), st.integers(1, 8)),
    epsilon=st.sampled_from([None, 2.0, 0.5, 1 / 7, 0.01]),
)
def test_the_prices_prove_the_bound(scores, k, capacity, epsilon):
    T, E = scores.shape
    if k > E or (capacity is not None and T * k > E * min(capacity, T)):
        with pytest.raises(lpr.InputError, match=r"is more than E|give a capacity of at least"):
            auction(scores, k, capacity, epsilon)
        return
    sold = auction(scores, k, capacity, epsilon)
    assert broken(sold.chosen, scores, k, capacity) == []
    proof = lpr.certify(stated(scores, k, capacity), sold.chosen, sold.prices, exact=True)
    allowed = E * loads_of(T, E, k, capacity).most * sold.epsilon
    assert proof.gap <= allowed * (1 + 1e-9) + 1e-12


def everybody_likes_the_same(T, E, seed=0):
    return distinct(T, E, seed=seed) / 4 - torch.arange(E).double() / 2


@pytest.mark.parametrize(("T", "E", "k"), [(96, 8, 1), (96, 8, 2), (97, 8, 3), (50, 16, 5)])
def test_skewed_batches_come_within_the_proved_bound_of_the_exact_optimum(T, E, k):
    scores = everybody_likes_the_same(T, E)
    problem = lpr.problems.balanced(scores, k)
    truth = lpr.solve(problem, lpr.HiGHS())
    places = E * -(-T * k // E)
    spread = float((scores.amax(1) - scores.amin(1)).max())
    coarse, fine = auction(scores, k), auction(scores, k, epsilon=spread / 2**20)
    assert spread / 2048 <= coarse.epsilon <= spread / 1024
    for sold in (coarse, fine):
        lost = float(truth.value - scores[sold.chosen].sum())
        assert -1e-9 <= lost <= places * sold.epsilon
        assert broken(sold.chosen, scores, k) == []
        proof = lpr.certify(problem, sold.chosen, sold.prices)
        assert lost - 1e-9 <= proof.gap <= places * sold.epsilon + 1e-9
    # the bound is no formality: other prices, and another assignment, do not keep it
    assert lpr.certify(problem, fine.chosen, lpr.Prices()).gap > places * fine.epsilon
    other = fine.chosen.roll(1, 0)
    assert lpr.certify(problem, other, fine.prices).gap > places * fine.epsilon


@pytest.mark.parametrize(
    ("T", "E", "k"), [(64, 8, 1), (64, 8, 2), (37, 6, 4), (5, 8, 8), (3, 7, 1)]
)
def test_where_everything_ties_loads_are_equal_all_the_same(T, E, k):
    for scores in (torch.zeros(T, E), torch.ones(T, 1) * torch.arange(E), torch.full((T, E), -7.5)):
        sold = auction(scores, k)
        assert broken(sold.chosen, scores, k) == []
        assert (
            lpr.certify(lpr.problems.balanced(scores, k), sold.chosen, sold.prices).relative_gap
            < 0.05
        )


def test_a_token_without_a_choice_takes_what_it_must_and_others_make_room():
    # Tokens 0 and 1 may only go to expert 0, which has two places; all others want it more.
    scores = torch.full((6, 3), 0.0)
    scores[:, 0] = 9.0
    scores[:2, 1:] = NEVER
    chosen = auction(scores).chosen
    assert chosen[:2].int().tolist() == [[1, 0, 0], [1, 0, 0]]
    assert broken(chosen, scores, 1) == []


@pytest.mark.parametrize("factor", [2.0**-900, 2.0**-60, 2.0**900])
def test_scale_changes_nothing(factor):
    scores = tied(12, 4, dtype=torch.float64)
    assert torch.equal(auction(scores * factor, 2).chosen, auction(scores, 2).chosen)


def test_a_large_constant_on_a_token_changes_nothing():
    scores = tied(12, 4, dtype=torch.float64)
    moved = scores + 1e9 * torch.arange(12)[:, None]
    assert torch.equal(auction(moved, 2).chosen, auction(scores, 2).chosen)


def test_a_capacity_leaves_loads_unequal_up_to_it():
    # All prefer expert 0 by 1, 2, .. 6. With 4 places the four that prefer it most have it.
    scores = torch.tensor([[float(i), 0.0] for i in range(1, 7)])
    expected = [[0, 1], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0]]
    router = Auction(1, 4, 2.0**-5, score="logits")
    assert router(scores).x.int().tolist() == expected
    assert Auction(1, CapacityFactor(4 / 3), 2.0**-5).select(scores).int().tolist() == expected
    assert Auction(1, 6).select(scores)[:, 0].all()
    assert Auction(1).select(scores).sum(0).tolist() == [3, 3]


def test_only_experts_that_are_full_have_a_price():
    # Three tokens like expert 0, by 4, 2 and 1; an expert takes two at most. Two pay a price from
    # 1 to 2, the third does not. Both other experts have room and ask for nothing: else the bound
    # would be that of no prices, 7.
    scores = torch.tensor([[4.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).double()
    sold = auction(scores, 1, 2, epsilon=2.0**-20)
    assert scores[sold.chosen].sum() == 6
    assert 1 <= float(sold.prices.experts[0]) <= 2
    assert sold.prices.experts[1:].tolist() == pytest.approx([0, 0], abs=2.0**-18)
    proof = lpr.certify(stated(scores, 1, 2), sold.chosen, sold.prices)
    assert 0 <= proof.gap <= 6 * sold.epsilon


def test_where_no_expert_is_full_the_auction_is_token_choice():
    scores = distinct(20, 5)
    assert torch.equal(Auction(2, 20).select(scores), TopK(2).select(scores))


@pytest.mark.parametrize("score", ["softmax", "logits"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_batches_are_routed_each_on_its_own_without_their_padding(dtype, score):
    logits, mask = tied(2, 3, 9, 4, dtype=dtype), tied(2, 3, 9, seed=2) > 0
    router = Auction(2, score=score)
    routed = router(logits, mask=mask)
    assert routed.weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert routed.mask is mask
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)
            real = mask[b, c]
            assert torch.equal(routed.x[b, c][real], router(logits[b, c][real]).x)
            assert broken(routed.x[b, c], router.scores(logits[b, c], real), 2) == []


def test_weights_can_be_divided_by_what_is_kept():
    routed = Auction(2, normalise="kept")(tied(6, 4))
    assert torch.allclose(routed.weights.sum(-1), torch.ones(6))


def test_an_auction_that_overran_its_limit_would_say_so():
    worth, demand = torch.zeros(2, 2).double(), torch.ones(2, dtype=torch.long)
    prices = torch.zeros(2).double()
    assert _sell(worth, demand, 1, prices, 0.5)[2] >= 1
    with pytest.raises(RuntimeError, match="did not end within 0 rounds, its proved limit"):
        _sell(worth, demand, 1, prices, 0.5, most_rounds=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"k": 1.5}, r"k=1\.5: expected a whole number"),
        ({"capacity": -1}, r"capacity=-1: expected a whole number of tokens"),
        ({"epsilon": 0}, r"epsilon=0: expected a number above 0"),
        ({"epsilon": math.nan}, r"epsilon=nan: expected a number above 0"),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        Auction(**arguments)


def test_what_cannot_be_sold_is_refused_in_words():
    with pytest.raises(lpr.InputError, match=r"k=4 is more than E, the number of experts \(3\)"):
        Auction(4)(torch.zeros(2, 3))
    with pytest.raises(lpr.InputError, match=r"give a capacity of at least 2"):
        Auction(1, 1)(torch.zeros(4, 2))
    with pytest.raises(lpr.InputError, match=r"no assignment keeps all bounds"):
        Auction(1)(torch.tensor([[0.0, NEVER], [0.0, NEVER], [0.0, NEVER]]))
    with pytest.raises(lpr.InputError, match=r"epsilon=1e-12 is too fine: .* from 1\.86265e-09 on"):
        auction(torch.tensor([[0.0, 1.0], [0.0, 1.5]]), epsilon=1e-12)
    with pytest.raises(lpr.InputError, match=r"logits\[0, 1\] is nan"):
        Auction(1)(torch.tensor([[0.0, math.nan]]))
