"""O10: competition, unequal costs and dropping; counterexamples, hunts, and faults found out."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lp_routing.claims import compete_smoe, expert_pruning, moe_plus_plus
from lp_routing.claims.claim import smallest
from lp_routing.claims.compete_smoe import O10A
from lp_routing.claims.expert_pruning import O10C
from lp_routing.claims.moe_plus_plus import O10B
from lp_routing.extensions.expert_pruning import bound_on_kept, greedy
from lp_routing.extensions.knapsack import within_budget

CLAIMS = {claim.id: claim for claim in (O10A, O10B, O10C)}
LOGITS = torch.randn(2, 150, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("O10a", "k=2, token 0: the winners sum to 0, others to 3."),
        ("O10b", "Budget 1: the LP is worth 1/2, whole choices 0."),
        ("O10c", "M=2: counting keeps 12 or 12, the best choice 13."),
    ],
)
def test_the_counterexample_breaks_the_statement_as_its_story_says(name, says):
    assert CLAIMS[name].refutes_statement(CLAIMS[name].counterexample.tensor()) == says


@pytest.mark.parametrize(
    ("name", "entries", "scores"),
    [
        # outputs 1 and -1 cancel
        ("O10a", (0, 1, -1), [[0, 1, -1]]),
        ("O10b", (0, 1), [[0, 0, 1]]),
        # counts (1, 1, 1) and sums (1, 1, 2); M = 2: counting tokens keeps the first two, worth 2,
        # counting score the third and the first, worth 2; the last two are worth 3
        ("O10c", (0, 1), [[0, 0, 1], [0, 1, 0], [1, 0, 1]]),
    ],
)
def test_a_smallest_counterexample_is_found(name, entries, scores):
    found = smallest(CLAIMS[name].refutes_statement, entries=entries)
    assert found.scores.tolist() == scores
    claim = CLAIMS[name].counterexample.tensor()
    assert found.scores.numel() <= claim.numel()


@pytest.mark.parametrize("name", list(CLAIMS))
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_nothing_betrays_the_verdict(name, data):
    T, E = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    rows = st.lists(st.integers(-2, 4), min_size=E, max_size=E)
    table = data.draw(st.lists(rows, min_size=T, max_size=T))
    assert CLAIMS[name].refutes_verdict(torch.tensor(table, dtype=torch.float64)) is None


@pytest.mark.parametrize("name", list(CLAIMS))
@pytest.mark.parametrize("shape", [(40, 5), (2, 30, 9), (1, 1, 4), (3, 7, 2), (4, 1)])
@pytest.mark.parametrize("k", [1, 2])
def test_logits_of_all_shapes_agree_or_leave_nothing_to_ask(name, shape, k):
    if k > shape[-1]:
        return
    found = CLAIMS[name].check(torch.randn(shape, generator=torch.Generator().manual_seed(2)), k=k)
    assert found.agrees is not False
    assert found.sentence.endswith(".")


def test_competition_is_the_optimum_in_its_own_scores_and_not_of_the_joint_output():
    found = O10A.check(LOGITS, k=2, seed=3)
    assert found.agrees
    assert found.numbers == O10A.check(LOGITS, k=2, seed=3).numbers
    assert found.numbers != O10A.check(LOGITS, k=2, seed=4).numbers
    numbers = found.numbers
    assert numbers["norms of the router's choice"] < numbers["norms of the winners"]
    assert 0 < numbers["tokens whose joint output an exchange lengthens"] < numbers["tokens"] == 256


def test_exchanges_are_counted_as_a_slow_loop_does():
    outputs = torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    chosen = torch.linalg.vector_norm(outputs, dim=-1).argsort(descending=True).argsort() < 2
    slow = 0
    for i in range(20):
        inside = chosen[i].nonzero().flatten().tolist()
        length = float(outputs[i, inside].sum(0).norm())
        exchanged = [
            float(outputs[i, [b if e == a else e for e in inside]].sum(0).norm())
            for a in inside
            for b in set(range(5)) - set(inside)
        ]
        slow += max(exchanged) > length
    assert 0 < slow < 20
    assert compete_smoe._beaten(outputs, chosen) == slow


def test_responses_that_do_not_follow_the_norms_are_found_out(monkeypatch):
    def weakest(outputs):
        return -torch.linalg.vector_norm(outputs, dim=-1)

    monkeypatch.setattr(compete_smoe, "competition_scores", weakest)
    assert O10A.check(LOGITS).agrees is False
    assert O10A.refutes_verdict(torch.tensor([[1.0, 2.0]])) is not None


def test_two_costs_leave_no_gap_and_three_a_small_one():
    found = O10B.check(LOGITS, k=2)
    assert found.agrees
    numbers = found.numbers
    assert numbers["free experts"] == 4
    assert numbers["value, costs 0 and 1"] == pytest.approx(numbers["LP, costs 0 and 1"], rel=1e-12)
    assert 0 <= numbers["largest relative gap, costs 0, 1 and 2"] < 1e-2


@pytest.mark.parametrize("change", [{"value": -1.0}, {"bound": -1.0}, {"bound": 1.0}])
def test_a_wrong_value_or_bound_under_a_budget_is_found_out(monkeypatch, change):
    def faulty(*args):
        found = within_budget(*args)
        return replace(found, **{name: getattr(found, name) + by for name, by in change.items()})

    monkeypatch.setattr(moe_plus_plus, "within_budget", faulty)
    assert O10B.check(LOGITS).agrees is False
    assert O10B.refutes_verdict(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) is not None


def test_money_that_is_overspent_is_found_out(monkeypatch):
    def spendthrift(scores, k, costs, budget):
        return replace(within_budget(scores, k, costs, budget), cost=budget + 1)

    monkeypatch.setattr(moe_plus_plus, "within_budget", spendthrift)
    assert O10B.check(LOGITS).agrees is False


def test_counting_is_beaten_on_skewed_twins_and_the_bound_holds():
    logits = torch.cat([LOGITS, LOGITS + 0.01 * LOGITS.flip(-1)], -1)  # every expert has a twin
    found = O10C.check(logits, k=2)
    assert found.agrees
    numbers = found.numbers
    assert numbers["layers where both are beaten"] == 2
    best = max(numbers["by tokens"], numbers["by score"])
    assert best < numbers["greedy"] <= numbers["bound"] <= numbers["all experts"]


def test_a_bound_that_is_too_low_is_found_out(monkeypatch):
    def low(*args, **kwargs):
        return bound_on_kept(*args, **kwargs) / 2

    monkeypatch.setattr(expert_pruning, "bound_on_kept", low)
    assert O10C.check(LOGITS).agrees is False
    assert "a bound is below" in O10C.refutes_verdict(torch.tensor([[1.0, 0.0]]))


def test_a_greedy_choice_below_its_promise_is_found_out(monkeypatch):
    def lazy(scores, *args, **kwargs):
        return replace(greedy(scores, *args, **kwargs), value=0.0)

    monkeypatch.setattr(expert_pruning, "greedy", lazy)
    assert O10C.check(LOGITS).agrees is False
    assert "greedy keeps 0" in O10C.refutes_verdict(torch.tensor([[1.0, 0.0]]))


def test_a_bound_or_choice_that_a_search_denies_is_named(monkeypatch):
    right = moe_plus_plus.within_budget

    def doubled(*given):
        found = right(*given)
        return replace(found, value=2 * found.value, bound=2 * found.bound)

    monkeypatch.setattr(moe_plus_plus, "within_budget", doubled)
    logits = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    says = CLAIMS["O10b"].check(logits).sentence
    assert "Against it: the bound is " in says
    assert "HiGHS's best" in says


def test_outputs_that_would_overflow_are_left_out():
    evidence = CLAIMS["O10a"].check(torch.full((4, 3), 1e300, dtype=torch.float64))
    assert evidence.agrees is None
    assert "overflow" in evidence.sentence
