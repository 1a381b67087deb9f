"""Figures draw the data they are given, and bad input is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.audits import precision
from lp_routing.audits.causality import CausalityMap, causality_map
from lp_routing.audits.precision import PrecisionFlips, precision_flips
from lp_routing.frontier.curves import ExactCurve
from lp_routing.problem.assignment import Assignment
from lp_routing.report import plots
from lp_routing.report.plots._style import blocks
from lp_routing.report.plots.assignment import commonest, parted
from lp_routing.report.plots.precision_flips import binned, shares_of
from tests.figures import CHEAT, ROW, certified, faults, flips, router_curve, sized, solved

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
    assert drawn["token-choice"].get_ydata().tolist() == [19, 60, 90]
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
    assert line.get_label() == "token-choice (1 of 3 break a bound)"


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
    says = "first: 2 of 3 tokens of this sequence change experts as it grows"
    assert figure.axes[0].get_title("left") == says


def test_a_causal_router_changes_nobody():
    logits, _, _ = sized(30, 4)
    found = causality_map(lpr.routers.TopK(k=2), logits, prefixes=5)
    assert found.lengths.tolist() == [1, 8, 16, 23, 30]
    assert not found.changed.any()
    assert "no token of this sequence changes" in plots.causality(found).axes[0].get_title("left")


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
    figure = plots.gap_against_time({"one": rows})
    (axes,) = figure.axes
    places = [collection.get_offsets().tolist() for collection in axes.collections]
    assert places == [[[6, pytest.approx(0.2)]], [[4, 0.1]]]
    says = "Break a bound, so have no gap (time in topk): cheat (2)."
    assert figure.get_supxlabel() == says
    both = plots.gap_against_time({"one": [ROW, CHEAT], "two": [ROW, CHEAT]})
    assert "one: cheat (2); two: cheat (2)." in both.get_supxlabel()
    alone = plots.gap_against_time({"two": [CHEAT]})  # the names are all there is
    assert (alone.axes, alone.get_supxlabel()) == ([], says)


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
        (lambda: plots.prices(replace(solved(), prices=lpr.Prices())), "gave none"),
        (lambda: plots.prices(replace(solved(), assignment=None)), "holds no assignment"),
        (lambda: plots.frontier(certified(), over="layer"), "over='layer'"),
        (lambda: plots.frontier(certified(), share=0.0), "share=0.0: expected a number above 0"),
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
    figure = plots.gap_against_time({"one": [ROW], "two": [CHEAT]}, broken=False)
    assert [axes.get_title("left") for axes in figure.axes] == ["one"]
    assert figure.get_supxlabel() == ""
    with pytest.raises(lpr.InputError, match="nothing to draw"):
        plots.gap_against_time({"two": [CHEAT]}, broken=False)


def test_gaps_of_nothing_stand_where_the_axis_says():
    rows = [replace(ROW, router=f"{gap}", gap=gap, relative_gap=gap) for gap in (0.0, 0.1)]
    axes = plots.gap_against_time({"one": rows}).axes[0]
    (foot,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert foot.get_ydata()[0] == 1e-6
    figure = axes.get_figure()
    figure.draw_without_rendering()
    ticks = {
        round(y, 9): text.get_text()
        for text in axes.get_yticklabels()
        for y in [text.get_position()[1]]
    }
    assert (ticks[1e-6], ticks[0.001]) == ("\N{LESS-THAN OR EQUAL TO} 0.0001", "0.1")


def test_capacity_factors_are_marked_where_the_curve_is():
    """An equal share of 40: 1 is at 40, 2 at 80; 3 would be beyond 100."""
    figure = plots.frontier(certified(), over="capacity", share=40.0)
    for axes in figure.axes:
        marked = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
        assert [x for x in marked if x > 0] == [40, 50, 60, 80]
    (top,) = figure.axes[0].child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == ["1", "1.25", "1.5", "2"]
    assert top.get_xlabel() == "capacity factor"
    assert plots.frontier(certified(), over="capacity").axes[0].child_axes == []
    few = plots.frontier(certified(), over="capacity", share=20.0)  # 1.25 would touch 1
    (top,) = few.axes[0].child_axes
    plots.resize(few, "column")
    assert [text.get_text() for text in top.get_xticklabels()] == ["1", "", "1.5", "2", "3", "4"]


def test_the_budget_in_use_is_marked_in_every_panel():
    curve = ExactCurve(0.0, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), 0)
    figure = plots.frontier(curve, over="total", in_use=2)
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [2]
    assert "in use: 2" in [text.get_text() for text in figure.legends[0].get_texts()]
