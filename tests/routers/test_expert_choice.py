"""`ExpertChoice`: hand-worked routings, a slow loop as oracle, laws and errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import CapacityFactor, ExpertChoice

NEVER = float("-inf")


def raw(capacity) -> ExpertChoice:
    return ExpertChoice(capacity, score="logits")


# Four tokens, three experts, two tokens each.
#   expert 0 (4, 1, 3, 2) takes tokens 0 and 2.
#   expert 1 (5, 5, 5, 9) takes token 3, and of the three that tie the earliest.
#   expert 2 (-, 1, -, -) may take token 1 only, and stays one short.
# Token 0 is taken twice, the others once.
STORY = [[4.0, 5.0, NEVER], [1.0, 5.0, 1.0], [3.0, 5.0, NEVER], [2.0, 9.0, NEVER]]
STORY_ANSWER = [[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_every_expert_takes_its_best_tokens_and_the_earlier_of_equals():
    routed = raw(2)(torch.tensor(STORY))
    assert routed.x.int().tolist() == STORY_ANSWER
    assert routed.weights.tolist() == [[4, 5, 0], [0, 0, 1], [3, 0, 0], [0, 9, 0]]
    assert routed.load.tolist() == [2, 2, 1]


def test_padding_is_never_taken_even_where_an_expert_stays_short():
    logits = torch.tensor([[1.0, 2.0], [9.0, 9.0], [0.0, 3.0]])
    mask = torch.tensor([True, False, True])
    assert raw(1)(logits, mask=mask).x.int().tolist() == [[1, 0], [0, 0], [0, 1]]
    assert raw(3)(logits, mask=mask).x.int().tolist() == [[1, 1], [0, 0], [1, 1]]
    assert not raw(3)(logits, mask=torch.zeros(3, dtype=torch.bool)).x.any()


# Softmax over experts, then the column: token 0 is (1/4, 3/4), token 1 (1/2, 1/2), so expert 0
# takes token 1, though token 0 has the larger logit there.
def test_by_default_the_softmax_over_experts_is_compared():
    logits = torch.tensor([[2.0, 2.0 + math.log(3)], [1.0, 1.0]])
    routed = ExpertChoice(1)(logits)
    assert routed.x.int().tolist() == [[0, 1], [1, 0]]
    assert torch.allclose(routed.weights, torch.tensor([[0, 3 / 4], [1 / 2, 0]]))
    assert raw(1)(logits).x.int().tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 2), (2.0, 4), (0.25, 1), (4.0, 8)])
def test_a_capacity_factor_is_the_mean_number_of_experts_per_token(factor, expected):
    routed = ExpertChoice(CapacityFactor(factor))(torch.zeros(8, 4))
    assert routed.load.tolist() == [expected] * 4


def by_loop(scores, capacity) -> list[list[int]]:
    """Column by column: take the best token left, the earliest of equals, until full."""
    x = [[0] * len(scores[0]) for _ in scores]
    for e in range(len(scores[0])):
        for _ in range(capacity):
            open_tokens = [t for t in range(len(scores)) if scores[t][e] > NEVER and not x[t][e]]
            if open_tokens:
                x[max(open_tokens, key=lambda t: scores[t][e])][e] = 1  # max keeps the first
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 10, NEVER)


def test_the_loop_gives_the_hand_worked_answer_and_tells_the_two_tie_rules_apart():
    assert by_loop(STORY, 2) == STORY_ANSWER
    backwards = raw(3)(tied(9, 4).flip(0)).x.flip(0).int()
    assert backwards.tolist() != by_loop(tied(9, 4).tolist(), 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("capacity", [0, 1, 3, 8, 9])
def test_expert_choice_equals_the_slow_loop_where_many_scores_tie(capacity, dtype):
    logits = tied(20, 9, 4, dtype=dtype)
    expected = [by_loop(block, capacity) for block in logits.tolist()]
    assert raw(capacity)(logits).x.int().tolist() == expected
    assert raw(capacity).select(logits).int().tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1)])
def test_one_token_or_one_expert_is_enough(shape):
    routed = raw(1)(torch.arange(math.prod(shape)).reshape(shape).float())
    assert routed.load.tolist() == [1] * shape[1]
    assert routed.x[-1].all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "unified", "logits"])
def test_batches_are_routed_each_on_its_own(score):
    logits, mask = tied(2, 3, 6, 4, seed=1), tied(2, 3, 6, seed=2) > 0
    routed = ExpertChoice(2, score=score)(logits, mask=mask)
    for b in range(2):
        for c in range(3):
            alone = ExpertChoice(2, score=score)(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


def test_logits_of_any_layout_are_routed_alike():
    logits = tied(4, 7).mT
    assert not logits.is_contiguous()
    assert torch.equal(raw(2)(logits).x, raw(2)(logits.contiguous()).x)


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0, 2.0]), min_size=3, max_size=3),
    min_size=4,
    max_size=7,
)


@given(table=tables, capacity=st.integers(0, 4), padded=st.integers(0, 7))
def test_every_expert_takes_as_many_allowed_tokens_as_it_can_up_to_its_capacity(
    table, capacity, padded
):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    allowed = (logits > NEVER) & mask[:, None]
    x = ExpertChoice(capacity)(logits, mask=mask).x
    assert torch.equal(x.sum(0), allowed.sum(0).clamp(max=capacity))
    assert not (x & ~allowed).any()


@given(table=tables, shift=st.integers(-9, 9))
def test_adding_a_constant_to_a_tokens_logits_leaves_the_routing_the_same(table, shift):
    logits = torch.tensor(table, dtype=torch.float64)
    moved = ExpertChoice(2)(logits + shift * torch.arange(len(table))[:, None])
    assert torch.equal(moved.x, ExpertChoice(2)(logits).x)
    assert torch.equal(moved.weights, ExpertChoice(2)(logits).weights)


@given(st.permutations(range(20)), st.permutations(range(5)), st.permutations(range(4)))
def test_permuting_tokens_and_experts_permutes_the_routing(values, tokens, experts):
    logits = torch.tensor(values).reshape(5, 4).double()
    permuted = raw(2)(logits[tokens][:, experts]).x
    assert torch.equal(permuted, raw(2)(logits).x[tokens][:, experts])


def test_expert_choice_is_not_causal():
    logits = torch.tensor([[2.0], [1.0], [3.0]])
    assert raw(1)(logits[:2]).x.int().tolist() == [[1], [0]]
    assert raw(1)(logits).x.int().tolist() == [[0], [0], [1]]


def test_gradients_flow_through_the_weights_and_only_through_chosen_pairs():
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: ExpertChoice(2)(values).weights, logits)
    routed = raw(2)(logits)
    routed.weights.sum().backward()
    assert torch.equal(logits.grad, routed.x.double())
    assert not routed.x.requires_grad


@pytest.mark.parametrize("capacity", [-1, 1.5, True, "2", None, math.nan])
def test_bad_capacities_are_refused_with_what_was_received(capacity):
    with pytest.raises(lpr.InputError, match=rf"capacity={capacity!r}: expected a whole number"):
        ExpertChoice(capacity)


def test_a_numpy_integer_is_a_capacity():
    logits = tied(5, 4)
    assert torch.equal(raw(np.int64(2))(logits).x, raw(2)(logits).x)


@pytest.mark.parametrize(("capacity", "received"), [(3, 3), (CapacityFactor(10.0), 7)])
def test_more_tokens_than_there_are_is_refused(capacity, received):
    says = rf"capacity={received} is more than T, the number of tokens \(2\)"
    with pytest.raises(lpr.InputError, match=says):
        ExpertChoice(capacity)(torch.zeros(2, 3))


def test_bad_scores_logits_and_masks_are_refused():
    with pytest.raises(
        lpr.InputError, match=r"score 'gate': expected a function or one of softmax"
    ):
        ExpertChoice(1, score="gate")
    with pytest.raises(lpr.InputError, match=r"logits\[1, 0\] is inf"):
        ExpertChoice(1)(torch.tensor([[0.0], [math.inf]]))
    with pytest.raises(lpr.InputError, match=r"mask: expected booleans of shape \(2,\).*\(3,\)"):
        ExpertChoice(1)(torch.zeros(2, 3), mask=torch.ones(3, dtype=torch.bool))
