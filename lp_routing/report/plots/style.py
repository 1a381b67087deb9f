"""How every figure looks: colours, lines, sizes; on matplotlib without pyplot or a backend."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from lp_routing.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Inches of every figure but the gap against time: the text of a page."""

BLACK, GREY, PALE = "#000000", "#777777", "#C8C8C8"
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)
"""Okabe and Ito's palette, which colour-blind readers can tell apart (Okabe and Ito 2008)."""

LONGEST = 60
"""Characters of a name that are drawn."""

NUMBER = "{x:,.10g}"
"""Numbers as people write them: 60,000 and 0.001."""

STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "savefig.dpi": 200,
    "svg.fonttype": "path",  # the layout that was measured is the layout that is shown
    "svg.hashsalt": "lp_routing",
    "text.parse_math": False,  # a name with two dollar signs is a name
}


class Look(NamedTuple):
    """How one of several curves or bars is told from the others, with and without colour."""

    color: str
    line: Any
    marker: str
    hatch: str


def looks(count: int) -> list[Look]:
    """Looks for so many curves or bars; neither colours nor lines repeat together before 35."""
    colors = cycle((VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK))
    lines = cycle(("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))))
    markers = cycle("osD^vPX<>")
    hatches = cycle(("////", "....", "xxxx", "\\\\\\\\", "++++", ""))
    return list(islice(map(Look, colors, lines, markers, hatches), count))


def check_matplotlib() -> None:
    """Raise `InputError`, with what to install, where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            "plots need matplotlib: pip install 'lp-routing[plots]' (or pip install matplotlib)."
        ) from error


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in our style, whatever the caller's; also a decorator of functions that draw.

    Raises:
        InputError: no matplotlib.
    """
    check_matplotlib()
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in any script
        yield


def new_figure(height: float, title: str = "", width: float = WIDTH) -> "Figure":
    """A figure of so many inches, and a title above them; nothing covers anything else."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06)
    says = wrapped(title, 66) if title else ""
    figure = Figure(figsize=(width, height + 0.22 * len(says.splitlines())), layout=engine)
    if says:
        figure.suptitle(says, x=0.01, ha="left")
    return figure


def printable(text: object) -> str:
    """Text from anywhere on one line; what has no shape becomes a replacement mark.

    Control characters and halves of a surrogate pair would break an SVG file.
    """
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def label(name: object) -> str:
    """A name that can be drawn: one line of at most `LONGEST` characters."""
    drawn = printable(name)
    return drawn if len(drawn) <= LONGEST else f"{drawn[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def wrapped(text: object, width: int = 88) -> str:
    """A title in lines that fit across the figure."""
    return fill(printable(text), width)


def plain_numbers(axes: "Axes", which: str = "both") -> None:
    """Numbers on an axis without offset or powers."""
    for name in ("x", "y") if which == "both" else (which,):
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(NUMBER)


def whole_ticks(axes: "Axes", which: str, most: int = 9) -> None:
    """At most so many ticks, at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))
    axis.set_major_formatter(NUMBER)


def legend_below(figure: "Figure", handles: Any = None, labels: Any = None) -> None:
    """One legend for the whole figure, under it, in as many columns as names leave room for."""
    if handles is None:
        pairs: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                pairs.setdefault(name, handle)
        handles, labels = list(pairs.values()), list(pairs)
    if labels:
        columns = max(1, min(4, len(labels), int(100 / (8 + max(map(len, labels))))))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, borderaxespad=0.2)
