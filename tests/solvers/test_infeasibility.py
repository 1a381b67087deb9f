"""Why there is no assignment: a clash in routing words, proved by prices."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from lp_routing.solvers import infeasibility
from lp_routing.solvers.aggregation import aggregate_rows
from lp_routing.solvers.infeasibility import explain
from tests.cases import FEASIBLE, INFEASIBLE
from tests.strategies import problems

INF = float("inf")


def says(problem):
    return lpr.solve(problem).explanation


def test_too_few_slots():
    problem = lpr.RoutingProblem(torch.rand(8, 4), tokens=exactly(2), experts=at_most(3))
    assert says(problem) == (
        "No assignment exists: tokens 0-7 need 16 (2 each), but experts 0-3 can give only 12 "
        "(3 each): 4 short. Raise a capacity or lower a demand."
    )


def test_only_the_tokens_and_experts_that_clash_are_named():
    # tokens 0, 1 and 2 may go to expert 0 alone, which takes two; everybody else is at ease
    scores = torch.ones(6, 3)
    scores[:3, 1:] = -INF
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=at_most(2))
    found = lpr.solve(problem).infeasibility
    assert found.needs == {"token_0": 1, "token_1": 1, "token_2": 1}
    assert found.gives == {"expert_0": 2}
    assert found.shortfall == 1
    assert "tokens 0-2 need 3 (1 each), but expert 0 can give only 2: 1 short" in found.says


def test_experts_that_ask_for_more_tokens_than_may_come():
    problem = lpr.RoutingProblem(torch.ones(2, 2), experts=exactly(3))
    assert "experts 0-1 need 6 (3 each), but the allowed pairs can give only 4" in says(problem)


def test_a_row_with_too_few_allowed_pairs():
    problem = lpr.RoutingProblem([[1, -INF, -INF], [1, 1, 1]], tokens=exactly(2))
    assert "token 0 needs 2, but the allowed pairs can give only 1" in says(problem)


def test_a_budget_below_the_demand():
    problem = lpr.RoutingProblem(torch.ones(5, 3), tokens=at_least(1), total=at_most(4))
    assert "tokens 0-4 need 5 (1 each), but the total budget can give only 4" in says(problem)


def test_groups_go_by_their_names():
    groups = [lpr.Group([0, 1], at_least(3), "prompt")]
    problem = lpr.RoutingProblem(torch.ones(4, 3), tokens=at_most(1), token_groups=groups)
    assert "token group prompt needs 3, but tokens 0-1 can give only 2 (1 each)" in says(problem)


def test_copies_of_a_token_are_spoken_of():
    problem = lpr.RoutingProblem([[1.0]], experts=exactly(4), multiplicity=[3])
    assert "3 (each at most as often as its row has copies)" in says(problem)


def test_scattered_tokens_are_counted_not_listed():
    scores = torch.ones(40, 2)
    scores[::2, 1] = -INF
    problem = lpr.RoutingProblem(scores, tokens=exactly(1), experts=between(0, [5, 40]))
    assert "tokens 0, 2, 4, 6, 8, 10, ... (20 in all) need 20" in says(problem)


@pytest.mark.parametrize("case", INFEASIBLE, ids=lambda case: case.name)
def test_the_proof_is_a_negative_bound_on_scores_of_zero(case):
    found = explain(case.problem)
    nothing = case.problem.with_scores(torch.where(case.problem.allowed, 0.0, -INF))
    assert lpr.dual_bound(nothing, found.prices) < 0
    assert found.shortfall > 0
    assert found.shortfall == pytest.approx(-lpr.dual_bound(nothing, found.prices))


@pytest.mark.parametrize("case", FEASIBLE, ids=lambda case: case.name)
def test_nothing_is_explained_where_an_assignment_exists(case):
    assert explain(case.problem) is None


@given(problems())
@settings(max_examples=100)
def test_a_clash_is_explained_exactly_where_there_is_no_assignment(problem):
    solution = lpr.solve(problem)
    found = explain(problem)
    assert (found is not None) == (solution.status is lpr.Status.INFEASIBLE)
    if found is not None:
        assert sum(found.needs.values()) > sum(found.gives.values())


def without_scores(problem):
    return problem.with_scores(torch.where(problem.allowed, 0.0, -INF).double())


def least_broken(problem):
    """The smallest total amount by which bounds must be broken: an LP with every pair, by SciPy."""
    program = lpr.linear_program(problem)
    rows, columns = program.matrix.shape
    if not rows:
        return 0.0
    slack = sp.identity(rows, format="csc")
    matrix = sp.hstack([program.matrix, slack, -slack], format="csc")
    answer = milp(
        np.concatenate([np.zeros(columns), np.ones(2 * rows)]),
        constraints=LinearConstraint(matrix, program.row_lower, program.row_upper),
        bounds=(0, np.concatenate([program.column_upper, np.full(2 * rows, np.inf)])),
    )
    return answer.fun


@st.composite
def repetitive(draw):
    """Problems with rows that are alike, some with bounds that are no whole numbers."""
    small = draw(problems())
    at = draw(st.lists(st.integers(0, small.T - 1), min_size=1, max_size=12))
    share = draw(st.sampled_from([1, 1, 2, 3, 10]))

    def family(one):
        lower, upper, members = one.lower / share, one.upper / share, one.members
        if one.kind == "token":
            lower, upper = lower[at], upper[at]
        if one.kind == "token_group":
            members = members[:, at]
        return replace(one, lower=lower, upper=upper, members=members)

    copies = None if small.multiplicity is None else small.multiplicity[at]
    problem = lpr.RoutingProblem(small.scores[at], multiplicity=copies)
    return problem.with_families(tuple(family(one) for one in small.families))


@given(repetitive())
@settings(max_examples=200)
def test_merged_rows_clash_where_all_rows_do_and_by_no_more(problem):
    found, broken = explain(problem), least_broken(problem)
    assert (found is not None) == (broken > 1e-6)
    if found is not None:
        assert 0 < found.shortfall <= broken + 1e-6
        if not problem.is_integral:  # the LP breaks least
            assert found.shortfall == pytest.approx(broken)
        assert lpr.dual_bound(without_scores(problem), found.prices) <= 1e-6 - found.shortfall
        assert found.needs.keys().isdisjoint(found.gives)


@given(repetitive(), st.lists(st.integers(-2, 2), min_size=9, max_size=9))
@settings(max_examples=100)
def test_merged_rows_have_the_bound_of_all_rows_on_scores_of_zero(problem, some):
    some = torch.tensor(some).double()
    groups = {kind: problem.family(kind) for kind in ("token_group", "expert_group")}
    prices = lpr.Prices(
        experts=some[: problem.E],
        total=float(some[4]),
        **{f"{kind}s": some[5 : 5 + len(family)] for kind, family in groups.items() if family},
    )
    merged = aggregate_rows(problem).problem
    bound = lpr.dual_bound(without_scores(problem), prices)
    assert lpr.dual_bound(merged, prices) == pytest.approx(bound)


def test_rows_that_allow_the_same_pairs_are_one_row():
    scores = torch.rand(5, 70)
    scores[1, 69] = scores[3, 69] = scores[4, 0] = -INF
    merged = aggregate_rows(lpr.RoutingProblem(scores, tokens=between(1, 3)))
    assert merged.row.tolist() == [0, 1, 0, 1, 2]
    assert merged.problem.multiplicity.tolist() == [2, 2, 1]
    assert [bound.tolist() for bound in merged.problem.token_bounds()] == [[2, 2, 1], [6, 6, 3]]
    assert torch.equal(merged.problem.allowed, (scores > -INF)[[0, 1, 4]])


def test_rows_of_several_copies_are_alike_where_their_bounds_a_copy_are():
    problem = lpr.RoutingProblem(
        torch.rand(4, 3), tokens=between([1, 2, 3, 3], [2, 4, 6, INF]), multiplicity=[1, 2, 3, 3]
    )
    merged = aggregate_rows(problem)
    assert merged.row.tolist() == [0, 0, 0, 1]
    assert merged.problem.multiplicity.tolist() == [6, 3]
    assert [bound.tolist() for bound in merged.problem.token_bounds()] == [[6, 3], [12, INF]]


def test_rows_of_several_copies_with_fractions_a_copy_merge_with_their_like_alone():
    # 1 / 3 a copy in rows 0 and 1, and in row 2 too, which rounding could deny or affirm
    problem = lpr.RoutingProblem(
        torch.rand(3, 2), tokens=exactly([1, 1, 2]), multiplicity=[3, 3, 6]
    )
    merged = aggregate_rows(problem)
    assert merged.row.tolist() == [0, 0, 1]
    assert merged.problem.token_bounds()[0].tolist() == [2, 2]


def test_a_bound_that_is_no_whole_number_a_copy_is_not_divided():
    # 1 / 49 times 49 is a little less than 1 in float64
    merged = aggregate_rows(
        lpr.RoutingProblem(torch.rand(1, 2), tokens=at_least(1), multiplicity=[49])
    )
    assert merged.problem.token_bounds()[0].tolist() == [1]


def test_without_bounds_on_tokens_copies_do_not_tell_rows_apart():
    merged = aggregate_rows(lpr.RoutingProblem(torch.rand(3, 2), multiplicity=[1, 2, 5]))
    assert merged.row.tolist() == [0, 0, 0]
    assert merged.problem.multiplicity.tolist() == [8]


def test_token_groups_tell_rows_apart():
    groups = [([0, 1, 2, 3], at_most(4)), ([2, 3], at_most(1)), ([5], at_most(1))]
    merged = aggregate_rows(lpr.RoutingProblem(torch.rand(7, 2), token_groups=groups))
    assert merged.row.tolist() == [0, 0, 1, 1, 2, 3, 2]
    assert merged.problem.family("token_group").members.tolist() == [
        [True, True, False, False],
        [False, True, False, False],
        [False, False, False, True],
    ]


def test_a_group_that_tells_several_rows_apart_gives_each_a_number_of_its_own():
    groups = [([2, 3], at_most(1)), ([0, 1, 2, 3], at_most(4)), ([5], at_most(1))]
    merged = aggregate_rows(lpr.RoutingProblem(torch.rand(7, 2), token_groups=groups))
    assert merged.row.tolist() == [0, 0, 1, 1, 2, 3, 2]


def test_fractions_of_many_rows_do_not_drift():
    # adding 0.1 up a million times gives 100,000.000001, which would pass for a clash
    scores = torch.ones(1_000_000, 1)
    problem = lpr.RoutingProblem(scores, tokens=exactly(0.1), total=at_most(100_000))
    assert explain(problem) is None


def test_tokens_and_experts_that_need_the_same_pairs():
    # expert 0 wants four of three tokens; expert 1 lacks one slot for the three that are left
    problem = lpr.RoutingProblem(
        torch.ones(3, 2), tokens=exactly(2), experts=between([4, 0], [4, 2])
    )
    found = explain(problem)
    assert (found.shortfall, least_broken(problem)) == (1, 2)
    assert found.needs == {"token_0": 2, "token_1": 2, "token_2": 2}
    assert found.gives == {"expert_1": 2, "pairs": 3}


def largest_cut(problem):
    """The most that the bounds of some experts, and the total, let out too little: every cut."""
    nothing, found = without_scores(problem), 0.0
    for inside in itertools.product([0, 1], repeat=problem.E + 2):
        experts, total, root = torch.tensor(inside[:-2]).double(), inside[-2], inside[-1]
        if problem.family("total") is None and total != root:
            continue
        prices = lpr.Prices(experts=experts - total, total=float(total - root))
        found = max(found, -lpr.dual_bound(nothing, prices))
    return found


@given(st.data())
@settings(max_examples=150)
def test_the_largest_cut_is_found(data):
    T, E = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    allowed = data.draw(st.lists(st.booleans(), min_size=T * E, max_size=T * E))
    scores = torch.where(torch.tensor(allowed).view(T, E), 0.0, -INF)
    bounds = st.tuples(st.integers(0, 4), st.integers(0, 3)).map(lambda b: (b[0], b[0] + b[1]))
    low, high = zip(*data.draw(st.lists(bounds, min_size=E, max_size=E)), strict=True)
    least = torch.minimum(torch.tensor(data.draw(st.integers(0, 2))), (scores == 0).sum(1))
    kept = data.draw(st.none() | bounds.map(lambda b: between(*b)))
    problem = lpr.RoutingProblem(
        scores, tokens=between(least, least + 1), experts=between(low, high), total=kept
    )
    found = explain(problem)
    assert largest_cut(problem) == (0 if found is None else found.shortfall)


def test_prices_that_prove_nothing_are_not_believed(monkeypatch):
    problem = lpr.RoutingProblem(torch.rand(8, 4), tokens=exactly(2), experts=at_most(3))
    proved = infeasibility._elastic_duals(lpr.linear_program(aggregate_rows(problem).problem))
    assert proved.tolist() == [-1, 1, 1, 1, 1]
    for wrong in (0 * proved, -proved, np.array([-1, 1, 1, 0, 1.0]), None):
        monkeypatch.setattr(infeasibility, "_cut_duals", lambda _, wrong=wrong: wrong)
        monkeypatch.setattr(infeasibility, "_elastic_duals", lambda _, wrong=wrong: wrong)
        assert explain(problem) is None


def test_a_million_tokens_that_may_go_anywhere_are_one_row():
    T, E = 1 << 20, 16
    slots = [T * 2 // E] * (E - 1) + [T * 2 // E - 1]
    problem = lpr.RoutingProblem(torch.zeros(T, E), tokens=exactly(2), experts=at_most(slots))
    assert aggregate_rows(problem).problem.T == 1
    found = explain(problem)
    assert len(found.needs) == T
    assert found.shortfall == 1
    assert (
        "tokens 0-1048575 need 2097152 (2 each), but experts 0-15 can give only 2097151: 1 short"
    ) in found.says


def test_thousands_of_patterns():
    # each of 10,000 tokens may go to 4 of 32 experts, those of high number being in demand
    T, E = 10_000, 32
    seeded = torch.Generator().manual_seed(0)
    liking = torch.rand(T, E, generator=seeded) + 0.6 * torch.linspace(0, 1, E)
    scores = torch.full((T, E), -INF).scatter_(1, liking.topk(4, 1).indices, 0.0)
    problem = lpr.RoutingProblem(scores, tokens=exactly(2), experts=exactly(T * 2 // E))
    assert 1_000 < aggregate_rows(problem).problem.T < T
    found = explain(problem)
    bound = lpr.dual_bound(without_scores(problem), found.prices)
    assert found.shortfall == pytest.approx(-bound)
    assert found.shortfall > 0
