"""Gap against time, one labelled point a router, the frontier; below, who breaks a bound."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lp_routing.errors import InputError
from lp_routing.judging import GapRow

FORMATS = (".png", ".pdf", ".svg")
LEAST_GAP = 1e-6
"""Gaps up to here are drawn at the foot of the plot, a decade below the smallest other one."""

LINE = 0.22
"""Inches for the line of a router in the lower panel."""

ON, OFF, BROKE = "#0072B2", "#777777", "#D55E00"
"""Colours of the frontier, of others that keep all bounds, of those that break some."""


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


def points(rows: Sequence[GapRow]) -> list[Point]:
    """One point for each router that has a time and an answer to the question of bounds."""
    by_router: dict[str, list[GapRow]] = {}
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


def frontier(drawn: Sequence[Point]) -> list[Point]:
    """The feasible points that no other one beats in time without a larger gap, fastest first."""
    best: list[Point] = []
    for point in sorted(drawn, key=lambda point: (point.units, point.gap)):
        if point.feasible and (not best or point.gap < best[-1].gap):
            best.append(point)
    return best


def draw(panels: Mapping[str, Sequence[GapRow]], path: Path) -> None:
    """Draw two panels for each title, as a file in the format of its ending.

    The upper one shows gap against time of the routers that keep all bounds, with the Pareto
    frontier; the lower one the time of those that break some, which have no gap, a line each.

    Raises:
        InputError: no matplotlib; another ending than .png, .pdf or .svg; nothing to draw.
    """
    check_format(path)
    figure_type = _figure_type()
    drawn = {title: points(rows) for title, rows in panels.items()}
    drawn = {title: some for title, some in drawn.items() if some}
    if not drawn:
        raise InputError(f"{path}: there is nothing to draw, since no router has a gap.")
    kept = {title: [point for point in some if point.feasible] for title, some in drawn.items()}
    broke = {title: [p for p in some if not p.feasible] for title, some in drawn.items()}
    inches = [
        height
        for title in drawn
        for height in (max(4.0, 0.24 * len(kept[title])), 0.8 + LINE * len(broke[title]))
    ]
    figure = figure_type(figsize=(11, sum(inches) + 0.9 * len(inches)))
    axes = figure.subplots(len(inches), 1, height_ratios=inches)
    for number, title in enumerate(drawn):
        above, below = axes[2 * number : 2 * number + 2]
        times = [point.units for point in drawn[title]]
        for panel in (above, below):
            panel.set_xscale("log")
            panel.set_xlim(min(times) / 1.5, max(times) * 1.5)
        _gaps(above, title, kept[title])
        _times(below, broke[title])
    figure.subplots_adjust(left=0.25, right=0.75, hspace=0.3)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def check_format(path: Path) -> None:
    """Raise `InputError` unless the file's ending is one that can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a file ending in {', '.join(FORMATS)}.")


def check_matplotlib() -> None:
    """Raise `InputError`, with what to install, where matplotlib is missing."""
    _figure_type()


def _figure_type() -> Any:
    """matplotlib's Figure: without pyplot, so that no window and no backend is asked for."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "plots need matplotlib: pip install 'lp-routing[bench]' (or pip install matplotlib)."
        ) from error
    return Figure


def _gaps(axes: Any, title: str, drawn: Sequence[Point]) -> None:
    """Gap against time, both logarithmic, and the frontier."""
    foot = _foot(drawn)
    best = frontier(drawn)
    heights = [max(point.gap, foot) for point in best]
    units = [point.units for point in best]
    axes.step(units, heights, where="post", color=ON, linewidth=1.5, label="Pareto frontier")
    for point in drawn:
        color, size = (ON, 60) if point in best else (OFF, 25)
        axes.scatter(point.units, max(point.gap, foot), s=size, color=color, zorder=3)
    _time_axis(axes)
    axes.set_yscale("log")
    axes.set_ylim(foot / 2, 2 * max([point.gap for point in drawn] + [10 * foot]))
    axes.axhline(foot, color="grey", linewidth=0.5, linestyle=":")
    across = axes.get_yaxis_transform()
    axes.text(
        0.01, foot / 1.1, f"at most {LEAST_GAP:g}", transform=across, va="top", fontsize="x-small"
    )
    axes.set_title(f"{title}\nrouters that keep all bounds", loc="left")
    axes.set_ylabel("relative gap to the certified optimum")
    axes.legend(loc="best", fontsize="small")
    _label(axes, drawn, best, foot)


def _times(axes: Any, drawn: Sequence[Point]) -> None:
    """The times of those without a gap, a line each, the fastest at the top."""
    ordered = sorted(drawn, key=lambda point: -point.units)
    places = range(len(ordered))
    units = [point.units for point in ordered]
    axes.scatter(units, places, s=30, facecolors="none", edgecolors=BROKE, linewidths=1.5, zorder=3)
    axes.set_yticks(places, [point.router for point in ordered], fontsize="small")
    axes.set_ylim(-1, max(len(ordered), 1))
    _time_axis(axes)
    axes.set_title("routers that break a bound: no gap", loc="left", fontsize="medium")


def _time_axis(axes: Any) -> None:
    from matplotlib.ticker import LogLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("time from logits to assignment [torch.topk of the scores]")
    axes.grid(which="major", linewidth=0.3)


def _label(axes: Any, drawn: Sequence[Point], best: Sequence[Point], foot: float) -> None:
    """Names down the right-hand edge in the order of the points, so that none covers another."""
    ordered = sorted(drawn, key=lambda point: (-max(point.gap, foot), point.units))
    for place, point in enumerate(ordered):
        axes.annotate(
            point.router,
            xy=(point.units, max(point.gap, foot)),
            xytext=(1.03, 1 - (place + 0.5) / len(ordered)),
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            fontweight="bold" if point in best else "normal",
            color=ON if point in best else "black",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"},
        )


def _foot(drawn: Sequence[Point]) -> float:
    """Where gaps of nothing are drawn."""
    smallest = min((point.gap for point in drawn if point.gap > LEAST_GAP), default=0.1)
    return max(smallest / 10, LEAST_GAP / 10)
