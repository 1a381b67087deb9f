"""Figures draw the data they are given, nothing covers anything, and bad input is refused."""

import ast
import re
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.audits import precision
from lp_routing.audits.causality import CausalityMap, causality_map
from lp_routing.audits.precision import PrecisionFlips, precision_flips
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.frontier.curves import ExactCurve
from lp_routing.problem.assignment import Assignment
from lp_routing.report import plots
from lp_routing.report.plots._style import blocks, looks
from lp_routing.report.plots.assignment import commonest, parted
from lp_routing.report.plots.precision_flips import binned, shares_of

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.text import Text  # noqa: E402

NASTY = "</svg><script>alert('1')</script> --> $x_1$ & \x00 \N{GREEK SMALL LETTER LAMDA}"


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


def router_curve(name="top-k", budgets=(4, 50, 100), values=(19.0, 60.0, 90.0), feasible=(1, 1, 1)):
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


# what is drawn is what is given


def test_an_exact_curve_is_drawn_through_its_breakpoints_with_its_slopes():
    curve = ExactCurve(1.0, torch.tensor([4.0, 4, 4, 2, 2, -1]))
    above, below = plots.frontier(curve).axes
    line = above.lines[0]
    assert line.get_xdata().tolist() == [0, 3, 5, 6]
    assert line.get_ydata().tolist() == [1, 13, 17, 16]
    steps = below.patches[0].get_data()
    assert steps.values.tolist() == [4, 2, -1]
    assert steps.edges.tolist() == [0, 3, 5, 6]
    assert above.get_title("left") == "Value of every budget, exact"
    assert below.get_xlabel() == "total budget N [pairs]"


def test_a_long_exact_curve_is_thinned_and_keeps_its_ends():
    slopes = torch.linspace(3, 1, 5000, dtype=torch.float64)
    line = plots.frontier(ExactCurve(0.0, slopes)).axes[0].lines[0]
    assert len(line.get_xdata()) == 1001
    assert line.get_xdata()[[0, -1]].tolist() == [0, 5000]
    assert line.get_ydata()[-1] == pytest.approx(float(slopes.sum()))


def test_certified_points_routers_and_prices_are_drawn_as_given():
    curve, router = certified(), router_curve()
    above, lost, below = plots.frontier(curve, [router], over="k").axes
    drawn = {line.get_label(): line for line in above.lines}
    assert drawn["attained"].get_ydata().tolist() == curve.values.tolist()
    assert drawn["top-k"].get_ydata().tolist() == [19, 60, 90]
    bound = np.interp(
        [4, 50, 100], drawn["proved bound"].get_xdata(), drawn["proved bound"].get_ydata()
    )
    at = curve.bound(torch.tensor([4.0, 50, 100])).numpy()
    assert bound == pytest.approx(at)
    assert lost.lines[0].get_ydata() == pytest.approx(100 * (at - [19, 60, 90]) / at)
    assert below.lines[0].get_ydata().tolist() == curve.prices.tolist()
    assert below.get_xlabel() == "experts per token K [experts]"
    assert "below the proved bound by at most" in above.get_title("left")


def test_a_budget_at_which_a_router_breaks_a_bound_is_not_drawn_but_counted():
    router = router_curve(values=(19.0, float("nan"), 90.0), feasible=(1, 0, 1))
    line = plots.frontier(certified(), [router]).axes[0].lines[-1]
    assert line.get_xdata().tolist() == [4, 100]
    assert line.get_label() == "top-k (1 of 3 break a bound)"


def test_samples_are_not_joined_and_have_no_prices():
    samples = SimpleNamespace(budgets=[4, 8, 16], values=[1.0, 3.0, 2.0], bounds=[1.0, 3.0, 2.5])
    figure = plots.frontier(samples, over="experts kept")
    assert len(figure.axes) == 1
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["None", "None"]
    assert "at most 16.7 % of the most" in figure.axes[0].get_title("left")
    samples.bounds = samples.values
    assert "up to rounding" in plots.frontier(samples).axes[0].get_title("left")


def test_few_experts_have_bars_side_by_side_and_many_a_panel_each():
    _, before, after = sized(40, 8)
    axes = plots.load({"before": before, "after": after.load}, capacity=12).axes[0]
    bars = [[bar.get_height() for bar in group] for group in axes.containers]
    assert bars == [before.load.tolist(), after.load.tolist()]
    assert next(p for p in axes.patches if "12" in p.get_label()).get_data().values[0] == 12
    _, before, after = sized(90, 64)
    first, second = plots.load({"before": before, "after": after}).axes
    assert first.patches[0].get_data().values.tolist() == before.load.tolist()
    assert second.patches[0].get_data().values.tolist() == after.load.tolist()
    assert first.get_ylim() == second.get_ylim()


def test_loads_in_order_fall_and_name_their_experts():
    axes = plots.load({"a": [1, 5, 3], "b": [7, 8, 9]}, capacity=[1, 2, 3], ordered=True).axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == [5, 3, 1]
    assert [bar.get_height() for bar in axes.containers[1]] == [8, 9, 7]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "0"]
    assert axes.patches[-1].get_data().values.tolist() == [2, 3, 1]
    assert axes.get_xlabel() == "expert by load of a"


def test_padding_is_no_load():
    x = torch.ones(3, 2, dtype=torch.bool)
    padded = Assignment(x, mask=torch.tensor([True, False, True]))
    axes = plots.load({"a": padded}).axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == [2, 2]


def test_prices_are_the_solutions_and_full_experts_are_filled():
    solution = solved()
    above, below = plots.prices(solution).axes
    drawn = {line.get_label(): line for line in above.lines}
    price = solution.prices.experts
    assert 3 <= float(price[0]) <= 4  # a third slot brings 4 - 1, the second is worth 5 - 1
    assert drawn["at capacity: 1"].get_ydata().tolist() == [float(price[0])]
    assert drawn["below capacity: 2"].get_xdata().tolist() == [1, 2]
    assert drawn["below capacity: 2"].get_markerfacecolor() == "white"
    assert [bar.get_height() for bar in below.containers[0]] == [2, 4, 0]
    assert above.get_title("left").startswith("1 of 3 experts are full; the dearest slot")


def test_pairs_fall_into_both_one_the_other_and_neither():
    optimal, router = [[1.0, 0, 0], [0, 0.5, 0.5]], [[1, 1, 0], [0, 0, 1]]
    figure = plots.assignment(optimal, router)
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 3, 0], [0, 2, 1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "neither: 2 pairs",
        "both: 2 pairs",
        "the optimum alone: 1 pairs",
        "the router alone: 1 pairs",
    ]
    assert figure.axes[0].get_title("left") == (
        "the router takes 66.7 % of the pairs that the optimum takes"
    )


@pytest.mark.parametrize(("T", "E", "rows", "columns"), [(5, 7, 2, 3), (8, 6, 4, 2), (3, 2, 1, 1)])
def test_a_cell_shows_the_commonest_of_its_pairs(T, E, rows, columns):
    draw = torch.Generator().manual_seed(T)
    first, second = (torch.rand(2, T, E, generator=draw) < 0.4).unbind()
    cells = commonest(blocks(parted(first, second), rows, columns))
    for r in range(-(-T // rows)):
        for c in range(-(-E // columns)):
            part = (slice(r * rows, r * rows + rows), slice(c * columns, c * columns + columns))
            one, other = first[part], second[part]
            counts = [
                int((other & ~one).sum()),
                int((one & ~other).sum()),
                int((one & other).sum()),
            ]
            expected = 3 - counts.index(max(counts)) if sum(counts) else 0
            assert cells[r, c] == expected


def test_a_map_of_many_tokens_stays_an_image_of_at_most_512_rows():
    _, before, after = sized(1500, 16)
    axes = plots.assignment(after, before).axes[0]
    assert axes.images[0].get_array().shape == (500, 16)
    assert axes.get_ylabel() == "token (a cell: 3 tokens)"
    assert axes.get_ylim() == (1499.5, -0.5)


def first_comes_first(logits):
    """Not causal on purpose: the largest logit of all takes expert 0, everyone else 1."""
    x = torch.zeros(len(logits), 2, dtype=torch.bool)
    x[:, 1] = True
    best = logits[:, 0].argmax()
    x[best, 0], x[best, 1] = True, False
    return x


def test_the_map_says_who_changed_when_whom_came():
    logits = torch.tensor([[1.0, 0], [3, 0], [2, 0], [4, 0]])
    found = causality_map(first_comes_first, logits)
    assert found.lengths.tolist() == [1, 2, 3, 4]
    # token 1 takes token 0's place, token 2 nobody's, token 3 that of token 1
    assert found.changed.int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert found.asked.sum(1).tolist() == [1, 2, 3]
    assert found.share == pytest.approx(2 / 3)
    figure = plots.causality(found, name="first")
    assert figure.axes[0].images[0].get_array().tolist() == [
        [2, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 2, 1, 0],
    ]
    assert (
        figure.axes[0].get_title("left").startswith("first: at least 66.7 % of the tokens change")
    )


def test_a_causal_router_changes_nobody():
    logits, _, _ = sized(30, 4)
    found = causality_map(lpr.routers.TopK(k=2), logits, prefixes=5)
    assert found.lengths.tolist() == [1, 8, 16, 23, 30]
    assert not found.changed.any()
    assert "no token changes" in plots.causality(found).axes[0].get_title("left")


def test_a_dark_token_is_not_lost_where_cells_stand_for_several():
    changed = torch.zeros(1, 3000, dtype=torch.bool)
    changed[0, 1001] = True
    axes = plots.causality(CausalityMap(torch.tensor([2500, 3000]), changed)).axes[0]
    cells = axes.images[0].get_array()[0]
    assert (cells == 2).nonzero()[0].tolist() == [1001 // 3]
    assert axes.get_xlabel() == "token (a cell: 3 tokens)"


def test_flips_are_those_that_the_audit_counts():
    logits, _, _ = sized(300, 8)
    router = lpr.routers.TopK(k=2)
    found = precision_flips(router, logits, formats=["bf16", "fp8 e4m3"])
    for name, changed in found.changed.items():
        assert int(changed.sum()) == precision(router, logits, rounded_to=name).count
    assert found.changed["fp8 e4m3"].any()
    ordered = logits.sort(-1, descending=True).values.double()
    assert torch.equal(found.margins, ordered[:, 1] - ordered[:, 2])


def test_margins_fall_into_thirds_of_a_decade_and_ties_apart():
    bins = binned(np.array([0.0, 0.0, 1.0, 1.5, 2.5, 90.0, np.inf]))
    assert bins.ties
    assert bins.tokens.tolist() == [2, 2, 1, 0, 0, 0, 1]
    assert bins.of.tolist() == [0, 0, 1, 1, 2, 6, -1]
    assert bins.edges * 3 == pytest.approx(np.arange(-1, 7))


def test_shares_are_of_tokens_enough_and_ties_stay_apart():
    margins = np.array([0.0] * 10 + [1.2] * 30 + [3.0] * 5 + [200.0] * 40)
    bins = binned(margins)
    where, shares = shares_of(margins < 2, bins)
    # a bin needs 85 // 8 = 10 tokens: the 5 at 3.0 go with the 40 at 200
    assert shares == pytest.approx([100, 100, 0])
    assert where[0] == pytest.approx(-1 / 6)
    assert where[1] == pytest.approx(1 / 6)
    where, shares = shares_of(margins == 200, bins)
    assert shares == pytest.approx([0, 0, 100 * 40 / 45])


@pytest.mark.parametrize("margins", [[0.0, 0.0], [1.0], [1e-12, 1e9], [0.0, 1.0, 1.0]])
def test_odd_margins_can_be_drawn(margins):
    values = torch.tensor(margins, dtype=torch.float64)
    figure = plots.precision_flips(PrecisionFlips(values, {"bf16": values < 0.5}))
    drawn = figure.axes[0].lines[0].get_ydata()
    assert ((drawn >= 0) & (drawn <= 100)).all()
    assert figure.axes[1].patches[0].get_data().values.sum() == len(margins)
    assert faults(figure) == []


def test_tokens_without_a_margin_are_counted():
    assert "5 tokens have none" in plots.precision_flips(flips()).axes[1].get_xlabel()


def test_routers_stand_at_their_gap_and_time_and_those_that_break_bounds_below():
    rows = [ROW, replace(ROW, relative_gap=0.3, topk_units=8.0), replace(ROW, router="slow"), CHEAT]
    above, below = plots.gap_against_time({"one": rows}).axes
    places = [collection.get_offsets().tolist() for collection in above.collections]
    assert places == [[[6, pytest.approx(0.2)]], [[4, 0.1]]]
    assert below.lines[0].get_xdata() == [2.0]
    assert [text.get_text() for text in below.get_yticklabels()] == ["cheat"]
    assert len(plots.gap_against_time({"one": [ROW], "two": [CHEAT]}).axes) == 2


# nothing covers anything


@pytest.mark.parametrize("E", [8, 64, 512])
def test_labels_fit_from_8_to_512_experts(E):
    _, before, after = sized(2 * E, E)
    both = {"top-k, first tokens dropped": before, "the optimum": after}
    assert faults(plots.load(both, capacity=5, ordered=E == 64, title="file.npz, layer 3")) == []
    assert faults(plots.assignment(after, before, title="file.npz, layer 3")) == []


@pytest.mark.parametrize("kind", ["frontier", "gap", "prices", "causality", "flips"])
def test_labels_fit_with_usual_and_with_long_names(kind):
    assert faults(drawing(kind, "a router, after 30 step(s)")) == []


@pytest.mark.parametrize("kind", ["frontier", "load", "assignment", "causality", "flips"])
def test_a_name_without_end_is_cut_and_a_title_goes_on_below(kind):
    assert faults(drawing(kind, "no end " * 30)) == []


def test_a_covered_label_and_one_off_the_page_are_found():
    figure = plots.load({"a": [1, 2]})
    assert faults(figure) == []
    for place in ((0.5, 0.5), (0.51, 0.5), (0.98, 0.3)):
        figure.text(*place, "a label")
    assert ("a label", "a label") in faults(figure)
    assert "a label" in faults(figure)


def test_every_axis_says_what_it_shows_in_which_unit():
    without = ("expert", "token", "tokens")
    for kind in KINDS:
        for axes in drawing(kind).axes:
            for says in (axes.get_xlabel(), axes.get_ylabel()):
                named = says in without or re.search(r"\[.+\]", says)
                assert named or not says
            assert axes.get_ylabel() or axes.get_title("left").endswith("no gap")


def test_curves_differ_in_colour_and_in_line_and_loads_in_hatch():
    routers = [router_curve(name) for name in "abcde"]
    lines = plots.frontier(certified(), routers).axes[1].lines
    for field in ("get_color", "get_marker"):
        assert len({getattr(line, field)() for line in lines}) == 5
    assert len({str(look.line) for look in looks(5)}) == 5
    assert len({(look.color, str(look.line)) for look in looks(35)}) == 35
    bars = plots.load({"a": [1], "b": [2], "c": [3]}).axes[0].containers
    assert len({group[0].get_hatch() for group in bars}) == 3


# files and pages


@pytest.fixture(scope="module")
def nasty():
    return {kind: plots.as_svg(drawing(kind, NASTY)) for kind in KINDS}


def test_a_page_holds_all_figures_and_no_two_ids_are_the_same(nasty):
    page = ElementTree.fromstring(f"<div>{''.join(nasty.values())}</div>")
    found = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(found) == len(set(found))
    text = "".join(nasty.values())
    pointed = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert pointed
    assert pointed <= set(found)


def test_names_are_escaped_and_no_formula(nasty):
    for svg in nasty.values():
        assert svg.startswith("<svg id=")
        for word in ("<script", "<?xml", "<!DOCTYPE", "<metadata", "http-equiv", "\x00"):
            assert word not in svg
        assert svg.count("</svg>") == 1
        assert "&lt;script&gt;" in svg
        assert "$x_1$" in svg
        (style,) = re.findall(r"<style[^>]*>(.*?)</style>", svg, re.DOTALL)
        assert re.match(r"#figure-\w+ \*", style)


def test_the_same_figure_is_the_same_text_whatever_the_user_prefers(nasty):
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "lines.linewidth": 9}):
        for kind in ("frontier", "load", "assignment"):
            assert plots.as_svg(drawing(kind, NASTY)) == nasty[kind]


def test_a_figure_twice_on_a_page_takes_a_prefix():
    figure = plots.load({"a": [1, 2]}, title="Layer 0")
    first, second = plots.as_svg(figure, prefix="a"), plots.as_svg(figure, prefix="b", title="<b>")
    ids = [re.findall(r'\sid="([^"]+)"', svg) for svg in (first, second)]
    assert not set(ids[0]) & set(ids[1])
    assert 'aria-label="Layer 0' in first
    assert "<title>&lt;b&gt;</title>" in second
    with pytest.raises(lpr.InputError, match="prefix='1 x'"):
        plots.as_svg(figure, prefix="1 x")


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_a_file_is_the_same_each_time_and_holds_no_date(tmp_path, ending):
    for name in "ab":
        plots.save(plots.load({"a": [1, 2]}, title="t"), tmp_path / f"{name}{ending}")
    one, other = ((tmp_path / f"{name}{ending}").read_bytes() for name in "ab")
    assert one == other
    assert len(one) > 1000
    assert b"Date" not in one


def test_files_that_cannot_be_written_are_refused(tmp_path):
    figure = plots.load({"a": [1, 2]})
    with pytest.raises(lpr.InputError, match=r"ending in \.png, \.pdf, \.svg"):
        plots.save(figure, tmp_path / "a.jpg")
    with pytest.raises(lpr.InputError, match="cannot be written"):
        plots.save(figure, tmp_path / "absent" / "a.png")


def test_neither_pyplot_nor_a_backend_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert plots.as_svg(plots.load({"a": [1, 2]}))


def test_matplotlib_is_imported_only_when_something_is_drawn(monkeypatch):
    for path in Path(plots.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert "matplotlib" not in (getattr(node, "module", "") or "")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(lpr.InputError, match=r"pip install 'lp-routing\[plots\]'"):
        plots.load({"a": [1, 2]})


# what cannot be drawn is refused

X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.load({}), "got none"),
        (lambda: plots.load([1, 2]), "got list"),
        (lambda: plots.load({"a": [1, float("nan")]}), r"\[1\] is nan"),
        (lambda: plots.load({"a": [1, -2]}), "cannot be -2"),
        (lambda: plots.load({"a": []}), "nothing to draw"),
        (lambda: plots.load({"a": [1], "b": [1, 2]}), "same number of experts"),
        (lambda: plots.load({"a": Assignment(torch.ones(2, 2, 3))}), "take one layer"),
        (lambda: plots.load({"a": [1, 2]}, capacity=[1, 2, 3]), "capacity: expected 2 numbers"),
        (lambda: plots.load({"a": [1, 2]}, capacity=-1), "capacity: expected numbers >= 0"),
        (lambda: plots.load({"a": [1, 2]}, ordered="yes"), "expected True or False"),
        (lambda: plots.assignment(X, torch.ones(3, 2)), "same shape"),
        (lambda: plots.assignment(X, -X), "is -1.0; expected >= 0"),
        (lambda: plots.assignment(X, X * float("nan")), "is nan"),
        (lambda: plots.assignment(X[0], X), "take one layer"),
        (lambda: plots.prices(X), "got Tensor"),
        (lambda: plots.prices(lpr.solve(lpr.problems.token_choice(X, 1))), "no bounds on experts"),
        (lambda: plots.prices(replace(solved(), prices=None)), "gave none"),
        (lambda: plots.prices(replace(solved(), assignment=None)), "holds no assignment"),
        (lambda: plots.frontier(certified(), over="layer"), "over='layer'"),
        (lambda: plots.frontier(SimpleNamespace(budgets=[1])), "without values"),
        (
            lambda: plots.frontier(SimpleNamespace(budgets=[2, 1], values=[1, 1], bounds=[1, 1])),
            "2 is followed by 1",
        ),
        (
            lambda: plots.frontier(SimpleNamespace(budgets=[1, 2], values=[1, 2], bounds=[1, 1])),
            "is below the value",
        ),
        (lambda: plots.frontier(certified(), [router_curve(budgets=(1, 2, 3))]), "from 4 to 100"),
        (
            lambda: plots.frontier(certified(), [router_curve(values=(1, float("nan"), 2))]),
            r"\[1\] is nan",
        ),
        (lambda: plots.frontier(certified(), [router_curve(values=(1.0, 2.0))]), "3 budgets"),
        (lambda: plots.frontier(certified(), [router_curve(feasible=(1, 1))]), "3 booleans"),
        (lambda: plots.frontier(certified(), [SimpleNamespace()]), "without name"),
        (lambda: plots.causality(X), "got Tensor"),
        (lambda: plots.precision_flips(X), "got Tensor"),
        (
            lambda: plots.precision_flips(
                PrecisionFlips(torch.tensor([float("inf")]), {"a": torch.tensor([True])})
            ),
            "no token has a margin",
        ),
        (lambda: plots.gap_against_time({"a": []}), "nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, says):
    with pytest.raises(lpr.InputError, match=says):
        draw()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CausalityMap(torch.tensor([2, 2]), X > 0), "rising"),
        (lambda: CausalityMap(torch.tensor([0, 2]), X[:1] > 0), "rising"),
        (lambda: CausalityMap(torch.tensor([1, 2]), X > 0), r"booleans \(1, T\)"),
        (lambda: CausalityMap(torch.tensor([1, 4]), X[:1] < 0), "4 of 3 tokens"),
        (lambda: CausalityMap(torch.tensor([1, 3]), X[:1] > 0), "token 1 was not among"),
        (lambda: causality_map(first_comes_first, X[:1]), "two or more tokens"),
        (lambda: causality_map(first_comes_first, X, prefixes=1), "prefixes=1"),
        (lambda: causality_map(lambda logits: None, X), "it returned NoneType"),
        (lambda: PrecisionFlips(X, {"a": X > 0}), "margins"),
        (lambda: PrecisionFlips(X[0] * float("nan"), {"a": X[0] > 0}), "without NaN"),
        (lambda: PrecisionFlips(X[0], {}), "at least one format"),
        (lambda: PrecisionFlips(X[0], {"a": X[0]}), "expected booleans"),
        (lambda: precision_flips(first_comes_first, X, formats=["fp4"]), "fp4"),
        (lambda: precision_flips(first_comes_first, X, formats=[]), "formats="),
    ],
)
def test_bad_data_is_refused_before_it_is_drawn(make, says):
    with pytest.raises(lpr.InputError, match=says):
        make()


def test_those_that_break_bounds_are_left_out_where_asked():
    (axes,) = plots.gap_against_time({"one": [ROW], "two": [CHEAT]}, broken=False).axes
    assert "keep all bounds" in axes.get_title("left")
    with pytest.raises(lpr.InputError, match="nothing to draw"):
        plots.gap_against_time({"two": [CHEAT]}, broken=False)


def test_gaps_of_nothing_stand_where_the_axis_says():
    rows = [replace(ROW, router=f"{gap}", gap=gap, relative_gap=gap) for gap in (0.0, 0.1)]
    axes = plots.gap_against_time({"one": rows}).axes[0]
    (foot,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert foot.get_ydata()[0] == 1e-6
    assert "at most 0.0001 %" in [text.get_text() for text in axes.texts]


def test_the_budget_in_use_is_marked_in_every_panel():
    curve = ExactCurve(0.0, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), 0)
    figure = plots.frontier(curve, over="total", in_use=2)
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [2]
    assert "in use: 2" in [text.get_text() for text in figure.legends[0].get_texts()]
