"""What figures share: styles, files, input checks, an axis of experts, images of categories.

Colours, lines and sizes are set on matplotlib without pyplot or a backend. A figure is saved as a
file or becomes part of an HTML page; the same figure gives the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.files import write_whole
from lp_routing.problem.assignment import Assignment
from lp_routing.solvers.solve import Solution
from lp_routing.validation import as_choice, as_instance, as_path, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, COLUMN = 7.0, 3.4
"""Inches: the width of the text on a page, as every figure is drawn; that of one of two columns."""

WIDTHS = {"page": WIDTH, "column": COLUMN}
"""The widths by name."""

BESIDE = 0.7
"""Inches beside the panels, for their numbers and labels, at any width."""

TITLE, PANEL, LEGEND, SMALL = 66, 88, 100, 105
"""Characters that fit across `WIDTH`: in a figure's title, a panel's, a legend, a text below."""

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
"""Most characters of a name that are drawn: longer ones would cover the figure."""

NUMBER = "{x:,.10g}"
"""Numbers such as 60,000 and 0.001."""

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
    "pdf.fonttype": 42,  # TrueType, which publishers ask for; matplotlib's own is Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # text as outlines, so that the layout is the measured one
    "svg.hashsalt": "lp_routing",
    "text.parse_math": False,  # a name with two dollar signs is no formula
}


FORMATS = (".png", ".pdf", ".svg")
NO_DATES = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}
"""Metadata of matplotlib and the time, left out."""


class Look(NamedTuple):
    """The style of one of several curves or bars, distinct with and without colour."""

    color: str
    line: Any
    marker: str
    hatch: str


def looks(count: int) -> list[Look]:
    """A style for each curve or bar; colour and line repeat together after 35."""
    colors = cycle((VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK))
    lines = cycle(("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))))
    markers = cycle("osD^vPX<>")
    hatches = cycle(("////", "....", "xxxx", "\\\\\\\\", "++++", ""))
    return list(islice(map(Look, colors, lines, markers, hatches), count))


def check_drawable(path: Path) -> None:
    """Raise before any work is done where a figure cannot be drawn to a file.

    Raises:
        InputError: another ending than .png, .pdf or .svg.
    """
    if as_path(path, "path").suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a file ending in {', '.join(FORMATS)}.")


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in this package's style, whatever the caller's; also a decorator."""
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in any script
        yield


def new_figure(height: float, title: str = "", width: float = WIDTH) -> "Figure":
    """A figure of this many inches plus its title; its parts do not overlap."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06)
    as_instance(title, str, "title", "text")
    says = wrapped(title, int(TITLE * width / WIDTH)) if title else ""
    figure = Figure(figsize=(width, height + 0.22 * len(says.splitlines())), layout=engine)
    if says:
        figure.suptitle(says, x=0.01, ha="left")
    return figure


def printable(text: object) -> str:
    """Any text on one line; unprintable characters become a replacement mark.

    Control characters and halves of a surrogate pair would break an SVG file.
    """
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def label(name: object) -> str:
    """A name that can be drawn: one line of at most `LONGEST` characters."""
    drawn = printable(name)
    return drawn if len(drawn) <= LONGEST else f"{drawn[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def wrapped(text: object, width: int = PANEL) -> str:
    """A title in lines that fit across the figure."""
    return fill(printable(text), width, break_on_hyphens=False)


def text_below(figure: "Figure", says: str) -> None:
    """Small text under everything else, in lines that fit."""
    lines = wrapped(says, SMALL)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize="small")
    figure.set_figheight(figure.get_figheight() + 0.15 * (2 + lines.count("\n")))


def plain_numbers(axes: "Axes", which: str = "both") -> None:
    """Numbers on an axis without offset or powers."""
    for name in ("x", "y") if which == "both" else (which,):
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(NUMBER)


def whole_ticks(axes: "Axes", which: str, most: int = 9) -> None:
    """At most this many ticks, at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))
    axis.set_major_formatter(NUMBER)


def legend_below(
    figure: "Figure", handles: Any = None, labels: Any = None, width: float = WIDTH
) -> None:
    """One legend under the whole figure, in as many columns as fit."""
    if handles is None:
        pairs: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                pairs.setdefault(name, handle)
        handles, labels = list(pairs.values()), list(pairs)
    if labels:
        longest = max(len(line) for text in labels for line in text.splitlines())
        columns = max(1, min(4, len(labels), int(LEGEND * width / WIDTH / (8 + longest))))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, borderaxespad=0.2)


@house_style()
def resize(figure: "Figure", width: str) -> None:
    """Make a figure as wide as a page or a column; titles and legend are broken anew.

    Sizes of text and lines stay, so that text in a column is as large as on a page.

    Args:
        figure: of any function here; it is changed.
        width: "page" or "column".

    Raises:
        InputError: another width.
    """
    inches = WIDTHS[as_choice(width, "width", list(WIDTHS))]
    if figure.get_figwidth() == inches:
        return
    share, lines = (inches - BESIDE) / (WIDTH - BESIDE), 0.0
    for says, write, across, high in _texts(figure):
        broken = wrapped(says, max(int(across * share), 12))
        write(broken)
        lines += high * (broken.count("\n") - says.count("\n"))
    for legend in list(figure.legends):
        labels = [
            wrapped(text.get_text(), int(0.9 * LEGEND * share)) for text in legend.get_texts()
        ]
        before = legend.get_window_extent().height / figure.dpi
        handles = list(legend.legend_handles)
        legend.remove()
        legend_below(figure, handles, labels, inches)
        lines += figure.legends[-1].get_window_extent().height / figure.dpi - before
    for axes in figure.axes:
        _thin_ticks(axes, share)
    figure.set_size_inches(inches, figure.get_figheight() + lines)


def _texts(figure: "Figure") -> list[tuple[str, Callable[[str], object], int, float]]:
    """Texts of several lines: what is written, what writes it, characters across, inches a line."""
    left: dict[str, Any] = {"x": 0.01, "ha": "left"}
    found: list[tuple[str, Callable[[str], object], int, float]] = [
        (figure.get_suptitle(), partial(figure.suptitle, **left), TITLE, 0.22),
        (figure.get_supxlabel(), partial(figure.supxlabel, **left, fontsize="small"), SMALL, 0.15),
    ]
    for axes in figure.axes:
        found.append((axes.get_title("left"), axes.set_title, PANEL, 0.17))
        found.append((axes.get_xlabel(), axes.set_xlabel, PANEL, 0.15))
    return [each for each in found if each[0]]


def _thin_ticks(axes: "Axes", share: float) -> None:
    """Fewer numbers on the horizontal axis of a narrow figure."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    for child in axes.child_axes:
        _drop_close_ticks(child.xaxis, share)
    locator = axes.xaxis.get_major_locator()
    if isinstance(locator, MaxNLocator):
        locator.set_params(nbins=max(int(9 * share), 3))
    elif isinstance(locator, FixedLocator) and share < 1:
        texts = [text.get_text() for text in axes.get_xticklabels()]
        every = -(-len(texts) // int(24 * share))
        if every > 1 and any(texts):  # of panels that share an axis one has the numbers
            axes.set_xticklabels([t if i % every == 0 else "" for i, t in enumerate(texts)])


def _drop_close_ticks(axis: Any, share: float) -> None:
    """No number on a second axis that would touch the one before it, at 0.32 inches apart."""
    low, high = sorted(axis.axes.get_xlim())
    texts, last = [], float("-inf")
    for place, text in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True):
        at = (place - low) / (high - low) * share * (WIDTH - BESIDE)
        texts.append(text.get_text() if at - last >= 0.32 else "")
        last = at if texts[-1] else last
    axis.set_ticklabels(texts)


@house_style()
def save(figure: "Figure", path: Path | str, *, width: str | None = None) -> None:
    """Write a figure in the format of the file's ending, without dates.

    Args:
        figure: of any function here; or any other, which is drawn as it is.
        path: ends in .png (200 dots an inch), .pdf (fonts embedded as TrueType) or .svg.
        width: "page" or "column", as `resize`; left out, as it is.

    Raises:
        InputError: another ending, or a file that cannot be written; it is then what it was.
    """
    path = as_path(path, "path")
    check_drawable(path)
    if width is not None:
        resize(figure, width)
    write_whole(path, drawn(figure, path.suffix.lower()))


@house_style()
def drawn(figure: "Figure", ending: str) -> bytes:
    """A figure as the content of a file with this ending, one of `FORMATS`, without dates."""
    content = io.BytesIO()  # on a full disk matplotlib would raise its own errors
    figure.savefig(content, format=ending[1:], metadata=NO_DATES[ending])
    return content.getvalue()


@house_style()
def as_svg(figure: "Figure", *, title: str = "", prefix: str = "") -> str:
    """A figure as an <svg> element to put into an HTML page.

    No XML header and no dates; text is drawn as outlines, so no font is needed; ids begin with a
    prefix and its style sheet speaks of this element alone, so several figures share a page.

    Args:
        figure: of any function here.
        title: for screen readers; the figure's own titles where left out.
        prefix: of all ids, a letter first; made from the content where left out, so that only
            identical figures need one each.

    Raises:
        InputError: a prefix that is no id.
    """
    if prefix and not re.fullmatch(r"[A-Za-z][\w.-]*", prefix, re.ASCII):
        raise InputError(f"prefix={prefix!r}: expected a letter, then letters, digits, '-', '_'.")
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=NO_DATES[".svg"])
    svg = file.getvalue()
    prefix = prefix or f"figure-{sha256(svg.encode()).hexdigest()[:12]}"
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\sid=")', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace("*{", f"#{prefix} *{{", 1)  # else it would apply to the whole page
    title = printable(title or _titles(figure))
    opening = f'<svg id="{prefix}" role="img" aria-label={quoteattr(title)}'
    head, rest = svg.removeprefix("<svg").split(">", 1)
    return f"{opening}{head}>\n <title>{escape(title)}</title>{rest}".rstrip() + "\n"


def _titles(figure: "Figure") -> str:
    """The title of the figure and those of its panels, in a line."""
    titles = [figure.get_suptitle(), *(axes.get_title("left") for axes in figure.axes)]
    return " ".join(". ".join(title for title in titles if title).split()) or "figure"


Numbers = NDArray[np.float64]


def vector(values: Any, what: str, length: int | None = None) -> Numbers:
    """One or more finite numbers, float64.

    Raises:
        InputError: no vector of real numbers, another length, empty, NaN or infinite.
    """
    expected = f"{'a vector of' if length is None else length} numbers"
    tensor = as_tensor(values, what, expected)
    if tensor.ndim != 1 or tensor.is_complex() or len(tensor) != (length or len(tensor)):
        raise InputError(
            f"{what}: expected {expected}, got {tensor.dtype} of shape {tuple(tensor.shape)}."
        )
    if not len(tensor):
        raise InputError(f"{what}: there is nothing to draw.")
    if not bool(tensor.isfinite().all()):
        at = int((~tensor.isfinite()).nonzero()[0])
        raise InputError(f"{what}[{at}] is {float(tensor[at])}: give finite numbers.")
    drawn: Numbers = tensor.double().cpu().numpy()
    return drawn


def taken(source: Any, what: str) -> Tensor:
    """The amounts (T, E) that an assignment or a solution holds, without those of padding.

    Raises:
        InputError: a solution without an assignment; amounts that are no matrix, NaN or negative.
    """
    if isinstance(source, Solution):
        if source.assignment is None:
            raise InputError(f"{what}: this solution holds no assignment ({source.status.name}).")
        source = source.assignment
    x = source.x if isinstance(source, Assignment) else source
    x = as_tensor(x, what, "an Assignment, a Solution or amounts (T, E)")
    if x.ndim != 2 or x.is_complex() or not x.numel():
        raise InputError(
            f"{what}: expected amounts (T, E), got {x.dtype} of shape {tuple(x.shape)}; "
            f"take one layer or batch."
        )
    good = (x >= 0) & x.isfinite()
    if not bool(good.all()):
        i, j = (int(place) for place in (~good).nonzero()[0])
        raise InputError(
            f"{what}: the amount of token {i} at expert {j} is {float(x[i, j])}; expected >= 0."
        )
    if isinstance(source, Assignment) and source.mask is not None:
        x = x.masked_fill(~source.mask[:, None], 0)
    return x.cpu()


def load_of(x: Tensor) -> Numbers:
    """Tokens per expert, float64 (E,)."""
    load: Numbers = x.sum(0, dtype=torch.float64).numpy()
    return load


def loads_of(sources: Mapping[str, Any]) -> dict[str, Numbers]:
    """Name -> tokens per expert (E,), the same E for all.

    Raises:
        InputError: no mapping, an empty one, bad amounts, or different numbers of experts.
    """
    if not isinstance(sources, Mapping) or not sources:
        raise InputError(
            'loads: expected a mapping such as {"prices": assignment, "optimum": solution}, got '
            + (f"{type(sources).__name__}." if not isinstance(sources, Mapping) else "none.")
        )
    found: dict[str, Numbers] = {}
    for name, source in sources.items():
        what = f"loads[{name!r}]"
        whole = isinstance(source, Assignment | Solution)
        values = load_of(taken(source, what)) if whole else source
        found[name] = vector(values, what)
        if (found[name] < 0).any():
            raise InputError(f"{what}: a count of tokens cannot be {found[name].min():g}.")
    sizes = {name: len(values) for name, values in found.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"loads: expected the same number of experts everywhere, got {sizes}.")
    return found


FEW = 32
"""Most experts that each get a bar and a number on the axis: more would overlap at 7 inches."""


def per_expert(values: Any, what: str, E: int) -> Numbers:
    """A number for each expert, float64 (E,), from one for all or one each.

    Raises:
        InputError: another length, NaN or infinite.
    """
    if np.ndim(values) == 0:
        return np.repeat(vector([values], what, 1), E)
    return vector(values, what, E)


def expert_axis(axes: "Axes", order: Any, by: str) -> None:
    """An axis of experts: all their numbers where few, thinned beyond; ranks where sorted.

    Args:
        axes: whose places are 0 to E - 1.
        order: (E,), the expert at each place.
        by: what they are sorted by, such as "by price"; "" in index order.
    """
    E = len(order)
    axes.set_xlim(-0.6, E - 0.4)
    if E <= FEW:
        axes.set_xticks(range(E), [str(int(expert)) for expert in order])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel(f"expert {by}".rstrip())
        return
    whole_ticks(axes, "x")
    axes.set_xlabel(f"rank of the expert {by}" if by else "expert")


MOST_ROWS, MOST_COLUMNS = 512, 1024
"""Most cells of an image: more cannot be told apart at 7 inches and 200 dots an inch."""

Codes = NDArray[np.int64]


class Category(NamedTuple):
    """A value of a cell: its colour, and its name in the key."""

    color: str
    name: str


def blocks(members: Sequence[Tensor], rows: int, columns: int) -> Tensor:
    """The number of entries of each category in each cell, (categories, r, c).

    Args:
        members: of each category, boolean (R, C).
        rows: entries that share a cell, downwards; the last cell may have fewer.
        columns: the same to the right.
    """
    stacked = torch.stack([each.cpu() for each in members])
    count, R, C = stacked.shape
    r, c = -(-R // rows), -(-C // columns)
    padded = torch.zeros(count, r * rows, c * columns, dtype=torch.bool)
    padded[:, :R, :C] = stacked
    return padded.view(count, r, rows, c, columns).sum((2, 4))


def draw_codes(
    axes: "Axes", codes: Codes, categories: Sequence[Category], reach: tuple[int, int]
) -> None:
    """Cells as an image in the colours of their categories.

    Args:
        axes: where.
        codes: (r, c), positions in `categories`.
        categories: what the codes mean.
        reach: entries (rows, columns) that the cells stand for.
    """
    from matplotlib.colors import ListedColormap

    axes.imshow(
        codes,
        cmap=ListedColormap([category.color for category in categories]),
        vmin=-0.5,
        vmax=len(categories) - 0.5,
        aspect="auto",
        interpolation="none",  # cells stay sharp when a viewer scales the file
        extent=(-0.5, reach[1] - 0.5, reach[0] - 0.5, -0.5),
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def key_below(figure: "Figure", categories: Sequence[Category]) -> None:
    """A patch for each category, with its name."""
    from matplotlib.patches import Patch

    patches: list[Any] = [
        Patch(facecolor=each.color, edgecolor=BLACK, linewidth=0.5, label=each.name)
        for each in categories
    ]
    figure.legend(handles=patches, loc="outside lower left", ncols=2, borderaxespad=0.2)
