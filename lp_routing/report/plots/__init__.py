"""Figures: results of the library in, a matplotlib Figure out.

matplotlib is imported when a figure is drawn, without pyplot, so that no backend is needed. `save`
writes a figure to a file, `as_svg` makes it part of an HTML page. Every figure has units on its
axes, and its categories differ by more than colour.
"""

from lp_routing.report.plots._style import as_svg, check_drawable, drawn, resize, save
from lp_routing.report.plots.assignment import assignment, causality
from lp_routing.report.plots.frontier import frontier
from lp_routing.report.plots.gap_against_time import gap_against_time
from lp_routing.report.plots.load import load, prices
from lp_routing.report.plots.precision_flips import precision_flips

__all__ = [
    "as_svg",
    "assignment",
    "causality",
    "check_drawable",
    "drawn",
    "frontier",
    "gap_against_time",
    "load",
    "precision_flips",
    "prices",
    "resize",
    "save",
]
