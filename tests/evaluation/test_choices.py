"""Recorded choices in numbers: by hand, with and without logits, and two recordings."""

from dataclasses import replace

import pytest
import torch

import lp_routing as lpr
from lp_routing.evaluation import choice_facts, differences
from lp_routing.traces import RecordedChoices


def recorded(*tokens, experts=4, logits=None):
    return RecordedChoices(torch.tensor([tokens]), experts, "mine", ("7",), logits)


# four tokens, four experts, two each: loads 4, 2, 2, 0
FOUR = recorded([0, 1], [0, 1], [0, 2], [0, 2])


def test_loads_drops_and_experts_that_work_together():
    # 8 pairs over 4 experts: mean 2, so that factor 1 gives 2 slots; expert 0 loses 2 of 8 pairs.
    # Experts 0 and 1 share two tokens, all that expert 1 has; so do 0 and 2: the first pair is told
    facts = choice_facts(FOUR, 0, capacity_factor=1.0)
    assert (facts.layer, facts.tokens, facts.pairs) == ("7", 4, 8)
    assert (facts.max_over_mean, facts.idle, facts.dropped) == (2, 1, 0.25)
    assert (facts.together, facts.together_share) == ((0, 1), 1)
    assert (facts.devices_max_over_mean, facts.differ, facts.gap) == (None, None, None)


def test_devices_hold_neighbours():
    # experts 0 and 1 on the first device: 6 of 8 pairs, over a mean of 4
    assert choice_facts(FOUR, 0, devices=2).devices_max_over_mean == 1.5
    assert choice_facts(FOUR, 0, devices=1).devices_max_over_mean == 1
    # all pairs at experts 0 and 1, which are neighbours: 4 pairs on one device, over a mean of 2
    assert choice_facts(recorded([0, 1], [0, 1]), 0, devices=2).devices_max_over_mean == 2


def test_nothing_shares_a_token():
    facts = choice_facts(recorded([0], [1]), 0)
    assert (facts.together, facts.together_share) == (None, 0)


def test_places_without_an_expert_are_no_pairs():
    facts = choice_facts(recorded([0, -1], [1, 2]), 0)
    assert (facts.pairs, facts.idle) == (3, 1)


def test_with_logits_the_gap_to_the_best_experts():
    # the first token took its best expert, worth .5; the second took .2 where .4 was best:
    # .7 of .9, so that the gap is 2/9
    shares = torch.tensor([[[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]], dtype=torch.float64)
    choices = recorded([0], [2], experts=3, logits=shares.log())
    facts = choice_facts(choices, 0)
    assert facts.differ == 0.5
    assert facts.gap == pytest.approx(2 / 9)
    best = replace(choices, expert_ids=torch.tensor([[[0], [0]]]))
    assert (choice_facts(best, 0).differ, choice_facts(best, 0).gap) == (0, 0)


def test_the_gap_of_values_below_0_is_what_is_lost_of_their_size():
    # expert 1 is worth -3, the best one -1: 2 are lost of 1
    choices = recorded([1], experts=2, logits=torch.tensor([[[-1.0, -3.0]]]))
    assert choice_facts(choices, 0, score="logits").gap == 2


def test_the_gap_is_that_to_the_certified_optimum():
    logits = torch.randn(1, 30, 6, generator=torch.Generator().manual_seed(0)).double()
    ids = torch.stack([torch.randperm(6)[:2] for _ in range(30)])[None]
    facts = choice_facts(RecordedChoices(ids, 6, "mine", ("0",), logits), 0)
    problem = lpr.problems.token_choice(logits[0].softmax(-1), 2)
    x = torch.zeros(30, 6, dtype=torch.bool).scatter_(1, ids[0], True)
    certificate = lpr.certify(problem, x, lpr.solve(problem).prices)
    assert facts.gap == pytest.approx(certificate.gap / certificate.bound, abs=1e-12)


def test_two_recordings_by_layer_and_margin():
    # margins 8, 6, 4, 2: the two tokens of the smallest moved, one of them half
    logits = torch.tensor([[[8.0, 0, 0], [6, 0, 0], [4, 0, 0], [2, 0, 0]]])
    one = recorded([0], [0], [0], [0], experts=3, logits=logits)
    two = recorded([0], [0], [1], [2], experts=3)
    (found,) = differences(one, two)
    assert (found.layer, found.differ, found.overlap) == ("7", 0.5, 0.5)
    assert found.by_margin == (1, 1, 0, 0)
    assert differences(two, one)[0].by_margin == (1, 1, 0, 0)
    assert differences(two, replace(one, logits=None))[0].by_margin == ()
    assert differences(two, two, logits=logits)[0].by_margin == (0, 0, 0, 0)
    assert differences(one, one)[0].overlap == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: choice_facts(FOUR, 1), "layer=1"),
        (lambda: choice_facts(FOUR, 0, devices=3), "4 experts cannot be shared out equally"),
        (lambda: choice_facts(FOUR, 0, devices=5), "E, the number of experts"),
        (lambda: choice_facts(FOUR, 0, capacity_factor=0), "capacity"),
        (lambda: differences(FOUR, recorded([0, 1])), "4 tokens and 4 experts, mine 1 of 1"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(lpr.InputError, match=words):
        call()
