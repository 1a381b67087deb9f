"""infinity-MoE (O15): sampled and generated experts, and the bound on all there are."""

import math

import pytest
import torch

from lp_routing.claims import infinity_moe
from lp_routing.claims.infinity_moe import O15, bound_beyond, generated, scores_of

LOGITS = torch.randn(2, 32, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
# four tokens, one in each direction of a cross
CROSS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)


def test_an_expert_serves_what_points_its_way():
    scores = scores_of(CROSS, torch.tensor([0.0, math.pi / 4], dtype=torch.float64))
    root = math.sqrt(0.5)
    assert scores.flatten().tolist() == pytest.approx([1, root, 0, root, 0, 0, 0, 0], abs=1e-12)


def test_the_bound_is_the_token_prices_and_the_largest_profit_of_each_loaded_expert():
    # two tokens pay 1 and 2; the best expert has a profit of 3, and two are loaded: 3 + 2 * 3
    prices, profits = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])
    assert bound_beyond(prices, profits, 2, 0.0) == 9.0
    assert bound_beyond(prices, profits, 2, 0.5) == 10.0


def test_one_expert_for_each_arm_of_the_cross_is_found():
    # four experts serve four tokens best with 1 each; the start lies between the arms, where
    # each expert has cos(45 degrees) = 0.71 of two tokens
    start = math.pi / 4 + torch.arange(4, dtype=torch.float64) * math.pi / 2
    value, bound = generated(CROSS, start, 4)
    assert value == pytest.approx(4.0, abs=0.01)
    assert value <= bound <= 4.05


def test_generated_experts_are_no_worse_than_where_they_began():
    states = LOGITS[0, :, :2]
    start = torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=torch.float64)
    value, bound = generated(states, start, 4)
    assert scores_of(states, start).amax(1).sum() < value <= bound


def test_the_counterexample():
    said = O15.refutes_statement(O15.counterexample.tensor())
    assert said == "One drawn is worth 0.5 on average, the best 1."


def test_logits_give_an_order_of_four_numbers():
    found = O15.check(LOGITS)
    assert found.agrees
    numbers = found.numbers
    assert numbers["sampled experts"] <= numbers["best of a sampled pool"] <= numbers["bound"]
    assert numbers["best of a generated pool"] <= numbers["bound"]
    assert O15.check(torch.zeros(16, 4)).agrees is None


def test_a_bound_that_forgets_the_profits_is_found_out(monkeypatch):
    monkeypatch.setattr(
        infinity_moe, "bound_beyond", lambda prices, profits, loaded, slack: float(prices.sum()) / 2
    )
    assert O15.check(LOGITS).agrees is False
    assert "bound" in O15.refutes_verdict(torch.tensor([[1.0, 3.0], [1.0, 0.0]]))
