"""O8: DeepSeek's group-limited rule, its counterexamples, and a hunt for another verdict."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lp_routing.claims import deepseek
from lp_routing.claims.claim import smallest
from lp_routing.claims.deepseek import O8
from lp_routing.extensions.group_limited import of_proxy
from lp_routing.solvers.highs import BoundedChoice

LOGITS = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(0))


def test_the_counterexample_breaks_both_proxies():
    scores = O8.counterexample.tensor()
    assert O8.refutes_statement(scores) == "k=3, token 0: 'max' keeps 19, the best choice 24."
    assert [of_proxy(scores, 3, 2, 1, proxy).gap for proxy in ("max", "top2")] == [5, 5]


def test_the_smallest_counterexample_is_one_token_and_four_experts():
    # (0, 1 | 1, 1): both groups have a 1, the first is opened and gives 0 + 1 of 2
    found = smallest(O8.refutes_statement, most_tokens=1, most_experts=4, entries=(0, 1))
    assert found.scores.tolist() == [[0, 1, 1, 1]]
    assert found.says == "k=2, token 0: 'max' keeps 1, the best choice 2."


def test_no_tie_is_needed():
    # the first group has the best score, 3 against 2, and the second the best two, 2 + 2
    assert "'max' keeps 3, the best choice 4" in O8.refutes_statement(
        torch.tensor([[3.0, 0.0, 2.0, 2.0]])
    )


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_nothing_betrays_the_verdict(data):
    T, E = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    rows = st.lists(st.integers(-2, 4), min_size=E, max_size=E)
    table = data.draw(st.lists(rows, min_size=T, max_size=T))
    assert O8.refutes_verdict(torch.tensor(table, dtype=torch.float64)) is None


def test_logits_give_numbers_and_a_sentence():
    found = O8.check(LOGITS)
    assert found.agrees
    assert found.sentence.startswith("With k=8, G=8, M=4 (DeepSeek-V3's proportions")
    for name in ("V2", "V3"):
        rule, best, lp = (found.numbers[f"{name} {part}"] for part in ("rule", "best", "LP"))
        assert rule < best <= lp + 1e-9
        assert 0 < found.numbers[f"{name} tokens missed"] <= 80


@pytest.mark.parametrize("E", [1, 2, 3, 7])
def test_where_experts_make_no_groups_nothing_is_asked(E):
    assert O8.check(torch.randn(5, E), k=1).agrees is None


def off_by(amount):
    """The best choice as it is, its value wrong."""

    def faulty(scores, *args, **kwargs) -> BoundedChoice:
        found = deepseek_best(scores, *args, **kwargs)
        return replace(found, value=found.value + amount, bound=found.bound + amount)

    return faulty


deepseek_best = deepseek.best_in_groups


@pytest.mark.parametrize("amount", [1.0, -1.0])
def test_a_wrong_best_choice_is_found_out(monkeypatch, amount):
    monkeypatch.setattr(deepseek, "best_in_groups", off_by(amount))
    assert O8.check(LOGITS).agrees is False
    assert O8.refutes_verdict(torch.tensor([[1.0, 2.0, 3.0, 4.0]])) is not None


def test_a_rule_that_is_not_what_it_should_be_is_found_out(monkeypatch):
    def anywhere(scores, k, groups, top_groups, proxy):
        return torch.ones_like(scores, dtype=torch.bool)

    monkeypatch.setattr(deepseek, "_chosen", anywhere)
    assert O8.check(LOGITS).agrees is False
    assert "keeps more than the best" in O8.refutes_verdict(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))


def test_a_proxy_that_misses_where_it_should_be_right_is_found_out(monkeypatch):
    def worst(scores, *args):
        found = of_proxy(-scores, *args)
        best = deepseek_best(scores, *args[:-1])
        return BoundedChoice(found.x, float(scores[found.x].sum()), best.value, "")

    monkeypatch.setattr(deepseek, "of_proxy", worst)
    assert O8.check(LOGITS).agrees is False


def test_an_lp_below_the_best_choice_is_found_out(monkeypatch):
    monkeypatch.setattr(deepseek, "relaxed_in_groups", lambda *args: 0.0)
    assert O8.check(LOGITS).agrees is False
    assert "the LP is worth less" in O8.refutes_verdict(torch.tensor([[1.0, 2.0, 1.0, 1.0]]))
