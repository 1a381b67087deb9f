"""S2MoE (O11): bounds on what noise moves, margins at fixed prices, spill; and wrong ones."""

import pytest
import torch

from lp_routing.claims import s2moe
from lp_routing.claims.s2moe import O11A, O11B, largest_sum, margins, moved

LOGITS = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_pairs_move_by_the_two_largest_entries_of_the_noise():
    # scores (3, 0), (2, 1) with K = 1 are worth 5; off by (-1, 0), (-2, 1): (2, 0), (0, 2) is 4.
    # The two largest |D| are 2 and 1, so the value may move by 3 and moves by 1
    noise = torch.tensor([[-1.0, 0.0], [-2.0, 1.0]])
    assert largest_sum(noise, 2) == 3.0
    assert largest_sum(noise, 9) == 4.0  # all entries there are


def test_a_margin_is_half_the_gap_after_prices():
    # (5, 3, 0) at prices (1, 0, 0) is (4, 3, 0): the best leads by 1, the best two by 3
    scores, prices = torch.tensor([[5.0, 3.0, 0.0]]), torch.tensor([1.0, 0.0, 0.0])
    assert margins(scores, prices, 1).tolist() == [0.5]
    assert margins(scores, prices, 2).tolist() == [1.5]


def test_flips_are_of_noised_tokens_and_spill_of_clean_ones():
    # tokens 1 and 3 are noised; 1 changes its expert, and of the clean 2 and 4 token 4 does
    before = torch.tensor([[1, 0], [1, 0], [1, 0], [1, 0]]).bool()
    after = torch.tensor([[0, 1], [1, 0], [1, 0], [0, 1]]).bool()
    assert moved(before, after) == (50.0, 50.0)


def test_the_last_token_takes_the_first_ones_place():
    said = O11B.refutes_statement(O11B.counterexample.tensor())
    assert said == "Token 0 loses expert 0 to the last token."


def test_a_tie_is_no_spill():
    assert O11B.refutes_statement(torch.zeros(2, 2)) is None


def test_only_rules_that_compare_tokens_spill():
    found = O11B.check(LOGITS)
    assert found.agrees
    for layer in range(2):
        for rule in ("top-k", "fixed prices"):
            assert found.numbers[f"% spill, {rule}, layer {layer}"] == 0
            assert found.numbers[f"% flips, {rule}, layer {layer}"] > 0
        assert found.numbers[f"% spill, unified, layer {layer}"] > 0


def test_more_noise_moves_more(monkeypatch):
    usual = O11A.check(LOGITS).numbers
    monkeypatch.setattr(s2moe, "NOISE", 1.0)
    assert O11A.check(LOGITS).numbers["lost, layer 0"] > usual["lost, layer 0"]


@pytest.mark.parametrize("claim", [O11A, O11B], ids=lambda c: c.id)
def test_without_a_choice_nothing_is_asked(claim):
    assert claim.check(torch.randn(1, 4), k=1).agrees is None
    assert claim.check(torch.randn(5, 2), k=2).agrees is None


def test_a_bound_that_is_too_small_is_found_out(monkeypatch):
    monkeypatch.setattr(s2moe, "largest_sum", lambda noise, count: 0.0)
    assert O11A.check(LOGITS).agrees is False
    assert "the value moves" in O11A.refutes_verdict(torch.tensor([[3.0, 1.0], [0.0, 2.0]]))


def test_margins_that_are_too_large_are_found_out(monkeypatch):
    monkeypatch.setattr(
        s2moe, "margins", lambda scores, prices, k: scores.new_full((len(scores),), 9)
    )
    assert O11B.check(LOGITS).agrees is False
    assert "margin is larger" in O11B.refutes_verdict(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_a_rule_that_compares_tokens_is_no_fixed_price(monkeypatch):
    def columns(scores, k):
        return scores >= scores.topk(k, 0).values[-1]

    monkeypatch.setattr(s2moe, "row_choice", columns)
    assert O11B.check(LOGITS).agrees is False
