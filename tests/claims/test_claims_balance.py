"""Claims O1 to O7: hand-worked cases, the smallest ones, hunts in vain, faulty routers."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.claims import (
    base_layers,
    bip,
    expert_choice,
    loss_free,
    max_score,
    quantile_balancing,
    sinkhorn,
)
from lp_routing.claims.base_layers import O4, released_auction
from lp_routing.claims.bip import O1
from lp_routing.claims.claim import ClaimInput, Verdict, smallest
from lp_routing.claims.expert_choice import O7
from lp_routing.claims.helpers import (
    balanced_dual,
    best_by_trial,
    equally_shared,
    exactly_balanced,
    share_above,
    span,
)
from lp_routing.claims.loss_free import O2
from lp_routing.claims.max_score import O6
from lp_routing.claims.quantile_balancing import O3
from lp_routing.claims.sinkhorn import O5
from lp_routing.routers.max_score import MaxScore
from lp_routing.routers.selection import largest
from tests.brute_force import best_value

CLAIMS = (O1, O2, O3, O4, O5, O6, O7)
FAILING = (O1, O3, O4, O5, O6, O7)
NEVER = float("-inf")


def ids(claim):
    return claim.id


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def tables(draw, most=5, cells=20, unit=1.0):
    """(T, E) from 1 to `most` either way, at most so many entries: whole multiples, many ties."""
    T, E = draw(st.integers(1, most)), draw(st.integers(1, most))
    E = min(E, max(1, cells // T))
    row = st.lists(st.integers(0, 4), min_size=E, max_size=E)
    return unit * torch.tensor(draw(st.lists(row, min_size=T, max_size=T))).double()


# --- by trial -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(tables(3))
def test_the_trials_agree_with_the_other_brute_force(scores):
    T, E = scores.shape
    for k in range(1, E + 1):
        for most in (0, 1, math.ceil(T * k / E), T):
            mine = best_by_trial(scores, range(k + 1), range(most + 1))
            assert mine == best_value(lpr.problems.capacity(scores, k, most))
        if T * k % E == 0:
            assert exactly_balanced(scores, k) == best_value(lpr.problems.balanced(scores, k))


def test_bounds_that_cannot_be_met_have_no_value():
    scores = torch.ones(2, 2).double()
    assert best_by_trial(scores, range(2, 3), range(2)) is None  # four pairs, two places
    assert best_by_trial(scores, range(1, 2), range(0), rows=[range(2, 3), range(1)]) == 2
    assert best_by_trial(scores, range(1, 2), range(0), rows=[range(2), range(0)]) is None
    with pytest.raises(ValueError, match="no equal share"):
        exactly_balanced(torch.ones(3, 2).double(), 1)


@settings(max_examples=40)
@given(tables(4))
def test_the_dual_is_that_of_the_library(scores):
    T, E = scores.shape
    prices = torch.arange(E).double() - 1
    for k in range(1, E + 1):
        if T * k % E == 0:
            problem = lpr.problems.balanced(scores, k)
            assert balanced_dual(scores, prices, k) == lpr.dual_bound(
                problem, lpr.Prices(experts=prices)
            )
        most = math.ceil(T * k / E)
        costly = lpr.dual_bound(
            lpr.problems.capacity(scores, k, most), lpr.Prices(experts=prices + 1)
        )
        assert bip.at_most_dual(scores, prices + 1, k, most) == costly


# --- the layers' helpers --------------------------------------------------------------------------


def test_tokens_are_cut_to_equal_shares():
    given_ = ClaimInput(torch.zeros(2, 11, 4), 2)
    assert equally_shared(given_, 2).shape == (2, 10, 4)
    assert equally_shared(given_, 1).shape == (2, 8, 4)
    assert equally_shared(given_, 1, most=6).shape == (2, 4, 4)
    assert equally_shared(ClaimInput(torch.zeros(1, 3, 4), 1), 1) is None


def test_numbers_in_words():
    assert span([1.0, 1.0]) == "1"
    assert span([2.0, 1.25]) == "1.25 to 2"
    assert share_above(12, 10) == 20
    assert share_above(-9, -10) == 10
    assert share_above(0, 0) == 0


# --- counterexamples ------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", FAILING, ids=ids)
def test_the_counterexample_breaks_the_claim_and_not_the_verdict(claim):
    scores = claim.counterexample.tensor()
    assert claim.refutes_statement(scores)
    assert claim.refutes_verdict(scores) is None


def found(claim, **options):
    return smallest(claim.refutes_statement, **options).scores.tolist()


def test_the_smallest_that_breaks_bip():
    assert found(O1) == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_the_smallest_that_breaks_quantile_balancing():
    assert found(O3) == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_the_smallest_that_breaks_the_released_auction():
    assert found(O4, most_tokens=4, most_experts=2) == [[0, 0], [0, 1], [1, 2], [1, 2]]


def test_the_smallest_that_breaks_sinkhorn():
    assert found(O5, most_tokens=4) == [[0, 0], [0, 0], [0, 0], [0, 1]]


def test_the_smallest_that_breaks_max_score():
    assert found(O6) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_the_smallest_that_breaks_capped_expert_choice():
    assert found(O7, entries=(0, 1)) == [[0, 0, 0], [1, 1, 1]]


def test_bip_by_hand():
    scores = O1.counterexample.tensor()
    prices = bip.turns(scores, 2, 20)
    assert prices[-1].tolist() == [49, 49, 0]
    assert balanced_dual(scores, prices[-1], 2) == 402
    assert bip.at_most_dual(scores, prices[-1], 2, 2) == 402
    assert bip.at_most_dual(scores, torch.tensor([50.0, 50.0, 0.0]), 2, 2) == 401
    assert best_by_trial(scores, range(3), range(3)) == 401
    assert exactly_balanced(scores, 2) == 352
    # k = 1: no prices at all, 100 + 100 + 50 against 100 + 100 + 1
    assert bip.turns(scores, 1, 20)[-1].tolist() == [0, 0, 0]
    assert (balanced_dual(scores, torch.zeros(3), 1), exactly_balanced(scores, 1)) == (250, 201)


def test_quantile_balancing_by_hand():
    scores = O3.counterexample.tensor()
    assert quantile_balancing.whole_rounds(scores, 2)[-1].tolist() == [0, 0, 0]
    assert balanced_dual(scores, torch.zeros(3), 2) == 4
    assert balanced_dual(scores, torch.tensor([-1.0, 0.0, 0.0]), 2) == 3
    assert exactly_balanced(scores, 2) == 3


def test_loss_free_steps_by_hand_rise_at_last():
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    prices, slopes = loss_free.sign_steps(scores, 1, 0.25, 3)
    assert [each.tolist() for each in prices] == [[0, 0], [0.25, -0.25], [0.5, -0.5], [0.75, -0.75]]
    assert [each.tolist() for each in slopes] == [[-1, 1]] * 3
    assert [balanced_dual(scores, each, 1) for each in prices] == [2, 1.5, 1, 1.5]


def test_the_released_auction_by_hand():
    scores = O4.counterexample.tensor()
    assert released_auction(scores).int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert exactly_balanced(scores, 1) == 4
    assert O4.refutes_verdict(scores) is None


def test_the_released_auction_without_ties():
    scores = torch.tensor([[36.0, 48.0], [12.0, 20.0], [29.0, 41.0], [11.0, 31.0]]).double()
    # The best, by differences 12, 8, 12, 20: expert 2 for tokens 4 and 1 (or 3), 31 + 48 + 12 + 29.
    assert exactly_balanced(scores, 1) == 120
    assert base_layers.refutes_statement(scores) == (
        "The released rule's assignment is worth 116, the best one 120."
    )


def test_the_released_auction_where_it_is_right_and_where_it_does_not_end():
    apart = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).double()
    assert released_auction(apart).int().tolist() == [[1, 0], [0, 1]]
    assert base_layers.refutes_statement(apart) is None
    uneven = torch.tensor([[3.0, 0.0], [0.0, 3.0], [1.0, 1.5]]).double()  # two bids, three tokens
    assert released_auction(uneven, 300) is None
    assert base_layers.refutes_statement(uneven) is None  # it is not asked: E does not divide T


def test_sinkhorn_by_hand():
    plan = lpr.routers.sinkhorn.sinkhorn(O5.counterexample.tensor(), 1, 1.0, 1e-9).plan
    # a = z / (1 + z) and b = z / (e + z) with 3 a + b = 2, by bisection
    low, high = 0.0, 10.0
    for _ in range(60):
        z = (low + high) / 2
        over = 3 * z / (1 + z) + z / (math.e + z) > 2
        low, high = (low, z) if over else (z, high)
    assert z == pytest.approx(1.27, abs=0.01)
    assert plan[0, 0].item() == pytest.approx(z / (1 + z), abs=1e-6)
    assert plan[3, 0].item() == pytest.approx(z / (math.e + z), abs=1e-6)
    assert z / (1 + z) == pytest.approx(0.56, abs=0.005)
    assert z / (math.e + z) == pytest.approx(0.32, abs=0.005)


def test_max_score_by_hand():
    scores = O6.counterexample.tensor()
    assert max_score.two_phase(scores, 2, 2) == 27
    assert exactly_balanced(scores, 2) == 32
    kept = MaxScore(2, score="logits").select(scores)
    assert scores[kept].sum() == 27
    repeated = MaxScore(2, score="logits", repeats=True).select(scores)
    assert repeated.int().tolist() == [[1, 0, 1], [1, 0, 1], [0, 1, 0]]  # expert 2 twice


def test_capped_expert_choice_by_hand():
    scores = O7.counterexample.tensor()
    found = expert_choice.capped_plan(scores, 1, 2, 1.0, 1e-9)
    assert torch.allclose(found.plan, torch.tensor([[1 / 3] * 3, [2 / 3] * 3]).double())
    value, promise, bound = expert_choice.promised(scores, found, 1, 2, 1.0)
    entropy = -3 * (math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert entropy == pytest.approx(3 * 0.637, abs=0.002)
    assert (value, promise, bound) == pytest.approx((2, 2 + entropy, 2 + entropy), abs=1e-6)


# --- hunts in vain --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(tables(cells=16))
def test_nothing_betrays_bip(scores):
    assert O1.refutes_verdict(scores) is None


@given(tables(cells=16, unit=0.25))
def test_nothing_betrays_loss_free(scores):
    assert O2.refutes_verdict(scores) is None


@given(tables())
def test_nothing_betrays_quantile_balancing(scores):
    assert O3.refutes_verdict(scores) is None


@settings(max_examples=40)
@given(tables(4))
def test_nothing_betrays_the_auction(scores):
    assert O4.refutes_verdict(scores) is None


@settings(max_examples=40)
@given(tables(4))
def test_nothing_betrays_sinkhorn(scores):
    assert O5.refutes_verdict(scores) is None


@settings(max_examples=25)
@given(tables(4, 12))
def test_nothing_betrays_max_score(scores):
    assert O6.refutes_verdict(scores) is None


@settings(max_examples=25)
@given(tables(3, 9))
def test_nothing_betrays_capped_expert_choice(scores):
    assert O7.refutes_verdict(scores) is None


# --- evidence -------------------------------------------------------------------------------------

SOME = logits(2, 16, 4)


@pytest.mark.parametrize("claim", CLAIMS, ids=ids)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_evidence_agrees_and_tells_numbers(claim, k):
    evidence = claim.check(SOME, k=k)
    assert evidence.agrees is True
    assert evidence.numbers
    assert all(not isinstance(n, float) or math.isfinite(n) for n in evidence.numbers.values())


@pytest.mark.parametrize("claim", CLAIMS, ids=ids)
@pytest.mark.parametrize(
    "values",
    [torch.zeros(7, 3), torch.zeros(1, 1), 40 * logits(1, 9, 4), logits(2, 5), 1e-30 * SOME],
    ids=["ties", "one pair", "large", "fewer tokens than experts", "tiny"],
)
def test_evidence_on_odd_logits_agrees_or_is_silent(claim, values):
    assert claim.check(values, k=1).agrees is not False


@pytest.mark.parametrize("claim", [O2, O3, O4, O5, O6], ids=ids)
def test_too_few_tokens_leave_nothing_to_ask(claim):
    assert claim.check(logits(3, 8), k=1).agrees is None


def test_no_place_leaves_nothing_to_ask():
    assert O7.check(logits(3, 8), k=2).agrees is None


def dearer(amount):
    """A round or step that adds to the price of the first expert, whatever it is given."""

    def worse(scores, prices, *_):
        return prices + amount * (torch.arange(len(prices)) == 0)

    return worse


def test_turns_that_raise_the_bound_are_noticed(monkeypatch):
    class Worse(bip.BIP):
        def step(self, scores, state):
            return super().step(scores, state)[0], dearer(0.5)(scores, state)

    monkeypatch.setattr(bip, "BIP", Worse)
    assert O1.examine(ClaimInput(SOME, 2)).agrees is False
    assert O1.refutes_verdict(O1.counterexample.tensor())


def test_a_bound_below_the_optimum_is_noticed(monkeypatch):
    monkeypatch.setattr(bip, "at_most_dual", lambda *_: 0.0)
    assert O1.examine(ClaimInput(SOME, 2)).agrees is False
    assert O1.refutes_verdict(O1.counterexample.tensor())


@pytest.mark.parametrize("fault", ["sign", "size"])
def test_a_bias_that_goes_elsewhere_is_noticed(monkeypatch, fault):
    class Wrong(loss_free.LossFree):
        def step(self, scores, state):
            chosen, after = super().step(scores, state)
            moved = after - state
            return chosen, state + (-moved if fault == "sign" else 2 * moved)

    monkeypatch.setattr(loss_free, "LossFree", Wrong)
    assert O2.examine(ClaimInput(SOME, 2)).agrees is False
    assert O2.refutes_verdict(torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double())


def test_a_slope_that_is_no_subgradient_is_noticed(monkeypatch):
    true = loss_free.dual_slope
    monkeypatch.setattr(loss_free, "dual_slope", lambda *given: 3 * true(*given))
    assert O2.examine(ClaimInput(SOME, 2)).agrees is False
    assert O2.refutes_verdict(torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double())


def test_rounds_that_raise_the_bound_are_noticed(monkeypatch):
    monkeypatch.setattr(quantile_balancing, "balancing_round", dearer(1.0))
    assert O3.examine(ClaimInput(SOME, 2)).agrees is False
    assert O3.refutes_verdict(O3.counterexample.tensor())


@pytest.mark.parametrize("fault", ["unbalanced", "poor"])
def test_an_auction_that_sells_badly_is_noticed(monkeypatch, fault):
    def worst(scores, *_, **options):
        sold = true(-scores, **options)
        if fault == "unbalanced":
            sold.chosen[:] = largest(scores, 1)
        return sold

    true = base_layers.auction
    monkeypatch.setattr(base_layers, "auction", worst)
    skewed = SOME + torch.tensor([9.0, 0.0, 0.0, 0.0])
    assert O4.examine(ClaimInput(skewed, 1)).agrees is False
    assert O4.refutes_verdict(torch.tensor([[50.0, 0.0], [40.0, 0.0]]).double())


def test_a_plan_that_is_not_balanced_is_noticed(monkeypatch):
    def skewed(scores, *rest):
        true = plans(scores, *rest)
        log_plan = true.log_plan + torch.arange(scores.shape[1]) / 10
        return type(true)(**{**vars(true), "log_plan": log_plan})

    plans = sinkhorn.sinkhorn
    monkeypatch.setattr(sinkhorn, "sinkhorn", skewed)
    assert O5.examine(ClaimInput(SOME, 2)).agrees is False
    assert O5.refutes_verdict(O5.counterexample.tensor())


def test_a_promise_that_is_not_kept_is_noticed(monkeypatch):
    monkeypatch.setattr(sinkhorn, "promised", lambda *_: (-99.0, -99.0, -99.0))
    assert O5.examine(ClaimInput(SOME, 2)).agrees is False
    assert O5.refutes_verdict(O5.counterexample.tensor())


@pytest.mark.parametrize("fault", ["unbalanced", "too good"])
def test_two_phases_that_are_too_good_to_be_true_are_noticed(monkeypatch, fault):
    if fault == "unbalanced":
        rule = max_score.MaxScore
        monkeypatch.setattr(rule, "select", lambda self, scores: largest(scores, self.k))
        values = SOME + torch.tensor([9.0, 0.0, 0.0, 0.0])
    else:
        values, solved = SOME, max_score.balanced_optimum(torch.softmax(SOME[0], -1) / 2, 2)
        monkeypatch.setattr(max_score, "balanced_optimum", lambda *_: solved)
    assert O6.examine(ClaimInput(values, 2)).agrees is False


def test_a_flow_that_is_not_the_optimum_is_noticed(monkeypatch):
    monkeypatch.setattr(max_score, "MaxScoreFlow", MaxScore)
    assert O6.refutes_verdict(O6.counterexample.tensor())


def test_a_plan_above_the_cap_is_noticed(monkeypatch):
    def uncapped(scores, capacity, _, *rest):
        return plans(scores, capacity, scores.shape[1], *rest)

    plans = expert_choice.capped_plan
    monkeypatch.setattr(expert_choice, "capped_plan", uncapped)
    assert O7.examine(ClaimInput(SOME, 1)).agrees is False
    assert O7.refutes_verdict(O7.counterexample.tensor())


def test_a_promise_below_the_optimum_is_noticed(monkeypatch):
    monkeypatch.setattr(expert_choice, "promised", lambda *_: (0.0, 0.0, 0.0))
    assert O7.examine(ClaimInput(SOME, 1)).agrees is False
    assert O7.refutes_verdict(O7.counterexample.tensor())


def test_the_claims_are_complete():
    assert [claim.id for claim in CLAIMS] == [f"O{n}" for n in range(1, 8)]
    modules = (
        bip,
        loss_free,
        quantile_balancing,
        base_layers,
        sinkhorn,
        max_score,
        expert_choice,
    )
    assert tuple(itertools.chain.from_iterable(m.CLAIMS for m in modules)) == CLAIMS
    for claim in CLAIMS:
        assert (claim.counterexample is None) == (claim.verdict is Verdict.HOLDS)
        assert claim.conditions or claim.verdict is not Verdict.CONDITIONAL
        assert claim.refutes_verdict


def test_for_more_experts_a_token_only_the_bound_of_a_plan_is_compared():
    logits = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
    claim = next(claim for claim in CLAIMS if claim.id == "O5")
    assert "less than the optimum" in claim.check(logits, k=1).sentence
    evidence = claim.check(logits, k=3)
    assert "only its bound compares" in evidence.sentence
    assert evidence.numbers["proved bound above the optimum, layer 0"] >= 0


def test_a_plan_below_the_optimum_by_no_more_than_its_certificate_allows():
    claim = next(claim for claim in CLAIMS if claim.id == "O7")
    numbers = claim.check(torch.randn(40, 2, generator=torch.Generator().manual_seed(1))).numbers
    assert numbers["plan below the optimum, layer 0"] <= (
        numbers["proved bound above the plan, layer 0"] + 1e-9
    )
