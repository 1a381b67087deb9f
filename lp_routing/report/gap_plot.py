"""Gap against time on logarithmic axes: one labelled point a router, and who is on the frontier."""

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


class Point(NamedTuple):
    """A router in the plot: medians over its rows (layers, cases).

    Attributes:
        router: its name.
        units: time in `topk` units.
        gap: relative gap.
        feasible: whether it kept all bounds everywhere.
    """

    router: str
    units: float
    gap: float
    feasible: bool


def points(rows: Sequence[GapRow]) -> list[Point]:
    """One point for each router that has a time and a gap."""
    by_router: dict[str, list[GapRow]] = {}
    for row in rows:
        if row.status == "ok" and isfinite(row.topk_units) and isfinite(row.relative_gap):
            by_router.setdefault(row.router, []).append(row)
    return [
        Point(
            name,
            median(row.topk_units for row in group),
            median(row.relative_gap for row in group),
            all(row.feasible for row in group),
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
    """Draw one panel for each title, as a file in the format of its ending.

    Filled points keep all bounds; hollow ones break some (their gap may be negative: they stand at
    the foot then). The stepped line is the Pareto frontier of the filled ones.

    Raises:
        InputError: no matplotlib; another ending than .png, .pdf or .svg; nothing to draw.
    """
    check_format(path)
    figure_type = _figure_type()
    drawn = {title: points(rows) for title, rows in panels.items()}
    drawn = {title: some for title, some in drawn.items() if some}
    if not drawn:
        raise InputError(f"{path}: there is nothing to draw, since no router has a gap.")
    tallest = max(len(some) for some in drawn.values())
    height = max(4.5, 0.22 * tallest + 1.5)
    figure = figure_type(figsize=(10, height * len(drawn)))
    axes = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for panel, (title, some) in zip(axes, drawn.items(), strict=True):
        _panel(panel, title, some)
    figure.subplots_adjust(right=0.7, hspace=0.4)
    figure.savefig(path, dpi=150, bbox_inches="tight")


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


def _panel(axes: Any, title: str, drawn: Sequence[Point]) -> None:
    from matplotlib.ticker import LogLocator

    foot = _foot(drawn)
    for point in drawn:
        face = "#0072B2" if point.feasible else "none"
        edge = "#0072B2" if point.feasible else "#D55E00"
        at = point.units, max(point.gap, foot)
        axes.scatter(*at, s=40, facecolors=face, edgecolors=edge, linewidths=1.5, zorder=3)
    best = frontier(drawn)
    heights = [max(point.gap, foot) for point in best]
    units = [point.units for point in best]
    axes.step(units, heights, where="post", color="#0072B2", linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yscale("log")
    axes.set_ylim(foot / 2, 2 * max(max(point.gap for point in drawn), 10 * foot))
    axes.axhline(foot, color="grey", linewidth=0.5, linestyle=":")
    foot_label = f"at most {LEAST_GAP:g}; hollow: negative"
    across = axes.get_yaxis_transform()
    axes.text(0.01, foot / 1.2, foot_label, transform=across, va="top", fontsize="x-small")
    axes.set_title(f"{title}\nfilled: keeps all bounds; hollow: breaks some", loc="left")
    axes.set_xlabel("time [torch.topk of the same scores]")
    axes.set_ylabel("relative gap to the certified optimum")
    axes.grid(which="major", linewidth=0.3)
    _label(axes, drawn, foot)


def _label(axes: Any, drawn: Sequence[Point], foot: float) -> None:
    """Names down the right-hand edge in the order of the points, so that none covers another."""
    ordered = sorted(drawn, key=lambda point: (-max(point.gap, foot), point.units))
    for place, point in enumerate(ordered):
        height = 1 - (place + 0.5) / len(ordered)
        axes.annotate(
            point.router,
            xy=(point.units, max(point.gap, foot)),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            color="black" if point.feasible else "#D55E00",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"},
        )


def _foot(drawn: Sequence[Point]) -> float:
    """Where gaps of nothing are drawn."""
    smallest = min((point.gap for point in drawn if point.gap > LEAST_GAP), default=0.1)
    return max(smallest / 10, LEAST_GAP / 10)
