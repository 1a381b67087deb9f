"""`CappedExpertChoice`: plans by hand, Dykstra as it is defined, entropy as a certificate, caps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.expert_choice import CappedExpertChoice, ExpertChoice, capped_plan
from tests.balanced_checks import NEVER, distinct, tied
from tests.brute_force import best_value
from tests.strategies import score_matrices


def test_column_top_c_can_break_the_cap():
    # Claim O7. Both experts like both tokens equally and take one each; the plan is 1/2
    # everywhere, well within the cap of 1. Each expert's best is token 0, the first of equals.
    scores = torch.zeros(2, 2)
    plan = capped_plan(scores, 1, 1)
    assert plan.converged
    assert torch.allclose(plan.plan, torch.full((2, 2), 0.5, dtype=torch.float64))
    assert CappedExpertChoice(1, 1).select(scores).sum(1).tolist() == [2, 0]
    capped = CappedExpertChoice(1, 1, rounding="capped").select(scores)
    assert capped.sum(0).tolist() == capped.sum(1).tolist() == [1, 1]


def test_it_breaks_the_cap_without_ties_too():
    # Each column is e^0.6 : 1 : 1, so token 0 has less than half of each expert and keeps to its
    # cap of 1. It is both experts' best all the same.
    scores = torch.tensor([[0.6, 0.6], [0.0, 0.0], [0.0, 0.0]])
    plan = capped_plan(scores, 1, 1, temperature=1.0)
    assert plan.converged
    assert plan.plan[0].sum() < 1
    assert CappedExpertChoice(1, 1, 1.0).select(scores).sum(1).tolist() == [2, 0, 0]
    capped = CappedExpertChoice(1, 1, 1.0, rounding="capped").select(scores)
    assert capped.sum(0).tolist() == [1, 1]
    assert capped.sum(1).tolist() in ([1, 1, 0], [1, 0, 1])  # tokens 1 and 2 tie


def test_without_a_cap_that_binds_each_column_is_its_softmax():
    scores = distinct(9, 3) / 10
    plan = capped_plan(scores, 2, 3, temperature=0.5)
    assert torch.allclose(plan.plan, 2 * torch.softmax(scores / 0.5, 0), rtol=1e-9)
    assert torch.equal(CappedExpertChoice(2, 3, 0.5).select(scores), ExpertChoice(2).select(scores))


def test_no_pair_is_taken_more_than_once():
    # Expert 0 takes two of three tokens; 2 * softmax would give the first nearly 2.
    plan = capped_plan(torch.tensor([[9.0], [1.0], [0.0]]), 2, 1, temperature=1.0)
    rest = 1 / (1 + math.exp(-1.0))
    assert plan.converged
    assert plan.plan[:, 0].tolist() == pytest.approx([1.0, rest, 1 - rest], abs=1e-3)


def by_projections(scores, capacity, k, temperature, rounds):
    """Dykstra by its definition: what a projection took away is given back before its next turn."""
    plan = (scores / temperature).exp()
    given = [torch.ones_like(plan) for _ in range(3)]
    for _ in range(rounds):
        for number, onto in enumerate((_columns(capacity), _rows(k), _entries)):
            before = plan * given[number]
            plan = onto(before)
            given[number] = before / plan
    return plan


def _columns(capacity):
    return lambda plan: plan * capacity / plan.sum(0, keepdim=True)


def _rows(k):
    return lambda plan: plan * (k / plan.sum(1, keepdim=True)).clamp(max=1)


def _entries(plan):
    return plan.clamp(max=1)


@pytest.mark.parametrize("rounds", [1, 2, 3, 20])
@pytest.mark.parametrize(("capacity", "k"), [(3, 1), (3, 2), (5, 3), (7, 4)])
def test_every_iteration_is_that_of_dykstra(capacity, k, rounds):
    scores = distinct(8, 4)
    expected = by_projections(scores, capacity, k, 0.5, rounds)
    received = capped_plan(scores, capacity, k, 0.5, tolerance=0.0, iterations=rounds)
    assert torch.allclose(received.plan, expected, rtol=1e-8)
    assert received.iterations <= rounds


@pytest.mark.parametrize(("capacity", "k"), [(8, 2), (6, 2), (9, 3), (4, 1)])
@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_no_assignment_is_worth_more_than_the_plan_by_more_than_its_entropy(
    temperature, capacity, k
):
    scores = distinct(24, 5)
    plan = capped_plan(scores, capacity, k, temperature, tolerance=1e-6, iterations=4000)
    assert plan.converged
    assert plan.plan.max() <= 1
    assert (plan.plan.sum(1) <= k + 1e-5).all()
    assert torch.allclose(plan.plan.sum(0), torch.full((5,), float(capacity)).double(), rtol=1e-5)
    entropy = -float((plan.plan * plan.log_plan).sum())
    problem = lpr.problems.capped_expert_choice(scores, capacity, k)
    best = float(lpr.solve(problem, lpr.HiGHS()).value)
    assert best - float((plan.plan * scores).sum()) <= temperature * entropy + 1e-3
    assert best - float((plan.plan.roll(1, 0) * scores).sum()) > temperature * entropy


def test_a_cold_plan_is_rounded_near_the_optimum_and_its_prices_prove_it():
    scores = distinct(64, 8) + torch.linspace(0, 3, 64)[:, None]
    router = CappedExpertChoice(12, 2, 0.2, rounding="capped")
    problem = lpr.problems.capped_expert_choice(scores, 12, 2)
    chosen, plan = router.select(scores), router.plan(scores)
    assert plan.converged
    proof = lpr.certify(problem, chosen, lpr.Prices(experts=-0.2 * plan.potentials))
    assert proof.keeps_bounds()
    assert proof.relative_gap < 0.02
    top = CappedExpertChoice(12, 2, 0.2).select(scores)
    assert (top.sum(0) == 12).all()
    without = ExpertChoice(12).select(scores)
    assert lpr.certify(problem, without, lpr.Prices()).violation >= 1


@given(scores=score_matrices(), capacity=st.integers(0, 4), k=st.integers(1, 3), cold=st.booleans())
def test_rounding_keeps_both_bounds_or_says_that_nothing_fits(scores, capacity, k, cold):
    T, E = scores.shape
    router = CappedExpertChoice(capacity, k, 0.05 if cold else 2.0, 1e-4, 40, "capped")
    if k > E or capacity > T:
        with pytest.raises(lpr.InputError, match=r"is more than (E|T)"):
            router.select(scores)
        return
    places = (scores > NEVER).sum(0).clamp(max=capacity)
    problem = lpr.RoutingProblem(scores, tokens=lpr.at_most(k), experts=lpr.exactly(places))
    if best_value(problem) == NEVER:
        with pytest.raises(lpr.InputError, match=r"no assignment keeps all bounds"):
            router.select(scores)
        return
    chosen = router.select(scores)
    assert torch.equal(chosen.sum(0), places)
    assert (chosen.sum(1) <= k).all()
    assert not (chosen & (scores == NEVER)).any()


@given(scores=score_matrices(), capacity=st.integers(0, 6), k=st.integers(1, 4))
def test_column_top_c_fills_every_expert_as_far_as_tokens_are_allowed(scores, capacity, k):
    capacity, k = min(capacity, scores.shape[0]), min(k, scores.shape[1])
    chosen = CappedExpertChoice(capacity, k, iterations=30).select(scores)
    allowed = scores > NEVER
    assert torch.equal(chosen.sum(0), allowed.sum(0).clamp(max=capacity))
    assert not (chosen & ~allowed).any()


def test_plans_that_did_not_or_cannot_converge_say_so():
    scores = distinct(12, 4)
    assert not capped_plan(scores, 6, 2, iterations=1).converged
    # 4 experts take 7 tokens each, which 12 tokens of at most 2 experts cannot give.
    plan = capped_plan(scores, 7, 2, iterations=100)
    assert not plan.converged
    assert plan.column_error > 0.1
    with pytest.raises(lpr.InputError, match=r"no assignment keeps all bounds"):
        CappedExpertChoice(7, 2, iterations=100, rounding="capped").select(scores)


@pytest.mark.parametrize("rounding", ["top-c", "capped"])
def test_logits_of_ten_thousand_do_not_overflow(rounding):
    logits = 1e4 * distinct(30, 4, seed=3).float()
    router = CappedExpertChoice(10, 2, 1.0, iterations=200, rounding=rounding, score="logits")
    assert not router.plan(logits).log_plan.isnan().any()
    routed = router(logits)
    assert (routed.load == 10).all()
    assert rounding == "top-c" or (routed.experts_per_token <= 2).all()


@pytest.mark.parametrize("rounding", ["top-c", "capped"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_batches_are_routed_each_on_its_own_without_their_padding(dtype, rounding):
    logits, mask = tied(2, 3, 9, 4, dtype=dtype), torch.arange(9).expand(2, 3, 9) < 7
    router = CappedExpertChoice(CapacityFactor(4 / 3), 2, rounding=rounding)
    routed, plan = router(logits, mask=mask), router.plan(router.scores(logits, mask))
    assert plan.converged.shape == plan.iterations.shape == plan.change.shape == (2, 3)
    assert (routed.load == 3).all()
    assert not routed.x[~mask].any()
    assert rounding == "top-c" or (routed.experts_per_token <= 2).all()
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


def test_an_expert_is_short_where_there_are_fewer_real_tokens_than_it_takes():
    mask = torch.tensor([True, True, False, False])
    for rounding in ("top-c", "capped"):
        routed = CappedExpertChoice(3, 2, rounding=rounding)(tied(4, 2), mask=mask)
        assert routed.x.int().tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"capacity": -1}, r"capacity=-1: expected a whole number of tokens"),
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"temperature": -0.5}, r"temperature=-0\.5: expected a number above 0"),
        ({"tolerance": -1}, r"tolerance=-1: expected a number >= 0"),
        ({"iterations": 0}, r"iterations=0: it must be at least 1"),
        ({"rounding": "top-k"}, r"rounding='top-k': expected .top-c. or .capped."),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        CappedExpertChoice(**{"capacity": 1, "k": 1, **arguments})


def test_the_function_refuses_what_the_router_refuses():
    for arguments in ({"temperature": 0}, {"tolerance": math.nan}, {"iterations": 0}):
        with pytest.raises(lpr.InputError):
            capped_plan(torch.zeros(2, 2), 1, 1, **arguments)
