"""The optimum as a router: hand-worked choices, HiGHS, states, masks, precision, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import CATALOGUE, CapacityFactor, Optimal, Shape, TopK
from lp_routing.routers import optimal as module
from lp_routing.solvers.base import SolverResult, SolverStatus

NEVER = float("-inf")


def cold(router, scores):
    """The chosen pairs from cold prices."""
    return router.step(scores, router.initial(scores))[0]


def worth(scores, x):
    return float(scores.double()[x].sum())


# hand-worked


def test_the_token_with_less_to_lose_makes_room_and_the_price_is_what_it_loses():
    # Both want expert 0, which has one place. Token 0 loses 1 by moving on, token 1 loses 4: a
    # second place is worth 1, and any price from 1 to 4 keeps token 0 out and token 1 in.
    scores = torch.tensor([[5.0, 4.0], [5.0, 1.0]])
    routed, prices = Optimal(1, 1, score="logits")(scores)
    assert routed.x.int().tolist() == [[0, 1], [1, 0]]
    assert routed.weights.tolist() == [[0.0, 4.0], [5.0, 0.0]]
    paid = float(prices[0] - prices[1])
    assert 1 <= paid <= 4
    assert prices.dtype == torch.float64


def test_a_chain_of_moves_is_found():
    # Tokens 0 and 1 want expert 0, token 2 wants expert 1; one place each. Token 1 stays (9), token
    # 0 moves to expert 1 (4.5), token 2 to expert 2 (4.5): 18 in all.
    scores = torch.tensor([[5.0, 4.5, NEVER], [9.0, 1.0, NEVER], [NEVER, 5.0, 4.5]])
    assert cold(Optimal(1, 1), scores).int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_with_a_capacity_tokens_may_go_without_and_balanced_they_may_not():
    # As in the test of the same scores for `PriceRouter`: at most two each is worth 50 with five
    # pairs; two each, exactly, 40 with six.
    scores = torch.tensor([[10.0, 0.0, 0.0], [0.0, 10.0, 10.0], [0.0, 10.0, 10.0]])
    bounded, even = cold(Optimal(2, 2), scores), cold(Optimal(2), scores)
    assert worth(scores, bounded) == 50.0
    assert worth(scores, even) == 40.0
    assert int(even.sum()) == 6


def test_what_does_not_fit_is_dropped_where_it_loses_least():
    scores = torch.tensor([[5.0], [3.0], [4.0]])
    assert cold(Optimal(1, 2), scores).int().tolist() == [[1], [0], [1]]
    assert not cold(Optimal(1, 0), scores).any()


def test_below_zero_a_pair_is_left_out_under_a_capacity_and_taken_for_balance():
    scores = torch.tensor([[2.0, -1.0], [2.0, -3.0]])
    assert cold(Optimal(1, 1), scores).sum(0).tolist() == [1, 0]
    assert cold(Optimal(1), scores).int().tolist() == [[0, 1], [1, 0]]


def test_where_all_fit_it_is_token_choice():
    scores = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    routed, prices = Optimal(2, 50, score="logits")(scores)
    assert torch.equal(routed.x, TopK(2).select(scores))
    assert not prices.any()


def test_a_named_formula_counts_the_slots_and_padding_counts_too():
    # 6 tokens, 3 of them real, k = 1, E = 2, factor 1.1: megatron ceil(3.3) = 4, switch int(3.3).
    logits = torch.tensor([[3.0, 0.0]] * 6)
    for formula, slots in (("megatron", 4), ("switch", 3)):
        assert int(Optimal(1, CapacityFactor(1.1, formula))(logits)[0].load[0]) == slots
    mask = torch.tensor([True, False] * 3)
    routed, _ = Optimal(1, CapacityFactor(0.5))(logits, mask=mask)  # 1.5 of 6, rounded up: 2
    assert routed.load.tolist() == [2, 1]


# oracles


@st.composite
def batches(draw):
    """Scores with ties, forbidden pairs and padding, in three precisions; k; a capacity."""
    E = draw(st.sampled_from([1, 2, 3, 5, 8]))
    shape = draw(st.sampled_from([(), (1,), (2,), (2, 2)]))
    T = draw(st.integers(1, 24))
    k = min(draw(st.sampled_from([1, 2, 8])), E)
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.rand(*shape, T, E, generator=make)
    kind = draw(st.sampled_from(["equal", "few", "many", "signed"]))
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
    capacity = draw(st.sampled_from([0, 1, 2, T * k // E, -(-T * k // E), T, 10**6, None]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    return scores.to(dtype), k, capacity


def by_highs(scores, k, capacity):
    """What HiGHS says of one batch (T, E) without padding: its value, None where there is none."""
    if capacity is None:
        problem = lpr.problems.balanced(scores, k)
    else:
        problem = lpr.problems.capacity(scores, k, capacity)
    solution = lpr.solve(problem, lpr.HiGHS())
    return None if solution.status is lpr.Status.INFEASIBLE else float(solution.value)


@settings(max_examples=60)
@given(batch=batches())
def test_the_value_is_that_of_highs_cold_and_warm_and_the_prices_prove_it(batch):
    scores, k, capacity = batch
    router = Optimal(k, capacity)
    parts = [s[(s > NEVER).any(-1)] for s in scores.reshape(-1, *scores.shape[-2:])]
    best = [by_highs(part, k, capacity) if len(part) else 0.0 for part in parts]
    if None in best:
        with pytest.raises(lpr.InputError, match=r"[Nn]o assignment|infeasible"):
            cold(router, scores)
        return
    x, prices = router.step(scores, router.initial(scores))
    assert prices.shape == (*scores.shape[:-2], scores.shape[-1])
    wrong = torch.randn(prices.shape, generator=torch.Generator().manual_seed(0))
    for start in (prices, prices * 2, wrong):
        again, _ = router.step(scores, start)
        for each in (x, again):
            flat = each.reshape(-1, *scores.shape[-2:])
            values = [worth(s, c) for s, c in zip(scores.view(flat.shape), flat, strict=True)]
            assert values == pytest.approx(best, rel=1e-9, abs=1e-9)
            assert not each[scores == NEVER].any()
            assert int(each.sum(-1).max()) <= k
            assert capacity is None or int(each.sum(-2).max()) <= capacity
    for part, each, value in zip(parts, prices.reshape(-1, scores.shape[-1]), best, strict=True):
        if len(part) and capacity is not None:
            bound = lpr.dual_bound(lpr.problems.capacity(part, k, capacity), lpr.Prices(each))
            assert bound == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("k", "factor"), [(1, 1.0), (2, 1.0), (2, 1.25), (8, 1.0)])
def test_a_larger_batch_is_proved_optimal(k, factor):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2048, 8, generator=draw) @ torch.randn(8, 32, generator=draw)
    scores = torch.softmax(logits + torch.randn(32, generator=draw), 1)
    capacity = math.ceil(factor * 2048 * k / 32)
    x, prices = Optimal(k, capacity).step(scores, torch.zeros(32))
    problem = lpr.problems.capacity(scores, k, capacity)
    assert lpr.certify(problem, x, lpr.Prices(prices)).proves_optimal(1e-12)


# the state


def test_entries_of_a_batch_and_padding_have_nothing_to_do_with_each_other():
    make = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 20, 4, generator=make)
    mask = torch.rand(2, 3, 20, generator=make) < 0.7
    mask[1, 2] = False
    router = Optimal(2, 8)
    _, state = router(logits, mask=mask)
    routed, after = router(logits, state, mask=mask)
    assert not state[1, 2].any()
    for b in range(2):
        for c in range(3):
            real = mask[b, c]
            if real.any():
                alone, then = router(logits[b, c][real], state[b, c])
                assert torch.equal(routed.x[b, c][real], alone.x)
                assert torch.equal(routed.weights[b, c][real], alone.weights)
                assert torch.equal(after[b, c], then)
    assert not routed.x[~mask].any()


def test_the_search_starts_at_the_state(monkeypatch):
    starts = []

    class Recorded(module.MinCostFlow):
        def __init__(self, *, start=None):
            starts.append(start)
            super().__init__(start=start)

    monkeypatch.setattr(module, "MinCostFlow", Recorded)
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    logits[:, 0] += 2
    router = Optimal(2, 20)
    _, state = router(logits)
    assert starts == [None]
    assert state.any()
    router(logits, state)
    assert torch.equal(starts[1].experts, state)


def test_weights_carry_gradients_and_the_state_does_not():
    logits = torch.randn(20, 4, requires_grad=True)
    routed, state = Optimal(2, 12, normalise="kept")(logits)
    routed.weights.square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert not state.requires_grad


def test_bfloat16_is_widened_exactly():
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    few, _ = Optimal(2, 16)(logits)
    wide, _ = Optimal(2, 16)(logits.float())
    assert worth(lpr.scores.softmax(logits), few.x) == pytest.approx(
        worth(lpr.scores.softmax(logits.float()), wide.x), rel=1e-6
    )
    ready = logits.float().softmax(-1).bfloat16()
    assert worth(ready, cold(Optimal(2, 16), ready)) == pytest.approx(by_highs(ready, 2, 16))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ([0.0] * 4, r"state: expected the prices of the experts, .* got list"),
        (torch.zeros(4, dtype=torch.long), r"state: expected .* torch.int64"),
        (torch.zeros(5), r"state: expected .* of shape \(4,\), got .* \(5,\)"),
        (torch.tensor([0.0, math.nan, 0.0, 0.0]), r"must be finite"),
        (torch.tensor([0.0, math.inf, 0.0, 0.0]), r"must be finite"),
    ],
    ids=str,
)
def test_a_state_of_another_kind_is_refused(state, says):
    with pytest.raises(lpr.InputError, match=says):
        Optimal(1, 5)(torch.zeros(3, 4), state)


# options and errors


def test_what_it_seeks_follows_from_the_capacity():
    assert Optimal(2, 5).seeks == "capacity"
    assert Optimal(2).seeks == "balanced"
    assert CATALOGUE["optimal"](Shape(2, 7, 12, 4)) == Optimal(2, 7)
    assert not Optimal(2, 5).causal


def test_forbidden_pairs_that_leave_no_balanced_assignment_are_named_with_their_batch():
    # Both tokens of batch 1 may go to expert 0 alone, which takes one.
    scores = torch.tensor([[[1.0, 2.0], [2.0, 1.0]], [[1.0, NEVER], [2.0, NEVER]]])
    with pytest.raises(lpr.InputError, match=r"^batch \[1\], 2 of 2 tokens real: .*expert"):
        Optimal(1)(scores)
    assert Optimal(1, 1)(scores)[0].load.tolist() == [[1, 1], [1, 0]]


def test_an_answer_that_is_not_proved_is_refused(monkeypatch):
    # A solver that takes nothing and claims it is done.
    def idle(self, problem, *, integral=False):
        nothing = torch.zeros(problem.T, problem.E, dtype=torch.bool)
        return SolverResult(SolverStatus.FINISHED, nothing, lpr.Prices())

    monkeypatch.setattr(module.MinCostFlow, "answer", idle)
    with pytest.raises(lpr.InputError, match=r"certificate leaves a gap"):
        Optimal(1, 2)(torch.zeros(3, 4))


def test_more_experts_per_token_than_there_are_experts_is_refused():
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        Optimal(5, 3)(torch.zeros(3, 4))
