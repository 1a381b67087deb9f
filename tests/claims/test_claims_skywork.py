"""Skywork-MoE (O13): normalised logits, drops, and what follows them; and wrong ones."""

import pytest
import torch

from lp_routing.claims import skywork
from lp_routing.claims.skywork import (
    O13A,
    O13B,
    drop_rates,
    dropped,
    lost,
    normalised,
    settled,
)

LOGITS = torch.randn(2, 128, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOGITS += torch.linspace(0, 2, 8)  # later experts are liked better


def test_a_row_has_mean_0_and_deviation_lambda():
    # (1, 3) has mean 2 and deviation 1; (5, 5) has none
    rows = torch.tensor([[1.0, 3.0], [5.0, 5.0]], dtype=torch.float64)
    assert normalised(rows, 2.0)[0].tolist() == pytest.approx([-2.0, 2.0])
    assert normalised(rows, 2.0)[1].tolist() == [0.0, 0.0]


def test_what_is_above_capacity_is_dropped():
    # loads 3 and 1 with one place each: two pairs too many
    chosen = torch.tensor([[1, 0], [1, 0], [1, 1]]).bool()
    assert dropped(chosen, 1) == 2
    assert dropped(chosen, 3) == 0


def test_prices_that_follow_bring_the_token_back_and_dual_ascent_does_not():
    # the story of O13b: the lead of token 2 is 0.5, and an excess of 1 lets prices rise to 1
    scores = O13B.counterexample.tensor()
    follows = drop_rates(scores, 1, 1, integral=False)
    adds = drop_rates(scores, 1, 1, integral=True)
    assert follows[0] == adds[0] == 0.5
    assert 0.0 in follows  # it did move away, and came back
    assert settled(follows) > 0
    assert settled(adds) == 0


def test_the_counterexample_drops_one_token_either_way():
    said = O13A.refutes_statement(O13A.counterexample.tensor())
    assert said == "1 pair(s) dropped without normalisation, 1 with it."
    assert O13A.refutes_statement(torch.eye(2)) is None  # nothing is dropped


def test_a_token_with_smaller_logits_is_counted():
    # by z the second expert is best, by the logits the first
    assert lost(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 1.0]]), 1) == 1
    assert lost(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]]), 1) == 0  # tied
    assert lost(torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0, 1.0]]), 1) == 0


def test_drops_are_the_same_and_the_dropped_are_not():
    found = O13A.check(LOGITS)
    assert found.agrees
    assert found.numbers["% of pairs dropped, layer 0"] > 0
    assert found.numbers["largest % of tokens with other drops"] > 0


@pytest.mark.parametrize("claim", [O13A, O13B], ids=lambda c: c.id)
def test_without_a_choice_nothing_is_asked(claim):
    assert claim.check(torch.randn(5, 2), k=2).agrees is None


def test_a_normalisation_that_reverses_is_found_out(monkeypatch):
    usual = normalised
    monkeypatch.setattr(skywork, "normalised", lambda logits, sharpness: -usual(logits, sharpness))
    assert O13A.check(LOGITS).agrees is False
    assert "smaller logits" in O13A.refutes_verdict(torch.tensor([[1.0, 2.0]]))


def test_an_optimum_that_drops_is_found_out(monkeypatch):
    everything = lambda problem: (0.0, torch.ones_like(problem.scores, dtype=torch.bool), None)  # noqa: E731
    monkeypatch.setattr(skywork, "optimum", everything)
    assert O13B.check(LOGITS).agrees is False
