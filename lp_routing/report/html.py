"""Sections as one self-contained HTML page: no network, script file, font or image."""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lp_routing.report.document import Section

PARTS = "lp_routing.report"
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""What HTML forbids in text: control characters, and halves of a surrogate pair."""
UNITS = re.compile(r"(?<=\d) (?=%)")
"""The space between a number and its per cent sign."""


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Everything but the figures is escaped. A content security policy forbids the browser to load
    anything, and to run any script but the page's own, identified by its hash.

    Args:
        title: of the page.
        subtitle: under it.
        sections: its parts in order.
    """
    environment = Environment(
        loader=PackageLoader(PARTS, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    script, style = _part("sort.js"), _part("style.css")
    return environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        style=style,
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        trusted=_trusted,
    )


def _printable(value: object) -> object:
    """Text without characters that HTML forbids; numbers and their per cent signs do not break."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return UNITS.sub("\N{NO-BREAK SPACE}", FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value))


def _part(name: str) -> str:
    return (files(PARTS) / name).read_text(encoding="utf-8")


def _trusted(svg: str) -> str:
    """A figure's own markup, the only text that is not escaped."""
    return Markup(svg)
