"""`MinCostFlow` on families that were hard for earlier methods: its work is counted, not timed."""

import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from benchmarks.side_by_side.cases import all_cases, build
from lp_routing.solvers.min_cost_flow import MinCostFlow, solver
from lp_routing.solvers.min_cost_flow.search import search

DATA = Path(__file__).parents[3] / "shared/data"
TRACES = {case.name: case for case in all_cases(DATA)[0] if case.scores not in ("skewed", "sample")}
IMPOSSIBLE = {"olmoe-github-L7-k8-f1", "olmoe-wikipedia-L15-k8-f1", "olmoe-wikipedia-L15-k8-f1.05"}
"""Tokens that may only go to some experts are more than these can take; see `explanation`."""

PASSES = 25
"""Passes over all rows at most; 20 were seen on one gpt-oss layer, 12 on other families."""
ROUNDS = 12
"""Rounds of exchanges and checks at most; 6 were seen, 10 where rows stand for many tokens."""
PATHS_PER_EXPERT = 16
"""Paths along which units move, for each expert; 12 were seen, on a collapsed router."""
PATHS_PER_EXPERT_OF_TYPES = 400
"""The same where rows stand for many tokens (OLMoE): 150 were seen."""


def solved(problem, **options):
    """The solution and what the search counted."""
    found = []

    def recorded(*arguments, **named):
        found.append(search(*arguments, **named))
        return found[-1]

    with mock.patch.object(solver, "search", recorded):
        solution = lpr.solve(problem, MinCostFlow(**options), tolerance=1e-12)
    return solution, found[0].counts


def check(problem, paths=PATHS_PER_EXPERT, **options):
    """Solved to the last digit, with little work."""
    solution, counts = solved(problem, **options)
    assert solution.status is lpr.Status.OPTIMAL, solution.explanation
    assert counts.passes <= PASSES
    assert counts.rounds <= ROUNDS
    assert counts.paths[0] <= paths * problem.E
    return solution, counts


def capacity(scores, K, factor=1.0):
    """K experts a token, ceil(factor T K / E) tokens an expert."""
    T, E = scores.shape
    most = math.ceil(factor * T * K / E)
    return lpr.RoutingProblem(scores, tokens=lpr.exactly(K), experts=lpr.at_most(most))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("seed", range(3))
def test_collapsed_routers(noise, seed):
    logits = torch.linspace(4, -4, 64) + noise * torch.randn(6400, 64, generator=generator(seed))
    check(capacity(torch.softmax(logits, 1), 2))


TIES = {
    "half ones": lambda g: (torch.rand(12800, 64, generator=g) < 0.5).float(),
    "few ones": lambda g: (torch.rand(12800, 64, generator=g) < 0.05).float(),
    "all equal": lambda _: torch.ones(12800, 64),
    "0 to 3": lambda g: torch.randint(0, 4, (12800, 64), generator=g).float(),
    "bfloat16": lambda g: torch.softmax(torch.randn(12800, 64, generator=g), 1).bfloat16(),
    "float16": lambda g: torch.softmax(torch.randn(12800, 64, generator=g), 1).half(),
}


@pytest.mark.parametrize("name", TIES)
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_masses_of_ties(name, factor):
    problem = capacity(TIES[name](generator()), 2, factor)
    solution, counts = check(problem, paths=4)
    assert counts.rounds <= 4
    exact = lpr.certify(problem, solution.assignment, solution.prices, exact=True)
    assert exact.gap == 0


def test_one_expert_wanted_by_all():
    scores = torch.rand(16384, 64, generator=generator())
    scores[:, 0] += 5
    check(capacity(scores, 2))


def test_heavy_tails():
    check(capacity(torch.as_tensor(np.random.default_rng(0).standard_cauchy((8192, 64))), 2))


@pytest.mark.parametrize("unit", [5e-324, 1e-310, 1e-251, 1e-249, 1e150, 1e270])
def test_numbers_next_to_nothing_and_huge_ones(unit):
    scores = torch.as_tensor(np.random.default_rng(0).integers(0, 50, (4096, 16)) * unit)
    check(capacity(scores, 2))


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.25])
@pytest.mark.parametrize("K", [1, 2, 8])
@pytest.mark.parametrize("seed", range(3))
def test_skewed_routers(factor, K, seed):
    check(capacity(skewed_scores(4096, 64, seed), K, factor))


@pytest.mark.parametrize(
    ("T", "E", "K", "factor"),
    [
        (1, 5, 2, 1.0),
        (3, 64, 2, 1.1),
        (2048, 1024, 2, 1.0),
        (2000, 1024, 40, 1.1),  # E K > 2**15
        (700, 300, 299, 1.1),
    ],
)
def test_odd_shapes(T, E, K, factor):
    check(capacity(torch.rand(T, E, generator=generator()), K, factor))


@pytest.mark.parametrize("name", TRACES)
def test_recorded_traces(name):
    """gpt-oss: tokens may take fewer of four candidates. OLMoE: rows stand for many tokens."""
    problem = build(TRACES[name], DATA).problem()
    if name in IMPOSSIBLE:
        solution, counts = solved(problem)
        assert solution.status is lpr.Status.INFEASIBLE
        assert solution.infeasibility.shortfall > 0
        assert counts.passes <= PASSES
    elif problem.multiplicity is None:
        check(problem)
    else:
        check(problem, paths=PATHS_PER_EXPERT_OF_TYPES)


def test_memory_mapped_scores(tmp_path):
    np.save(tmp_path / "scores.npy", skewed_scores(2048, 16, 0).numpy())
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    check(lpr.RoutingProblem(mapped, tokens=lpr.exactly(2), experts=lpr.at_most(256)))


STARTS = {
    "the answer": lambda problem: lpr.solve(problem, MinCostFlow()).prices,
    "another capacity": lambda problem: (
        lpr.solve(capacity(problem.scores, 2, 1.1), MinCostFlow()).prices
    ),
    "noise": lambda problem: lpr.Prices(experts=torch.randn(problem.E, generator=generator())),
    "far too high": lambda problem: lpr.Prices(experts=torch.linspace(0, 1e6, problem.E)),
    "nothing": lambda _: lpr.Prices(),
}


@pytest.mark.parametrize("name", STARTS)
def test_starts_of_every_kind_end_at_the_same_value(name):
    problem = capacity(skewed_scores(4096, 32, 1), 2)
    cold = lpr.solve(problem, MinCostFlow())
    warm, counts = solved(problem, start=STARTS[name](problem))
    assert warm.status is lpr.Status.OPTIMAL
    assert warm.value == pytest.approx(cold.value, rel=1e-12)
    assert counts.passes <= 2 * PASSES  # a useless start is given up
    if name == "the answer":
        assert counts.passes <= 2


def test_a_start_that_prices_a_bound_nobody_can_reach_is_proved_optimal():
    """One token, one expert, two slots: the slot's price is 0, whatever the search starts from."""
    problem = lpr.problems.capacity(torch.ones(1, 1), 1, 2)
    start = lpr.Prices(experts=torch.tensor([1.54], dtype=torch.float64))
    solution = lpr.solve(problem, MinCostFlow(start=start))
    assert solution.status is lpr.Status.OPTIMAL
    assert solution.prices.experts.tolist() == [0]


def test_a_start_far_above_all_scores_costs_no_digits():
    """Each token takes two experts, so that 1e9 more at every expert changes no choice."""
    problem = capacity(skewed_scores(256, 8, 0), 2)
    prices = lpr.solve(problem, MinCostFlow()).prices.experts + 1e9
    solution, _ = solved(problem, start=lpr.Prices(experts=prices))
    assert solution.status is lpr.Status.OPTIMAL


def test_a_start_beside_scores_next_to_nothing():
    """One slot at a price of 1, one token to whom it is worth 5e-324: its price is far less."""
    problem = lpr.RoutingProblem(
        torch.tensor([[5e-324]], dtype=torch.float64), experts=lpr.at_most(1)
    )
    solution, _ = solved(problem, start=lpr.Prices(experts=torch.ones(1, dtype=torch.float64)))
    assert solution.status is lpr.Status.OPTIMAL


def test_prices_of_subnormal_scores_are_whole_multiples_of_the_least_number():
    scores = [[4, 30], [48, 32], [26, 26], [20, 34], [25, 28], [1, 27], [37, 15]]
    problem = lpr.RoutingProblem(
        torch.tensor(scores, dtype=torch.float64) * 5e-324,
        tokens=lpr.exactly(1),
        experts=lpr.between([3, 1], [5, 4]),
    )
    assert solved(problem)[0].status is lpr.Status.OPTIMAL


def test_out_of_time_there_is_a_feasible_assignment_and_a_bound():
    problem = capacity(skewed_scores(4096, 64, 0), 2)
    stopped, counts = solved(problem, time_limit_s=1e-6)
    assert counts.rounds == 1
    assert stopped.status in (lpr.Status.TIME_LIMIT, lpr.Status.OPTIMAL)
    assert stopped.certificate.violation_count == 0
    best = lpr.solve(problem, MinCostFlow())
    assert stopped.value <= best.value * (1 + 1e-12) <= stopped.bound * (1 + 1e-9)


def test_an_assignment_close_enough_will_do():
    problem = capacity(skewed_scores(4096, 64, 0), 2)
    close, counts = solved(problem, relative_gap=0.05)
    assert close.status in (lpr.Status.FEASIBLE, lpr.Status.OPTIMAL)
    assert close.certificate.relative_gap <= 0.05
    assert counts.rounds <= solved(problem)[1].rounds
