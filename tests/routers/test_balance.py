"""What balanced routers share: loads, padding, refusals; and the checks of their tests."""

import math

import pytest
import torch

import lp_routing as lpr
from lp_routing.routers.balance import (
    balanced_problem,
    loads_of,
    per_batch,
    placed,
    positive,
    stacked,
)
from tests.balanced_checks import NEVER, broken, optimum, tied


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((8, 4, 1), (2, 2)),  # 8 pairs, 4 experts
        ((7, 4, 1), (1, 2)),  # 7 pairs: three experts take 2, one takes 1
        ((1, 4, 2), (0, 1)),  # 2 pairs, 4 experts
        ((8, 4, 1, 5), (0, 5)),
        ((3, 4, 2, 9), (0, 3)),  # no expert has more than all three tokens
    ],
)
def test_loads_are_as_equal_as_whole_numbers_allow_or_up_to_a_capacity(sizes, expected):
    assert loads_of(*sizes) == expected


def test_too_little_capacity_is_refused_with_what_would_do():
    says = (
        r"6 tokens that take k=2 experts each need 12 places, but with capacity=2 the E=4 experts "
        r"have 8; give a capacity of at least 3"
    )
    with pytest.raises(lpr.InputError, match=says):
        loads_of(6, 4, 2, 2)
    assert loads_of(6, 4, 2, 3) == (0, 3)


def test_a_rule_sees_each_batch_without_its_padding():
    seen = []

    def first_expert(batch):
        seen.append(batch.tolist())
        return torch.tensor([[True, False]]).expand(batch.shape)

    scores = torch.tensor(
        [[[1.0, 2.0], [NEVER, NEVER]], [[NEVER] * 2, [NEVER] * 2], [[NEVER, 3.0], [4.0, 5.0]]]
    )
    chosen = per_batch(scores, first_expert)
    assert seen == [[[1.0, 2.0]], [[NEVER, 3.0], [4.0, 5.0]]]
    assert chosen.int().tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [1, 0]]]


def test_a_rule_may_be_given_scores_that_are_not_contiguous():
    scores = tied(5, 3).mT
    taken = per_batch(scores, lambda batch: batch > 1)
    assert torch.equal(taken, scores > 1)


def test_results_of_each_batch_are_stacked():
    scores = tied(2, 3, 4, 5)
    sums, biggest = stacked(scores, lambda batch: (batch.sum(0), batch.max()))
    assert torch.equal(sums, scores.sum(-2))
    assert torch.equal(biggest, scores.amax((-2, -1)))
    assert stacked(scores[0, 0], lambda batch: (batch.max(),))[0].shape == ()


def test_a_demand_that_cannot_be_met_is_named():
    # Both tokens may only go to expert 0, which takes one.
    problem = balanced_problem(torch.tensor([[1.0, NEVER], [2.0, NEVER]]), 1, loads_of(2, 2, 1))
    with pytest.raises(lpr.InputError, match=r"no assignment keeps all bounds: "):
        placed(problem, torch.zeros(2))


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_only_numbers_above_0_are_positive(value):
    with pytest.raises(lpr.InputError, match=r"epsilon=.*: expected a number above 0"):
        positive(value, "epsilon")
    assert positive(2, "epsilon") == 2.0


SCORES = torch.tensor([[1.0, 2.0], [3.0, NEVER], [NEVER, NEVER]])


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([[0, 1], [1, 0], [0, 0]], []),
        ([[1, 0], [1, 0], [0, 0]], ["too full", "too empty"]),
        ([[0, 1], [0, 1], [0, 0]], ["forbidden", "too full", "too empty"]),
        ([[0, 1], [0, 0], [0, 0]], ["experts per token", "too empty"]),
        ([[0, 1], [1, 0], [1, 0]], ["forbidden", "experts per token", "too full"]),
    ],
)
def test_the_check_of_balance_sees_what_is_broken(x, expected):
    assert broken(torch.tensor(x).bool(), SCORES, 1) == expected


def test_the_oracle_knows_what_has_no_assignment():
    assert optimum(SCORES[:2], 1) == 5
    assert optimum(SCORES[:2], 2) == NEVER
    assert optimum(SCORES, 1) == NEVER
    assert optimum(SCORES[1:2], 1, capacity=1) == 3
