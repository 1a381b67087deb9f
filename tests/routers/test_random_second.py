"""`RandomSecond`: certain and impossible second experts, a slow loop, frequencies, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import CapacityFactor, TopK
from lp_routing.routers.selection import uniform
from lp_routing.routers.token_choice import RandomSecond

NEVER = float("-inf")
CPU = torch.device("cpu")


# Whoever weighs the same as the first is kept for certain (2 g2 = 1); who weighs nothing, never.
def test_a_second_expert_of_equal_weight_is_certain_and_one_of_none_impossible():
    logits = torch.tensor([[1.0, 1.0, 0.0], [5.0, NEVER, NEVER]]).repeat(200, 1)
    routed = RandomSecond()(logits)
    assert routed.x.int().tolist() == [[1, 1, 0], [1, 0, 0]] * 200
    assert routed.weights.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]] * 200


# Softmax 4/5, 1/5: the second is kept with probability 2/5.
def test_the_second_expert_is_kept_as_often_as_the_paper_says():
    tokens = 20_000
    routed = RandomSecond()(torch.tensor([[math.log(4), 0.0]]).repeat(tokens, 1))
    assert routed.x[:, 0].all()
    often = float(routed.x[:, 1].double().mean())
    assert abs(often - 0.4) < 4 * math.sqrt(0.4 * 0.6 / tokens)
    kept = routed.x[:, 1]
    # the first keeps its share whether the second came or not
    assert torch.allclose(routed.weights[:, 0], torch.tensor(0.8))
    assert torch.allclose(routed.weights[kept, 1], torch.tensor(0.2))
    assert (routed.weights[~kept, 1] == 0).all()


# Three tokens (9, 9, 0), (9, 9, 0), (0, 9, 9): ties, so that no second choice is left to chance;
# first choices 0, 0, 1, second ones 1, 1, 2. With one place each: token 0 gets expert 0, token 2
# expert 1, and of the second choices only that of token 2, expert 2, finds a place.
def test_first_choices_come_before_second_ones():
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 9.0, 9.0]])
    routed = RandomSecond(1, score=lambda values, mask: values)(logits)
    assert routed.x.int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert routed.weights.tolist() == [[0.5, 0.0, 0.0], [0.0] * 3, [0.0, 0.5, 0.5]]


def by_loop(scores, draws, capacity) -> list[list[int]]:
    """Algorithm 1: first choices in token order, then second ones that chance lets through."""
    x, load = [[0] * len(row) for row in scores], [0] * len(scores[0])
    liked = [
        sorted((e for e in range(len(row)) if row[e] > NEVER), key=lambda e: -row[e])[:2]
        for row in scores
    ]
    for rank in (0, 1):
        for t, row in enumerate(scores):
            if len(liked[t]) <= rank:
                continue
            e, total = liked[t][rank], sum(row[i] for i in liked[t])
            let_in = rank == 0 or (total > 0 and draws[t] < 2 * (row[e] / total))
            if let_in and load[e] < capacity:
                x[t][e], load[e] = 1, load[e] + 1
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Scores 0..3, one in six forbidden."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 6, NEVER)


def test_the_loop_gives_a_hand_worked_answer():
    scores = [[3.0, 1.0], [3.0, 1.0], [1.0, 3.0]]  # g2 = 1/4: kept below 1/2
    assert by_loop(scores, [0.4, 0.6, 0.4], 2) == [[1, 1], [1, 0], [0, 1]]
    assert by_loop(scores, [0.4, 0.6, 0.4], 3) == [[1, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("capacity", [None, 0, 1, 2, 9])
def test_random_second_equals_the_slow_loop_where_many_scores_tie(capacity, dtype):
    for seed in range(5):
        scores = tied(4, 7, 5, dtype=dtype, seed=seed)
        draws = uniform(seed, scores.shape[:-1], CPU, "RandomSecond").tolist()
        expected = [
            by_loop(*pair, 99 if capacity is None else capacity)
            for pair in zip(scores.tolist(), draws, strict=True)
        ]
        assert RandomSecond(capacity, seed=seed).select(scores).int().tolist() == expected


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=6,
)


@given(tables, st.integers(0, 6), st.integers(0, 3), st.integers(0, 9))
def test_it_takes_some_of_the_top_two_and_never_exceeds_the_capacity(table, padded, C, seed):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    routed = RandomSecond(C, seed=seed)(logits, mask=mask)
    assert not (routed.x & ~TopK(2)(logits, mask=mask).x).any()
    assert (routed.load <= C).all()
    assert ((routed.weights > 0) <= routed.x).all()
    free = RandomSecond(seed=seed)(logits, mask=mask)
    assert not (TopK(1)(logits, mask=mask).x & ~free.x).any()


@given(tables, tables)
def test_without_capacity_tokens_appended_later_change_no_earlier_row(table, later):
    router = RandomSecond()
    both = router(torch.tensor(table + later)).x
    assert router.causal
    assert torch.equal(both[: len(table)], router(torch.tensor(table)).x)


def test_with_capacity_a_later_first_choice_takes_the_place_of_an_earlier_second_one():
    logits = torch.tensor([[1.0, 1.0], [0.0, 9.0]])
    assert not RandomSecond(1).causal
    assert RandomSecond(1)(logits[:1]).x.int().tolist() == [[1, 1]]
    assert RandomSecond(1)(logits).x.int().tolist() == [[1, 0], [0, 1]]


def test_the_draws_are_a_function_of_the_seed():
    logits = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    one, again, other = (RandomSecond(seed=seed)(logits).x for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    same = RandomSecond()(logits[:1].expand(3, 40, 8)).x
    assert not torch.equal(same[0], same[1])


def test_gradients_reach_the_logits_of_both_experts():
    logits = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: RandomSecond()(values).weights[:, 0], logits)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"capacity": -1}, r"capacity=-1: expected a whole number"),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"seed": -1}, r"seed=-1: it must be at least 0"),
        ({"seed": 2**63}, r"seed=9223372036854775808 is more than 2\*\*63 - 1"),
        ({"seed": 0.5}, r"seed=0\.5: expected a whole number"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        RandomSecond(**arguments)


def test_negative_scores_are_refused():
    with pytest.raises(lpr.InputError, match=r"two best scores, but some are negative"):
        RandomSecond(score="logits")(torch.tensor([[1.0, -1.0]]))


def test_a_capacity_factor_counts_two_experts_per_token():
    # T = 4, E = 2, K = 2: 4 places each, so that nobody is dropped.
    routed = RandomSecond(CapacityFactor(1.0))(torch.ones(4, 2))
    assert routed.load.tolist() == [4, 4]
