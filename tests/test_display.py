"""What one sees: a line, a table, a frame, of everything that users hold in their hands."""

import builtins
import json
from fractions import Fraction
from html.parser import HTMLParser

import pytest
import torch

import lp_routing as lpr
from lp_routing import frontier
from lp_routing.display import as_html, as_text, in_words
from lp_routing.frontier.curves import ExactCurve

SCORES = torch.tensor([[9.0, 5.0], [8.0, 6.0], [7.0, 1.0]])
PROBLEM = lpr.RoutingProblem(SCORES, tokens=lpr.at_most(1), experts=lpr.at_most(2))
SOLUTION = lpr.solve(PROBLEM)
DROPPED = lpr.Assignment(torch.tensor([[1, 0], [1, 0], [0, 0]]))
TOO_MANY = lpr.Assignment(torch.tensor([[1, 0], [1, 0], [1, 0]]))
PRICE = lpr.Prices(experts=torch.tensor([2.0, 0.0]))
CROWDED = lpr.RoutingProblem(SCORES, tokens=lpr.exactly(1), experts=lpr.at_most(1))
CLASH = lpr.solve(CROWDED)
TRACE = lpr.traces.Trace(
    SCORES.repeat(2, 1, 1), "by hand", mask=[1, 0, 1], k=1, layer_names=["a", "b"]
)
MANY = SCORES.repeat(20, 1)

# value, its line
LINES = {
    "problem": (
        lpr.RoutingProblem(MANY, tokens=lpr.exactly(1), total=lpr.at_most(9)),
        "RoutingProblem(T=60, E=2, bounds=tokens exactly(1), total at_most(9))",
    ),
    "assignment": (
        DROPPED,
        "Assignment(tokens=3, experts=2, pairs=2, dropped=1, load=[2, 0])",
    ),
    "batches": (
        lpr.Assignment(torch.ones(4, 3, 2)),
        "Assignment(leading=4, tokens=3, experts=2, pairs=24, dropped=0, "
        "load=[3, 3, 3, 3, 3, 3, 3, 3])",
    ),
    "prices": (
        lpr.Prices(experts=torch.arange(12.0), total=0.5, rows=[0.1]),
        "Prices(experts=0..11 (12 numbers), total=0.5, rows=[0.1])",
    ),
    "no prices": (lpr.Prices(), "Prices()"),
    "certificate": (
        lpr.certify(PROBLEM, DROPPED, PRICE, exact=True),
        "Certificate(gap=5, relative_gap=22.727%, value=17, bound=22, exact=True, "
        "proof=weak duality)",
    ),
    "broken": (
        lpr.certify(PROBLEM, TOO_MANY, PRICE),
        "Certificate(gap=-2, relative_gap=-8.333%, value=24, bound=22, "
        "broken=expert_0 counts 3, at most 2, proof=weak duality)",
    ),
    "solution": (SOLUTION, "Solution(gap=0, value=22, status=OPTIMAL, solver=MinCostFlow)"),
    "no solution": (
        CLASH,
        f"Solution(status=INFEASIBLE, solver=MinCostFlow, explanation={CLASH.explanation})",
    ),
    "infeasibility": (
        CLASH.infeasibility,
        f"Infeasibility(shortfall=1, says={CLASH.explanation})",
    ),
    "trace": (TRACE, "Trace(layers=2, tokens=3, experts=2, padding=1, k=1, source=by hand)"),
    "HiGHS": (lpr.HiGHS(time_limit_s=9, solver="ipm"), "HiGHS(time_limit_s=9, solver=ipm)"),
    "CVXPY": (lpr.CVXPY(), "CVXPY(backend=CLARABEL)"),
    "MinCostFlow": (lpr.MinCostFlow(), "MinCostFlow()"),
    "warm": (
        lpr.MinCostFlow(start=PRICE, relative_gap=0.01),
        "MinCostFlow(start=Prices(experts=[2, 0]), relative_gap=0.01)",
    ),
    "total": (ExactCurve(0.0, [3.0, 1.0]), "ExactCurve(first=0, last=2, value=0..4)"),
    "capacity": (
        frontier.over_capacity(SCORES, 1),
        "CertifiedCurve(gap=0, first=0, last=3, points=4, value=0..24)",
    ),
    "kept": (
        frontier.over_experts_kept(SCORES, 1, keeps=[1, 2]),
        "SampledCurve(gap=0, budgets=[1, 2], value=24..24)",
    ),
    "allocation": (
        frontier.best_budgets(SCORES.repeat(2, 1, 1), 8),
        "Allocation(gap=0, value=60, price=6, budgets=[4, 4])",
    ),
    "layers": (
        frontier.over_layers(SCORES.repeat(2, 1, 1)),
        "SharedBudget(curves=2, total=ExactCurve(first=0, last=12, value=0..72))",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_value_is_one_line_with_the_gap_first(name):
    value, line = LINES[name]
    assert repr(value) == line
    if "(gap=" in line or ", gap=" in line:
        assert line.split("(", 1)[1].startswith("gap=")


class Cells(HTMLParser):
    """The texts of a table's cells; every tag that is opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("name", LINES)
def test_the_table_says_what_the_line_says(name):
    value, line = LINES[name]
    kind, *texts = Cells(value._repr_html_()).texts
    assert line.startswith(f"{kind}(")
    labels = zip(texts[::2], texts[1::2], strict=True)
    assert ", ".join(f"{label}={text}" for label, text in labels) in line


def test_a_small_problem_shows_its_linear_program():
    assert repr(PROBLEM).splitlines()[:4] == [
        "RoutingProblem(T=3, E=2, bounds=tokens at_most(1), experts at_most(2))",
        "Maximize",
        " value: 9 x_0_0 + 5 x_0_1 + 8 x_1_0 + 6 x_1_1 + 7 x_2_0 + x_2_1",
        "Subject To",
    ]
    assert " expert_0: x_0_0 + x_1_0 + x_2_0 <= 2" in repr(PROBLEM).splitlines()
    assert "token_0: x_0_0 + x_0_1 &lt;= 1\n" in PROBLEM._repr_html_()


def test_names_of_users_are_no_markup_and_names_alike_are_no_error():
    groups = [lpr.Group([0], lpr.at_most(1), "a b"), lpr.Group([1], lpr.at_most(1), "<a_b>")]
    problem = lpr.RoutingProblem(SCORES, expert_groups=groups)
    assert "expert_group_<a_b>" in repr(problem)
    assert "<a_b>" not in problem._repr_html_()


def test_numbers_are_short():
    assert [in_words(v) for v in (1 / 3, Fraction(1, 3), Fraction(4), 3, True, 1e-12)] == [
        "0.333333", "0.333333", "4", "3", "True", "1e-12",
    ]  # fmt: skip
    assert in_words(torch.zeros(0)) == "[]"


class Odd:
    def _shown(self):
        return {"a": None, "b": "x\ny", "c": 1}


def test_labels_without_a_value_are_left_out_and_long_texts_stand_below():
    assert as_text(Odd()) == "Odd(c=1)\nx\ny"
    assert Cells(as_html(Odd())).texts == ["Odd", "b", "x\ny", "c", "1"]


# value, columns, rows
FRAMES = {
    "problem": (PROBLEM, ["kind", "name", "lower", "upper"], 5),
    "no bounds": (lpr.RoutingProblem(SCORES), ["kind", "name", "lower", "upper"], 0),
    "solution": (SOLUTION, ["kind", "name", "lower", "upper", "taken", "price"], 5),
    "no solution": (CLASH, ["kind", "name", "lower", "upper", "taken", "price"], 5),
    "assignment": (DROPPED, ["token", "expert", "amount"], 2),
    "prices": (PRICE, ["kind", "row", "price"], 2),
    "no prices": (lpr.Prices(), ["kind", "row", "price"], 0),
    "infeasibility": (CLASH.infeasibility, ["name", "side", "amount"], 5),
    "trace": (TRACE, [0, 1], 4),
    "HiGHS": (lpr.HiGHS(threads=1), ["threads"], 1),
    "total": (ExactCurve(0.0, [3.0, 1.0]), ["budget", "value"], 3),
    "capacity": (frontier.over_capacity(SCORES, 1), ["budget", "value", "bound", "price"], 4),
    "layers": (LINES["layers"][0], ["budget", "value", "owner"], 13),
    "allocation": (LINES["allocation"][0], ["layer", "budget"], 2),
    "kept": (LINES["kept"][0], ["budget", "value", "bound"], 2),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_these_columns_and_rows(name):
    value, columns, rows = FRAMES[name]
    frame = value.to_frame()
    assert list(frame) == columns
    assert len(frame) == rows


def test_the_frame_of_a_solution_holds_what_is_taken_and_what_it_costs():
    rows = lpr.RoutingProblem(SCORES, tokens=lpr.at_most(1), rows={"m": ([2, 1], -1, 4)})
    frame = lpr.solve(rows).to_frame().set_index("name")
    assert frame.loc["row_m", ["kind", "lower", "upper", "taken", "price"]].tolist() == [
        "row", -1, 4, 4, 3.5,
    ]  # fmt: skip
    assert frame.taken.tolist() == [1, 1, 0.5, 4]
    assert frame.price.tolist() == [2, 2.5, 0, 3.5]
    certificate = lpr.certify(PROBLEM, DROPPED, PRICE).to_frame().iloc[0]
    assert (certificate.gap, certificate.value, certificate.violation_count) == (5, 17, 0)


def test_the_frame_of_a_trace_leaves_padding_out_and_names_layers():
    frame = TRACE.to_frame()
    assert frame.index.tolist() == [("a", 0), ("a", 2), ("b", 0), ("b", 2)]
    assert frame.loc[("b", 2)].tolist() == [7, 1]


def test_weights_and_leading_dimensions_are_columns_of_an_assignment():
    x = torch.tensor([[[True, False]], [[False, True]]])
    frame = lpr.Assignment(x, weights=x * 0.5).to_frame()
    assert frame.to_dict("list") == {
        "dim 0": [0, 1],
        "token": [0, 0],
        "expert": [0, 1],
        "amount": [1.0, 1.0],
        "weight": [0.5, 0.5],
    }
    assert json.loads(frame.to_json(orient="values")) == [[0, 0, 0, 1.0, 0.5], [1, 0, 1, 1.0, 0.5]]


def test_without_pandas_a_sentence_says_what_to_do(monkeypatch):
    imported = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(lpr.InputError, match="to_frame returns a pandas DataFrame, but pandas can"):
        DROPPED.to_frame()
