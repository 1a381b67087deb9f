"""`ZeroComputation` and `cost`: capacities by hand, one rule per kind of expert, laws, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.token_choice import ZeroComputation, cost

NEVER = float("-inf")
WAYS = [("score", "rank"), ("position", "rank"), ("position", "token")]
every_way = pytest.mark.parametrize(("by", "order"), WAYS)


# Eq. 8 with 8 tokens, 4 paid and 2 free experts: 8 / (4 tau + 2) tokens for a free expert and tau
# times that for a paid one. tau = 1/2: 2 and 1; tau = 1: 4/3 and 4/3, rounded up.
@pytest.mark.parametrize(
    ("factor", "tau", "expected"),
    [(1.0, 0.5, (1, 2)), (2.0, 0.5, (2, 4)), (1.0, 1.0, (2, 2)), (1.0, 0.25, (1, 3))],
)
def test_the_two_capacities_are_those_of_the_paper(factor, tau, expected):
    router = ZeroComputation(2, free=2, factor=factor, tau=tau)
    assert router.capacities(8, 6) == expected


# Two paid experts and a free one, four tokens, k = 1; gamma = 1 and tau = 1/2 make 4 / (1 + 1) = 2
# places at the free expert and 1 at a paid one.
#   Tokens 0, 1, 3 like the free expert best (7, 9, 8): by score 1 and 3 stay, by position 0 and 1.
#   Token 2 likes expert 0.
STORY = [[0.0, 1.0, 7.0], [2.0, 0.0, 9.0], [5.0, 3.0, 1.0], [6.0, 4.0, 8.0]]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("score", [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]),
        ("position", [[0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]]),
    ],
)
def test_free_experts_have_more_places_and_cost_nothing(by, expected):
    router = ZeroComputation(1, free=1, factor=1.0, tau=0.5, by=by, score="logits")
    routed = router(torch.tensor(STORY))
    assert router.capacities(4, 3) == (1, 2)
    assert routed.x.int().tolist() == expected
    assert routed.weights.tolist() == (torch.tensor(STORY) * torch.tensor(expected)).tolist()
    assert float(cost(routed, router.costs(3))) == 1


def by_loop(scores, k, free, limits, by, order) -> list[list[int]]:
    """Requests let in one at a time, each expert with the places of its kind."""
    T, E = len(scores), len(scores[0])
    wishes = []
    for t in range(T):
        liked = sorted((e for e in range(E) if scores[t][e] > NEVER), key=lambda e: -scores[t][e])
        wishes += [(rank, t, e) for rank, e in enumerate(liked[:k])]
    if by == "score":
        wishes.sort(key=lambda wish: (-scores[wish[1]][wish[2]], wish[1]))
    elif order == "rank":
        wishes.sort()
    x, places = [[0] * E for _ in range(T)], [limits[e >= E - free] for e in range(E)]
    for _, t, e in wishes:
        if places[e]:
            x[t][e], places[e] = 1, places[e] - 1
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 10, NEVER)


def test_the_loop_gives_the_hand_worked_answers():
    assert by_loop(STORY, 1, 1, (1, 2), "score", "rank")[0] == [0, 0, 0]
    assert by_loop(STORY, 1, 1, (1, 2), "position", "rank")[3] == [0, 0, 0]


@every_way
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "free", "tau"), [(1, 1, 0.5), (2, 2, 0.25), (3, 4, 2.0), (2, 0, 1.0)]
)
def test_it_equals_the_slow_loop_where_many_scores_tie(k, free, tau, dtype, by, order):
    scores = tied(8, 9, 5, dtype=dtype)
    router = ZeroComputation(k, free, k * 0.8, tau, by, order)
    limits = router.capacities(9, 5)
    expected = [by_loop(block, k, free, limits, by, order) for block in scores.tolist()]
    assert router.select(scores).int().tolist() == expected


@every_way
def test_batches_are_routed_each_on_its_own_and_padding_goes_nowhere(by, order):
    logits, mask = tied(2, 3, 6, 5, seed=1), tied(2, 3, 6, seed=2) > 0
    router = ZeroComputation(2, 2, 1.0, 0.5, by, order)
    routed = router(logits, mask=mask)
    assert not routed.x[~mask].any()
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=7,
)


@given(tables, st.integers(1, 4), st.integers(0, 3))
def test_without_capacity_it_is_row_top_k(table, k, free):
    logits = torch.tensor(table)
    routed, plain = (
        ZeroComputation(k, free, normalise="kept")(logits),
        TopK(k, normalise="kept")(logits),
    )
    assert ZeroComputation(k, free).causal
    assert torch.equal(routed.x, plain.x)
    assert torch.equal(routed.weights, plain.weights)


@every_way
@given(table=tables, k=st.integers(1, 4), free=st.integers(0, 3))
def test_with_equal_shares_it_is_row_top_k_with_one_capacity(by, order, table, k, free):
    logits = torch.tensor(table)
    routed = ZeroComputation(k, free, 1.0, 1.0, by, order)(logits)
    one = TopK(k, math.ceil(len(table) / 4), by, order)(logits)
    assert torch.equal(routed.x, one.x)


@every_way
@given(table=tables, k=st.integers(1, 4), factor=st.sampled_from([0.3, 1.0, 2.0]))
def test_neither_kind_exceeds_its_capacity_nor_does_the_rule_beat_the_optimum(
    by, order, table, k, factor
):
    logits = torch.tensor(table)
    router = ZeroComputation(k, 1, factor, 0.5, by, order)
    routed, (paid, free) = router(logits), router.capacities(len(table), 4)
    limits = [paid] * 3 + [free]
    assert (routed.load <= torch.tensor(limits)).all()
    scores = router.scores(logits)
    problem = lpr.RoutingProblem(scores, tokens=lpr.at_most(k), experts=lpr.at_most(limits))
    best = lpr.solve(problem).value
    assert float((scores.double().masked_fill(~routed.x, 0)).sum()) <= best + 1e-6


def test_with_a_capacity_later_tokens_make_room_for_earlier_ones():
    router = ZeroComputation(1, 1, 1.0, 1.0, "position", "token")
    logits = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert not router.causal
    assert int(router(logits[:2]).x.sum()) == 1
    assert int(router(logits).x[:2].sum()) == 2


# Costs 3, 1, 0: the tokens take 3 + 1, 0 and 3; with amounts 1/2 everywhere, 3 * 4 / 2 in all.
def test_the_cost_is_the_sum_over_the_pairs():
    x = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.bool)
    assert float(cost(lpr.Assignment(x), [3.0, 1.0, 0.0])) == 7
    assert float(cost(lpr.Assignment(torch.full((3, 3), 0.5)), [3, 1, 0])) == 6
    batch = cost(lpr.Assignment(torch.stack([x, ~x])), torch.tensor([3, 1, 0]))
    assert batch.tolist() == [7, 5]
    assert ZeroComputation(1, free=2).costs(5).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    "costs", [[1.0, 2.0], [1.0, -1.0, 0.0], [math.nan, 1.0, 1.0], [[1.0, 1.0, 1.0]], ["a"], None]
)
def test_bad_costs_are_refused(costs):
    with pytest.raises(lpr.InputError, match=r"costs: expected"):
        cost(lpr.Assignment(torch.ones(2, 3, dtype=torch.bool)), costs)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"free": -1}, r"free=-1: it must be at least 0"),
        ({"free": 1.5}, r"free=1\.5: expected a whole number"),
        ({"factor": 0}, r"factor=0: expected a positive number"),
        ({"factor": math.inf}, r"factor=inf: expected a positive number"),
        ({"tau": -0.5}, r"tau=-0\.5: expected a positive number"),
        ({"tau": True}, r"tau=True: expected a positive number"),
        ({"tau": "1"}, r"tau='1': expected a positive number"),
        ({"by": "rank"}, r"by='rank': expected .score. or .position."),
        ({"order": "expert"}, r"order='expert': expected .rank. "),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"normalise": "sum"}, r"normalise='sum': expected .kept., .all. or None"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        ZeroComputation(**{"k": 1, "free": 1, **arguments})


@pytest.mark.parametrize("factor", [None, 1.0])
def test_at_least_one_expert_must_cost_something(factor):
    with pytest.raises(
        lpr.InputError, match=r"free=4 is more than E - 1, all experts but one \(3\)"
    ):
        ZeroComputation(1, 4, factor)(torch.zeros(2, 4))
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        ZeroComputation(5, 1, factor)(torch.zeros(2, 4))
