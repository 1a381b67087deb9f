"""Figures of every kind, the small data that they draw, and what is wrong with their layout."""

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

import lp_routing as lpr
from lp_routing.audits.causality import CausalityMap
from lp_routing.audits.precision import PrecisionFlips
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.problem.assignment import Assignment
from lp_routing.report import plots

pytest.importorskip("matplotlib")
from matplotlib.text import Text


def sized(T, E, k=2):
    """Random logits, their loads before and after, by hand of a balanced assignment."""
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(E)) + torch.linspace(0, 2, E)
    before = logits.topk(k).indices
    x = torch.zeros(T, E, dtype=torch.bool).scatter_(1, before, True)
    turns = (torch.arange(T)[:, None] * k + torch.arange(k)) % E
    after = torch.zeros(T, E, dtype=torch.bool).scatter_(1, turns, True)
    return logits, Assignment(x), Assignment(after)


def solved():
    """Six tokens want expert 0, which has two slots; expert 2 has none to give."""
    scores = torch.tensor([[5.0, 1, 0], [4, 1, 0], [3, 1, 0], [2, 1, 0], [6, 1, 0], [5, 2, 0]])
    problem = lpr.RoutingProblem(scores, tokens=lpr.exactly(1), experts=lpr.at_most([2, 5, 6]))
    return lpr.solve(problem)


def certified(count=5, slack=0.5):
    """A curve known at some budgets: 10 sqrt(n), its tangents as bounds."""
    budgets = torch.linspace(4, 100, count).round().long()
    values = 10 * budgets.double().sqrt()
    slopes = 5 / budgets.double().sqrt()

    def bound(n):
        lines = (values + slack)[:, None] + slopes[:, None] * (n - budgets[:, None])
        return lines.amin(0)

    return SimpleNamespace(
        budgets=budgets, values=values, bounds=values + slack, prices=slopes, bound=bound
    )


def router_curve(
    name="token-choice", budgets=(4, 50, 100), values=(19.0, 60.0, 90.0), feasible=(1, 1, 1)
):
    return SimpleNamespace(
        name=name,
        budgets=torch.tensor(budgets),
        values=torch.tensor(values, dtype=torch.float64),
        feasible=torch.tensor(feasible, dtype=torch.bool),
    )


def flips(T=400):
    draw = torch.Generator().manual_seed(0)
    margins = 10 ** (3 * torch.rand(T, generator=draw, dtype=torch.float64) - 3)
    margins[:30], margins[30:35] = 0, float("inf")
    return PrecisionFlips(margins, {"bf16": margins < 0.01, "fp8 e4m3": margins < 0.1})


def growing(T=40):
    changed = torch.zeros(7, T, dtype=torch.bool)
    changed[3, 1] = changed[6, 9] = True
    return CausalityMap(torch.tensor([1, 6, 12, 17, 23, 29, 34, T]), changed)


ROW = RouterResult(
    router="good", problem="p", optimum=10.0, relative_gap=0.1, feasible=True, topk_units=4.0
)
CHEAT = replace(ROW, router="cheat", status="INFEASIBLE", feasible=False, topk_units=2.0)


def drawing(kind, name="a"):
    """A figure of one kind, the name wherever a name goes."""
    solution = solved()
    other = Assignment(solution.assignment.x.flip(0) > 0)
    names = ("optimum", name)
    draw = {
        "frontier": lambda: plots.frontier(
            certified(), [router_curve(name)], title=name, over="capacity"
        ),
        "gap": lambda: plots.gap_against_time({name: [ROW, replace(CHEAT, router=name)]}),
        "load": lambda: plots.load({name: other, "optimum": solution}, capacity=2, title=name),
        "prices": lambda: plots.prices(solution, title=name),
        "assignment": lambda: plots.assignment(solution, other, names=names, title=name),
        "causality": lambda: plots.causality(growing(), name=name, title=name),
        "flips": lambda: plots.precision_flips(flips(), name=name, title=name),
    }
    return draw[kind]()


KINDS = ("frontier", "gap", "load", "prices", "assignment", "causality", "flips")


def shown_texts(figure):
    """Text that is drawn -> its box in dots; ticks out of sight are not drawn."""
    figure.draw_without_rendering()
    hidden = {
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    return [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def faults(figure):
    """What lies outside the canvas, and which texts cover each other."""
    boxes = shown_texts(figure)
    width, height = figure.canvas.get_width_height()
    out = [
        says
        for says, box in boxes
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    covered = [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    return out + covered
