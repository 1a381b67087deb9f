"""Claims about LapSum: known answers, independent thresholds, and checks that reject."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lp_routing.claims import lapsum
from lp_routing.routers.soft_top_k import soft_top_k

S1, S2, S7, S8 = lapsum.CLAIMS


def logits(seed=0, T=12, E=6):
    return torch.randn(T, E, generator=torch.Generator().manual_seed(seed)).double()


def test_two_entries_by_hand():
    # k = 1, alpha = 1, entries (0, 1): theta = 1/2, so p = (e^-1/2 / 2, 1 - e^-1/2 / 2)
    small = math.exp(-0.5) / 2
    p = lapsum.by_halving(torch.tensor([[0.0, 1.0]]).double(), 1.0, 1.0)
    assert p[0].tolist() == pytest.approx([small, 1 - small])


def test_the_penalty_of_one_half_is_one_half():
    r, p = torch.zeros(1, 2).double(), torch.full((1, 2), 0.5).double()
    assert lapsum.objective(r, p, 1.0).tolist() == [1.0]
    assert lapsum.objective(r, torch.tensor([[1.0, 0.0]]).double(), 1.0).tolist() == [0.0]


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_a_general_solver_finds_no_better_point(alpha):
    r = torch.tensor([1.0, 0.4, -0.2, 0.1]).double()
    p = soft_top_k(r[None], 2.0, alpha)
    found = minimize(
        lambda x: -float(lapsum.objective(r, torch.as_tensor(x), alpha)),
        [0.5] * 4,
        bounds=[(1e-9, 1 - 1e-9)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 2},
        method="SLSQP",
    )
    assert float(lapsum.objective(r, p[0], alpha)) >= -found.fun - 1e-7
    assert p[0].numpy() == pytest.approx(found.x, abs=1e-3)


def test_sorting_is_seen_and_its_absence_too():
    assert "sort" in lapsum.operations(logits(), 1.0, 1.0)
    with lapsum.Operations() as seen:
        lapsum.by_halving(logits(), 1.0, 1.0)
    assert "sort" not in seen.names
    assert "where" in seen.names


@pytest.mark.parametrize("claim", lapsum.CLAIMS, ids=lambda claim: claim.id)
def test_the_evidence_is_as_the_verdict_says(claim):
    evidence = claim.check(logits())
    assert evidence.agrees is True, evidence.sentence
    assert claim.check(logits()[:, :1], k=1).agrees is None


@pytest.mark.parametrize("claim", [S1, S2, S7], ids=lambda claim: claim.id)
def test_a_wrong_soft_top_k_is_found_out(claim, monkeypatch):
    def wrong(r, k, alpha):
        return (soft_top_k(r, k, alpha) + 1e-3).clamp(max=1)

    for module in (lapsum, lapsum):
        monkeypatch.setattr(module, "soft_top_k", wrong)
    assert claim.check(logits()).agrees is False


def test_one_that_does_not_sort_is_found_out(monkeypatch):
    monkeypatch.setattr(lapsum, "soft_top_k", lapsum.by_halving)
    assert S2.check(logits()).agrees is False
    assert S2.refutes_statement(logits()) is None


def test_certificates_that_are_too_small_are_found_out(monkeypatch):
    real = lapsum.soft_gap
    monkeypatch.setattr(lapsum, "soft_gap", lambda *a: (real(*a)[0], real(*a)[1] / 100))
    assert S7.check(logits()).agrees is False
    assert S7.refutes_verdict(logits()) is not None


def test_an_operator_that_hardens_with_alpha_is_found_out(monkeypatch):
    real = lapsum.soft_gap
    monkeypatch.setattr(lapsum, "soft_gap", lambda r, k, alpha: real(r, k, 1 / alpha))
    assert S8.check(logits()).agrees is False
    assert S8.refutes_verdict(logits()) is not None
    assert S8.refutes_statement(logits()) is None


def test_layer_budgets_within_the_condition_ask_for_no_more_than_there_is():
    # B - L + 1 <= E: at most E, whatever eta
    for eta in (torch.zeros(3), torch.tensor([50.0, 0.0, 0.0])):
        assert float(lapsum.layer_budgets(eta, 5.5, 4).max()) <= 4


@given(st.lists(st.lists(st.floats(-4, 4), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(max_examples=12)
def test_the_hunt_on_any_numbers_is_in_vain(rows):
    scores = torch.tensor(rows, dtype=torch.float64)
    for claim in (S1, S7, S8):
        assert claim.refutes_verdict(scores) is None
