"""A figure as a file, or as part of an HTML page; the same figure gives the same bytes."""

import io
import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from lp_routing.errors import InputError
from lp_routing.report.plots.style import house_style, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
NO_DATES = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}
"""What matplotlib would write about itself and the time, left out."""


def check_format(path: Path) -> None:
    """Raise `InputError` unless the file's ending is one that can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a file ending in {', '.join(FORMATS)}.")


@house_style()
def save(figure: "Figure", path: Path | str) -> None:
    """Write a figure in the format of the file's ending, without dates.

    Args:
        figure: of any function here; or any other, which is drawn as it is.
        path: ends in .png (200 dots an inch), .pdf or .svg.

    Raises:
        InputError: another ending, or a file that cannot be written.
    """
    path = Path(path)
    check_format(path)
    ending = path.suffix.lower()
    try:
        figure.savefig(path, format=ending[1:], metadata=NO_DATES[ending])
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error


@house_style()
def as_svg(figure: "Figure", *, title: str = "", prefix: str = "") -> str:
    """A figure as an <svg> element to put into an HTML page.

    No XML header and no dates; text is drawn as outlines, so no font is needed; ids begin with a
    prefix and its style sheet speaks of this element alone, so several figures share a page.

    Args:
        figure: of any function here.
        title: what a screen reader says; the figure's own titles where left out.
        prefix: of all ids, a letter first; made from the content where left out, so that only two
            figures that are alike to the last byte need one each.

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
    svg = svg.replace("*{", f"#{prefix} *{{", 1)  # else it would style the whole page
    title = printable(title or _titles(figure))
    opening = f'<svg id="{prefix}" role="img" aria-label={quoteattr(title)}'
    head, rest = svg.removeprefix("<svg").split(">", 1)
    return f"{opening}{head}>\n <title>{escape(title)}</title>{rest}".rstrip() + "\n"


def _titles(figure: "Figure") -> str:
    """The title of the figure and those of its panels, in a line."""
    titles = [figure.get_suptitle(), *(axes.get_title("left") for axes in figure.axes)]
    return " ".join(". ".join(title for title in titles if title).split()) or "figure"
