"""Bounds without an LP: valid always, close as a rule, within the passes that are granted."""

import sys

import numpy as np
import pytest
import torch

import lp_routing as lpr
from tests.test_hard_cases import skewed


@pytest.mark.parametrize(
    "problem",
    [
        lpr.problems.capacity(skewed(4096, 64), 2, 160),
        lpr.problems.balanced(skewed(2048, 32), 2),
        lpr.problems.capacity(lpr.scores.softmax(lpr.traces.sample().layer(2)), 2, 320),
        lpr.RoutingProblem(skewed(2000, 16), tokens=lpr.at_most(2), experts=lpr.at_most(250.5)),
    ],
    ids=["capacity", "balanced", "sample", "half a pair"],
)
def test_the_bound_is_valid_and_close(problem):
    best = float(lpr.solve(problem, "pricing" if problem.is_integral else "highs").value)
    bound = lpr.dual_bound(problem, lpr.best_prices(problem))
    assert best - 1e-9 * abs(best) <= bound <= best + 1e-4 * abs(best)


def test_no_more_passes_are_taken_than_granted(monkeypatch):
    passes = []
    module = sys.modules["lp_routing.pricing.best_prices"]
    real = module.contested
    monkeypatch.setattr(module, "contested", lambda *a, **k: passes.append(1) or real(*a, **k))
    lpr.best_prices(lpr.problems.capacity(skewed(2048, 32), 2, 150), relative_gap=0, max_passes=2)
    assert len(passes) <= 2


def test_memory_mapped_scores_serve(tmp_path):
    np.save(tmp_path / "scores.npy", skewed(2048, 32).float().numpy())
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    problem = lpr.problems.capacity(mapped, 2, 150)
    solution = lpr.solve(problem, lpr.Pricing())
    assert solution.status is lpr.Status.OPTIMAL
    bound = lpr.dual_bound(problem, lpr.best_prices(problem))
    assert float(solution.value) <= bound <= 1.0001 * float(solution.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: lpr.best_prices(p.scores), "expects a RoutingProblem, got Tensor"),
        (lambda p: lpr.best_prices(p, max_passes=0), "max_passes=0: it must be at least 1"),
        (lambda p: lpr.best_prices(p, float("nan")), "relative_gap=nan: expected a number >= 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(lpr.InputError, match=words):
        call(lpr.problems.token_choice(torch.ones(3, 2), 1))
