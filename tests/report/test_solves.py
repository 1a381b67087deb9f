"""Nothing is solved twice: solves of the exact engine, by what they are asked."""

from collections import Counter
from dataclasses import replace
from hashlib import sha256

import pytest
import torch

import lp_routing as lpr
from lp_routing.cli.commands import REPORTED
from lp_routing.evaluation.evaluate import stated_problem
from lp_routing.frontier.summary import FrontierSettings, summary
from lp_routing.report.document import ReportSettings
from lp_routing.report.frontier import capacity_result
from lp_routing.report.layer_results import examine_layer
from lp_routing.solvers import MinCostFlow

LOGITS = lpr.traces.sample().layer(0)[:192].float()


@pytest.fixture
def solves(monkeypatch):
    """How often each problem was solved, by what it asks."""
    count, answer = Counter(), MinCostFlow.answer

    def counted(self, problem, **options):
        asked = sha256(problem.scores.numpy().tobytes())
        for family in problem.families:
            asked.update(family.kind.encode())
            asked.update(family.lower.numpy().tobytes() + family.upper.numpy().tobytes())
        count[asked.hexdigest()] += 1
        return answer(self, problem, **options)

    monkeypatch.setattr(MinCostFlow, "answer", counted)
    return count


def test_the_counter_counts_what_is_asked_twice(solves):
    problem = lpr.problems.capacity(LOGITS.softmax(-1), 2, 16)
    lpr.solve(problem)
    lpr.solve(lpr.problems.capacity(LOGITS.softmax(-1), 2, 17))
    assert set(solves.values()) == {1}
    lpr.solve(lpr.problems.capacity(LOGITS.softmax(-1), 2, 16))
    assert sorted(solves.values()) == [1, 2]


def test_compare_takes_an_optimum_that_is_there(solves):
    problem = lpr.problems.capacity(LOGITS.softmax(-1), 2, 16)
    optimum = lpr.solve(problem)
    given = lpr.evaluation.comparisons(
        problem, ["token-choice"], logits=LOGITS, repeats=1, optimum=optimum
    )
    assert sum(solves.values()) == 1
    solved = lpr.evaluation.comparisons(problem, ["token-choice"], logits=LOGITS, repeats=1)
    assert sum(solves.values()) == 2
    same = {"seconds": 0.0, "topk_units": 0.0}
    assert replace(given[0], **same).as_record() == replace(solved[0], **same).as_record()
    other = lpr.problems.capacity(LOGITS.softmax(-1), 2, 17)
    with pytest.raises(lpr.InputError, match="the solution of another problem"):
        lpr.evaluation.comparisons(other, ["token-choice"], logits=LOGITS, optimum=optimum)
    with pytest.raises(lpr.InputError, match="optimum: expected a Solution, got float"):
        lpr.evaluation.comparisons(problem, ["token-choice"], logits=LOGITS, optimum=1.0)


def test_a_layer_of_the_report_is_solved_once_and_so_is_each_of_its_capacities(solves):
    problem, shape = stated_problem(LOGITS.softmax(-1), "capacity", 2, 1.25)
    names = [name.strip() for name in REPORTED.split(",")]
    each = examine_layer(0, LOGITS, problem, shape, names)
    assert len(each.rows) == len(names) > 5
    assert sum(solves.values()) == 1
    settings = ReportSettings(
        name="",
        layers=(0,),
        tokens=192,
        all_tokens=192,
        experts=32,
        k=2,
        capacity_factor=1.25,
        capacity=shape.capacity,
        score="softmax",
        routers=tuple(names),
        seed=0,
        timed=False,
        command="",
        date="",
        digest="",
        versions={},
    )
    found = capacity_result(settings, each)
    assert len(solves) >= len(found.prices) > 5
    assert set(solves.values()) == {1}


@pytest.mark.parametrize("over", ["capacity", "k", "total", "layers"])
def test_every_budget_of_a_frontier_is_solved_once(solves, over):
    settings = FrontierSettings(
        over=over,
        k=2,
        capacity_factor=1.25,
        score="softmax",
        points=6,
        routers=("token-choice",),
        seed=0,
    )
    found = summary([0], logits=LOGITS[None], settings=settings)
    assert len(found["points"]) >= 6
    assert set(solves.values()) <= {1}
    if over == "capacity":
        assert set(solves.values()) == {1}
        # the same answer as when it is asked by itself
        C = found["answers"]["at"]
        problem = lpr.problems.capacity(LOGITS.softmax(-1), 2, C)
        expert = found["answers"]["expert"]
        prices = lpr.solve(problem).prices.experts
        assert prices[expert["expert"]] == prices.max()
        last, more = lpr.frontier.slot_worth(problem, expert["expert"])
        assert (expert["last"], expert["next"]) == pytest.approx((last, more), abs=1e-12)


def test_without_prices_the_dearest_expert_is_the_busiest_of_token_choice():
    scores = torch.tensor([[3.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    settings = FrontierSettings(
        over="capacity",
        k=1,
        capacity_factor=9.0,
        score="logits",
        points=None,
        routers=(),
        seed=0,
    )
    found = summary([0], logits=scores[None], settings=settings)
    assert found["answers"]["at"] == 2
    assert found["answers"]["expert"] == {"expert": 0, "last": 1.0, "next": 0.0}
