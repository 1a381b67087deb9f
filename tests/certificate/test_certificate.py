"""Certificates: what they measure, what they refuse to believe, and exact arithmetic."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import at_least, at_most, exactly
from tests.strategies import prices_for, problems

INF = float("inf")
# Two tokens want expert 0 (3 and 2); it has one slot; token 1 can have 1 at expert 1. Optimum 4.
SUITORS = lpr.problems.capacity([[3, 1], [2, 1]], 1, 1)
BEST = torch.tensor([[True, False], [False, True]])
RIGHT = lpr.Prices(experts=torch.tensor([1.5, 0.0]))


def test_a_right_price_proves_the_optimum():
    certificate = lpr.certify(SUITORS, BEST, RIGHT)
    assert (certificate.value, certificate.bound, certificate.gap) == (4, 4, 0)
    assert certificate.relative_gap == 0
    assert certificate.violation == 0
    assert certificate.proves_optimal()
    assert certificate.proof == "weak duality"


def test_a_wrong_price_gives_a_worse_bound_never_a_wrong_one():
    # At price 0 both take expert 0 in thought: 3 + 2. At price 9 it stays empty: 1 + 1 + 9.
    free = lpr.certify(SUITORS, BEST, lpr.Prices())
    dear = lpr.certify(SUITORS, BEST, lpr.Prices(experts=torch.tensor([9.0, 0.0])))
    assert (free.bound, dear.bound) == (5, 11)
    assert not free.proves_optimal()


def test_a_price_of_a_sign_that_the_bound_does_not_allow_is_clipped():
    # at_most leaves no reason to pay anybody for taking more: -7 counts as 0
    certificate = lpr.certify(SUITORS, BEST, lpr.Prices(experts=torch.tensor([1.5, -7.0])))
    assert certificate.bound == 4
    floor = lpr.RoutingProblem([[1.0, 2.0]], tokens=exactly(1), experts=at_least([0, 1]))
    paid = lpr.certify(floor, [[0, 1]], lpr.Prices(experts=torch.tensor([0.0, 5.0])))
    assert paid.bound == 2


def test_a_worse_assignment_has_a_gap():
    swapped = lpr.certify(SUITORS, ~BEST, RIGHT)
    assert (swapped.value, swapped.gap) == (3, 1)
    assert swapped.relative_gap == 0.25
    assert not swapped.proves_optimal()


def test_a_value_above_the_bound_proves_nothing():
    # The best is 4 and so is its bound. A bound of 3 would be below a feasible value: one of the
    # two is wrong, by 1, which is a quarter of what is chosen.
    wrong = replace(lpr.certify(SUITORS, BEST, RIGHT), bound=3)
    assert (wrong.gap, wrong.relative_gap) == (-1, -0.25)
    assert not wrong.proves_optimal()
    assert wrong.proves_optimal(0.25)


def test_each_broken_constraint_is_named_with_its_amount():
    both = torch.tensor([[True, True], [True, False]])
    certificate = lpr.certify(SUITORS, both, RIGHT)
    assert {v.name: v.amount for v in certificate.violations} == {"token_0": 1, "expert_0": 1}
    assert "expert_0 counts 2, at most 1" in [v.says for v in certificate.violations]
    assert certificate.violation == 1
    assert not certificate.proves_optimal()


def test_total_and_groups_are_named_too():
    problem = lpr.RoutingProblem(
        torch.ones(3, 2),
        total=at_least(5),
        token_groups=[lpr.Group([0, 1], at_most(1), "prompt")],
        expert_groups=[lpr.Group([1], at_least(3), "device")],
    )
    certificate = lpr.certify(problem, torch.tensor([[1, 1], [1, 0], [0, 0]]), lpr.Prices())
    amounts = {v.name: v.amount for v in certificate.violations}
    assert amounts == {"total": 2, "token_group_prompt": 2, "expert_group_device": 2}


def test_forbidden_negative_and_repeated_pairs_are_violations():
    problem = lpr.RoutingProblem([[1, -INF], [2, 3]], multiplicity=[1, 2])
    certificate = lpr.certify(problem, [[0, 1], [3, -2]], lpr.Prices())
    assert {v.name: v.amount for v in certificate.violations} == {
        "x_0_1": 1,
        "x_1_0": 1,
        "x_1_1": 2,
    }
    assert "forbids the pair" in next(v.says for v in certificate.violations if v.name == "x_0_1")
    assert certificate.value == 2 * 3 - 3 * 2


def test_a_fractional_assignment_is_measured_not_hidden():
    halves = lpr.Assignment(torch.full((2, 2), 0.5))
    certificate = lpr.certify(SUITORS, halves, RIGHT)
    assert certificate.value == 3.5
    assert certificate.violation == 0
    thirds = lpr.certify(SUITORS, lpr.Assignment(torch.full((2, 2), 2 / 3).double()), RIGHT)
    assert thirds.violation == pytest.approx(1 / 3)
    assert len(thirds.violations) == 4


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        (torch.zeros(3, 2), r"expected amounts of shape \(2, 2\).*got \(3, 2\)"),
        (torch.zeros(1, 2, 2), r"got \(1, 2, 2\); certify one layer or batch at a time"),
        (np.array([[0, np.nan], [0, 0]]), r"assignment\[0, 1\] is nan"),
        (np.array([[0, np.inf], [0, 0]]), r"assignment\[0, 1\] is inf"),
    ],
)
def test_an_assignment_that_cannot_be_one_is_refused(assignment, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.certify(SUITORS, assignment, lpr.Prices())


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        (lpr.Prices(experts=torch.zeros(3)), "prices of experts: expected 2, got 3"),
        (lpr.Prices(experts=torch.tensor([0, INF])), "prices of experts must be finite, got inf"),
        (
            lpr.Prices(experts=torch.tensor([0, np.nan])),
            "prices of experts must be finite, got nan",
        ),
    ],
)
def test_prices_that_cannot_be_any_are_refused(prices, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.certify(SUITORS, BEST, prices)


@given(st.data())
def test_any_prices_bound_the_optimum(data):
    problem = data.draw(problems())
    prices = data.draw(prices_for(problem))
    value, bound = float(lpr.solve(problem).value), lpr.dual_bound(problem, prices)
    assert bound >= value - 1e-9


@given(st.data())
def test_exact_and_rounded_bounds_agree(data):
    problem = data.draw(problems())
    prices = data.draw(prices_for(problem))
    nothing = torch.zeros(problem.T, problem.E)
    exact = lpr.certify(problem, nothing, prices, exact=True)
    rounded = lpr.certify(problem, nothing, prices)
    # the exact one may also round the prices to the scores' grid, where that helps
    assert float(exact.bound) <= float(rounded.bound) + 1e-9
    assert float(exact.bound) >= float(lpr.solve(problem).value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(3))
def test_exact_gaps_are_zero_on_softmax_scores_of_every_dtype(dtype, seed):
    logits = torch.randn(48, 8, generator=torch.Generator().manual_seed(seed)) * 3
    scores = torch.softmax(logits, 1).to(dtype)
    for problem in (
        lpr.problems.balanced(scores, 2),
        lpr.problems.capacity(scores, 2, 13),
        lpr.problems.unified(scores, 96),
    ):
        solution = lpr.solve(problem)
        certificate = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
        assert isinstance(certificate.bound, Fraction)
        # float64 scores are finer than the prices a float64 solver can return
        assert certificate.gap == 0 if dtype != torch.float64 else abs(certificate.gap) < 1e-13


def test_exact_arithmetic_sees_a_gap_that_float64_rounds_away():
    # 1 + 2**-60 is not a float64 number, but 1 and 2**-60 are, as two scores of two tokens.
    scores = torch.tensor([[1.0, 1.0], [2.0**-60, 0.0]], dtype=torch.float64)
    problem = lpr.problems.token_choice(scores, 1)
    worse = torch.tensor([[True, False], [False, True]])
    assert lpr.certify(problem, worse, lpr.Prices()).gap == 0
    assert lpr.certify(problem, worse, lpr.Prices(), exact=True).gap == Fraction(1, 2**60)


def test_exact_arithmetic_ranks_pairs_whose_differences_round_alike():
    # 1 - p and (1 + 2**-52) - p round to the same float64 for this p; exactly they differ.
    scores = torch.tensor([[1.0, 1.0 + 2.0**-52]], dtype=torch.float64)
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=at_most(1))
    prices = lpr.Prices(experts=torch.tensor([-9.0, -9.0]).double())
    assert lpr.certify(problem, [[0, 1]], prices, exact=True).gap == 0
    tall = lpr.RoutingProblem(scores, tokens=exactly(1), experts=exactly([0, 1]))
    high = lpr.Prices(experts=torch.full((2,), -(2.0**10), dtype=torch.float64))
    certificate = lpr.certify(tall, [[0, 1]], high, exact=True)
    assert certificate.bound == Fraction(1) + Fraction(1, 2**52)


def test_the_bound_of_an_impossible_row_is_minus_infinity():
    problem = lpr.RoutingProblem([[1, -INF]], tokens=exactly(2))
    certificate = lpr.certify(problem, [[1, 0]], lpr.Prices())
    assert certificate.bound == -INF
    assert certificate.relative_gap == -INF
    assert not certificate.proves_optimal()
    assert lpr.certify(problem, [[1, 0]], lpr.Prices(), exact=True).bound == -INF


def test_a_certificate_of_many_chunks_is_that_of_one(monkeypatch):
    import lp_routing.problem.problem as module

    problem = lpr.problems.capacity(
        torch.rand(50, 4, generator=torch.Generator().manual_seed(0)), 2, 20
    )
    solution = lpr.solve(problem)
    whole = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 12)
    assert len(list(problem.row_chunks())) == 17
    parts = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
    assert parts == whole
    x = solution.assignment.x.clone()
    x[49] = True
    assert "token_49" in [v.name for v in lpr.certify(problem, x, solution.prices).violations]


def test_a_score_that_nobody_takes_hides_no_loss():
    problem = lpr.RoutingProblem([[1, 0, -1e12], [0, 1, 0]], tokens=exactly(1), experts=at_most(1))
    certificate = lpr.certify(problem, [[0, 1, 0], [1, 0, 0]], lpr.Prices())
    assert (certificate.value, certificate.bound) == (0, 2)
    assert certificate.relative_gap == 1
    assert not certificate.proves_optimal()


@pytest.mark.parametrize("mask", [-1e9, -1e6, -1e4])
def test_masks_of_large_negative_numbers_are_solved_like_forbidden_pairs(mask):
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(64, 8, generator=generator, dtype=torch.float64)
    hidden = torch.rand(64, 8, generator=generator) < 0.1
    masked = lpr.problems.balanced(scores.masked_fill(hidden, mask), 2)
    forbidden = lpr.problems.balanced(scores.masked_fill(hidden, -INF), 2)
    found, best = lpr.solve(masked), lpr.solve(forbidden)
    assert found.status is best.status is lpr.Status.OPTIMAL
    assert float(found.value) == pytest.approx(float(best.value), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_lowest_number_of_a_dtype_is_refused_as_a_mask(dtype):
    scores = torch.ones(3, 2, dtype=dtype)
    scores[1, 1] = torch.finfo(dtype).min
    with pytest.raises(lpr.InputError, match=r"looks like a mask; write -inf|rescale them"):
        lpr.RoutingProblem(scores)


@pytest.mark.parametrize("price", [1e10, 1e16, 1e17, 1e100])
def test_prices_far_above_the_scores_give_a_true_bound(price):
    # the prices of all experts may shift together; float64 would lose the scores beside them
    problem = lpr.problems.balanced(torch.eye(2, dtype=torch.float64), 1)
    prices = lpr.Prices(experts=torch.full((2,), price, dtype=torch.float64))
    certificate = lpr.certify(problem, [[0, 1], [1, 0]], prices)
    assert certificate.bound >= 2
    assert not certificate.proves_optimal()


def test_prices_beyond_the_range_of_sums_are_refused():
    with pytest.raises(lpr.InputError, match=r"1e\+300 is too large for float64 sums"):
        lpr.certify(
            SUITORS, BEST, lpr.Prices(experts=torch.tensor([1e300, 0], dtype=torch.float64))
        )


@pytest.mark.parametrize(
    ("problem", "prices", "words"),
    [
        (SUITORS, None, "got RoutingProblem and NoneType; without prices, give Prices"),
        (torch.ones(2, 2), RIGHT, "got Tensor and Prices"),
        (SUITORS, lpr.Prices(token_groups=torch.ones(7)), "the problem has no token_groups"),
        (SUITORS, lpr.Prices(experts="ab"), "prices of experts: expected numbers, got str"),
    ],
)
def test_arguments_that_are_no_problem_or_no_prices_are_refused(problem, prices, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.certify(problem, BEST, prices)


def test_many_broken_constraints_are_counted_and_the_worst_named(monkeypatch):
    import lp_routing.certificate.violations as module

    monkeypatch.setattr(module, "NAMED", 3)
    problem = lpr.RoutingProblem(torch.ones(9, 2), tokens=exactly([2, 1, 2, 1, 2, 1, 2, 1, 2]))
    certificate = lpr.certify(problem, torch.zeros(9, 2), lpr.Prices())
    assert certificate.violation_count == 9
    assert len(certificate.violations) == 3
    assert [v.amount for v in certificate.violations] == [2, 2, 2]


def test_the_worst_broken_pair_is_named_wherever_it_stands(monkeypatch):
    import lp_routing.certificate.violations as module
    import lp_routing.problem.problem as chunks

    monkeypatch.setattr(module, "NAMED", 3)
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 4)
    x = torch.full((8, 1), 2)
    x[6] = 9
    certificate = lpr.certify(lpr.RoutingProblem(torch.ones(8, 1)), x, lpr.Prices())
    assert certificate.violation_count == 8
    assert certificate.violations[0].name == "x_6_0"
    assert certificate.violation == 8


def test_what_is_not_named_cannot_be_excused_as_rounding(monkeypatch):
    import lp_routing.certificate.violations as module

    # 0.5 beside a limit of 1e9 is rounding, 0.4 beside a limit of 1 is not, and is not named
    monkeypatch.setattr(module, "NAMED", 2)
    limits, copies = [1e9, 1e9, 1.0], [2 * 10**9, 2 * 10**9, 2]
    problem = lpr.RoutingProblem(torch.ones(3, 1), tokens=at_most(limits), multiplicity=copies)
    x = torch.tensor([[1e9 + 0.5], [1e9 + 0.5], [1.4]], dtype=torch.float64)
    assert not lpr.certify(problem, lpr.Assignment(x), lpr.Prices()).keeps_bounds(1e-9)
    monkeypatch.setattr(module, "NAMED", 3)
    assert not lpr.certify(problem, lpr.Assignment(x), lpr.Prices()).keeps_bounds(1e-9)
    x[2] = 1.0
    assert lpr.certify(problem, lpr.Assignment(x), lpr.Prices()).keeps_bounds(1e-9)


def test_bounds_beyond_exact_counting_are_refused():
    with pytest.raises(lpr.InputError, match=r"at_most\(1e\+250\): 1e\+250 pairs are more than"):
        lpr.RoutingProblem([[1.0]], tokens=at_most(1e250))


def test_tokens_masked_by_large_negative_numbers_do_not_set_the_scale():
    problem = lpr.RoutingProblem([[-1e12], [-1e12], [1.0]], experts=at_most(3))
    for solver in ("highs", "mincostflow"):
        solution = lpr.solve(problem, solver)
        assert (solution.status, solution.value) == (lpr.Status.OPTIMAL, 1)


def test_a_small_bound_of_large_prices_times_limits_is_evaluated_exactly():
    # A pair pays 2^53 + 6 to its expert, -2^53 to the total and -6 to the group of all experts:
    # nothing. All three limits are used up, so 3 is the optimum and the bound. In float64 the
    # experts' 3 (2^53 + 6) loses 2, and the bound would be 1.
    problem = lpr.RoutingProblem(
        torch.eye(3).double(),
        tokens=at_most(1),
        experts=at_most(1),
        total=exactly(3),
        expert_groups=[lpr.Group([0, 1, 2], exactly(3))],
    )
    experts = torch.full((3,), 2.0**53 + 6, dtype=torch.float64)
    prices = lpr.Prices(experts, -(2.0**53), expert_groups=torch.tensor([-6.0]))
    assert lpr.dual_bound(problem, prices) == 3
    assert lpr.certify(problem, torch.eye(3).bool(), prices).gap == 0


NESTED = [lpr.Group([0], at_most(1)), lpr.Group([0, 1], at_most(1))]


@pytest.mark.parametrize(
    ("bounds", "prices"),
    [
        ({"expert_groups": NESTED}, {"expert_groups": [2.0**53 - 1, 2.0**53 - 4]}),
        (
            {"experts": at_most([1, 2]), "total": at_most(1)},
            {"experts": [2.0**53 - 1, 0.0], "total": 2.0**53 - 4},
        ),
    ],
    ids=["nested groups", "expert and total"],
)
def test_an_exact_bound_holds_where_a_pair_pays_more_than_53_bits(bounds, prices):
    # The one token is worth 2^54. It would pay 2^54 - 5, in float64 2^54 - 4: one too much, and
    # the bound would be 1 below what is attained.
    problem = lpr.RoutingProblem(torch.tensor([[2.0**54, 0.0]]), **bounds)
    paid = lpr.Prices(
        **{k: torch.tensor(p).double() if k != "total" else p for k, p in prices.items()}
    )
    certificate = lpr.certify(problem, [[1, 0]], paid, exact=True)
    assert (certificate.value, certificate.bound) == (2**54, 2**54)


def test_a_fraction_of_a_unit_goes_to_the_next_best_expert():
    # One and a half experts at most: 3, and half of 2.
    problem = lpr.RoutingProblem([[3.0, 2.0, 1.0]], tokens=at_most(1.5))
    assert lpr.dual_bound(problem, lpr.Prices()) == 4
    exact = lpr.certify(problem, [[1, 0, 0]], lpr.Prices(), exact=True)
    assert (exact.value, exact.bound) == (3, 4)


def test_rounding_is_forgiven_to_sums_of_fractions_only():
    # 0.1 + 0.2 is above 0.3 in float64, by rounding.
    problem = lpr.RoutingProblem([[1.0], [1.0]], experts=at_most(0.3))
    tenths = lpr.Assignment(torch.tensor([[0.1], [0.2]], dtype=torch.float64))
    assert lpr.certify(problem, tenths, lpr.Prices()).violations == ()
    # Of two million million copies one more than there are is no rounding.
    many = 2 * 10**12
    problem = lpr.RoutingProblem([[1.0]], multiplicity=[many])
    certificate = lpr.certify(problem, [[many + 1]], lpr.Prices())
    assert [(v.name, v.amount, v.limit) for v in certificate.violations] == [("x_0_0", 1, many)]


def test_every_copy_of_an_unbounded_token_earns():
    # At price 1 of expert 0, which has one place, each of two copies takes both: 2 (2 + 1), and
    # the place is worth 1.
    problem = lpr.RoutingProblem([[3.0, 1.0]], experts=at_most([1, 2]), multiplicity=[2])
    prices = lpr.Prices(experts=torch.tensor([1.0, 0.0]))
    assert lpr.dual_bound(problem, prices) == 7
    assert lpr.certify(problem, [[1, 2]], prices).bound == 7
