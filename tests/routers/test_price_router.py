"""Routing by prices: hand-worked cases, feasibility whatever comes, the gap to the optimum."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.dual_ascent import ascend, best_experts, newton
from lp_routing.routers.price import MOVABLE, FixedPrices, PriceRouter, _movable, _turn
from lp_routing.routers.repair import exchanged, filled, without_excess
from lp_routing.routers.token_choice import TopK

NEVER = float("-inf")


def cold(router, scores):
    """The chosen pairs from cold prices."""
    return router.step(scores, router.initial(scores))[0]


def wanted(scores, prices, k):
    """What tokens (T, E) want at prices (E,)."""
    return best_experts(scores[None], prices[None], k)


def stepped(scores, slots):
    """Prices (E,) after one whole Newton step from none, each token taking one expert."""
    prices = torch.zeros(scores.shape[1])
    now = wanted(scores, prices, 1)
    excess = now.load(len(prices)) - slots
    moving = (excess > 0).float()
    return newton(now, prices[None], excess * moving, moving, torch.ones(1))[0]


def worth(scores, x):
    return float(scores.double()[x].sum())


# hand-worked


def test_the_token_with_less_to_lose_makes_room():
    # Both want expert 0, which has one place. Token 0 loses 1 by moving on, token 1 loses 4.
    scores = torch.tensor([[5.0, 4.0], [5.0, 1.0]])
    assert cold(PriceRouter(1, 1), scores).int().tolist() == [[0, 1], [1, 0]]


# Claim: at_most and exactly are different problems even where E C = T K.
@pytest.mark.parametrize(("rows", "value"), [("at_most", 50.0), ("exactly", 40.0)])
def test_at_most_k_and_exactly_k_have_different_answers(rows, value):
    scores = torch.tensor([[10.0, 0.0, 0.0], [0.0, 10.0, 10.0], [0.0, 10.0, 10.0]])
    x = cold(PriceRouter(2, 2, rows=rows), scores)
    assert worth(scores, x) == value
    assert int(x.sum()) == (5 if rows == "at_most" else 6)


def test_an_exchange_places_the_slot_that_no_expert_with_room_can_take():
    # k = 2, two places each. Token 2 has expert 2 and needs another; the only place left is at
    # expert 2 itself. Token 0 moves from 0 to 2 (loses 1) rather than from 1 to 2 (loses 2).
    x = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)[None]
    scores = torch.tensor([[5.0, 6.0, 4.0], [9.0, 9.0, 1.0], [3.0, 3.0, 3.0]])[None]
    full = filled(x, scores, 2, 2, must=True)[0]
    assert full.int().tolist() == [[0, 1, 1], [1, 1, 0], [1, 0, 1]]


def test_empty_slots_go_to_the_best_who_ask_and_the_refused_ask_again():
    # Expert 0 has one place: token 1 offers more for it. Token 0 then asks expert 1.
    scores = torch.tensor([[[3.0, 1.0], [4.0, 2.0]]])
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    assert filled(nothing, scores, 1, 1).int().tolist() == [[[0, 1], [1, 0]]]
    assert not filled(nothing, -scores, 1, 1).any()


def test_an_expert_above_its_capacity_lets_go_who_loses_least():
    # Expert 1 has no place more: token 0 would lose 3, token 1 only 1, token 2 again 3.
    x = torch.tensor([[[1, 0], [1, 0], [1, 1]]], dtype=torch.bool)
    scores = torch.tensor([[[3.0, 9.0], [1.0, 9.0], [3.0, 0.0]]])
    one_place = without_excess(x, scores, 1)
    assert one_place.int().tolist() == [[[0, 0], [0, 0], [1, 1]]]
    # With two places expert 1 has room for one: tokens 0 and 1 gain by moving there, token 1 more.
    assert without_excess(x, scores, 2).int().tolist() == [[[1, 0], [0, 0], [1, 1]]]
    assert not without_excess(x, scores, 0).any()
    assert torch.equal(without_excess(x, scores, 3), x)


# Expert 0 holds two tokens with one place, expert 1 one of one, expert 2 has room. Straight from 0
# to 2 nobody hesitates; token 0 hesitates between 0 and 1, token 2 between 1 and 2.
CHAIN = torch.tensor([[5.0, 4.5, NEVER], [9.0, 1.0, NEVER], [NEVER, 5.0, 4.5]])


def test_a_chain_of_two_tokens_makes_room():
    held = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)[None]
    load = torch.tensor([[2.0, 1.0, 0.0]])
    x, after = exchanged(held, CHAIN[None], torch.zeros(1, 3), load, 1, 1)
    assert x[0].int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert after.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("scores", "k", "value"),
    [
        # Prices find the best, 4 + 2 + 4 + 5 (experts 3, 2, 1, 0). Row top-1 with drops keeps 4 and
        # 6 at experts 1 and 0; what it dropped gets 2 and 1.
        ([[3, 4, 1, 4], [4, 1, 2, 0], [6, 4, 0, 1], [5, 2, 2, 1]], 1, 15),
        # Here row top-2 with drops ends at 40 and prices at 39.
        (
            [
                [10, 1, 5, 4, 5, 3, 0, 1],
                [12, 4, 3, 2, 3, 1, 3, 4],
                [11, 1, 4, 2, 2, 1, 2, 4],
                [14, 1, 2, 4, 0, 3, 4, 0],
            ],
            2,
            40,
        ),
    ],
)
def test_of_prices_and_row_top_k_with_drops_the_better_is_taken(scores, k, value):
    scores = torch.tensor(scores, dtype=torch.float32)
    assert worth(scores, cold(PriceRouter(k, 1), scores)) >= value


def test_who_can_go_nowhere_else_goes_nowhere():
    # One place, no other expert that token 1 may take: it leaves, as it loses less.
    scores = torch.tensor([[5.0, NEVER], [4.0, NEVER]])
    held = torch.tensor([[1, 0], [1, 0]], dtype=torch.bool)
    x, load = exchanged(
        held[None], scores[None], torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), 1, 1
    )
    assert x[0].int().tolist() == [[1, 0], [0, 0]]
    assert load.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("second", "load"), [(1.25, [0.0, 2.0]), (0.75, [1.0, 1.0])])
def test_a_priced_expert_with_room_draws_those_whose_score_grows(second, load):
    # Expert 1 charges 1 and stands empty. Token 0 gains 0.75 there, token 1 gains or loses 0.25.
    scores = torch.tensor([[[1.0, 1.75], [1.0, second]]])
    prices = torch.tensor([[0.0, 1.0]])
    held = torch.tensor([[[1, 0], [1, 0]]], dtype=torch.bool)
    _, after = exchanged(held, scores - prices, prices, torch.tensor([[2.0, 0.0]]), 2, 1)
    assert after.tolist() == [load]


def test_an_empty_slot_is_filled_where_that_earns_something():
    scores = torch.tensor([[[2.0, 1.0]]])
    held = torch.tensor([[[1, 0]]], dtype=torch.bool)
    for prices, both in (([[0.0, 0.5]], [1, 1]), ([[0.0, 0.0]], [1, 0])):  # the latter: `filled`
        p = torch.tensor(prices)
        x, _ = exchanged(held, scores - p, p, torch.tensor([[1.0, 0.0]]), 1, 2)
        assert x[0, 0].int().tolist() == both


# the dual


def test_an_answer_lists_what_is_wanted_and_the_next_best():
    scores = torch.tensor([[3.0, 2.0, 1.0], [0.5, NEVER, 0.25]])
    answer = wanted(scores, torch.tensor([0.5, 0.0, 0.0]), 1)
    assert answer.expert[:, 0].mT.tolist() == [[0, 1], [2, 0]]
    assert answer.value[:, 0].mT.tolist() == [[2.5, 2.0], [0.25, 0.0]]
    assert answer.margin.tolist() == [[0.5, 0.25]]
    assert answer.load(3).tolist() == [[1.0, 0.0, 1.0]]
    assert answer.taken(3)[0].int().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_equal_experts_are_listed_lowest_first():
    assert wanted(torch.ones(1, 4), torch.zeros(4), 2).expert[:, 0, 0].tolist() == [0, 1, 2]


def test_a_slot_that_is_empty_at_these_prices_is_near_being_filled():
    # Worth 1 at a price of 1.25: a quarter away from being taken, and nothing is held.
    answer = wanted(torch.tensor([[1.0, NEVER]]), torch.tensor([1.25, 0.0]), 1)
    assert answer.margin.tolist() == [[0.25]]
    assert answer.load(2).tolist() == [[0.0, 0.0]]


def test_where_every_expert_is_held_the_next_best_is_nothing():
    answer = wanted(torch.ones(1, 2), torch.zeros(2), 2)
    assert answer.value[:, 0, 0].tolist() == [1.0, 1.0, NEVER]
    assert answer.margin.tolist() == [[1.0]]


def test_a_newton_step_raises_the_price_of_a_full_expert_and_leaves_a_free_one_at_zero():
    scores = torch.tensor([[1.0, 0.9], [1.0, 0.8], [1.0, 0.7], [1.0, 0.6]])
    after = stepped(scores, 2.0)
    # Two tokens too many. The nearest quarter lies within 0.1, so all four lie within 0.4, the
    # window; four tokens couple the prices, and 1 is added to the diagonal: 2 / 5 of it, times 1.4.
    assert after.tolist() == [pytest.approx(0.4 * 0.4 * 1.4), 0.0]


def test_tokens_near_an_empty_slot_add_to_the_diagonal():
    # One slot, no other expert allowed: only the diagonal holds the price.
    scores = torch.tensor([[0.1, NEVER], [0.2, NEVER], [0.3, NEVER], [0.4, NEVER]])
    after = stepped(scores, 1.0)
    assert after.tolist() == [pytest.approx(0.4 * 3 / 5 * 1.4), 0.0]


@settings(max_examples=30)
@given(st.integers(0, 50))
def test_the_dual_is_the_certified_bound_and_no_step_raises_it(seed):
    make = torch.Generator().manual_seed(seed)
    scores, prices = torch.randn(20, 5, generator=make).double(), torch.rand(1, 5, generator=make)
    prices, slots, tokens = prices.double(), torch.full((1, 5), 6.0).double(), scores[None]
    problem = lpr.problems.capacity(scores, 2, 6)
    before = float(best_experts(tokens, prices, 2).dual(prices, slots))
    assert before == pytest.approx(lpr.dual_bound(problem, lpr.Prices(prices[0])))
    now, after = ascend(tokens, prices, slots, 2, 4)
    assert float(now.dual(after, slots)) <= before
    assert torch.equal(now.value, best_experts(tokens, after, 2).value)


def test_prices_stay_within_their_reach_and_stop_when_enough_is_done():
    scores = torch.rand(1, 64, 4, generator=torch.Generator().manual_seed(0))
    scores[..., 0] += 0.5
    nothing, slots = torch.zeros(1, 4), torch.full((1, 4), 16.0)
    _, near = ascend(scores, nothing, slots, 1, 5, reach=torch.full((1, 1), 0.125))
    assert near.max() == 0.125
    _, far = ascend(scores, nothing, slots, 1, 5)
    assert far.max() > 0.125
    _, idle = ascend(scores, nothing, slots, 1, 5, enough=64.0)
    assert torch.equal(idle, nothing)


def test_prices_after_some_steps_prove_a_bound_near_the_optimum():
    scores = torch.rand(512, 8, generator=torch.Generator().manual_seed(0)) ** 2
    scores[:, 0] += 0.5
    slots = torch.full((1, 8), 150.0)
    _, prices = ascend(scores[None], torch.zeros(1, 8), slots, 2, 8)
    problem = lpr.problems.capacity(scores, 2, 150)
    best = float(lpr.solve(problem, lpr.MinCostFlow()).value)
    assert lpr.dual_bound(problem, lpr.Prices(prices[0])) <= best * (1 + 1e-4)
    assert lpr.dual_bound(problem, lpr.Prices()) > best * (1 + 1e-2)


def test_tokens_to_move_are_different_ones_half_of_them_leave_full_experts_by_turns():
    # 96 of 100 tokens hold expert 0 and 4 expert 1, each with 2 places; turns count the excess.
    scores = torch.full((1, 100, 3), 0.125)
    scores[0, :96, 0] = 1 + torch.arange(96) / 128
    scores[0, 96:, 1] = 2 + torch.arange(4) / 128
    now = best_experts(scores, torch.zeros(1, 3), 1)
    chosen = _movable(now, now.load(3), 2)[0]
    assert len(chosen.unique()) == len(chosen) == 3 * MOVABLE
    assert set(range(20)) <= set(chosen.tolist())  # of expert 0, those who lose least
    assert 96 in chosen  # of expert 1, though it loses more than any token of expert 0


def test_whose_turn_it_is_counts_each_place_and_entry_on_its_own():
    places = torch.tensor([[2, 0, 2, 2, 0], [1, 1, 1, 1, 1]])
    assert _turn(places, 3).tolist() == [[0, 0, 1, 2, 1], [0, 1, 2, 3, 4]]


# Many tokens: a sample, all, and those who hesitate are three different sets.
@pytest.mark.parametrize(("k", "factor"), [(1, 1.0), (2, 1.0), (2, 1.25)])
def test_the_gap_stays_small_on_many_skewed_tokens(k, factor):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(8192, 8, generator=draw) @ torch.randn(8, 64, generator=draw)
    scores = torch.softmax(logits + torch.randn(64, generator=draw), 1)
    capacity = math.ceil(factor * 8192 * k / 64)
    x = cold(PriceRouter(k, capacity), scores)
    best = float(lpr.solve(lpr.problems.capacity(scores, k, capacity), lpr.MinCostFlow()).value)
    assert x.sum(0).max() <= capacity
    assert best * (1 - 1e-3) <= worth(scores, x) <= best * (1 + 1e-12)


# never above capacity


@st.composite
def batches(draw):
    """Scores with ties, forbidden pairs and padding; k; a capacity."""
    E = draw(st.sampled_from([1, 2, 3, 5, 8, 64]))
    shape = draw(st.sampled_from([(), (1,), (2,), (2, 2)]))
    T = draw(st.integers(1, 40))
    k = min(draw(st.sampled_from([1, 2, 8])), E)
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["equal", "few", "many", "signed"]))
    scores = torch.rand(*shape, T, E, generator=make)
    if kind == "equal":
        scores = torch.ones_like(scores)
    elif kind == "few":
        scores = (scores * 3).round()
    elif kind == "signed":
        scores = scores * 4 - 2
    if draw(st.booleans()):
        scores[torch.rand(scores.shape, generator=make) < 0.4] = NEVER
    if draw(st.booleans()):
        scores[torch.rand(scores.shape[:-1], generator=make) < 0.3] = NEVER
    capacity = draw(
        st.sampled_from([0, 1, 2, T * k // E, -(-T * k // E), T, 10**6]),
    )
    return (
        scores.to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))),
        k,
        capacity,
    )


@given(batch=batches(), rows=st.sampled_from(["at_most", "exactly"]))
def test_no_expert_is_ever_above_its_capacity_and_no_token_above_k(batch, rows):
    scores, k, capacity = batch
    router = PriceRouter(k, capacity, rows=rows)
    x, prices = router.step(scores, router.initial(scores))
    again, _ = router.step(scores, prices)
    for chosen in (x, again):
        assert chosen.shape == scores.shape
        assert (chosen.sum(-2) <= capacity).all()
        assert (chosen.sum(-1) <= k).all()
        assert not (chosen & (scores == NEVER)).any()
        if rows == "at_most":
            assert not (chosen & (scores < 0)).any()
    assert prices.isfinite().all()
    assert (prices >= 0).all()


@given(batch=batches(), rows=st.sampled_from(["at_most", "exactly"]))
def test_nothing_is_left_that_could_be_taken_at_once(batch, rows):
    scores, k, capacity = batch
    x = cold(PriceRouter(k, capacity, rows=rows), scores)
    gaining = scores > (0 if rows == "at_most" else NEVER)
    room = (x.sum(-2, keepdim=True) < capacity) & (x.sum(-1, keepdim=True) < k)
    assert not (gaining & ~x & room).any()


@pytest.mark.parametrize("k", [1, 2, 8])
@pytest.mark.parametrize("E", [8, 64])
@pytest.mark.parametrize("ties", ["equal", "few", "none"])
def test_without_forbidden_pairs_all_slots_are_placed_where_they_just_fit(k, E, ties):
    scores = torch.rand(64, E, generator=torch.Generator().manual_seed(E + k))
    scores = {"equal": torch.ones(64, E), "few": (2 * scores).round(), "none": scores}[ties]
    x = cold(PriceRouter(k, 64 * k // E, rows="exactly"), scores)
    assert (x.sum(1) == k).all()
    assert (x.sum(0) == 64 * k // E).all()


def test_what_no_expert_has_room_for_is_dropped():
    router = PriceRouter(1, 1, rows="exactly")
    routed, _ = router(torch.zeros(5, 3))
    assert int(routed.dropped.sum()) == 2
    assert routed.load.tolist() == [1.0, 1.0, 1.0]


def test_a_loose_capacity_leaves_token_choice():
    scores = torch.rand(2, 50, 6, generator=torch.Generator().manual_seed(3))
    assert torch.equal(cold(PriceRouter(2, 50), scores), TopK(2).select(scores))


# near the optimum


def half_layers(factor, k):
    for layer in range(4):
        scores = lpr.scores.softmax(lpr.traces.sample().layer(layer))
        T, E = 2048, scores.shape[1]
        yield scores[:T], scores[T:], math.ceil(factor * T * k / E)


@pytest.mark.parametrize(
    ("k", "factor", "most"), [(2, 1.0, 1e-2), (2, 1.25, 2e-4), (1, 1.5, 1e-3), (2, 1.5, 1e-4)]
)
def test_the_gap_to_the_optimum_is_small_cold_and_warm(k, factor, most):
    for first, second, capacity in half_layers(factor, k):
        router = PriceRouter(k, capacity)
        best = float(lpr.solve(lpr.problems.capacity(second, k, capacity), lpr.MinCostFlow()).value)
        _, state = router.step(first, router.initial(first))
        for start in (router.initial(second), state):
            x, _ = router.step(second, start)
            assert x.sum(0).max() <= capacity
            assert best * (1 - most) <= worth(second, x) <= best * (1 + 1e-12)


@settings(max_examples=40)
@given(st.integers(0, 200), st.sampled_from(["at_most", "exactly"]))
def test_no_routing_is_worth_more_than_the_optimum(seed, rows):
    scores = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)).double()
    x = cold(PriceRouter(2, 6, rows=rows), scores)
    bound = {"at_most": lpr.at_most, "exactly": lpr.exactly}[rows]
    problem = lpr.RoutingProblem(scores, tokens=bound(2), experts=lpr.at_most(6))
    proof = lpr.certify(problem, x, lpr.solve(problem).prices)
    assert proof.keeps_bounds()
    assert proof.gap >= -1e-9


# batches, masks, states


@pytest.mark.parametrize("make", [PriceRouter, FixedPrices])
def test_batches_are_routed_each_on_its_own(make):
    logits = torch.randn(2, 2, 40, 6, generator=torch.Generator().manual_seed(1)).double()
    mask = torch.rand(2, 2, 40, generator=torch.Generator().manual_seed(2)) < 0.8
    router, state = make(2, CapacityFactor(1.0)), None
    for _ in range(2):
        before = state
        routed, state = router(logits, before, mask=mask)
        assert state.shape == (2, 2, 6)
        for b in range(2):
            for c in range(2):
                own = None if before is None else before[b, c]
                alone, after = router(logits[b, c], own, mask=mask[b, c])
                assert torch.equal(routed.x[b, c], alone.x)
                assert torch.equal(routed.weights[b, c], alone.weights)
                torch.testing.assert_close(state[b, c], after)
        assert not routed.x[~mask].any()


@pytest.mark.parametrize("make", [PriceRouter, FixedPrices])
def test_one_state_may_serve_all_entries(make):
    logits = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(1))
    shared = torch.tensor([0.1, 0.0, 0.0, 0.2])
    one, _ = make(1, 6)(logits, shared)
    each, _ = make(1, 6)(logits, shared.expand(3, 4))
    assert torch.equal(one.x, each.x)


def test_weights_carry_gradients():
    logits = torch.randn(20, 4, requires_grad=True)
    routed, state = PriceRouter(2, 12, normalise="kept")(logits)
    routed.weights.square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert not state.requires_grad


@pytest.mark.parametrize("make", [PriceRouter, FixedPrices])
@pytest.mark.parametrize(
    ("state", "says"),
    [
        ([0.0] * 4, r"state: expected prices as floats of shape \(4,\), got list"),
        (torch.zeros(4, dtype=torch.long), r"state: expected prices as floats .* torch.int64"),
        (torch.zeros(5), r"state: expected prices of shape \(4,\).* got \(5,\)"),
        (torch.zeros(2, 4), r"state: expected prices of shape \(4,\).* got \(2, 4\)"),
        (torch.tensor([0.0, math.nan, 0.0, 0.0]), r"state: prices must be finite"),
        (torch.tensor([0.0, math.inf, 0.0, 0.0]), r"state: prices must be finite"),
        (torch.tensor([0.0, -1.0, 0.0, 0.0]), r"state: prices must be finite and at least 0"),
    ],
    ids=str,
)
def test_a_state_of_another_kind_is_refused(make, state, says):
    with pytest.raises(lpr.InputError, match=says):
        make(1, 5)(torch.zeros(3, 4), state)


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (PriceRouter, {"k": 0}, r"k=0: it must be at least 1"),
        (PriceRouter, {"capacity": -1}, r"capacity=-1: expected a whole number of tokens"),
        (PriceRouter, {"rows": "at least"}, r"rows='at least': expected .at_most. or .exactly."),
        (PriceRouter, {"steps": -1}, r"steps=-1: it must be at least 0"),
        (PriceRouter, {"score": "softmaxx"}, r"score 'softmaxx': expected a function"),
        (PriceRouter, {"normalise": "sum"}, r"normalise='sum'"),
        (FixedPrices, {"k": 1.5}, r"k=1\.5: expected a whole number"),
        (FixedPrices, {"capacity": 2.5}, r"capacity=2\.5: expected a whole number"),
        (FixedPrices, {"enforce": "yes"}, r"enforce='yes': expected True or False"),
        (FixedPrices, {"score": 3}, r"score 3: expected a function"),
        (FixedPrices, {"normalise": "sum"}, r"normalise='sum'"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(make, arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        make(**{"k": 1, "capacity": 4, **arguments})


@pytest.mark.parametrize("make", [PriceRouter, FixedPrices])
def test_more_experts_per_token_than_there_are_experts_is_refused(make):
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        make(5, 3)(torch.zeros(3, 4))


# prices fixed before the batch


def test_fixed_prices_admit_what_is_worth_more_than_its_price():
    scores = torch.tensor([[3.0, 2.0], [3.0, 1.0], [3.0, 1.5]])
    router = FixedPrices(1, 2, score="logits")
    state = torch.tensor([1.25, 0.0])
    # 1.75 against 2, 1, 1.5: token 0 goes to expert 1, the others to expert 0.
    routed, after = router(scores, state)
    assert routed.x.int().tolist() == [[0, 1], [1, 0], [1, 0]]
    # At 3.5 and 2 nothing is worth its price but nothing is also taken.
    assert not router(scores, torch.tensor([3.5, 2.0]))[0].x.any()
    assert after.shape == (2,)


def test_cold_it_is_token_choice_and_enforced_it_lets_in_who_comes_first():
    logits = torch.tensor([[2.0, 0.0], [3.0, 0.0], [9.0, 0.0]])
    assert FixedPrices(1, 1, enforce=False)(logits)[0].x.int().tolist() == [[1, 0]] * 3
    assert FixedPrices(1, 1)(logits)[0].x.int().tolist() == [[1, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("enforce", [False, True])
@settings(max_examples=25)
@given(st.integers(0, 100))
def test_tokens_appended_later_change_no_earlier_row(enforce, seed):
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
    router = FixedPrices(2, 9, enforce)
    assert router.causal
    state = torch.tensor([0.1, 0.0, 0.05, 0.3])
    assert torch.equal(router(logits, state)[0].x[:11], router(logits[:11], state)[0].x)


def test_a_capacity_that_grows_with_the_batch_is_causal_only_if_not_enforced():
    assert not FixedPrices(1, CapacityFactor(1.0)).causal
    assert FixedPrices(1, CapacityFactor(1.0), enforce=False).causal
    assert not PriceRouter(1, 4).causal
    # With four tokens the second one is late, with eight it is not.
    router, logits = FixedPrices(1, CapacityFactor(1.0)), torch.tensor([[1.0, 0.0]] * 8)
    assert int(router(logits[:4])[0].x[:4].sum()) == 2
    assert int(router(logits)[0].x[:4].sum()) == 4


def test_prices_learned_from_one_batch_balance_the_next_of_its_kind():
    logits = torch.randn(2, 1024, 8, generator=torch.Generator().manual_seed(0))
    logits[..., 0] += 2
    router = FixedPrices(2, 320, enforce=False)
    cold_x, state = router(logits[0])
    warm_x, _ = router(logits[1], state)
    assert cold_x.load.max() > 700
    assert warm_x.load.max() < 380


@given(batch=batches())
def test_enforced_fixed_prices_never_exceed_a_capacity(batch):
    scores, k, capacity = batch
    router = FixedPrices(k, capacity)
    _, state = router.step(scores, router.initial(scores))
    x, _ = router.step(scores, state)
    assert (x.sum(-2) <= capacity).all()
    assert (x.sum(-1) <= k).all()
    assert not (x & (scores == NEVER)).any()


def popular(seed):
    """Logits of which one or two experts are wanted by nearly all tokens, k and a capacity."""
    draw = random.Random(seed)
    T, E, k = draw.choice([5, 64, 200, 1024]), draw.choice([3, 8, 32]), draw.choice([1, 1, 2])
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(seed))
    logits[:, : draw.choice([1, 2])] += draw.choice([2, 5, 10])
    factor = draw.choice([1.0, 1.25, 2.0])
    return logits, k, min(T, max(1, math.ceil(factor * T * k / E)))


@pytest.mark.parametrize("seed", range(40))
def test_an_expert_that_all_want_is_neither_emptied_nor_crowded(seed):
    logits, k, capacity = popular(seed)
    scores = lpr.scores.softmax(logits)
    solution = lpr.solve(lpr.problems.capacity(scores.double(), k, capacity), lpr.MinCostFlow())
    bound, best = float(solution.bound), solution.assignment.x.sum(0)
    ours, state = PriceRouter(k, capacity)(logits)
    dropped = TopK(k, capacity=capacity)(logits)
    lost, lost_by_dropping = (
        1 - float(scores[each.x].double().sum()) / bound for each in (ours, dropped)
    )
    assert int(ours.load.max()) <= capacity
    assert lost <= lost_by_dropping + 0.03
    if int(best[0]) == capacity:
        assert int(ours.load[0]) == capacity  # a price that nobody pays helps nobody
    assert bool((state <= 1).all())  # no pair is worth more


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_one_expert_of_many_that_all_want_is_not_emptied(factor):
    # its slots are few of all; at price 1 nobody would take any, and nearly all value is there
    logits = torch.randn(1024, 32, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 20
    capacity = math.ceil(factor * 2 * 1024 / 32)
    scores = lpr.scores.softmax(logits)
    best = float(lpr.solve(lpr.problems.capacity(scores.double(), 2, capacity)).value)
    x = PriceRouter(2, capacity)(logits)[0].x
    assert float(scores.double()[x].sum()) > (1 - 1e-6) * best


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_exactly_k_is_the_same_whatever_the_unit_of_the_scores(scale):
    scores = torch.rand(512, 8, generator=torch.Generator().manual_seed(1))
    router = PriceRouter(2, 140, rows="exactly", score="logits")
    assert torch.equal(router(scores * scale)[0].x, router(scores)[0].x)


def test_a_favourite_by_hand():
    # five tokens all want expert 0, which has three places; two go to the others, for next to none
    logits = torch.zeros(5, 3)
    logits[:, 0] = 5
    assert PriceRouter(1, 3)(logits)[0].load.tolist()[0] == 3
