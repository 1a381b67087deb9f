"""O17: counts of routings, product experts and their prices; and wrong ones."""

import math

import pytest
import torch

from lp_routing.claims import theory
from lp_routing.claims.theory import (
    O17A,
    O17B,
    factors,
    interaction,
    of_factors,
    patterns,
    products,
    split,
)

LOGITS = torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_tokens_and_two_experts_have_4_routings_or_6():
    assert patterns(2, 2, 1) == pytest.approx((math.log(2), math.log(6) / 2))
    assert O17A.refutes_statement(torch.zeros(2, 2)) == ("Token choice has 4 routings, the pool 6.")
    assert O17A.refutes_statement(torch.zeros(1, 3)) is None  # a pool of one token is token choice


@pytest.mark.parametrize(("E", "both"), [(32, (4, 8)), (9, (3, 3)), (7, (1, 7)), (1, (1, 1))])
def test_factors_are_as_close_as_can_be(E, both):
    assert factors(E) == both


def test_products_by_hand():
    # (1, 2) and (10, 20): 11, 21, 12, 22; the second and the first expert make product 1 b + 0 = 2
    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])
    assert products(first, second).tolist() == [[11, 21, 12, 22]]
    x, y = torch.tensor([[False, True]]), torch.tensor([[True, False]])
    assert of_factors(x, y).tolist() == [[False, False, True, False]]
    assert products(*split(products(first, second), 2, 2)).tolist() == [[11, 21, 12, 22]]


def test_prices_of_a_chequerboard_are_all_interaction_and_sums_have_none():
    assert interaction(torch.tensor([1.0, 0.0, 0.0, 1.0]), 2, 2) == pytest.approx(1.0)
    assert interaction(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2, 2) == pytest.approx(0.0)
    # both: variance of the chequerboard 1/4, of the sum 5/4, together 3/2
    assert interaction(torch.tensor([1.0, 1.0, 2.0, 4.0]), 2, 2) == pytest.approx(1 / 6)
    assert interaction(torch.ones(4), 2, 2) == 0.0


def test_balanced_factors_leave_two_products_empty():
    said = O17B.refutes_statement(O17B.counterexample.tensor())
    assert said == "Factors have 2 tokens each, a product 2."


def test_logits_of_a_prime_number_of_experts_are_no_products():
    assert O17B.check(torch.randn(14, 7)).agrees is None
    found = O17B.check(LOGITS)
    assert found.agrees
    assert found.numbers["fullest product, layer 0"] > 30 // 6


def test_wrong_counts_are_found_out(monkeypatch):
    monkeypatch.setattr(theory, "log_choose", lambda n, m: -float(n * n))
    assert O17A.check(LOGITS).agrees is False
    assert "nats, not" in O17A.refutes_verdict(torch.zeros(2, 2))


def test_products_of_other_factors_are_found_out(monkeypatch):
    monkeypatch.setattr(
        theory, "of_factors", lambda x, y: (x.flip(1)[:, :, None] & y[:, None]).flatten(1)
    )
    assert O17B.check(LOGITS).agrees is False
    assert "best product" in O17B.refutes_verdict(torch.tensor([[1.0, 0.0]]))
