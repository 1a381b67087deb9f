"""O18: the regret of prices that move with the excess, and a bound that is too small."""

import pytest
import torch

from lp_routing.claims import alf_lb
from lp_routing.claims.alf_lb import O18, allowed, proportional_steps, regret

LOGITS = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_tokens_that_want_one_expert():
    # scores (1, 0) and (.5, 0), k = 1: at price 0 both want expert 1, D = 1.5 and the slope is
    # (-1, 1), squared 2. With rate .25 the prices are (.25, -.25), a difference of .5: token 2 is
    # tied, D = .75 + .25 + 0 = 1, the optimum; the lower expert is taken, so the slope stays.
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    values, squares = proportional_steps(scores, 1, 0.25)
    assert values[:2] == [1.5, 1.0]
    assert squares[:2] == [2.0, 2.0]
    assert min(values) == 1.0


def test_regret_and_what_is_allowed_by_hand():
    # mean of 3 and 1 above 1 is 1; |p*|^2 = 4: 4 / (2 * .5 * 2) + .25 * mean(2, 4) = 2.75
    assert regret([3.0, 1.0], 1.0) == 1.0
    prices = torch.tensor([2.0, 0.0], dtype=torch.float64)
    assert allowed(prices, [2.0, 4.0], 0.5) == pytest.approx(2.75)


def test_logits_stay_within_what_is_allowed():
    found = O18.check(LOGITS, k=1)
    assert found.agrees
    for layer in range(2):
        mean = found.numbers[f"mean % above the optimum, layer {layer}"]
        assert 0 <= mean <= found.numbers[f"% allowed, layer {layer}"]


def test_too_few_tokens_for_equal_loads():
    assert O18.check(torch.randn(2, 5), k=1).agrees is None


def test_steps_the_wrong_way_are_found_out(monkeypatch):
    usual = alf_lb.dual_slope
    monkeypatch.setattr(alf_lb, "dual_slope", lambda *given: -usual(*given))
    assert O18.check(LOGITS, k=1).agrees is False
    assert "regret" in O18.refutes_verdict(torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double())
