"""`TopK`: hand-worked routings, a slow loop as oracle, laws, certified optimality, errors."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import CapacityFactor, TopK

NEVER = float("-inf")
RULES = [
    {},
    {"capacity": 2},
    {"capacity": 2, "by": "position"},
    {"capacity": 2, "by": "position", "order": "token"},
]
NAMES = ["dropless", "score", "rank-major", "token-major"]
every_rule = pytest.mark.parametrize("rule", RULES, ids=NAMES)
raw = partial(TopK, score="logits")

# Three tokens, two experts, every token asks for both, one place each. Token 1 prefers expert 1.
ASK_BOTH = [[6.0, 4.0], [3.0, 7.0], [9.0, 1.0]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # The best of each column: token 2 at expert 0, token 1 at expert 1.
        ({"by": "score"}, [[0, 0], [0, 1], [1, 0]]),
        # First choices in token order: 0 gets 0, 1 gets 1, 2 is late.
        ({"by": "position", "order": "rank"}, [[1, 0], [0, 1], [0, 0]]),
        # Token 0 gets both its choices before token 1 is asked.
        ({"by": "position", "order": "token"}, [[1, 1], [0, 0], [0, 0]]),
    ],
)
def test_the_three_rules_of_dropping_route_the_same_tokens_differently(rule, expected):
    routed = raw(2, capacity=1, **rule)(torch.tensor(ASK_BOTH))
    assert routed.x.int().tolist() == expected
    assert routed.weights.tolist() == (torch.tensor(ASK_BOTH) * torch.tensor(expected)).tolist()


def test_a_forbidden_expert_has_no_part_in_the_sum_of_all_scores():
    # Of 3 + 1 the first has three quarters; the third expert is forbidden and adds nothing.
    logits = torch.tensor([[3.0, 1.0, NEVER]])
    for by, weight in (("all", 0.75), ("kept", 1.0), (None, 3.0)):
        assert TopK(1, score="logits", normalise=by)(logits).weights.tolist() == [[weight, 0, 0]]


def test_rank_major_serves_all_first_choices_before_second_ones():
    # Token 0 would take expert 1 as its second choice; token 1 has it as its first.
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    by_rank = TopK(2, capacity=1, by="position")(logits).x
    by_token = TopK(2, capacity=1, by="position", order="token")(logits).x
    assert by_rank.int().tolist() == [[1, 0, 0], [0, 1, 1]]
    assert by_token.int().tolist() == [[1, 1, 0], [0, 0, 1]]


@every_rule
def test_padding_takes_no_place_and_goes_nowhere(rule):
    # The two padding tokens would have had the best scores and the first places.
    logits = torch.tensor([[9.0, 8.0], [2.0, 1.0], [9.0, 8.0], [2.0, 1.0]])
    mask = torch.tensor([False, True, False, True])
    routed = TopK(2, **rule)(logits, mask=mask)
    assert routed.x.int().tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert (routed.weights[~mask] == 0).all()
    assert routed.mask is mask


def by_loop(scores, k, capacity=None, by="score", order="rank") -> list[list[int]]:
    """Token choice, then requests let in one at a time in the order the rule names."""
    T, E = len(scores), len(scores[0])
    wishes = []
    for t in range(T):
        liked = sorted((e for e in range(E) if scores[t][e] > NEVER), key=lambda e: -scores[t][e])
        wishes += [(rank, t, e) for rank, e in enumerate(liked[:k])]
    if by == "score":
        wishes.sort(key=lambda wish: (-scores[wish[1]][wish[2]], wish[1]))
    elif order == "rank":
        wishes.sort()
    x, load = [[0] * E for _ in range(T)], [0] * E
    for _, t, e in wishes:
        if capacity is None or load[e] < capacity:
            x[t][e], load[e] = 1, load[e] + 1
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 10, NEVER)


def test_the_loop_gives_the_hand_worked_answers_and_tells_the_rules_apart():
    assert by_loop(ASK_BOTH, 2, 1, "score") == [[0, 0], [0, 1], [1, 0]]
    assert by_loop(ASK_BOTH, 2, 1, "position", "rank") == [[1, 0], [0, 1], [0, 0]]
    assert by_loop(ASK_BOTH, 2, 1, "position", "token") == [[1, 1], [0, 0], [0, 0]]
    backwards = raw(2, capacity=2)(tied(8, 4).flip(-1)).x.flip(-1).int()
    assert backwards.tolist() != by_loop(tied(8, 4).tolist(), 2, 2)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_topk_equals_the_slow_loop_where_many_scores_tie(k, dtype, rule):
    logits = tied(20, 7, 4, dtype=dtype)
    expected = [by_loop(block, k, **rule) for block in logits.tolist()]
    assert raw(k, **rule)(logits).x.int().tolist() == expected


@every_rule
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "unified", "logits"])
def test_batches_are_routed_each_on_its_own(score, rule):
    logits, mask = tied(2, 3, 6, 4, seed=1), torch.rand(2, 3, 6) < 0.8
    routed = TopK(2, score=score, **rule)(logits, mask=mask)
    for b in range(2):
        for c in range(3):
            alone = TopK(2, score=score, **rule)(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0, 3.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=7,
)


@every_rule
@given(table=tables, k=st.integers(1, 4), padded=st.integers(0, 7))
def test_no_token_exceeds_k_no_expert_its_capacity_and_nothing_forbidden_is_taken(
    rule, table, k, padded
):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    allowed = (logits > NEVER) & mask[:, None]
    x = TopK(k, **rule)(logits, mask=mask).x
    wanted = TopK(k)(logits, mask=mask).x
    capacity = rule.get("capacity", len(table))
    assert torch.equal(wanted.sum(-1), allowed.sum(-1).clamp(max=k))
    assert torch.equal(x.sum(-2), wanted.sum(-2).clamp(max=capacity))
    assert not (x & ~(wanted & allowed)).any()


@every_rule
@given(table=tables, shift=st.integers(-9, 9))
def test_adding_a_constant_to_a_tokens_logits_leaves_the_routing_the_same(rule, table, shift):
    logits = torch.tensor(table, dtype=torch.float64)
    moved = TopK(2, **rule)(logits + shift * torch.arange(len(table))[:, None])
    still = TopK(2, **rule)(logits)
    assert torch.equal(moved.x, still.x)
    assert torch.equal(moved.weights, still.weights)


distinct = st.permutations(range(20)).map(lambda p: torch.tensor(p).reshape(5, 4).double())


@every_rule
@given(logits=distinct, order=st.permutations(range(4)))
def test_permuting_experts_permutes_the_routing(rule, logits, order):
    assert torch.equal(raw(2, **rule)(logits[:, order]).x, raw(2, **rule)(logits).x[:, order])


@pytest.mark.parametrize("rule", RULES[:2], ids=NAMES[:2])
@given(logits=distinct, order=st.permutations(range(5)))
def test_permuting_tokens_permutes_the_routing_unless_position_counts(rule, logits, order):
    assert torch.equal(raw(2, **rule)(logits[order]).x, raw(2, **rule)(logits).x[order])


@given(tables, st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_the_unified_score_of_every_rate_chooses_what_the_softmax_chooses(table, k, rate):
    logits = torch.tensor(table, dtype=torch.float64)
    unified = TopK(k, score=partial(lpr.scores.unified, rate=rate))
    assert torch.equal(unified(logits).x, TopK(k)(logits).x)


@pytest.mark.parametrize("rule", [RULES[0], RULES[3]], ids=["dropless", "token-major"])
@given(table=tables, later=tables)
def test_tokens_appended_later_change_no_earlier_row(rule, table, later):
    both = TopK(2, **rule)(torch.tensor(table + later)).x
    assert torch.equal(both[: len(table)], TopK(2, **rule)(torch.tensor(table)).x)


# Expert 0 has one place, and token 1 has it until later tokens want it more, or want it first.
@pytest.mark.parametrize("rule", RULES[1:3], ids=NAMES[1:3])
def test_dropping_by_score_and_rank_major_let_later_tokens_take_a_place(rule):
    logits = torch.tensor([[NEVER, 1.0], [2.0, 3.0], [9.0, 0.0]])
    one_place = {**rule, "capacity": 1}
    assert raw(2, **one_place)(logits[:2]).x[1, 0]
    assert not raw(2, **one_place)(logits).x[1, 0]


def test_a_capacity_factor_lets_later_tokens_make_room_for_earlier_ones():
    logits, rule = torch.zeros(4, 2), {"by": "position", "order": "token"}
    rule = TopK(1, capacity=CapacityFactor(1.0), **rule)
    assert rule(logits[:2]).x.int().tolist() == [[1, 0], [0, 0]]
    assert rule(logits).x.int().tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("k", [2.0, np.int64(2), np.float32(2), torch.tensor(2)], ids=type)
def test_a_whole_number_of_any_type_is_a_k(k):
    logits, rule = tied(5, 4), RULES[2]
    assert torch.equal(TopK(k)(logits).x, TopK(2)(logits).x)
    assert torch.equal(TopK(k, **rule)(logits).x, TopK(2, **rule)(logits).x)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"k": -1}, r"k=-1: it must be at least 1"),
        ({"k": 1.5}, r"k=1\.5: expected a whole number"),
        ({"k": True}, r"k=True: expected a whole number"),
        ({"k": "2"}, r"k='2': expected a whole number"),
        ({"k": math.nan}, r"k=nan: expected a whole number"),
        ({"k": math.inf}, r"k=inf: expected a whole number"),
        ({"capacity": -1}, r"capacity=-1: expected a whole number of tokens >= 0, or Capacity"),
        ({"capacity": 2.5}, r"capacity=2\.5: expected a whole number"),
        ({"by": "rank"}, r"by='rank': expected .score. or .position."),
        ({"order": "expert"}, r"order='expert': expected .rank. or .token."),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"normalise": "sum"}, r"normalise='sum': expected .kept., .all. or None"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        TopK(**{"k": 1, **arguments})


@every_rule
def test_more_experts_per_token_than_there_are_experts_is_refused(rule):
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        TopK(5, **rule)(tied(3, 4))


def test_the_router_refuses_bad_logits_and_masks():
    with pytest.raises(lpr.InputError, match=r"logits\[0, 1\] is nan"):
        TopK(1)(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(lpr.InputError, match=r"mask: expected booleans of shape \(2,\)"):
        TopK(1)(torch.zeros(2, 3), mask=torch.ones(2))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_function_that_returns_nan_or_infinity_is_refused(broken):
    with pytest.raises(lpr.InputError, match=rf"score.*{broken}"):
        TopK(1, score=lambda logits, mask: logits * 0 + broken)(torch.zeros(2, 3))
