"""The benchmark's adapters state the same problem; what they answer is judged by one function."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lp_routing as lpr
from benchmarks.side_by_side.cases import Case, Instance
from benchmarks.side_by_side.rows import row
from benchmarks.side_by_side.solvers import Answer, evaluate, highs, lemon, pot
from benchmarks.side_by_side.solvers import or_tools as or_tools_here
from benchmarks.side_by_side.table import wrong
from benchmarks.side_by_side.worker import Record, judge
from tests.or_tools import apart


def scores(T, E, seed=0, forbidden=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.softmax(torch.randn(T, E, generator=generator), 1)
    return values.masked_fill(torch.rand(T, E, generator=generator) < forbidden, -torch.inf)


def or_tools(instance):
    """OR-tools' answer, from its own process."""
    return apart(or_tools_here, instance)


def mixed(seed, rows_exact, forbidden):
    return Instance(scores(60, 6, seed, forbidden), 2, rows_exact, 24)


@pytest.mark.parametrize("other", [or_tools, lemon])
@pytest.mark.parametrize("rows_exact", [True, False])
@pytest.mark.parametrize("forbidden", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_flows_agree_with_highs(seed, rows_exact, forbidden, other):
    instance = mixed(seed, rows_exact, forbidden)
    if rows_exact:
        instance.scores[:, :2] = torch.where(
            instance.scores[:, :2] < 0, 0.0, instance.scores[:, :2]
        )
    ours, theirs = highs(instance), other(instance)
    assert ours.status == theirs.status == "OPTIMAL"
    value, broken = evaluate(instance, theirs.x)
    assert broken == 0
    assert value == pytest.approx(evaluate(instance, ours.x)[0], rel=1e-9)


@pytest.mark.parametrize("solver", [or_tools, lemon])
def test_what_is_worth_less_than_nothing_is_left_out(solver):
    instance = Instance(torch.tensor([[1.0, -1.0], [-2.0, -1.0]]), 2, False, 2)
    assert evaluate(instance, solver(instance).x) == (1.0, 0.0)
    exact_rows = replace(instance, rows_exact=True)
    assert evaluate(exact_rows, solver(exact_rows).x) == (-3.0, 0.0)


@pytest.mark.parametrize("solver", [or_tools, lemon])
def test_rows_that_stand_for_several_tokens(solver):
    often = np.array([3, 1, 2])
    instance = Instance(scores(3, 3), 2 * often, True, 5, multiplicity=often)
    value, broken = evaluate(instance, solver(instance).x)
    assert broken == 0
    assert value == pytest.approx(evaluate(instance, highs(instance).x)[0], rel=1e-9)


@pytest.mark.parametrize("solver", [highs, or_tools, lemon])
def test_what_is_impossible_is_called_so(solver):
    assert solver(Instance(scores(10, 2), 1, True, 4)).status == "INFEASIBLE"


@pytest.mark.filterwarnings("ignore")  # of the optional array libraries that POT looks for
def test_pot_agrees_with_highs_and_its_prices_prove_it():
    instance = Instance(scores(64, 8), 1, True, 8, columns_exact=True)
    answer, expected = pot(instance), evaluate(instance, highs(instance).x)[0]
    value, broken = evaluate(instance, answer.x)
    assert (value, broken) == (pytest.approx(expected, rel=1e-9), 0)
    assert lpr.dual_bound(instance.problem(), answer.prices) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "instance",
    [
        Instance(scores(8, 2), 2, True, 8, columns_exact=True),
        Instance(scores(8, 2), 1, False, 4, columns_exact=True),
        Instance(scores(8, 2), 1, True, 5),
        Instance(torch.tensor([[1.0, -torch.inf]] * 2), 1, True, 1, columns_exact=True),
    ],
)
def test_pot_refuses_what_it_cannot_state(instance):
    with pytest.raises(ValueError, match="POT"):
        pot(instance)


@pytest.mark.parametrize(
    ("x", "broken"),
    [
        ([[1, 0], [1, 0]], 1),  # an expert takes two
        ([[1, 0], [0, 0]], 1),  # a token and an expert go without
        ([[1, 0], [0.5, 0.5]], 0.5),  # fractions that do not add up
        ([[0, 1], [1, 0]], 0),
    ],
)
def test_the_evaluation_finds_broken_bounds(x, broken):
    instance = Instance(torch.ones(2, 2), 1, True, 1, columns_exact=True)
    assert evaluate(instance, np.array(x))[1] == broken


def test_a_negative_amount_is_found():
    instance = Instance(torch.ones(1, 3), 1, True, 1)
    assert evaluate(instance, np.array([[1, 1, -1]]))[1] == 1


def test_a_pair_taken_twice_and_a_forbidden_pair_are_found():
    twice = Instance(torch.ones(1, 2), 2, True, 2)
    assert evaluate(twice, np.array([[2, 0]]))[1] == 1
    forbidden = Instance(torch.tensor([[-torch.inf, 1.0]]), 1, True, 1)
    assert evaluate(forbidden, np.array([[1, 0]]))[0] == -np.inf


def test_an_answer_that_is_called_optimal_and_breaks_a_bound_is_called_broken():
    record, instance = Record(), Instance(torch.ones(2, 2), 1, True, 1)
    judge(record, instance, Answer("OPTIMAL", np.array([[1, 0], [1, 0]])))
    assert record.status == "BROKEN: called optimal, breaks a bound by 1"
    assert wrong([row(Case("skewed", "", 2, 2, 1, 1.0), "POT", 60.0, [record])])
