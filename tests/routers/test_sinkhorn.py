"""`Sinkhorn`: plans by hand, a slow loop, entropy as a certificate, balance after rounding."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers.sinkhorn import Sinkhorn, sinkhorn
from lp_routing.routers.token_choice import TopK
from tests.balanced_checks import NEVER, broken, distinct, optimum, tied
from tests.strategies import score_matrices


def test_two_tokens_that_like_different_experts():
    # Balanced from the start, so each row is its softmax: e^log(3) to 1.
    scores = 0.5 * math.log(3) * torch.eye(2, dtype=torch.float64)
    plan = sinkhorn(scores, temperature=0.5)
    assert torch.allclose(plan.plan, torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double() / 4)
    assert plan.converged
    assert plan.iterations == 1


def test_two_tokens_that_like_the_same_expert_share_both():
    plan = sinkhorn(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), temperature=0.1)
    assert torch.allclose(plan.plan, torch.full((2, 2), 0.5, dtype=torch.float64))
    # What the first expert's price rose above the second's is what tells them apart.
    assert float(-0.1 * (plan.potentials[0] - plan.potentials[1])) == pytest.approx(1.0)


def test_the_plan_is_balanced_but_its_row_argmax_is_not():
    # Claim O5. Three tokens lean to expert 0, one far to expert 1: columns sum to 2, as 3 * 2/3
    # and 3 * 1/3 + 1. But 2/3 > 1/3, so three tokens choose expert 0.
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 60.0]])
    argmax = Sinkhorn(1, temperature=1.0, score="logits")
    plan = argmax.plan(scores)
    assert plan.converged
    assert torch.allclose(plan.plan.sum(0), torch.full((2,), 2.0, dtype=torch.float64))
    assert argmax(scores).load.tolist() == [3, 1]
    balanced = Sinkhorn(1, temperature=1.0, score="logits", rounding="balanced")
    assert balanced(scores).load.tolist() == [2, 2]


def test_a_plan_for_two_experts_a_token_may_take_one_of_them_twice():
    plan = sinkhorn(torch.eye(2) * 10, k=2, temperature=1.0)
    assert plan.converged
    assert plan.plan.max() > 1.9
    assert Sinkhorn(2).select(torch.eye(2) * 10).all()


def by_loop(scores, k, temperature, rounds):
    """Rows, then columns, scaled in turn, without logarithms."""
    plan = [[math.exp(s / temperature) for s in row] for row in scores]
    T, E = len(plan), len(plan[0])
    for _ in range(rounds):
        plan = [[k * x / sum(row) for x in row] for row in plan]
        sums = [sum(row[e] for row in plan) for e in range(E)]
        plan = [[x * T * k / E / total for x, total in zip(row, sums, strict=True)] for row in plan]
    return plan


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_every_iteration_is_that_of_the_slow_loop(rounds, k):
    scores = distinct(7, 4)
    expected = torch.tensor(by_loop(scores.tolist(), k, 0.7, rounds), dtype=torch.float64)
    received = sinkhorn(scores, k, 0.7, tolerance=0.0, iterations=rounds)
    assert torch.allclose(received.plan, expected, rtol=1e-9)
    assert received.iterations == rounds
    assert not received.converged
    assert received.row_error == pytest.approx(float((expected.sum(1) / k - 1).abs().max()))
    assert received.column_error < 1e-12


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_no_assignment_is_worth_more_than_the_plan_by_more_than_its_entropy(temperature, k):
    scores = distinct(24, 6)
    plan = sinkhorn(scores, k, temperature, tolerance=1e-9, iterations=20000)
    assert plan.converged
    entropy = -float((plan.plan * plan.log_plan).sum())
    best = float(lpr.solve(lpr.problems.balanced(scores, k), lpr.HiGHS()).value)
    worth = float((plan.plan * scores).sum())
    assert best - worth <= temperature * entropy + 1e-6
    # a plan of another batch does not keep to it
    assert best - float((plan.plan.roll(1, 0) * scores).sum()) > temperature * entropy


@given(scores=score_matrices(), k=st.integers(1, 3))
def test_rounding_keeps_the_balance_or_says_that_nothing_fits(scores, k):
    router = Sinkhorn(k, rounding="balanced", iterations=50)
    scores = scores[(scores > NEVER).any(1)]
    if not len(scores):
        return
    if k > scores.shape[1] or optimum(scores, k) == NEVER:
        with pytest.raises(lpr.InputError, match=r"is more than E|no assignment keeps all bounds"):
            router.select(scores)
        return
    assert broken(router.select(scores), scores, k) == []


@given(scores=score_matrices(), k=st.integers(1, 3))
def test_row_top_k_takes_k_allowed_experts_wherever_there_are_as_many(scores, k):
    k = min(k, scores.shape[1])
    chosen = Sinkhorn(k, iterations=20).select(scores)
    allowed = scores > NEVER
    assert torch.equal(chosen.sum(1), allowed.sum(1).clamp(max=k))
    assert not (chosen & ~allowed).any()


@pytest.mark.parametrize("rounding", ["top-k", "balanced"])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_logits_of_ten_thousand_do_not_overflow(temperature, rounding):
    logits = 1e4 * distinct(30, 4, seed=3).float()
    router = Sinkhorn(2, temperature, score="logits", rounding=rounding, iterations=200)
    plan = router.plan(logits)
    assert not plan.log_plan.isnan().any()
    assert plan.plan.isfinite().all()
    routed = router(logits)
    assert (routed.experts_per_token == 2).all()
    assert rounding == "top-k" or (routed.load == 15).all()


def test_a_cold_plan_is_rounded_near_the_optimum():
    scores = distinct(64, 8) - torch.arange(8) / 4
    problem = lpr.problems.balanced(scores, 1)
    router = Sinkhorn(1, 0.05, rounding="balanced")
    prices = lpr.Prices(experts=-0.05 * router.plan(scores).potentials)
    proof = lpr.certify(problem, router.select(scores), prices)
    assert proof.keeps_bounds()
    assert proof.relative_gap < 0.05
    assert lpr.certify(problem, router.select(scores), lpr.Prices()).relative_gap > 0.2
    assert broken(TopK(1).select(scores), scores, 1) != []


def test_for_two_experts_a_token_a_colder_plan_is_not_a_better_one():
    # Its prices are those of a transport without x <= 1, in which tokens take an expert twice.
    scores = distinct(64, 8) - torch.arange(8) / 4
    warm, cold = (Sinkhorn(2, t, rounding="balanced").select(scores) for t in (0.2, 0.02))
    assert scores[cold].sum() < scores[warm].sum()
    assert Sinkhorn(2, 0.02).plan(scores).plan.max() > 1.5


def test_plans_that_did_not_or_cannot_converge_say_so():
    skewed = distinct(20, 4) - torch.arange(4) * 2
    assert not sinkhorn(skewed, iterations=1).converged
    # Nobody may go to expert 1; and both tokens may only go to expert 0.
    nobody = torch.tensor([[1.0, NEVER], [2.0, NEVER]])
    plan = sinkhorn(nobody, iterations=30)
    assert not plan.converged
    assert plan.column_error == 1
    assert plan.plan.isfinite().all()
    # Tokens 0 and 1 fill expert 0, but token 2 may only go there too.
    crowded = torch.tensor([[1.0, NEVER], [1.0, NEVER], [1.0, NEVER], [1.0, 1.0]])
    assert not sinkhorn(crowded, iterations=50).converged


@pytest.mark.parametrize("rounding", ["top-k", "balanced"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_batches_are_routed_each_on_its_own_without_their_padding(dtype, rounding):
    logits, mask = tied(2, 3, 9, 4, dtype=dtype), tied(2, 3, 9, seed=2) > 0
    router = Sinkhorn(2, rounding=rounding)
    routed, plan = router(logits, mask=mask), router.plan(router.scores(logits, mask))
    assert plan.converged.shape == plan.iterations.shape == plan.row_error.shape == (2, 3)
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)
            scores = router.scores(logits[b, c], mask[b, c])
            if rounding == "balanced":
                assert broken(routed.x[b, c], scores, 2) == []
            assert torch.equal(plan.log_plan[b, c], router.plan(scores).log_plan)
            assert (plan.plan[b, c][~mask[b, c]] == 0).all()


def test_a_batch_of_padding_goes_nowhere():
    routed = Sinkhorn(1)(torch.zeros(3, 2), mask=torch.zeros(3, dtype=torch.bool))
    assert not routed.x.any()
    assert sinkhorn(torch.full((3, 2), NEVER)).converged


def test_weights_can_be_divided_by_what_is_kept():
    routed = Sinkhorn(2, normalise="kept")(tied(6, 4))
    assert torch.allclose(routed.weights.sum(-1), torch.ones(6))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"temperature": 0.0}, r"temperature=0\.0: expected a number above 0"),
        ({"tolerance": -1}, r"tolerance=-1: expected a number >= 0"),
        ({"iterations": 0}, r"iterations=0: it must be at least 1"),
        ({"rounding": "argmax"}, r"rounding='argmax': expected .top-k. or .balanced."),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        Sinkhorn(**arguments)


def test_the_functions_refuse_what_the_router_refuses():
    for arguments in ({"temperature": -1}, {"tolerance": math.nan}, {"iterations": 0}):
        with pytest.raises(lpr.InputError):
            sinkhorn(torch.zeros(2, 2), **arguments)
    with pytest.raises(lpr.InputError, match=r"k=3 is more than E"):
        Sinkhorn(3)(torch.zeros(4, 2))
