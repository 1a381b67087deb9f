"""The LP that one can see: matrix, names, files, CVXPY model."""

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given

import lp_routing as lpr
from lp_routing import at_most, between, exactly
from tests.cases import FEASIBLE
from tests.or_tools import apart, mps_value
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


def in_highs(path):
    """The value that HiGHS finds for a file of any kind, and how its file minimises."""
    import highspy

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    if path.suffix == ".gz":  # HiGHS from the index is built without zlib
        unpacked = path.with_name("unpacked.mps")
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        path = unpacked
    assert highs.readModel(str(path)) == highspy.HighsStatus.kOk
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    sign = 1 if highs.getLp().sense_ == highspy.ObjSense.kMaximize else -1
    return sign * highs.getInfo().objective_function_value


@pytest.mark.parametrize("case", FEASIBLE, ids=lambda case: case.name)
def test_a_file_read_by_another_program_has_the_same_optimum(case, tmp_path):
    for name in ("problem.lp", "problem.mps", "problem.mps.gz"):
        lpr.solvers.write(case.problem, tmp_path / name)
        assert in_highs(tmp_path / name) == pytest.approx(case.value, abs=1e-6)
    found = -apart(mps_value, tmp_path / "problem.mps")  # it minimises
    assert found == pytest.approx(case.value, abs=1e-6)


HALF = lpr.RoutingProblem([[9, 5], [8, 6], [7, 1]], tokens=at_most(1), rows=[([2, 1], -INF, 4)])


@pytest.mark.parametrize("name", ["half.lp", "half.mps", "half.mps.gz"])
def test_a_file_may_ask_for_whole_amounts(name, tmp_path):
    values = []
    for integral in (False, True):
        lpr.solvers.write(HALF, tmp_path / name, integral=integral)
        values.append(in_highs(tmp_path / name))
    assert values == pytest.approx([18.5, 18])


def test_the_same_problem_is_the_same_file(tmp_path):
    for name in ("a.mps.gz", "b.mps.gz"):
        lpr.solvers.write(SMALL, tmp_path / name)
    assert (tmp_path / "a.mps.gz").read_bytes() == (tmp_path / "b.mps.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.mps.gz").read_bytes()).endswith(b"ENDATA\n")


def test_an_lp_file_is_what_one_writes_on_paper(tmp_path):
    lpr.solvers.write(SMALL, tmp_path / "small.lp")
    assert (
        (tmp_path / "small.lp").read_text()
        == """\
Maximize
 value: 3 x_0_0 + x_0_1 + 2 x_1_0 + 5 x_1_1 + 4 x_1_2
Subject To
 token_0: x_0_0 + x_0_1 = 1
 token_1: x_1_0 + x_1_1 + x_1_2 = 1
 expert_0: x_0_0 + x_1_0 <= 1
 expert_1: x_0_1 + x_1_1 <= 1
 expert_2: x_1_2 <= 2
 total_low: x_0_0 + x_0_1 + x_1_0 + x_1_1 + x_1_2 >= 1
 total_high: x_0_0 + x_0_1 + x_1_0 + x_1_1 + x_1_2 <= 2
 expert_group_device_B: x_0_1 + x_1_1 + x_1_2 <= 1
Bounds
 0 <= x_0_0 <= 1
 0 <= x_0_1 <= 1
 0 <= x_1_0 <= 1
 0 <= x_1_1 <= 1
 0 <= x_1_2 <= 1
End
"""
    )


def test_an_lp_file_keeps_every_digit_and_long_lines_are_broken(tmp_path):
    scores = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = lpr.RoutingProblem(scores, total=at_most(3), rows=[(-scores, -0.1, INF)])
    lpr.solvers.write(problem, tmp_path / "long.lp")
    text = (tmp_path / "long.lp").read_text()
    assert max(map(len, text.splitlines())) <= 255
    assert all(repr(float(score)) in text for score in scores.flatten())
    assert in_highs(tmp_path / "long.lp") == pytest.approx(float(lpr.solve(problem).value))


def test_a_bound_on_nothing_is_a_line_all_the_same(tmp_path):
    problem = lpr.RoutingProblem([[1, -INF], [2, -INF]], experts=at_most(1), rows=[([0, 1], -1, 1)])
    lpr.solvers.write(problem, tmp_path / "p.lp")
    assert " expert_1: 0 x_0_0 <= 1\n" in (tmp_path / "p.lp").read_text()
    assert in_highs(tmp_path / "p.lp") == 2


def test_an_mps_file_names_rows_and_columns(tmp_path):
    lpr.solvers.write(SMALL, tmp_path / "small.mps")
    text = (tmp_path / "small.mps").read_text()
    for name in ("token_1", "expert_2", "total", "expert_group_device_B", "x_1_2"):
        assert name in text
    assert "x_0_2" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("problem.txt", r"must end in \.lp, \.mps or \.mps\.gz, got .*problem\.txt"),
        ("problem.gz", r"must end in \.lp, \.mps or \.mps\.gz"),
        ("no/such/folder/problem.mps", "cannot be written .No such file"),
    ],
)
def test_a_place_where_no_file_of_a_problem_can_be_is_refused(name, words, tmp_path):
    with pytest.raises(lpr.InputError, match=words):
        lpr.solvers.write(SMALL, tmp_path / name)


def test_the_old_name_says_what_is_new():
    with pytest.raises(AttributeError, match=r"write_mps is now write\(problem, path\)"):
        _ = lpr.solvers.write_mps


def test_the_cvxpy_model_has_the_parts_it_is_written_with():
    model = lpr.solvers.cvxpy_model(SMALL)
    assert model.x.shape == (2, 3)
    assert set(model.equal) == {"token"}
    assert set(model.lower) == {"total"}
    assert set(model.upper) == {"expert", "total", "expert_group"}
    assert model.problem.solve(solver="CLARABEL") == pytest.approx(float(lpr.solve(SMALL).value))
    assert model.x.value[0, 2] == pytest.approx(0, abs=1e-8)
