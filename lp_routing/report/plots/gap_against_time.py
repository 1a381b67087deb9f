"""Gap against time, one labelled point for each router; below, those that break a bound."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.report.plots._style import (
    BLACK,
    BLUE,
    GREY,
    NUMBER,
    VERMILION,
    check_drawable,
    house_style,
    label,
    new_figure,
    save,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_GAP = 1e-6
"""Relative: smaller gaps are drawn at the foot of the logarithmic axis, at this value."""

BROAD = 10.0
"""Inches, the width of this figure: it leaves room for the names of some forty routers."""

LINE = 0.2
"""Inches, the height of a router's name."""


class Point(NamedTuple):
    """A router in the plot: medians over its rows (layers, cases).

    Attributes:
        router: its label.
        units: time in `topk` units.
        gap: relative gap; NaN where it broke a bound in some row.
    """

    router: str
    units: float
    gap: float

    @property
    def feasible(self) -> bool:
        """Whether it kept all bounds everywhere."""
        return isfinite(self.gap)


def points(rows: Sequence[RouterResult]) -> list[Point]:
    """One point for each judged router that has a time."""
    by_router: dict[str, list[RouterResult]] = {}
    for row in rows:
        if row.judged and isfinite(row.topk_units) and isfinite(row.optimum):
            by_router.setdefault(row.label, []).append(row)
    return [
        Point(
            name,
            median(row.topk_units for row in group),
            median(row.relative_gap for row in group)
            if all(row.feasible for row in group)
            else float("nan"),
        )
        for name, group in by_router.items()
    ]


def pareto_front(drawn: Sequence[Point]) -> list[Point]:
    """The Pareto-optimal feasible points in time and gap, fastest first."""
    best: list[Point] = []
    for point in sorted(drawn, key=lambda point: (point.units, point.gap)):
        if point.feasible and (not best or point.gap < best[-1].gap):
            best.append(point)
    return best


@house_style()
def gap_against_time(
    panels: Mapping[str, Sequence[RouterResult]], *, broken: bool = True
) -> "Figure":
    """Gap against time of routers, two panels for each title.

    The upper one shows the routers that keep all bounds, with the Pareto front; the lower one the
    time of those that break some, which have no gap, a line each. A router with several rows
    (layers, cases) is drawn once, at their medians.

    Args:
        panels: title -> rows, such as `lp_routing.evaluation.comparisons` gives; rows without a
            time or an answer are left out, and so are titles without any other.
        broken: whether those that break bounds are listed, too.

    Raises:
        InputError: nothing to draw.
    """
    drawn = {title: points(rows) for title, rows in panels.items()}
    drawn = {title: some for title, some in drawn.items() if some}
    parts = [
        (title, feasible, [point for point in some if point.feasible is feasible])
        for title, some in drawn.items()
        for feasible in (True, False)
    ]
    parts = [part for part in parts if part[2] and (part[1] or broken)]
    if not parts:
        raise InputError("gap against time: there is nothing to draw, since no router has a gap.")
    inches = [
        max(3.2, LINE * len(some)) if feasible else 0.3 + LINE * len(some)
        for _, feasible, some in parts
    ]
    figure = new_figure(sum(inches) + 0.9 * len(inches), width=BROAD)
    column = figure.subplots(len(inches), 1, height_ratios=inches, squeeze=False)[:, 0]
    for axes, (title, feasible, some) in zip(column, parts, strict=True):
        _time_axis(axes, [point.units for point in drawn[title]])
        (_gaps if feasible else _times)(axes, wrapped(title, 110), some)
    return figure


def draw(panels: Mapping[str, Sequence[RouterResult]], path: Path, *, broken: bool = True) -> None:
    """`gap_against_time` as a file in the format of its ending.

    Raises:
        InputError: another ending than .png, .pdf or .svg; nothing to draw.
    """
    check_drawable(path)
    save(gap_against_time(panels, broken=broken), path)


def _gaps(axes: "Axes", title: str, drawn: Sequence[Point]) -> None:
    """Gap against time, both logarithmic, and the frontier."""
    best = pareto_front(drawn)
    heights = [max(point.gap, LEAST_GAP) for point in best]
    units = [point.units for point in best]
    axes.step(units, heights, where="post", color=BLUE, linewidth=1.5, label="Pareto front")
    for point in drawn:
        color, size = (BLUE, 60) if point in best else (GREY, 25)
        axes.scatter(point.units, max(point.gap, LEAST_GAP), s=size, color=color, zorder=3)
    axes.set_yscale("log")
    axes.set_ylim(LEAST_GAP / 2, 2 * max([point.gap for point in drawn] + [10 * LEAST_GAP]))
    axes.yaxis.set_major_formatter(lambda gap, _: f"{100 * gap:g}" if gap > 1.5 * LEAST_GAP else "")
    axes.yaxis.set_minor_formatter("")
    axes.axhline(LEAST_GAP, color=GREY, linewidth=0.5, linestyle=":")
    axes.text(
        0.01,
        LEAST_GAP / 1.1,
        f"at most {100 * LEAST_GAP:g} %",
        transform=axes.get_yaxis_transform(),
        va="top",
        fontsize="x-small",
    )
    axes.set_title(f"{title}\nrouters that keep all bounds")
    axes.set_ylabel("gap to the certified optimum [%]")
    axes.legend(loc="best")
    _label(axes, drawn, best)


def _times(axes: "Axes", title: str, drawn: Sequence[Point]) -> None:
    """The times of those without a gap, a line each, the fastest at the top."""
    ordered = sorted(drawn, key=lambda point: -point.units)
    units = [point.units for point in ordered]
    axes.plot(units, range(len(ordered)), "D", markersize=5, color=VERMILION, fillstyle="none")
    axes.set_yticks(range(len(ordered)), [label(point.router) for point in ordered])
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_title(f"{title}\nrouters that break a bound, and so have no gap")


def _time_axis(axes: "Axes", times: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.5, max(times) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(NUMBER)
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("time from logits to assignment [torch.topk of the scores]")
    axes.grid(which="major", linewidth=0.3)


def _label(axes: "Axes", drawn: Sequence[Point], best: Sequence[Point]) -> None:
    """Names along the right edge in the order of the points, so that none covers another."""
    ordered = sorted(drawn, key=lambda point: (-max(point.gap, LEAST_GAP), point.units))
    for place, point in enumerate(ordered):
        axes.annotate(
            label(point.router),
            xy=(point.units, max(point.gap, LEAST_GAP)),
            xytext=(1.03, 1 - (place + 0.5) / len(ordered)),
            textcoords="axes fraction",
            va="center",
            fontweight="bold" if point in best else "normal",
            color=BLUE if point in best else BLACK,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "relpos": (0, 0.5)},
        )
