"""`MinCostFlow` on families that were hard for earlier methods: passes and ways are counted."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lp_routing as lpr
from benchmarks.scores import skewed_scores
from lp_routing.solvers.min_cost_flow import MinCostFlow, solver
from lp_routing.solvers.min_cost_flow.search import search

GPT_OSS = Path(__file__).parents[2] / "shared/data/gpt_oss_20b_mmlu_dev.npz"
OLMOE = GPT_OSS.with_name("olmoe_1b_7b_github.npz")


def searched(problem):
    """The search itself, for its counts, and the certificate of what it found."""
    flow = solver.flow_of(problem)
    found = search(flow.rows, flow.tree, None)
    prices = solver.prices_of(problem, flow.tree, found.price)
    x = solver.amounts(problem, found.x)
    return found.counts, lpr.certify(problem, x, prices)


def solved(scores, K, factor=1.0, **bounds):
    T, E = scores.shape
    capacity = math.ceil(factor * T * K / E)
    tokens = bounds.pop("tokens", lpr.exactly(K))
    problem = lpr.RoutingProblem(scores, tokens=tokens, experts=lpr.at_most(capacity), **bounds)
    counts, certificate = searched(problem)
    assert certificate.violation_count == 0
    assert abs(certificate.relative_gap) <= 1e-12
    return counts


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
@pytest.mark.parametrize("seed", range(3))
def test_collapsed_routers(noise, seed):
    logits = torch.linspace(4, -4, 64) + noise * torch.randn(6400, 64, generator=generator(seed))
    counts = solved(torch.softmax(logits, 1), 2)
    assert counts.passes <= 30
    assert counts.rounds <= 20
    assert counts.ways[0] <= 3000


TIES = {
    "half ones": lambda g: (torch.rand(12800, 64, generator=g) < 0.5).float(),
    "few ones": lambda g: (torch.rand(12800, 64, generator=g) < 0.05).float(),
    "all equal": lambda _: torch.ones(12800, 64),
    "0 to 3": lambda g: torch.randint(0, 4, (12800, 64), generator=g).float(),
    "bfloat16": lambda g: torch.softmax(torch.randn(12800, 64, generator=g), 1).bfloat16(),
}


@pytest.mark.parametrize("name", TIES)
def test_masses_of_ties(name):
    counts = solved(TIES[name](generator()), 2)
    assert counts.passes <= 30
    assert counts.rounds <= 10
    assert counts.ways[2] <= 6000


def test_one_expert_wanted_by_all():
    scores = torch.rand(16384, 64, generator=generator())
    scores[:, 0] += 5
    assert solved(scores, 2).passes <= 30


def test_heavy_tails():
    scores = torch.as_tensor(np.random.default_rng(0).standard_cauchy((8192, 64)))
    assert solved(scores, 2).passes <= 30


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.25])
@pytest.mark.parametrize("K", [1, 2, 8])
def test_skewed_routers(factor, K):
    counts = solved(skewed_scores(4096, 64, 0), K, factor)
    assert counts.passes <= 30
    assert counts.rounds <= 20


@pytest.mark.parametrize(
    ("T", "E", "K"), [(1, 5, 2), (3, 64, 2), (2000, 1024, 40), (700, 300, 299)]
)
def test_odd_shapes(T, E, K):
    solved(torch.rand(T, E, generator=generator()), K, 1.1)


@pytest.mark.skipif(not GPT_OSS.exists(), reason="recorded traces are not at hand")
@pytest.mark.parametrize("layer", [0, 7, 12, 23])
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_tokens_that_may_take_fewer(layer, K, factor):
    """gpt-oss: four observed candidates a token, at most K of them taken."""
    trace = np.load(GPT_OSS)
    experts = torch.as_tensor(trace["expert_ids"][layer].astype(np.int64))
    probabilities = torch.as_tensor(trace["probs"][layer].astype(np.float32))
    scores = torch.full((len(experts), 32), -math.inf).scatter_(1, experts, probabilities)
    counts = solved(scores, K, factor, tokens=lpr.at_most(K))
    assert counts.passes <= 30
    assert counts.ways[0] <= 3000


@pytest.mark.skipif(not OLMOE.exists(), reason="recorded traces are not at hand")
@pytest.mark.parametrize("layer", ["0", "15"])
def test_rows_that_stand_for_many_tokens(layer):
    """OLMoE: one row a token type, as often as it occurs."""
    counts = np.load(OLMOE)[f"counts_L{layer}"].astype(float)
    times = np.rint(counts.sum(1) / 8)
    scores = np.where(counts > 0, np.log(np.maximum(counts, 1) / times[:, None]), -np.inf)
    capacity = math.ceil(1.25 * 8 * times.sum() / 64)
    problem = lpr.RoutingProblem(
        scores,
        tokens=lpr.exactly((8 * times).tolist()),
        experts=lpr.at_most(capacity),
        multiplicity=times.astype(int),
    )
    counts, certificate = searched(problem)
    assert certificate.violation_count == 0
    assert abs(certificate.relative_gap) <= 1e-12
    assert counts.ways[0] <= 20_000


def test_memory_mapped_scores(tmp_path):
    np.save(tmp_path / "scores.npy", skewed_scores(2048, 16, 0).numpy())
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    problem = lpr.RoutingProblem(mapped, tokens=lpr.exactly(2), experts=lpr.at_most(256))
    assert lpr.solve(problem, MinCostFlow()).status is lpr.Status.OPTIMAL


def test_starts_of_every_kind_end_at_the_same_value():
    scores = skewed_scores(4096, 32, 1)
    bounds = {"tokens": lpr.exactly(2)}
    problem = lpr.RoutingProblem(scores, experts=lpr.at_most(280), **bounds)
    other = lpr.RoutingProblem(scores, experts=lpr.at_most(320), **bounds)
    cold = lpr.solve(problem, MinCostFlow())
    wrong = lpr.Prices(experts=torch.randn(32, generator=generator()).double())
    for start in (cold.prices, lpr.solve(other, MinCostFlow()).prices, wrong, lpr.Prices()):
        warm = lpr.solve(problem, MinCostFlow(start=start))
        assert warm.status is lpr.Status.OPTIMAL
        assert warm.value == pytest.approx(cold.value, rel=1e-12)


def test_out_of_time_there_is_a_feasible_assignment_and_a_bound():
    problem = lpr.RoutingProblem(
        skewed_scores(4096, 64, 0), tokens=lpr.exactly(2), experts=lpr.at_most(128)
    )
    stopped = lpr.solve(problem, MinCostFlow(time_limit_s=1e-6))
    assert stopped.status in (lpr.Status.TIME_LIMIT, lpr.Status.OPTIMAL)
    assert stopped.certificate.violation_count == 0
    best = lpr.solve(problem, MinCostFlow())
    assert stopped.value <= best.value * (1 + 1e-12) <= stopped.bound * (1 + 1e-9)


def test_an_assignment_close_enough_will_do():
    problem = lpr.RoutingProblem(
        skewed_scores(4096, 64, 0), tokens=lpr.exactly(2), experts=lpr.at_most(128)
    )
    close = lpr.solve(problem, MinCostFlow(relative_gap=0.05))
    assert close.status in (lpr.Status.FEASIBLE, lpr.Status.OPTIMAL)
    assert close.certificate.relative_gap <= 0.05


def dropped(exchange):
    """A kernel that loses a unit."""

    def broken(*arguments):
        found = exchange(*arguments)
        amounts = arguments[3]
        amounts[amounts.argmax()] -= 1
        return found

    return broken


def cheap(exchange):
    """A kernel whose prices are off."""

    def broken(*arguments):
        found = exchange(*arguments)
        arguments[5][0] += 1 + abs(arguments[5]).max() // 8
        return found

    return broken


@pytest.mark.parametrize("fault", [dropped, cheap])
def test_faults_planted_in_the_exchanges_are_no_optimum(fault, monkeypatch):
    module = "lp_routing.solvers.min_cost_flow.search"
    from lp_routing.solvers.min_cost_flow import exchange

    monkeypatch.setattr(f"{module}.exchange", fault(exchange.exchange))
    monkeypatch.setattr(f"{module}.ROUNDS_BEFORE_ALL", 2)
    problem = lpr.RoutingProblem(
        skewed_scores(256, 8, 0), tokens=lpr.exactly(2), experts=lpr.at_most(64)
    )
    try:
        status = lpr.solve(problem, MinCostFlow(time_limit_s=5)).status
    except (lpr.InputError, ValueError, IndexError):
        return
    assert status is not lpr.Status.OPTIMAL


def test_rows_that_are_never_checked_are_no_optimum(monkeypatch):
    rows = "lp_routing.solvers.min_cost_flow.cpu.Rows"
    nobody = np.empty(0, np.int64)
    monkeypatch.setattr(f"{rows}.astray", lambda *_: nobody)
    monkeypatch.setattr(f"{rows}.closest", one_row_a_leaf)
    problem = lpr.RoutingProblem(
        skewed_scores(4096, 16, 3), tokens=lpr.exactly(2), experts=lpr.at_most(512)
    )
    monkeypatch.setattr("lp_routing.solvers.min_cost_flow.search.settled", no_prices)
    monkeypatch.setattr("lp_routing.solvers.min_cost_flow.search.MASSES", 1.0)
    assert lpr.solve(problem, MinCostFlow()).status is not lpr.Status.OPTIMAL


def no_prices(rows, _demand, tree, _price, _steps=0):
    """All prices 0, instead of those that nearly fit."""
    return np.zeros(tree.root), rows.respond(np.zeros(tree.leaves))


def one_row_a_leaf(rows, _want):
    """Far too few open rows, with windows that let everything change hands."""
    opened = np.zeros(len(rows), np.uint8)
    opened[::3] = 1
    return opened, np.full(rows.leaves, 10.0)


def test_a_start_that_prices_a_bound_nobody_can_reach_is_proved_optimal():
    """One token, one expert, two slots: the slot's price is 0, whatever the search starts from."""
    problem = lpr.problems.capacity(torch.ones(1, 1), 1, 2)
    start = lpr.Prices(experts=torch.tensor([1.54], dtype=torch.float64))
    solution = lpr.solve(problem, MinCostFlow(start=start))
    assert solution.status is lpr.Status.OPTIMAL
    assert solution.prices.experts.tolist() == [0]
