"""B10: a constant added to a token's logits, which a softmax does not feel and unified does."""

import torch

from lp_routing.claims.usmoe import shift
from lp_routing.claims.usmoe.shift import B10
from lp_routing.scores import softmax, unified

LOGITS = torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_story_of_the_counterexample():
    # scores .475, .55 and .5, .5 before; .234, .286 and .5, .5 after
    logits = B10.counterexample.tensor()
    assert unified(logits).round(decimals=3).tolist() == [[0.475, 0.55], [0.5, 0.5]]
    logits[0] -= 4
    assert unified(logits)[0].round(decimals=3).tolist() == [0.234, 0.286]
    said = B10.refutes_statement(B10.counterexample.tensor())
    assert said == "-4 on token 0 decides whether token 0 gets expert 1."


def test_unified_feels_a_shift_and_the_order_of_a_row_does_not():
    found = B10.check(LOGITS)
    assert found.agrees
    assert found.numbers["% of tokens changed by a drawn constant, layer 0"] > 0


def test_logits_of_mean_0_are_not_moved_by_subtracting_it():
    centred = LOGITS - LOGITS.mean(-1, keepdim=True)
    numbers = B10.check(centred).numbers
    assert numbers["% of tokens changed by subtracting the mean, layer 1"] == 0


def test_a_score_without_a_softmax_is_found_out(monkeypatch):
    monkeypatch.setattr(shift, "softmax", lambda values: values)
    assert B10.check(LOGITS).agrees is False
    assert "changes a softmax" in B10.refutes_verdict(torch.tensor([[1.0, 0.0]]))


def test_a_shift_that_changes_the_order_is_found_out(monkeypatch):
    monkeypatch.setattr(shift, "unified", lambda values: (values - 3).abs())
    assert B10.check(LOGITS).agrees is False
    assert "smaller logits" in B10.refutes_verdict(torch.tensor([[1.0, 0.0]]))


def test_the_softmax_score_is_free_of_it(monkeypatch):
    monkeypatch.setattr(shift, "unified", softmax)
    assert B10.refutes_statement(B10.counterexample.tensor()) is None
