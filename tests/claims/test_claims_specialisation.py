"""O16: overlap against information, what balance costs; and a wrong measure."""

import math

import pytest
import torch

from lp_routing.claims import specialisation
from lp_routing.claims.specialisation import O16A, O16B, by_position, correlation

LOGITS = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_by_position_two_experts_half_the_experts_apart():
    x = by_position(4, 4, 2)
    assert [row.nonzero().flatten().tolist() for row in x] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert by_position(5, 3, 2).sum(1).tolist() == [2] * 5


def test_correlation_by_hand():
    # columns (1, -1), its opposite, and a constant one
    table = correlation(torch.tensor([[1.0, -1.0, 3.0], [-1.0, 1.0, 3.0]], dtype=torch.float64))
    assert table.flatten().tolist() == pytest.approx([1, -1, 0, -1, 1, 0, 0, 0, 0])


def test_the_story_of_the_counterexample():
    said = O16A.refutes_statement(O16A.counterexample.tensor())
    assert said == (
        f"Hashing overlaps by -1 and tells 0 nats, row top-2 overlaps by 1 and tells "
        f"{math.log(2):.3g}."
    )


def test_routing_by_content_tells_more_than_hashing():
    numbers = O16B.check(LOGITS).numbers
    for layer in range(2):
        assert numbers[f"nats, top-k, layer {layer}"] > numbers[f"nats, hash, layer {layer}"]
        assert numbers[f"nats, balanced optimum, layer {layer}"] > 0


@pytest.mark.parametrize("claim", [O16A, O16B], ids=lambda c: c.id)
def test_with_few_tokens_nothing_is_asked(claim):
    assert claim.check(torch.randn(7, 4)).agrees is None


def test_information_below_0_is_found_out(monkeypatch):
    monkeypatch.setattr(specialisation, "mutual_information", lambda x, kinds: -1.0)
    assert O16A.check(LOGITS).agrees is False
