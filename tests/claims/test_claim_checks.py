"""What the checks of claims are made of, on numbers worked by hand."""

from dataclasses import replace

import pytest
import torch

from lp_routing.claims import CLAIMS
from lp_routing.claims.claim import Checked, Evidence
from lp_routing.claims.expert_choice import promised
from lp_routing.claims.helpers import best_by_trial, share_above, share_below
from lp_routing.claims.loss_free import dual_slope
from lp_routing.routers.expert_choice import CappedPlan


@pytest.mark.parametrize(
    ("value", "optimum", "above"),
    [(3, 2, 50), (1, 2, -50), (-1, -2, 50), (-3, -2, -50), (1, 0, 100), (2, 2, 0)],
)
def test_shares_of_an_optimum_have_the_sign_of_the_difference(value, optimum, above):
    assert share_above(value, optimum) == above
    assert share_below(value, optimum) == -above


def test_by_trial_an_expert_may_be_full():
    scores = torch.tensor([[3.0, 1.0], [2.0, 0.0]])
    assert best_by_trial(scores, range(1, 2), range(3)) == 5  # both tokens at expert 0
    assert best_by_trial(scores, range(1, 2), range(2)) == 3  # 3 + 0 or 1 + 2
    assert best_by_trial(scores, range(1, 2), range(1)) is None


def test_the_slope_of_the_dual_is_an_equal_share_less_what_tokens_take():
    scores = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    assert dual_slope(scores, torch.zeros(2), 1).tolist() == [-1, 1]
    assert dual_slope(scores, torch.tensor([1.5, 0.0]), 1).tolist() == [0, 0]


def test_the_promise_of_a_plan_of_one_pair():
    """Score 2, temperature 1, the pair taken whole: log P = 0 = 2 - v - z - 1.

    With a potential of -2 the expert's price v is 1 and z is 0: the bound is 1 (temperature times
    the plan's sum) + 1 (capacity times v) = 2, the value; the entropy of 1 is 0.
    """
    error, one = torch.zeros(()), torch.ones((), dtype=torch.long)
    found = CappedPlan(
        log_plan=torch.zeros(1, 1, dtype=torch.float64),
        potentials=torch.tensor([-2.0], dtype=torch.float64),
        row_error=error,
        column_error=error,
        iterations=one,
        converged=one.bool(),
        change=error,
    )
    scores = torch.tensor([[2.0]], dtype=torch.float64)
    assert promised(scores, found, 1, 1, 1.0) == (2, 2, 2)


def test_a_check_disagrees_where_the_counterexample_refutes_nothing():
    claim = next(claim for claim in CLAIMS if claim.counterexample is not None)
    agrees = replace(claim, examine=lambda _: Evidence(True, "It is so."))
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert replace(agrees, refutes_statement=lambda _: "so").check(logits).agrees is True
    assert replace(agrees, refutes_statement=lambda _: None).check(logits).agrees is False


@pytest.mark.parametrize(
    ("agrees", "comes_out", "was_asked"),
    [(True, True, True), (False, False, True), (None, True, False)],
)
def test_a_check_without_an_answer_contradicts_nothing(agrees, comes_out, was_asked):
    checked = Checked(CLAIMS[0], Evidence(agrees, "As found."))
    assert (checked.comes_out, checked.was_asked) == (comes_out, was_asked)
