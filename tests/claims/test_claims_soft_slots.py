"""Soft MoE (O14): gaps and entropies of slots, coverage, subsets; and wrong ones."""

import math

import pytest
import torch

from lp_routing.claims import soft_slots
from lp_routing.claims.soft_slots import (
    O14A,
    O14B,
    O14C,
    O14D,
    by_mass,
    combine,
    coverage,
    gaps,
    subset_error,
)

LOGITS = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOG3 = math.log(3)


def test_a_slot_with_weights_1_4_and_3_4():
    # logits 0 and log 3: the mixture is worth 3/4 log 3, a quarter of log 3 below the best;
    # its entropy is 1/4 log 4 + 3/4 log (4/3) = log 4 - 3/4 log 3
    gap, entropy = gaps(torch.tensor([[0.0], [LOG3]], dtype=torch.float64))
    assert gap.item() == pytest.approx(LOG3 / 4)
    assert entropy.item() == pytest.approx(math.log(4) - 0.75 * LOG3)


def test_coverage_of_the_story():
    # each slot gives token 1 a share of 1 / (1 + e^2), the mean is 1/2 a slot
    share = 2 / (1 + math.exp(2))
    logits = O14B.counterexample.tensor()
    assert coverage(logits).tolist() == pytest.approx([share, 2 - share])
    assert O14B.refutes_statement(logits) == "A token has 0.238 of the mean weight."
    assert O14B.refutes_statement(torch.zeros(3, 2)) is None


def test_the_kept_experts_are_renormalised():
    # weights 1/2, 1/4, 1/4 of outputs 4, 8, 0: Y = 4. Experts 2 and 3 alone have 1/2, 1/2: 4;
    # experts 1 and 3 have 2/3, 1/3: 8/3, off by 4/3
    C = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    outputs = torch.tensor([[[4.0], [8.0], [0.0]]], dtype=torch.float64)
    assert subset_error(C, outputs, (1, 2)) == pytest.approx(0)
    assert subset_error(C, outputs, (0, 2)) == pytest.approx(16 / 9)
    assert by_mass(C, 2) == (0, 1)


def test_mass_keeps_an_expert_that_another_cancels():
    said = O14D.refutes_statement(O14D.counterexample.tensor())
    assert said == "The largest mass leaves an error of 1, the best expert 0."


def test_later_tokens_take_weight_from_earlier_ones():
    assert O14C.refutes_statement(torch.zeros(2, 1)) == (
        "The weights of the first 1 tokens move by 0.5 with later ones."
    )
    assert O14C.check(torch.zeros(8, 2)).numbers["% of weight lost to later tokens, layer 0"] == 50
    assert O14C.check(torch.zeros(1, 2), k=1).agrees is None


def test_trial_of_all_subsets_is_at_least_as_good_as_mass():
    numbers = O14D.check(LOGITS).numbers
    assert numbers["best"] < numbers["by mass"] < numbers["mean of subsets"]


def test_a_gap_above_the_entropy_is_found_out(monkeypatch):
    monkeypatch.setattr(soft_slots, "dispatch", lambda logits: logits.flip(0).softmax(0))
    assert O14A.check(LOGITS).agrees is False
    assert "entropies" in O14A.refutes_verdict(torch.tensor([[0.0], [9.0]]))


def test_a_dispatch_that_does_not_add_up_is_found_out(monkeypatch):
    monkeypatch.setattr(soft_slots, "dispatch", lambda logits: 0.5 * logits.softmax(0))
    assert O14B.check(LOGITS).agrees is False


def test_combine_weights_that_look_at_later_tokens_are_found_out(monkeypatch):
    monkeypatch.setattr(soft_slots, "combine", lambda logits: logits.softmax(0))
    assert O14C.check(LOGITS).agrees is False


def test_a_choice_that_has_not_the_most_mass_is_found_out(monkeypatch):
    monkeypatch.setattr(soft_slots, "by_mass", lambda C, keep: tuple(range(keep)))
    assert not torch.equal(combine(LOGITS[0]).sum(0).argsort()[-2:].sort().values, torch.arange(2))
    assert O14D.check(LOGITS).agrees is False
