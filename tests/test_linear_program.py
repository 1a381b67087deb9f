"""The LP that one can see: matrix, names, MPS file, CVXPY model."""

import numpy as np
import pytest
import torch
from hypothesis import given

import lp_routing as lpr
from lp_routing import at_most, between, exactly
from tests.cases import FEASIBLE
from tests.strategies import problems

INF = float("inf")
# two tokens, three experts, one pair forbidden
SMALL = lpr.RoutingProblem(
    [[3, 1, -INF], [2, 5, 4]],
    tokens=exactly(1),
    experts=at_most([1, 1, 2]),
    total=between(1, 2),
    expert_groups=[lpr.Group([1, 2], at_most(1), "device B")],
)


def test_the_matrix_of_a_small_problem_written_out():
    program = lpr.linear_program(SMALL)
    assert program.column_names == ["x_0_0", "x_0_1", "x_1_0", "x_1_1", "x_1_2"]
    assert program.row_names == [
        "token_0", "token_1", "expert_0", "expert_1", "expert_2", "total", "expert_group_device B",
    ]  # fmt: skip
    assert program.matrix.toarray().tolist() == [
        [1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1],
        [1, 0, 1, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 0, 1, 1],
    ]
    assert program.score.tolist() == [3, 1, 2, 5, 4]
    assert program.row_lower.tolist() == [1, 1, 0, 0, 0, 1, 0]
    assert program.row_upper.tolist() == [1, 1, 1, 1, 2, 2, 1]
    assert program.column_upper.tolist() == [1] * 5


@given(problems())
def test_the_matrix_counts_what_a_certificate_counts(problem):
    program = lpr.linear_program(problem)
    columns = np.arange(1.0, len(program.score) + 1)
    x = torch.as_tensor(program.amounts(columns))
    counted = [f.activity(x.sum(1), x.sum(0)).numpy() for f in problem.families]
    assert (program.matrix @ columns).tolist() == np.concatenate([np.zeros(0), *counted]).tolist()


@pytest.mark.parametrize("case", FEASIBLE, ids=lambda case: case.name)
def test_an_mps_file_read_by_another_program_has_the_same_optimum(case, tmp_path):
    from ortools.linear_solver.python import model_builder

    path = tmp_path / "problem.mps"
    lpr.solvers.write_mps(case.problem, path)
    model = model_builder.Model()
    assert model.import_from_mps_file(str(path))
    solver = model_builder.Solver("GLOP")
    assert solver.solve(model) == model_builder.SolveStatus.OPTIMAL
    assert -solver.objective_value == pytest.approx(case.value, abs=1e-6)


def test_an_mps_file_names_rows_and_columns(tmp_path):
    lpr.solvers.write_mps(SMALL, tmp_path / "small.mps")
    text = (tmp_path / "small.mps").read_text()
    for name in ("token_1", "expert_2", "total", "expert_group_device_B", "x_1_2"):
        assert name in text
    assert "x_0_2" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("problem.lp", r"must end in \.mps, got .*problem\.lp"),
        ("no/such/folder/problem.mps", "cannot be written .No such file"),
    ],
)
def test_a_place_where_no_mps_file_can_be_is_refused(name, words, tmp_path):
    with pytest.raises(lpr.InputError, match=words):
        lpr.solvers.write_mps(SMALL, tmp_path / name)


def test_the_cvxpy_model_has_the_parts_it_is_written_with():
    model = lpr.solvers.cvxpy_model(SMALL)
    assert model.x.shape == (2, 3)
    assert set(model.equal) == {"token"}
    assert set(model.lower) == {"total"}
    assert set(model.upper) == {"expert", "total", "expert_group"}
    assert model.problem.solve(solver="CLARABEL") == pytest.approx(float(lpr.solve(SMALL).value))
    assert model.x.value[0, 2] == pytest.approx(0, abs=1e-8)
