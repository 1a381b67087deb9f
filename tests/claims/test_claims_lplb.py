"""O9: edge-wise balancing, where whole tokens get stuck, and a hunt for another verdict."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lp_routing.claims import lplb
from lp_routing.claims.claim import smallest
from lp_routing.claims.lplb import O9
from lp_routing.extensions.replicas import edge_wise, spread

LOGITS = torch.randn(2, 200, 16, generator=torch.Generator().manual_seed(0))
LOGITS[:, :, 0] += 1.5


def test_the_counterexample_is_stuck_at_two_where_one_is_possible():
    says = "Loads [2, 1, 0]: edge-wise ends with 2 tokens on a device, 1 is possible."
    assert O9.refutes_statement(O9.counterexample.tensor()) == says


def test_no_counterexample_is_smaller_than_three_tokens_and_experts():
    found = smallest(O9.refutes_statement, entries=(0, 1))
    assert found.scores.shape == (3, 3)
    assert found.says.startswith("Loads [2, 1, 0]")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_nothing_betrays_the_verdict(data):
    T, E = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    rows = st.lists(st.integers(0, 2), min_size=E, max_size=E)
    table = data.draw(st.lists(rows, min_size=T, max_size=T))
    assert O9.refutes_verdict(torch.tensor(table, dtype=torch.float64)) is None


def test_logits_give_numbers_and_a_sentence():
    found = O9.check(LOGITS)
    assert found.agrees
    assert found.sentence.startswith("8 devices in a ring, 2 experts and one copy each, mean load ")
    numbers = found.numbers
    assert numbers["LP"] <= numbers["whole tokens"] < numbers["LP"] + 1
    assert numbers["LP"] == pytest.approx(numbers["edge-wise"])
    assert numbers["LP"] < numbers["one sweep"] <= numbers["at home"]
    assert numbers["mean load"] == 50


def test_loads_are_those_of_row_top_k_and_every_device_gets_the_busiest_of_its_neighbour():
    places, home = lplb._ring(torch.tensor([1, 5, 2, 2, 0, 3]), 3)
    assert home.tolist() == [0, 0, 1, 1, 2, 2]
    assert [row.nonzero().flatten().tolist() for row in places] == [
        [0],
        [0, 1],
        [1, 2],  # of two busiest the lower
        [1],
        [2],
        [0, 2],
    ]


@pytest.mark.parametrize(("E", "devices"), [(2, 2), (7, 7), (11, 11), (12, 6)])
def test_any_number_of_experts_has_devices(E, devices):
    found = O9.check(torch.randn(30, E, generator=torch.Generator().manual_seed(1)), k=1)
    assert (found.agrees, found.numbers["devices"]) == (True, devices)


def test_one_expert_leaves_nothing_to_ask():
    assert O9.check(torch.randn(5, 1), k=1).agrees is None


def test_a_rule_that_stops_early_is_found_out(monkeypatch):
    def hasty(loads, places, home, *, sweeps=1, integral=False):
        return edge_wise(loads, places, home, sweeps=min(sweeps, 1), integral=integral)

    monkeypatch.setattr(lplb, "edge_wise", hasty)
    assert O9.check(LOGITS).agrees is False
    # 6 tokens at home on device 0 of three, 3 on device 1
    table = torch.eye(3, dtype=torch.float64)[[0] * 6 + [1] * 3]
    assert "edge-wise with fractions ends at 4.5" in O9.refutes_verdict(table)


def test_a_solver_that_is_off_is_found_out(monkeypatch):
    def off(loads, places, *, integral=False):
        found = spread(loads, places, integral=integral)
        return replace(found, value=found.value + 1)

    monkeypatch.setattr(lplb, "spread", off)
    assert O9.check(LOGITS).agrees is False
    assert "the LP is not worth" in O9.refutes_verdict(torch.tensor([[1.0, 0.0]]))
