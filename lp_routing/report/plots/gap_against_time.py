"""Gap against time, one named point for each router; below, in words, those that break a bound."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.report.plots._labels import label_points
from lp_routing.report.plots._style import (
    BLACK,
    BLUE,
    GREY,
    NUMBER,
    check_drawable,
    house_style,
    label,
    new_figure,
    save,
    text_below,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_GAP = 1e-6
"""Relative: smaller gaps are drawn at the foot of the logarithmic axis, at this value."""


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
    """Gap against time of routers, a panel for each title.

    A panel shows the routers that keep all bounds, with the Pareto front. Those that break some
    have no gap; they are named below with their times. A router with several rows (layers, cases)
    is drawn once, at their medians.

    Args:
        panels: title -> rows, such as `lp_routing.evaluation.comparisons` gives; rows without a
            time or an answer are left out, and so are titles without any other.
        broken: whether those that break bounds are named, too.

    Raises:
        InputError: nothing to draw or to name.
    """
    drawn = {title: points(rows) for title, rows in panels.items()}
    parts = {title: [p for p in some if p.feasible] for title, some in drawn.items()}
    parts = {title: some for title, some in parts.items() if some}
    says = _without_a_gap(drawn) if broken else ""
    if not parts and not says:
        raise InputError("gap against time: there is nothing to draw, since no router has a gap.")
    inches = [min(3.6 + 0.08 * len(some), 5.5) for some in parts.values()]
    figure = new_figure(sum(inches) + 0.4 * len(inches))
    for place, (title, some) in enumerate(parts.items()):
        axes = figure.add_subplot(len(inches), 1, place + 1)
        _time_axis(axes, [point.units for point in some])
        _gaps(axes, wrapped(title), some)
    if says:
        text_below(figure, says)
    return figure


def _without_a_gap(drawn: Mapping[str, Sequence[Point]]) -> str:
    """The routers that break a bound, the fastest first, with their times."""
    said = []
    for title, some in drawn.items():
        broken = sorted((p for p in some if not p.feasible), key=lambda p: p.units)
        names = ", ".join(f"{label(p.router)} ({p.units:.3g})" for p in broken)
        if broken:
            said.append(f"{title}: {names}" if len(drawn) > 1 else names)
    if not said:
        return ""
    return f"Break a bound, so have no gap (time in topk): {'; '.join(said)}."


def draw(
    panels: Mapping[str, Sequence[RouterResult]],
    path: Path,
    *,
    broken: bool = True,
    width: str = "page",
) -> None:
    """`gap_against_time` as a file in the format of its ending, as wide as a page or a column.

    Raises:
        InputError: another ending than .png, .pdf or .svg; nothing to draw.
    """
    check_drawable(path)
    save(gap_against_time(panels, broken=broken), path, width=width)


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
    axes.set_ylim(LEAST_GAP / 3, 4 * max([point.gap for point in drawn] + [10 * LEAST_GAP]))
    axes.yaxis.set_major_formatter(_gap_tick)
    axes.yaxis.set_minor_formatter("")
    axes.axhline(LEAST_GAP, color=GREY, linewidth=0.5, linestyle=":")
    axes.set_title(title)
    axes.set_ylabel("gap to the certified optimum [%]")
    names = sorted(drawn, key=lambda point: (point not in best, point.units))
    label_points(
        axes,
        [(point.units, max(point.gap, LEAST_GAP)) for point in names],
        [label(point.router) for point in names],
        [_text(point in best) for point in names],
    )


def _time_axis(axes: "Axes", times: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    spread = max((max(times) / min(times)) ** 0.25, 1.5)  # room for names beside the last points
    axes.set_xlim(min(times) / 1.5, max(times) * spread)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(NUMBER)
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(
        "time from logits to assignment [torch.topk of the scores]; blue line: Pareto front"
    )
    axes.grid(which="major", linewidth=0.3)


def _gap_tick(gap: float, _: object) -> str:
    """A gap in per cent; the foot of the axis holds all that are smaller."""
    if gap > 1.5 * LEAST_GAP:
        return f"{100 * gap:g}"
    return f"\N{LESS-THAN OR EQUAL TO} {100 * LEAST_GAP:g}" if gap > LEAST_GAP / 1.5 else ""


def _text(best: bool) -> dict[str, object]:
    """The style of a name."""
    weight = "bold" if best else "normal"
    return {"color": BLUE if best else BLACK, "fontweight": weight, "fontsize": 7.5}
