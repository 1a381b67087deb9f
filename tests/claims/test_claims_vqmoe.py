"""VQMoE (O12): nearest codes, balanced codes, perplexity, consistency; and wrong ones."""

import math

import pytest
import torch

from lp_routing.claims import vqmoe
from lp_routing.claims.vqmoe import (
    O12A,
    O12B,
    O12C,
    alternated,
    code_scores,
    distortion,
    evenly,
    means,
    nearest,
    perplexity,
)

LOGITS = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
# a line with tokens at 0, 1, 2 and 10, and codes at 1 and 9
STATES = torch.tensor([[0.0], [1.0], [2.0], [10.0]], dtype=torch.float64)
CODES = torch.tensor([[1.0], [9.0]], dtype=torch.float64)


def test_three_tokens_are_near_the_first_code_and_one_near_the_second():
    # 2 h e - e^2: token at 2 has 4 - 1 = 3 and 36 - 81 = -45; token at 10 has 19 and 99
    assert code_scores(STATES, CODES)[2:].tolist() == [[3.0, -45.0], [19.0, 99.0]]
    x = nearest(STATES, CODES)
    assert x.int().tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
    assert distortion(STATES, CODES, x) == 1 + 0 + 1 + 1


def test_equal_loads_send_the_token_at_2_to_the_far_code():
    # of the three tokens near 1 the one at 2 is least far from 9: 49 in place of 1
    x = evenly(STATES, CODES)
    assert x.int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert distortion(STATES, CODES, x) == 1 + 0 + 49 + 1


def test_means_win_some_of_it_back():
    # means of (0, 1) and (2, 10) are 0.5 and 6: 0.25 + 0.25 + 16 + 16 = 32.5, and there it stays;
    # the nearest codes' means are 1 and 10, and leave 1 + 0 + 1 + 0 = 2
    assert means(STATES, CODES, evenly(STATES, CODES)).tolist() == [[0.5], [6.0]]
    assert alternated(STATES, CODES, evenly)[:2] == [51.0, 32.5]
    assert alternated(STATES, CODES, nearest)[:2] == [3.0, 2.0]


def test_a_code_without_tokens_stays():
    x = torch.tensor([[True, False]] * 4)
    assert means(STATES, CODES, x).tolist() == [[13 / 4], [9.0]]


@pytest.mark.parametrize(("loads", "codes"), [([1, 1, 1, 1], 4.0), ([4, 0, 0, 0], 1.0)])
def test_perplexity_counts_the_codes_in_use(loads, codes):
    x = torch.eye(4)[[j for j, load in enumerate(loads) for _ in range(load)]].bool()
    assert perplexity(x) == pytest.approx(codes)
    assert perplexity(torch.eye(2)[[0, 0, 0, 1]].bool()) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_the_counterexample_gives_both_tokens_one_code():
    said = O12B.refutes_statement(O12B.counterexample.tensor())
    assert said == "A code has 2 tokens where its share is 1."
    assert O12B.refutes_statement(torch.zeros(2, 2)) is None  # tied


def test_balance_costs_distortion_and_means_win_it_back():
    # both end at local optima, so that the balanced one may end below the other
    found = O12B.check(LOGITS)
    assert found.agrees
    for layer in range(2):
        first = found.numbers[f"% distortion of balance, layer {layer}"]
        assert first > 0
        assert found.numbers[f"% distortion of balance after means, layer {layer}"] < first


def test_more_noise_changes_more_codes(monkeypatch):
    usual = O12C.check(LOGITS).numbers["% of codes that change, layer 0"]
    monkeypatch.setattr(vqmoe, "NOISE", 1.0)
    assert O12C.check(LOGITS).numbers["% of codes that change, layer 0"] > usual


@pytest.mark.parametrize("claim", [O12A, O12B, O12C], ids=lambda c: c.id)
def test_with_few_tokens_nothing_is_asked(claim):
    assert claim.check(torch.randn(7, 4)).agrees is None


def test_scores_without_the_bias_are_found_out(monkeypatch):
    monkeypatch.setattr(vqmoe, "code_scores", lambda states, codes: 2 * states @ codes.mT)
    assert O12A.check(LOGITS).agrees is False
    assert "not the argmax" in O12A.refutes_verdict(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))


def test_a_balanced_choice_that_is_not_the_best_is_found_out(monkeypatch):
    turns = iter(range(10_000))

    def worse_and_worse(states, codes):
        chosen = torch.zeros(len(states), len(codes), dtype=torch.bool)
        at = (torch.arange(len(states)) if next(turns) % 2 else torch.zeros(len(states))).long()
        chosen[torch.arange(len(states)), at % len(codes)] = True
        return chosen

    monkeypatch.setattr(vqmoe, "evenly", worse_and_worse)
    assert O12B.check(LOGITS).agrees is False
    assert "rises" in O12B.refutes_verdict(torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 5.0]]))


def test_codes_that_are_not_the_nearest_are_found_out(monkeypatch):
    monkeypatch.setattr(
        vqmoe, "nearest", lambda h, e: code_scores(h, e) <= code_scores(h, e).amin()
    )
    assert O12A.check(LOGITS).agrees is False
