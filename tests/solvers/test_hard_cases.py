"""Batches that are hard on prices: masses of ties, tight or loose, forbidden, heavy-tailed."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from tests import kkt
from tests.solvers.test_oracles import best_flow

DATA = Path(__file__).parents[3] / "shared" / "data"
GRID = 2**20


def skewed(T, E, seed=0):
    """Softmax scores on a dyadic grid, some experts popular."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, 6, generator=generator) @ torch.randn(6, E, generator=generator)
    scores = torch.softmax(logits + torch.randn(E, generator=generator), 1)
    return (scores * GRID).round().double() / GRID


def few_allowed(T, E, allowed):
    scores = skewed(T, E)
    return scores.masked_fill(scores < scores.topk(allowed).values[:, -1:], float("-inf"))


def heavy(T, E):
    generator = torch.Generator().manual_seed(1)
    return 10 ** (12 * torch.rand(T, E, generator=generator).double() - 6)


def wanted_by_all(T, E):
    scores = skewed(T, E).clone()
    scores[:, 0] += 8
    return scores


def integers(T, E):
    return torch.randint(0, 4, (T, E), generator=torch.Generator().manual_seed(2)).double()


def stated(scores, k, factor, tokens=exactly):
    T, E = scores.shape
    capacity = int(np.ceil(factor * T * k / E))
    return lpr.RoutingProblem(scores, tokens=tokens(k), experts=at_most(capacity))


CASES = {
    "all equal": lambda: stated(torch.ones(1024, 16), 2, 1.0),
    "all equal, more experts than tokens": lambda: lpr.RoutingProblem(
        torch.zeros(150, 256), tokens=at_most(2), experts=exactly(1)
    ),
    "faint beside 1": lambda: stated(torch.softmax(1e4 * skewed(40, 8), 1), 2, 1.0),
    "integers 0 to 3": lambda: stated(integers(1024, 16), 2, 1.0),
    "integers, loose": lambda: stated(integers(1000, 16), 2, 1.25),
    "bfloat16": lambda: stated(skewed(2000, 16).bfloat16(), 2, 1.25),
    "bfloat16, tight": lambda: stated(skewed(2048, 32).bfloat16(), 2, 1.0),
    "one expert wanted by all": lambda: stated(wanted_by_all(2048, 16), 2, 1.0),
    "factor 1": lambda: stated(skewed(2048, 32), 2, 1.0),
    "factor 1.25": lambda: stated(skewed(2048, 32), 2, 1.25),
    "very loose": lambda: stated(skewed(2048, 32), 2, 20.0),
    "k 1": lambda: stated(skewed(2048, 32), 1, 1.25),
    "k 8": lambda: stated(skewed(1024, 64), 8, 1.25),
    "two experts": lambda: stated(skewed(2048, 2), 1, 1.0),
    "eight experts": lambda: stated(skewed(4096, 8), 2, 1.0),
    "256 experts": lambda: stated(skewed(2048, 256), 4, 1.25),
    "512 experts": lambda: stated(skewed(2048, 512), 4, 1.25),
    "tokens not divisible": lambda: stated(skewed(1999, 32), 2, 1.0),
    "fewer tokens than experts": lambda: stated(skewed(20, 64), 4, 1.25),
    "4 of 32 allowed": lambda: stated(few_allowed(3000, 32, 4), 2, 1.0, at_most),
    "twelve orders of magnitude": lambda: stated(heavy(2048, 16), 2, 1.0),
    "negative": lambda: stated(skewed(2048, 16) - 3, 2, 1.0),
    "negative, at most": lambda: stated(skewed(2048, 16) - 51 / 1024, 2, 1.0, at_most),
    "balanced": lambda: lpr.problems.balanced(skewed(2000, 32), 2),
    "floors": lambda: lpr.RoutingProblem(
        skewed(2000, 16), tokens=exactly(2), experts=between(200, 300)
    ),
    "one bound per expert": lambda: lpr.RoutingProblem(
        skewed(2000, 4), tokens=exactly(1), experts=between([0, 100, 0, 50], [900, 600, 700, 500])
    ),
    "one bound per token": lambda: lpr.RoutingProblem(
        skewed(1200, 16), tokens=between([0, 1, 2] * 400, [1, 1, 4] * 400), experts=at_most(90)
    ),
    "at least one": lambda: lpr.problems.served_unified(skewed(1500, 16), 3000),
    "budget alone": lambda: lpr.problems.unified(skewed(1500, 16), 2500),
    "experts alone": lambda: lpr.problems.expert_choice(skewed(1500, 16), 200),
    "capped expert choice": lambda: lpr.problems.capped_expert_choice(skewed(1500, 16), 150, 2),
    "budget and experts": lambda: lpr.RoutingProblem(
        skewed(1500, 16), tokens=at_most(3), experts=at_most(200), total=exactly(2500)
    ),
    "devices": lambda: lpr.RoutingProblem(
        skewed(1500, 16),
        tokens=exactly(2),
        experts=at_most(260),
        expert_groups=lpr.groups_by([j // 4 for j in range(16)], at_most(800)),
    ),
    "sequences": lambda: lpr.RoutingProblem(
        skewed(1500, 16),
        tokens=at_most(4),
        experts=at_most(250),
        token_groups=lpr.groups_by([i // 300 for i in range(1500)], between(400, 640)),
    ),
    "equal, and all too dear together": lambda: lpr.RoutingProblem(
        torch.ones(600, 40) / 4, tokens=at_least(1), experts=exactly(58)
    ),
    "integers, and all too dear together": lambda: lpr.RoutingProblem(
        integers(600, 40), tokens=between(1, 4), experts=exactly(30)
    ),
    "demands": lambda: lpr.RoutingProblem(
        skewed(1500, 16), tokens=at_least(1), experts=at_most(120)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_optimum_is_whole_and_proved(name):
    problem = CASES[name]()
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation
    assert abs(solution.certificate.relative_gap) <= 1e-9
    assert kkt.primal_feasibility(problem, solution.assignment.x) == 0
    if "twelve" not in name:
        exact = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
        assert exact.gap == 0


@pytest.mark.parametrize("layer", range(3))
def test_scores_that_hardly_differ_are_solved_to_the_last_digits(layer):
    # they differ by less than what an optimum is proved to, relative to their size
    generator = torch.Generator().manual_seed(6)
    logits = 1e-9 * torch.randn(3, 24, 12, generator=generator, dtype=torch.float64)
    scores = lpr.scores.unified(logits[layer])
    problem = lpr.RoutingProblem(scores, experts=at_most(10), total=exactly(96))
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation


@pytest.mark.parametrize("factor", [1.0, 1.25])
@pytest.mark.parametrize("k", [1, 2])
def test_the_flow_has_the_same_value(factor, k):
    scores = skewed(1024, 16, seed=k)
    capacity = int(np.ceil(factor * 1024 * k / 16))
    expected = best_flow(scores.numpy(), k, capacity, balanced=True)
    assert float(lpr.solve(stated(scores, k, factor), lpr.MinCostFlow()).value) == expected


@pytest.mark.parametrize("short", [1, 500])
def test_a_batch_that_does_not_fit_is_explained(short):
    problem = lpr.RoutingProblem(
        skewed(1024, 16),
        tokens=exactly(2),
        experts=at_most([128 - short // 8] * 8 + [128] * 8)
        if short > 8
        else at_most([127] + [128] * 15),
    )
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.INFEASIBLE
    assert solution.infeasibility.shortfall > 0
    assert "tokens 0-1023 need 2048 (2 each)" in solution.explanation


def test_a_clash_among_allowed_pairs_is_explained():
    # only 100 tokens may go to expert 0, which asks for 150
    scores = skewed(1000, 8).clone()
    scores[100:, 0] = float("-inf")
    problem = lpr.RoutingProblem(
        scores, tokens=exactly(1), experts=between([150] + [0] * 7, [1000] * 8)
    )
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.INFEASIBLE
    assert solution.infeasibility.shortfall == 50


def test_supplies_in_the_thousands():
    generator = torch.Generator().manual_seed(3)
    often = torch.randint(1, 3000, (300,), generator=generator)
    shares = torch.rand(300, 16, generator=generator)
    scores = torch.log(shares.masked_fill(shares < 0.3, 0.0))
    problem = lpr.RoutingProblem(
        scores,
        tokens=exactly(4 * often),
        experts=at_most(int(1.3 * 4 * int(often.sum()) / 16)),
        multiplicity=often,
    )
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation
    assert float(solution.value) == pytest.approx(float(lpr.solve(problem).value), rel=1e-9)


@pytest.mark.skipif(not DATA.exists(), reason="real traces are not at hand")
@pytest.mark.parametrize("layer", [0, 11, 23])
def test_gpt_oss(layer):
    with np.load(DATA / "gpt_oss_20b_mmlu_dev.npz") as trace:
        ids = torch.as_tensor(trace["expert_ids"][layer].astype(np.int64))
        probs = torch.as_tensor(trace["probs"][layer]).double()
    scores = torch.full((len(ids), 32), float("-inf")).double().scatter_(1, ids, probs)
    problem = stated(scores, 2, 1.0, at_most)
    solution = lpr.solve(problem, lpr.MinCostFlow())
    assert solution.status is lpr.Status.OPTIMAL
    exact = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
    assert (exact.gap, exact.violation) == (0, 0)
