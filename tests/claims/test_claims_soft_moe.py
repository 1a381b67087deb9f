"""S3 to S6: SoftMoE by hand, the smallest counterexamples, hunts, and faults found out."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lp_routing.claims import soft_moe
from lp_routing.claims.claim import Verdict, claim_input, smallest
from lp_routing.claims.soft_moe import CLAIMS, S3, S4, S5, S6
from lp_routing.frontier.layers import best_budgets
from lp_routing.routers.soft_top_k import SoftTopK, layer_budgets, soft_top_k

SOME = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, -2.0]]).double()
ids = [claim.id for claim in CLAIMS]


@st.composite
def tables(draw, most=4):
    T, E = draw(st.integers(1, most)), draw(st.integers(1, most))
    row = st.lists(st.integers(-3, 3).map(float), min_size=E, max_size=E)
    return torch.tensor(draw(st.lists(row, min_size=T, max_size=T)), dtype=torch.float64)


def test_the_counterexamples_break():
    for claim, says in [
        (S3, "k=1, tau=0.1: 4 experts are active on average."),
        (S4, "B=3: 4 pairs are computed."),
        (S6, "k=1, tau=0.5: a step of 2^-20 moves weights by 0.5."),
    ]:
        assert claim.refutes_statement(claim.counterexample.tensor()) == says


@pytest.mark.parametrize(
    ("claim", "scores"),
    [(S3, [[0, 0]]), (S4, [[0, 0], [0, 0]]), (S6, [[0, 0]])],
    ids=["3", "4", "6"],
)
def test_the_smallest_that_breaks(claim, scores):
    found = smallest(claim.refutes_statement, entries=(0, 1))
    assert found.scores.tolist() == scores
    assert found.scores.numel() <= claim.counterexample.tensor().numel()


def test_flat_rows_by_hand():
    # p = k / 4: all four are active at tau = 0.1 and hold the mass; at 0.3 none is
    flat = S3.counterexample.tensor()
    one = torch.ones(1, dtype=torch.float64)
    for tau, active, kept in [(0.1, 4, 1), (0.3, 0, 0)]:
        found = soft_moe.counted(flat, one, 1.0, tau)
        assert (int(found.active), float(found.kept)) == (active, pytest.approx(kept))
        assert float(found.mass) == pytest.approx(1)


def test_where_the_claims_stand_nothing_breaks():
    apart = torch.tensor([[40.0, 0.0], [0.0, 40.0]]).double()  # as good as hard, k = 1
    assert S3.refutes_statement(apart) is None
    assert S6.refutes_statement(apart) is None
    assert S4.refutes_statement(apart[:1]) is None


def test_best_by_counts_by_hand():
    # rows 2, 1, 0 and 3, 1, 0: floors 5, then 1, 1, 0, 0
    assert soft_moe.best_by_counts(ROWS[:2]) == [5, 6, 7, 7, 7]


@pytest.mark.parametrize("claim", CLAIMS, ids=ids)
@settings(deadline=None, max_examples=25)
@given(scores=tables())
def test_nothing_betrays(claim, scores):
    assert claim.refutes_verdict(scores) is None


@pytest.mark.parametrize("claim", CLAIMS, ids=ids)
@pytest.mark.parametrize("k", [1, 2, 8])
def test_evidence_agrees_and_tells_numbers(claim, k):
    evidence = claim.check(SOME, k=k)
    assert evidence.agrees is True
    assert evidence.numbers
    assert "nan" not in evidence.sentence


@pytest.mark.parametrize("claim", CLAIMS, ids=ids)
@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(7, 3),
        torch.full((6, 3), 0.1),
        torch.zeros(1, 1),
        SOME[0, :1],
        SOME[0, :2, :2],
        50 * SOME,
        1e-30 * SOME.double(),
        SOME.double() + 1e6,
        SOME.repeat(6, 1, 1),
    ],
    ids=["ties", "tenths", "one pair", "one token", "two", "large", "tiny", "shifted", "18 layers"],
)
def test_evidence_on_odd_logits_agrees_or_is_silent(claim, values):
    for seed in range(3):
        assert claim.check(values, k=1, seed=seed).agrees is not False


def test_one_expert_or_one_token_leave_nothing_to_ask():
    for claim in CLAIMS:
        assert claim.check(torch.zeros(3, 1), k=1).agrees is None
    assert S5.check(SOME[0, :1]).agrees is None


def test_the_numbers_of_the_three_counts():
    numbers = S3.check(SOME).numbers
    for layer in range(3):
        k, mass, kept = (
            numbers[f"{name}, layer {layer}"] for name in ("budget k_l", "soft mass", "kept mass")
        )
        assert mass == pytest.approx(k)
        assert kept < mass
    assert sum(numbers[f"budget k_l, layer {n}"] for n in range(3)) == pytest.approx(6)


def test_no_budgets_are_worth_more_than_the_best():
    numbers = S4.check(SOME).numbers
    assert numbers["sum of k_l"] == pytest.approx(numbers["B"])
    assert numbers["value of the best split"] == pytest.approx(numbers["bound by its price"])
    for which in ("equal", "drawn"):
        assert numbers[f"value of {which} budgets"] < numbers["value of the best split"]


def test_tau_is_the_largest_p_that_is_left_out():
    # two tokens, one expert each on average: of .9, .6, .4, .1 the two largest are above .4
    p = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    assert soft_moe.calibrated(p, 1.0) == pytest.approx(0.4)
    assert soft_moe.calibrated(p, 1.5) == pytest.approx(0.1)
    assert soft_moe.calibrated(p, 2.0) == pytest.approx(0.1)  # there is no other threshold


def test_on_tokens_that_are_alike_the_calibrated_tau_holds():
    logits = torch.randn(1, 16, 6, generator=torch.Generator().manual_seed(0)).double()
    twice = torch.cat([logits, logits], 1)
    k = torch.tensor([2.0], dtype=torch.float64)
    assert soft_moe.active_later(twice, k, 0.5).tolist() == [2.0]
    other = torch.cat([logits, 0 * logits], 1)  # flat rows: p = 1/3, and none or all six above
    assert soft_moe.active_later(other, k, 0.5).item() in (0.0, 6.0)


# --- faults ---------------------------------------------------------------------------------------


def rejected(claim):
    return (
        claim.examine(claim_input(SOME)).agrees is False and claim.refutes_verdict(ROWS) is not None
    )


@pytest.mark.parametrize(
    "select",
    [lambda self, p: p < 0, lambda self, p: p < self.truncate],
    ids=["none", "the wrong ones"],
)
def test_a_wrong_truncation_is_found_out(monkeypatch, select):
    monkeypatch.setattr(SoftTopK, "select", select)
    assert rejected(S3)


def test_a_truncation_that_keeps_all_is_found_out(monkeypatch):
    monkeypatch.setattr(SoftTopK, "select", lambda self, p: p > -1)
    assert (
        S3.refutes_verdict(ROWS) is not None
    )  # tau = 0.5, k = 1/2: three experts where one can be


def test_a_mass_that_is_not_the_budget_is_found_out(monkeypatch):
    monkeypatch.setattr(soft_moe, "soft_top_k", lambda r, k, a: 0.9 * soft_top_k(r, k, a))
    assert rejected(S3)
    assert S4.examine(claim_input(SOME)).agrees is False


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_budgets_that_do_not_add_up_are_found_out(monkeypatch, factor):
    monkeypatch.setattr(soft_moe, "layer_budgets", lambda *given: factor * layer_budgets(*given))
    assert rejected(S4)


@pytest.mark.parametrize("part", ["value", "bound"])
@pytest.mark.parametrize("by", [-1.0, 1.0])
def test_a_wrong_optimum_is_found_out(monkeypatch, part, by):
    def wrong(*given):
        found = best_budgets(*given)
        return replace(found, **{part: getattr(found, part) + by})

    monkeypatch.setattr(soft_moe, "best_budgets", wrong)
    assert rejected(S4)


def test_a_split_that_is_not_best_is_found_out(monkeypatch):
    def poor(*given):
        found = best_budgets(*given)
        return replace(found, value=0.5 * found.value, bound=0.5 * found.value)

    monkeypatch.setattr(soft_moe, "best_budgets", poor)
    assert rejected(S4)


def test_a_router_that_looks_ahead_is_found_out(monkeypatch):
    class Ahead(SoftTopK):
        def scores(self, logits, mask=None):
            return super().scores(logits / logits.std(), mask)  # a unit from the whole batch

    monkeypatch.setattr(soft_moe, "SoftTopK", Ahead)
    assert rejected(S5)


def test_experts_that_depend_on_later_tokens_are_found_out(monkeypatch):
    class Ahead(SoftTopK):
        def select(self, scores):
            return super().select(scores) & (scores >= scores[-1])  # the last token decides

    monkeypatch.setattr(soft_moe, "SoftTopK", Ahead)
    assert S5.examine(claim_input(SOME)).agrees is False


def by_logits(r, k, alpha):
    """The values of soft top-k and half its gradient in the logits."""
    return soft_top_k((r + r.detach()) / 2, k, alpha)


def by_budget(r, k, alpha):
    """The values of soft top-k and no gradient in k."""
    return soft_top_k(r, k.detach(), alpha) + 0 * k.sum()


@pytest.mark.parametrize("wrong", [by_logits, by_budget], ids=["logits", "budget"])
def test_a_wrong_gradient_is_found_out(monkeypatch, wrong):
    monkeypatch.setattr(soft_moe, "soft_top_k", wrong)
    assert rejected(S6)


def test_the_claims_are_complete():
    assert ids == ["S3", "S4", "S5", "S6"]
    for claim in CLAIMS:
        assert (claim.counterexample is None) == (claim.verdict is Verdict.HOLDS)
        assert claim.conditions or claim.verdict is Verdict.FAILS
        assert claim.refutes_verdict
