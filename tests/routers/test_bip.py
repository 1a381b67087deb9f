"""`BIP` and `OnlineBIP`: hand-worked prices, slow loops, the dual, claim O1, laws, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import CapacityFactor, TopK
from lp_routing.routers.dual_updates import BIP, History, OnlineBIP

NEVER = float("-inf")


def raw(k, **options):
    return BIP(k, score="logits", **options)


def bound(scores, k, capacity, prices):
    return lpr.dual_bound(lpr.problems.capacity(scores, k, capacity), lpr.Prices(experts=prices))


# Three tokens like expert 0, by 6, 4 and 1; k = 1 and one place each, two turns.
#   q = (0, 0): tokens pay their second best (2, 2, 1) and leave (6, 4, 1) to expert 0, whose second
#   is 4, and (0, 0, 0) to expert 1: q = (4, 0). Then tokens pay min(4, 2), min(2, 2), min(1, -2),
#   not below 0, which is (2, 2, 0), and leave (6, 4, 2) and (0, 0, 1): q = (4, 0) again.
#   Top-1 of s - q: (4, 2), (2, 2), (-2, 1): token 1 ties and stays, so expert 0 has two for one.
THREE = torch.tensor([[8.0, 2.0], [6.0, 2.0], [2.0, 1.0]], dtype=torch.float64)


def test_the_turns_by_hand():
    for iterations in (1, 2):
        routed, state = raw(1, iterations=iterations, capacity=1)(THREE)
        assert state.tolist() == [4.0, 0.0]
        assert routed.x.int().tolist() == [[1, 0], [1, 0], [0, 1]]
    # The best is 8 + 2, with token 2 empty-handed: prices (5, 1) prove it, the turns stop at 11.
    assert bound(THREE, 1, 1, state) == 11
    assert bound(THREE, 1, 1, torch.tensor([5.0, 1.0])) == 10
    assert lpr.solve(lpr.problems.capacity(THREE, 1, 1)).value == 10


# Claim O1: with <= the best is 401 (the last token takes only the 1), with = it is 352. BIP's
# prices bound the first, not the second; on this case its turns stop at 402 (q = 49), where
# q = 50 and no price for the last token would prove 401.
PAPER = torch.tensor([[100, 100, 1], [100, 100, 1], [50, 50, 1]], dtype=torch.float64)


def test_it_seeks_the_problem_with_at_most_not_the_balanced_one():
    routed, state = raw(2, iterations=20)(PAPER)
    assert state.tolist() == [49.0, 49.0, 0.0]
    assert bound(PAPER, 2, 2, state) == 402
    assert bound(PAPER, 2, 2, torch.tensor([50.0, 50.0, 0.0])) == 401
    assert lpr.solve(lpr.problems.capacity(PAPER, 2, 2)).value == 401
    assert lpr.solve(lpr.problems.balanced(PAPER, 2)).value == 352
    assert routed.load.tolist() == [3, 3, 0]  # ties at the price: above the capacity of 2


def bip_by_loop(scores, q, k, C, iterations):
    T, E = len(scores), len(scores[0])

    def past(values, count):
        return max(0.0, sorted(values, reverse=True)[count]) if count < len(values) else 0.0

    for _ in range(iterations):
        p = [past([s - b for s, b in zip(row, q, strict=True)], k) for row in scores]
        q = [past([scores[t][e] - p[t] for t in range(T)], C) for e in range(E)]
    return q, [best_of(row, q, k) for row in scores]


def best_of(row, q, k):
    liked = [e for e in range(len(row)) if row[e] > NEVER]
    taken = sorted(liked, key=lambda e: -(row[e] - q[e]))[:k]
    return [int(e in taken) for e in range(len(row))]


def tied(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 8, shape, generator=draw).to(dtype) / 8
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 10, NEVER)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("capacity", [0, 1, 3, 6, 9])
def test_it_equals_the_slow_loop_where_many_scores_tie(k, capacity):
    for seed in range(5):
        state, q = None, [0.0] * 4
        for batch in tied(3, 6, 4, seed=seed):
            routed, state = raw(k, iterations=3, capacity=capacity)(batch, state)
            q, x = bip_by_loop(batch.tolist(), q, k, capacity, 3)
            assert state.tolist() == q
            assert routed.x.int().tolist() == x


def test_the_loop_tells_capacities_and_iterations_apart():
    batch = tied(6, 4).tolist()
    answers = [bip_by_loop(batch, [0.0] * 4, 2, C, n)[0] for C, n in ((1, 1), (1, 3), (3, 3))]
    assert answers[0] != answers[1]
    assert answers[1] != answers[2]


tables = st.lists(
    st.lists(st.sampled_from([NEVER, -1.0, 0.0, 1.0, 2.5, 3.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=7,
)


@given(table=tables, k=st.integers(1, 4), capacity=st.integers(0, 5))
def test_the_dual_value_never_rises_and_never_falls_below_the_optimum(table, k, capacity):
    scores = torch.tensor(table, dtype=torch.float64)
    best = lpr.solve(lpr.problems.capacity(scores, k, capacity)).value
    state, last = None, math.inf
    for _ in range(4):
        _, state = raw(k, iterations=1, capacity=capacity)(scores, state)
        now = bound(scores, k, capacity, state)
        assert best - 1e-9 <= now <= last + 1e-9
        assert (state >= 0).all()
        last = now


@given(table=tables, k=st.integers(1, 4), padded=st.integers(0, 7))
@pytest.mark.parametrize("make", [BIP, OnlineBIP])
def test_every_token_takes_k_allowed_experts_and_padding_plays_no_part(make, table, k, padded):
    scores, mask = torch.tensor(table).double(), torch.arange(len(table)) < padded
    router = make(k, capacity=2, score="logits")
    routed, state = router(scores, mask=mask)
    allowed = (scores > NEVER) & mask[:, None]
    assert torch.equal(routed.x.sum(-1), allowed.sum(-1).clamp(max=k))
    assert not (routed.x & ~allowed).any()
    if mask.any():
        alone, of_alone = router(scores[mask])
        assert torch.equal(routed.x[mask], alone.x)
        assert torch.equal(prices(state), prices(of_alone))


def prices(state):
    return state.prices if isinstance(state, History) else state


@given(table=tables, k=st.integers(1, 4))
@pytest.mark.parametrize("make", [BIP, OnlineBIP])
def test_with_room_for_all_it_is_top_k(make, table, k):
    logits = torch.tensor(table)
    routed, state = make(k, capacity=7, normalise="kept")(logits)
    plain = TopK(k, normalise="kept")(logits)
    assert torch.equal(routed.x, plain.x)
    assert torch.equal(routed.weights, plain.weights)
    assert not prices(state).any()


def test_both_spread_the_load_of_a_skewed_batch():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(512, 16, generator=draw) + torch.linspace(2, -2, 16)
    share = 512 * 2 / 16
    assert TopK(2)(logits).load.max() > 2 * share
    assert BIP(2, iterations=14)(logits)[0].load.max() < 1.3 * share
    online = OnlineBIP(2, window=128)
    _, state = online(logits)
    again, _ = online(logits, state)
    assert again.load.max() < 1.3 * share
    assert BIP(2, capacity=CapacityFactor(2.0))(logits)[0].load.max() > 1.3 * share


def online_by_loop(scores, k, C, window, iterations):
    """Algorithm 3 with sorted lists, token after token."""
    E = len(scores[0])
    q, history, x = [0.0] * E, [[] for _ in range(E)], []
    for row in scores:
        if max(row) > NEVER:
            for _ in range(iterations):
                left = sorted((s - b for s, b in zip(row, q, strict=True)), reverse=True)
                p = max(0.0, left[k]) if k < E else 0.0
                for e in range(E):
                    offered = sorted([*history[e], row[e] - p], reverse=True)
                    q[e] = max(0.0, offered[C]) if len(offered) > C else 0.0
            for e in range(E):
                history[e] = [*history[e], row[e] - p][-window:]
        x.append(best_of(row, q, k))
    return x, q


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize(("capacity", "window"), [(0, 3), (1, 4), (2, 5), (3, 3), (5, 99)])
def test_online_equals_the_slow_loop(k, capacity, window):
    router = OnlineBIP(k, iterations=2, window=window, capacity=capacity, score="logits")
    for seed in range(3):
        batch = tied(20, 4, seed=seed)
        batch[3] = NEVER
        routed, state = router(batch)
        x, q = online_by_loop(batch.tolist(), k, capacity, window, 2)
        assert routed.x.int().tolist() == x
        assert state.prices.tolist() == q
        assert state.seen == (batch > NEVER).any(-1).sum()


def test_online_is_causal_and_does_not_see_where_a_sequence_is_cut():
    logits = tied(24, 4, seed=3)
    router = OnlineBIP(2, window=6, score="logits")
    assert router.causal
    whole, end = router(logits)
    for t in (1, 7, 23):
        head, state = router(logits[:t])
        tail, after = router(logits[t:], state)
        assert torch.equal(torch.cat([head.x, tail.x]), whole.x)
        assert torch.equal(after.prices, end.prices)
        assert torch.equal(after.margins, end.margins)
    before = state.margins.clone()
    router(logits[:5], state)
    assert torch.equal(state.margins, before)  # a state can be kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("make", [BIP, OnlineBIP])
def test_leading_dimensions_are_routed_each_with_a_state_of_its_own(make, dtype):
    logits, mask = tied(2, 3, 8, 4, dtype=dtype, seed=1), torch.rand(2, 3, 8) < 0.8
    router = make(2, capacity=2)
    _, state = router(logits)
    routed, after = router(logits, state, mask=mask)
    for b in range(2):
        for c in range(3):
            first = router(logits[b, c])[1]
            alone, later = router(logits[b, c], first, mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)
            assert torch.equal(prices(after)[b, c], prices(later))


@pytest.mark.parametrize("make", [BIP, OnlineBIP])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"iterations": 0}, r"iterations=0: it must be at least 1"),
        ({"capacity": -1}, r"capacity=-1"),
        ({"score": "tanh"}, r"score 'tanh': expected"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(make, arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        make(**{"k": 1, **arguments})


def test_windows_and_states_that_do_not_fit_are_refused():
    with pytest.raises(lpr.InputError, match=r"window=0: it must be at least 1"):
        OnlineBIP(1, window=0)
    with pytest.raises(lpr.InputError, match=r"capacity=9 is more than window.* \(8\)"):
        OnlineBIP(1, window=8, capacity=9)
    with pytest.raises(lpr.InputError, match=r"expected the experts' prices.*\(2,\), got .*\(3,\)"):
        BIP(1)(THREE, torch.zeros(3))
    with pytest.raises(lpr.InputError, match=r"expected a History, got Tensor"):
        OnlineBIP(1)(THREE, torch.zeros(2))
    other = OnlineBIP(1, window=4)(THREE)[1]
    with pytest.raises(lpr.InputError, match=r"margins of shape \(2, 8\).*got \(2, 4\)"):
        OnlineBIP(1, window=8)(THREE, other)
    for make in (BIP, OnlineBIP):
        with pytest.raises(lpr.InputError, match=r"k=3 is more than E"):
            make(3)(THREE)
