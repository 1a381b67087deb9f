"""Pricing's two resorts where a box misses: the whole LP of a small problem, else a wider box."""

import pytest
import torch
from hypothesis import given, settings

import lp_routing as lpr
from lp_routing.pricing import search
from lp_routing.pricing import solver as story
from tests.strategies import problems
from tests.test_pricing import skewed


@pytest.fixture
def no_problem_is_small(monkeypatch):
    monkeypatch.setattr(story, "ALL", 0)
    monkeypatch.setattr(search, "ALL", 0)


def passes_and_lps(monkeypatch):
    """Lists that get an entry for each pass over all tokens, and the pairs of each LP."""
    passes, lps = [], []
    look, solve = story.contested, search.solve_in_box

    def looked(*given, **options):
        passes.append(1)
        return look(*given, **options)

    def solved(contest, *given):
        lps.append(contest.pairs)
        return solve(contest, *given)

    monkeypatch.setattr(story, "contested", looked)
    monkeypatch.setattr(search, "solve_in_box", solved)
    return passes, lps


@pytest.mark.usefixtures("no_problem_is_small")
@given(problems())
@settings(max_examples=150)
def test_wider_boxes_alone_find_what_highs_finds(problem):
    ours, theirs = lpr.solve(problem, lpr.Pricing()), lpr.solve(problem)
    assert ours.status is theirs.status, ours.explanation
    assert float(ours.value) == pytest.approx(float(theirs.value), abs=1e-9)


def test_rows_of_many_copies_are_one_lp_where_they_are_few(monkeypatch):
    # one row holds half of all units: no sample would tell the prices
    passes, lps = passes_and_lps(monkeypatch)
    copies = torch.ones(400, dtype=torch.int64)
    copies[7] = 400
    scores = skewed(2, 400, 8)
    problem = lpr.RoutingProblem(
        scores, tokens=lpr.exactly(2 * copies), experts=lpr.at_most(201), multiplicity=copies
    )
    solution = lpr.solve(problem, lpr.Pricing())
    assert solution.status is lpr.Status.OPTIMAL
    assert float(solution.value) == pytest.approx(float(lpr.solve(problem).value), rel=1e-12)
    assert len(passes) == 1
    assert lps == [scores.numel()]


def test_a_small_problem_ends_with_the_whole_lp_and_a_large_one_widens_its_box(monkeypatch):
    problem = lpr.problems.capacity(skewed(1), 2, 128)
    monkeypatch.setattr(search, "MANY", -1.0)  # every box that misses is given up at once
    monkeypatch.setattr("lp_routing.pricing.narrowing.FEW", 0.0)
    monkeypatch.setattr("lp_routing.pricing.narrowing.STANDARD_ERRORS", 0.0)
    passes, _ = passes_and_lps(monkeypatch)
    small = lpr.solve(problem, lpr.Pricing())
    assert 2 <= len(passes) <= 3
    passes.clear()
    monkeypatch.setattr(story, "ALL", 0)
    monkeypatch.setattr(search, "ALL", 0)
    large = lpr.solve(problem, lpr.Pricing())
    assert len(passes) >= 2
    assert small.status is large.status is lpr.Status.OPTIMAL
    assert float(small.value) == pytest.approx(float(large.value), rel=1e-12)
