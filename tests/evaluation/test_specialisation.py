"""What experts tell of labels, and how alike a token's experts are."""

import math

import pytest
import torch

import lp_routing as lpr
from lp_routing.evaluation.specialisation import co_activation, mutual_information, overlap

LABELS = torch.tensor([7, 7, 8, 8])


def test_an_expert_for_each_kind_tells_log_2_and_one_for_all_tells_nothing():
    told = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert mutual_information(told, LABELS) == pytest.approx(math.log(2))
    assert mutual_information(told, torch.tensor([0, 1, 0, 1])) == pytest.approx(0)
    assert mutual_information(torch.tensor([[1, 0]] * 4), LABELS) == pytest.approx(0)


def test_three_pairs_of_one_kind_and_one_of_the_other():
    # pairs (expert, kind): (1, a), (1, a), (2, a), (2, b). p(1) = 1/2, p(a) = 3/4:
    # 1/2 log(1/2 / 3/8) + 1/4 log(1/4 / 3/8) + 1/4 log(1/4 / 1/8)
    x = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert mutual_information(x, torch.tensor([0, 0, 0, 1])) == pytest.approx(expected)


def test_two_tokens_share_two_experts_and_one_has_its_own():
    x = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1]])
    assert co_activation(x).tolist() == [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    # likeness .9 of experts 1 and 2, .3 of 2 and 3: (2 * .9 + .3) / 3 = .7
    likeness = torch.tensor([[1, 0.9, 0], [0.9, 1, 0.3], [0, 0.3, 1]]).double()
    assert overlap(x, likeness) == pytest.approx(0.7)
    assert overlap(x, likeness.expand(3, 3, 3)) == pytest.approx(0.7)
    assert overlap(torch.eye(3), likeness) == 0.0  # nobody has two


def test_other_tokens_likeness_does_not_count():
    x = torch.tensor([[1, 1], [1, 0]])
    likeness = torch.stack([torch.full((2, 2), 0.5), torch.full((2, 2), 9.0)]).double()
    assert overlap(x, likeness) == pytest.approx(0.5)


def test_a_label_too_few_is_refused():
    with pytest.raises(lpr.InputError, match=r"labels: expected 2, one a token, got shape \(3,\)"):
        mutual_information(torch.eye(2), torch.zeros(3))
