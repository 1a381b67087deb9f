"""Side rows, low <= sum(matrix * x) <= high: by hand, by every assignment, by law; and refusals."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import at_most, exactly
from lp_routing.certificate.certificate import certificate_of, token_sums
from lp_routing.certificate.prices import clipped, pair_prices
from tests.strategies import problems

INF = float("inf")
# Memory for four: expert 0 needs two a token, expert 1 one. 9 + 6, and half of token 2: 7 / 2.
SCORES = torch.tensor([[9.0, 5.0], [8.0, 6.0], [7.0, 1.0]])
MEMORY = lpr.RoutingProblem(SCORES, tokens=at_most(1), rows={"memory": ([2, 1], -INF, 4)})


def test_the_price_of_memory_is_what_half_a_token_more_would_bring():
    solution = lpr.solve(MEMORY)
    assert solution.solver == "HiGHS"
    assert solution.status is lpr.Status.OPTIMAL
    assert (solution.value, solution.bound) == (18.5, 18.5)
    assert solution.assignment.x.tolist() == [[1, 0], [0, 1], [0.5, 0]]
    assert solution.prices.rows.tolist() == [3.5]


def test_any_price_gives_a_bound_and_the_right_one_the_best():
    # price p: tokens earn max(9 - 2p, 5 - p, 0), max(8 - 2p, 6 - p, 0), max(7 - 2p, 1 - p, 0)
    by_hand = {0.0: 24.0, 1.0: 7 + 6 + 5 + 4, 3.5: 2 + 2.5 + 0 + 14, 9.0: 36.0}
    taken = lpr.solve(MEMORY).assignment
    for price, bound in by_hand.items():
        for exact in (False, True):
            certificate = lpr.certify(
                MEMORY, taken, lpr.Prices(rows=torch.tensor([price])), exact=exact
            )
            assert (certificate.value, certificate.bound) == (18.5, bound)
            assert certificate.proves_optimal() == (price == 3.5)


def test_a_price_of_the_wrong_sign_is_clipped_and_proves_nothing():
    # no lower limit, so nobody can be paid for going below it
    certificate = lpr.certify(MEMORY, lpr.solve(MEMORY).assignment, lpr.Prices(rows=[-3.5]))
    assert certificate.bound == 24
    assert not certificate.proves_optimal()


def test_what_takes_too_much_is_named_and_better_than_the_optimum_is_no_proof():
    everyone = torch.tensor([[1, 0], [1, 0], [1, 0]])
    certificate = lpr.certify(MEMORY, everyone, lpr.Prices(rows=[3.5]))
    assert certificate.value == 24
    assert [(v.name, v.amount, v.says) for v in certificate.violations] == [
        ("row_memory", 2.0, "row_memory counts 6, at most 4")
    ]
    assert not certificate.proves_optimal()


def test_in_whole_tokens_the_search_finds_the_best():
    # two at expert 0 are worth 9 + 8; one there and two at expert 1, 7 + 6 + 5
    solution = lpr.solve(MEMORY, integral=True)
    assert (solution.value, solution.bound) == (18, 18)
    assert solution.status is lpr.Status.OPTIMAL
    assert solution.certificate.proof == "branch and bound (HiGHS)"


def test_a_flow_solver_refuses_by_name():
    assert not MEMORY.is_integral
    assert MEMORY.why_not_integral == (
        "row_memory gives pairs weights of their own, which is not a flow"
    )
    with pytest.raises(lpr.InputError, match=r"row_memory .* is not a flow; use HiGHS\(\)"):
        lpr.solve(MEMORY, lpr.MinCostFlow())


def test_no_assignment_is_explained_by_the_row_that_clashes():
    crowded = lpr.RoutingProblem(SCORES, tokens=exactly(1), rows={"memory": ([2, 2], 0, 4)})
    solution = lpr.solve(crowded)
    assert solution.status is lpr.Status.INFEASIBLE
    assert "tokens 0-2 need 3 (1 each), but row memory can give only 2" in solution.explanation
    proof = solution.infeasibility
    assert proof.shortfall == 1
    assert lpr.dual_bound(crowded.with_scores(torch.zeros(3, 2)), proof.prices) < 0


FORMS = {
    "numbers": [[2.0, 1.0]] * 3,
    "an expert": [2, 1],
    "a row": np.array([[2.0, 1.0]]),
    "half precision": torch.tensor([2.0, 1.0], dtype=torch.bfloat16),
    "sparse": torch.tensor([[2.0, 1.0]] * 3).to_sparse(),
    "sparse of scipy": sp.csr_matrix([[2.0, 1.0]] * 3),
    "twice the same entry": torch.sparse_coo_tensor(
        [[0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 0, 1]],
        [1.0, 1, 1, 2, 1, 2, 1],
        (3, 2),
        check_invariants=True,
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_weights_may_be_compressed_by_row():
    weights = torch.tensor([[2.0, 1.0]] * 3).to_sparse_csr()
    assert (
        lpr.solve(lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=[(weights, -INF, 4)])).value
        == 18.5
    )


@pytest.mark.parametrize("form", FORMS)
def test_weights_may_be_written_in_many_ways(form):
    problem = lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=[(FORMS[form], -INF, 4)])
    assert lpr.linear_program(problem).row_names[-1] == "row_0"
    assert lpr.linear_program(problem).matrix.toarray()[-1].tolist() == [2, 1, 2, 1, 2, 1]
    assert lpr.solve(problem).value == 18.5


def test_one_weight_a_token_counts_tokens():
    heavy = [[3.0], [1.0], [1.0]]
    problem = lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=[(heavy, 0, 2)])
    assert lpr.linear_program(problem).matrix.toarray()[-1].tolist() == [3, 3, 1, 1, 1, 1]
    assert lpr.solve(problem).value == 8 + 7


def test_a_row_of_ones_over_identical_tokens_is_the_total():
    scores, copies = [[3.0, 1.0], [2.0, -INF]], [3, 2]
    by_row = lpr.RoutingProblem(scores, rows=[(1.0, 2, 4)], multiplicity=copies)
    by_total = lpr.RoutingProblem(scores, total=lpr.between(2, 4), multiplicity=copies)
    first, second = lpr.solve(by_row), lpr.solve(by_total)
    assert first.value == second.value == 3 * 3 + 2
    assert first.prices.rows.tolist() == [second.prices.total]


@st.composite
def with_rows(draw):
    """A problem and one to three side rows; small weights, many infeasible."""
    problem = draw(problems())
    weight = st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0, 0.5])
    matrix = st.lists(
        st.lists(weight, min_size=problem.E, max_size=problem.E),
        min_size=problem.T,
        max_size=problem.T,
    )
    limits = st.sampled_from([(-INF, 1.0), (0.0, 2.0), (1.0, INF), (-2.0, -1.0), (1.5, 1.5)])
    rows = [(draw(matrix), *draw(limits)) for _ in range(draw(st.integers(1, 3)))]
    stated = lpr.RoutingProblem(problem.scores, rows=rows, multiplicity=problem.multiplicity)
    return problem.with_families((*problem.families, *stated.families)), rows


@given(with_rows())
@settings(max_examples=60, deadline=None)
def test_highs_and_clarabel_agree_failures_included(case):
    problem, _ = case
    first, second = lpr.solve(problem), lpr.solve(problem, "cvxpy")
    assert first.status is second.status
    assert first.status in (lpr.Status.OPTIMAL, lpr.Status.INFEASIBLE)
    assert float(second.value) == pytest.approx(float(first.value), abs=1e-5)


def best_by_trying(problem, rows):
    """The best whole assignment among all of them; None where there are too many to try."""
    allowed = problem.allowed.flatten().nonzero().flatten().tolist()
    copies = problem.copies().long()[:, None].expand(-1, problem.E).flatten().tolist()
    if np.prod([copies[at] + 1.0 for at in allowed]) > 3000:
        return None
    best = -INF
    for amounts in product(*(range(copies[at] + 1) for at in allowed)):
        x = torch.zeros(problem.T * problem.E, dtype=torch.float64)
        x[allowed] = torch.tensor(amounts, dtype=torch.float64)
        x = x.reshape(problem.T, problem.E)
        within = all(
            low <= float((torch.tensor(weights) * x).sum()) <= high for weights, low, high in rows
        )
        counted = [
            (family, family.activity(x.sum(1), x.sum(0)))
            for family in problem.families
            if family.kind != "row"
        ]
        held = all(bool(((f.lower <= n) & (n <= f.upper)).all()) for f, n in counted)
        if within and held:
            best = max(best, float((problem.scores.nan_to_num(neginf=0.0) * x).sum()))
    return best


@given(with_rows())
@settings(max_examples=60, deadline=None)
def test_branch_and_bound_finds_what_trying_all_finds(case):
    problem, rows = case
    best = best_by_trying(problem, rows)
    if best is not None:
        solution = lpr.solve(problem, integral=True)
        assert float(solution.value) == pytest.approx(best, abs=1e-9)
        assert (solution.status is lpr.Status.INFEASIBLE) == (best == -INF)


@given(with_rows(), st.data())
@settings(max_examples=100, deadline=None)
def test_no_price_bounds_from_below_what_is_feasible(case, data):
    problem, _ = case
    solution = lpr.solve(problem)
    if solution.status is lpr.Status.INFEASIBLE:
        return
    price = st.floats(-3, 3, width=32)
    some = [data.draw(price) for _ in problem.family("row").lower]
    wrong = lpr.Prices(rows=torch.tensor(some), experts=solution.prices.experts)
    assert lpr.dual_bound(problem, wrong) >= float(solution.value) - 1e-9
    exact = lpr.certify(problem, solution.assignment, wrong, exact=True)
    assert exact.bound >= exact.value or exact.violation > 0


def test_an_exact_bound_holds_where_prices_times_weights_round():
    # one pair and one row that binds: worth limit * s / a, in fractions, at the price s / a
    draw = np.random.default_rng(0)
    for _ in range(100):
        score, weight, limit = draw.uniform(0.1, 1, 3).tolist()
        limit = min(limit, 0.9 * weight)
        problem = lpr.RoutingProblem([[score]], rows=[([[weight]], -INF, limit)])
        prices = lpr.Prices(rows=torch.tensor([score / weight], dtype=torch.float64))
        truth = Fraction(limit) * Fraction(score) / Fraction(weight)
        bound = lpr.certify(problem, [[0]], prices, exact=True).bound
        assert truth <= bound <= truth * (1 + Fraction(1, 2**40))
        assert float(pair_prices(problem, clipped(problem, prices)).rounding(slice(0, 1))) > 0


def test_products_that_underflow_count_as_rounded():
    tiny = 2.0**-550
    problem = lpr.RoutingProblem([[1.0]], rows=[([[tiny]], -INF, 1)])
    pair = pair_prices(problem, clipped(problem, lpr.Prices(rows=[tiny])))
    assert not pair.of(slice(0, 1)).any()
    assert float(pair.rounding(slice(0, 1))) > 0


def test_without_a_lower_limit_a_price_of_zero_costs_nothing(monkeypatch):
    def refuse(*given):
        raise AssertionError("0 times -inf is NaN, and fractions were asked")

    monkeypatch.setattr("lp_routing.certificate.certificate.exact_bound", refuse)
    assert lpr.dual_bound(MEMORY, lpr.Prices()) == 24


def test_a_sum_is_held_against_its_limit_as_precisely_as_it_can_be():
    # a third and a seventh less ten 21sts, times 19 million: a rounding error, not 0
    weights = [19e6 / 3, 19e6 / 7, -19e6 * 10 / 21]
    assert sum(weights) != 0
    problem = lpr.RoutingProblem([[1.0, 1.0, 1.0]], rows=[(weights, 0, 0)])
    assert lpr.certify(problem, [[1, 1, 1]], lpr.Prices()).violations == ()
    assert lpr.certify(problem, [[1, 1, 0]], lpr.Prices()).violation_count == 1
    # a limit below 0 allows for as much as one above: 1e-5 of a million is a solver's tolerance
    wanted = lpr.RoutingProblem([[1.0]], rows=[([[-1e6]], -INF, -1e6)])
    nearly = lpr.Assignment(torch.tensor([[1 - 1e-11]], dtype=torch.float64))
    certificate = lpr.certify(wanted, nearly, lpr.Prices())
    assert certificate.violation == pytest.approx(1e-5, rel=1e-3)
    assert certificate.keeps_bounds(1e-9)
    assert not certificate.keeps_bounds(1e-12)


def test_where_every_pair_is_forbidden_a_row_may_still_ask_for_something():
    for row in (([[1.0]], 1, INF), ([[1.0]], -INF, -1)):
        problem = lpr.RoutingProblem([[-INF]], rows=[row])
        assert lpr.solve(problem).status is lpr.Status.INFEASIBLE
    assert lpr.solve(lpr.RoutingProblem([[-INF]], rows=[([[1.0]], 0, 1)])).value == 0


def test_tokens_that_differ_in_weights_alone_are_not_taken_for_each_other():
    # only token 0 weighs anything, 5, and 6 are wanted
    heavy = [[5.0], [0.0], [0.0]]
    problem = lpr.RoutingProblem(torch.ones(3, 2), tokens=at_most(1), rows={"w": (heavy, 6, INF)})
    solution = lpr.solve(problem)
    assert solution.status is lpr.Status.INFEASIBLE
    assert "row w needs" in solution.explanation


def test_fractional_bounds_are_rounded_for_whole_amounts_but_limits_of_rows_are_not():
    rows = {"m": ([2.5, 1], 2.5, 2.5)}
    problem = lpr.RoutingProblem(SCORES, total=at_most(1.5), rows=rows)
    assert problem.with_whole_bounds().family("total").upper.tolist() == [1]
    assert problem.with_whole_bounds().family("row").lower.tolist() == [2.5]
    assert lpr.solve(problem, integral=True).value == 9


def test_on_whole_weights_nothing_is_rounded():
    problem = lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=[([3, 5], -INF, 4)])
    prices = lpr.Prices(rows=[1 / 3])
    pair = pair_prices(problem, clipped(problem, lpr.Prices(rows=[0.375])))
    assert not pair.rounding(slice(0, 3)).any()
    assert pair_prices(problem, clipped(problem, prices)).rounding(slice(0, 3)).any()


@pytest.mark.parametrize("exact", [False, True])
def test_the_sums_of_shards_make_the_certificate_of_all_tokens(exact):
    tables = [{"row": torch.tensor([2.0], dtype=torch.float64)}]
    x = torch.tensor([[1, 0], [1, 0], [1, 1]])

    def sums(tokens):
        rows = {"memory": ([2, 1], -INF, 4)}
        shard = lpr.RoutingProblem(SCORES[tokens], tokens=at_most(1), rows=rows)
        return token_sums(shard, x[tokens], tables, exact=exact)

    added = sums(slice(0, 1)) + sums(slice(1, 3))
    found = certificate_of(MEMORY, added, tables, exact)
    direct = lpr.certify(MEMORY, x, lpr.Prices(rows=[2.0]), exact=exact)
    assert (found.value, found.bound) == (direct.value, direct.bound) == (25, 20)
    assert {v.name: v.amount for v in found.violations}["row_memory"] == 3


def test_row_and_column_sums_do_not_say_what_a_side_row_counts():
    with pytest.raises(TypeError, match="side rows count single pairs"):
        MEMORY.family("row").activity(torch.ones(3), torch.ones(2))


@pytest.mark.parametrize("entries", [1, 2, 4, 1000])
def test_chunks_of_rows_give_the_same_certificate(entries, monkeypatch):
    import lp_routing.problem.problem as chunks

    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", entries)
    certificate = lpr.certify(MEMORY, torch.ones(3, 2), lpr.Prices(rows=[2.0]))
    assert certificate.bound == 5 + 4 + 3 + 8
    assert {v.name: v.amount for v in certificate.violations}["row_memory"] == 9 - 4


@pytest.mark.parametrize("entries", [2, 1000])
def test_chunks_have_the_weights_of_all_rows(entries, monkeypatch):
    import lp_routing.problem.problem as chunks

    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", entries)
    # Besides memory at 2 a unit, expert 1 costs 1: all tokens want expert 0 then, 5 + 4 + 3.
    rows = {"memory": ([2, 1], -INF, 4), "second": ([0, 1], -INF, 1)}
    problem = lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=rows)
    certificate = lpr.certify(problem, torch.ones(3, 2), lpr.Prices(rows=[2.0, 1.0]))
    assert certificate.bound == 5 + 4 + 3 + 2 * 4 + 1
    amounts = {v.name: v.amount for v in certificate.violations}
    assert (amounts["row_memory"], amounts["row_second"]) == (9 - 4, 3 - 1)


def test_a_price_is_what_a_unit_more_brings():
    step = 1 / 64
    for by in (step, -step):
        rows = [([2, 1], -INF, 4 + by)]
        moved = lpr.solve(lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=rows))
        assert (moved.value - 18.5) / by == 3.5


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (3, r"rows: expected a list of \(matrix, low, high\), .* got a int"),
        ([], "rows is empty"),
        ({}, "rows is empty"),
        ([([1, 1], 0)], r"rows\[0\]: expected \(matrix, low, high\) .* got a tuple of 2"),
        ([([1, 1], 0, 1), 7], r"rows\[1\]: expected \(matrix, low, high\) .* got a int"),
        ({3: ([1, 1], 0, 1)}, "rows: expected names that are text, got 3"),
        ([([1, 1, 1], 0, 1)], r"rows\[0\]: expected weights of shape \(3, 2\) .* got \(3,\)"),
        (
            [(torch.ones(2, 3).to_sparse(), 0, 1)],
            r"rows\[0\]: expected weights of shape \(3, 2\) .* got \(2, 3\)",
        ),
        ([(torch.ones(1, 3, 2), 0, 1)], r"expected weights of shape \(3, 2\) .* got \(1, 3, 2\)"),
        ([([1, float("nan")], 0, 1)], r"rows\[0\]: weight \[0, 1\] is nan \(3 such entries\)"),
        ({"a": ([INF, 1], 0, 1)}, r"rows\['a'\]: weight \[0, 0\] is inf"),
        ([([1e13, 1], 0, 1)], r"weight \[0, 0\] is 1e\+13 .* of at most 1e\+12"),
        ([([1j, 1], 0, 1)], r"rows\[0\]: matrix: expected real numbers, got torch.complex"),
        ([("ab", 0, 1)], r"rows\[0\]: matrix: expected weights of shape \(3, 2\), got str"),
        ([([1, 1], 2, 1)], r"rows\[0\]: low=2 is above high=1"),
        ([([1, 1], float("nan"), 1)], r"low=nan: expected a number"),
        ([([1, 1], 0, [1, 2])], r"high=\[1, 2\]: expected a number"),
        ([([1, 1], -INF, INF)], r"rows\[0\] limits nothing"),
        ([([1, 1], INF, INF)], "no sum lies between inf and inf"),
    ],
)
def test_what_is_no_row_is_refused_in_words(rows, words):
    with pytest.raises(lpr.InputError, match=words):
        lpr.RoutingProblem(SCORES, tokens=at_most(1), rows=rows)


def test_prices_of_rows_that_are_not_there_are_refused():
    free = lpr.RoutingProblem(SCORES, tokens=at_most(1))
    with pytest.raises(lpr.InputError, match="prices of rows are given, but the problem has no"):
        lpr.certify(free, torch.zeros(3, 2), lpr.Prices(rows=[1.0]))
    with pytest.raises(lpr.InputError, match="prices of rows: expected 1, got 2"):
        lpr.certify(MEMORY, torch.zeros(3, 2), lpr.Prices(rows=[1.0, 2.0]))
