"""A report as data: its settings, and sections of sentences, tables and figures in plain text.

`attempt` returns a result or why there is none, so that one failure does not stop the rest.
`lp_routing.report.html` renders the sections.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Generic, Literal, TypeVar

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from lp_routing.errors import InputError

Tone = Literal["", "good", "poor", "bad"]
"""The colour of a cell, which only repeats what its text says."""


@dataclass(frozen=True)
class Cell:
    """An entry of a table.

    Attributes:
        text: what is shown.
        value: sort key of a numeric column; cells with None come last in either order.
        tone: good, poor or bad.
        href: a place on this page, such as "#claims".
    """

    text: str
    value: float | None = None
    tone: Tone = ""
    href: str = ""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: its heading.
        numeric: whether it is sorted as numbers.
        wide: whether it holds long sentences.
        width: characters that it has at least on a terminal; 0 for as many as its heading needs.
    """

    name: str
    numeric: bool = False
    wide: bool = False
    width: int = 0


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Failure:
    """What failed, and why."""

    kind: ClassVar[str] = "failure"
    text: str


@dataclass(frozen=True)
class Tiles:
    """A few numbers in large type: (number, its meaning)."""

    kind: ClassVar[str] = "tiles"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; the first cell of a row is its heading.

    Rows in `foot`, such as means, stay below the others however these are sorted.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()


@dataclass(frozen=True)
class Figure:
    """<svg> elements, as `lp_routing.report.plots.as_svg` makes them: not escaped again.

    `narrow` is shown in place of `svg` where the screen is a phone's.
    """

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str
    narrow: str = ""


@dataclass(frozen=True)
class SideBySide:
    """Figures beside each other, one column wide each; below each other on a phone."""

    kind: ClassVar[str] = "side by side"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Folded:
    """Preformatted text that the reader unfolds."""

    kind: ClassVar[str] = "folded"
    title: str
    text: str
    id: str = ""
    opened: bool = False


Block = Paragraph | Failure | Tiles | Table | Figure | SideBySide | Folded


@dataclass(frozen=True)
class Section:
    """A part of the page under its heading.

    Attributes:
        id: the fragment of its address.
        title: its heading.
        blocks: what it holds, in order.
    """

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def number(value: float, digits: int = 6) -> Cell:
    """A number with this many significant digits, or "-" where it is not finite."""
    value = float(value)
    return Cell(f"{value:,.{digits}g}", value) if isfinite(value) else Cell("-")


SHOWN_AS_ZERO = 1e-13
"""Relative: smaller gaps and shares are shown as 0, since float64 sums leave some 1e-15 to 1e-14.

Larger would hide gaps that exact arithmetic tells from 0, such as 1e-12 of `MinCostFlow`.
"""


def percent(share: float, digits: int = 3) -> str:
    """`5.14 %`, `25.0 %`, `0.00281 %`, `0 %` also for rounding; "-" where there is no number."""
    if not isfinite(share):
        return "-"
    share = 0.0 if abs(share) < SHOWN_AS_ZERO else share
    return f"{100 * share:#.{digits}g}".rstrip(".") + " %" if share else "0 %"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 layer`, `4 layers`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a`, `a and b`, `a, b and c`; of many, the first ones and the number of others."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def quoted(name: str) -> str:
    """A name in a sentence, in quotation marks."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def in_words(error: BaseException) -> str:
    """The message of an error in one sentence."""
    said = " ".join(str(error).split()) or "no message"
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}"


Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Attempt(Generic[Result]):
    """A result, or why there is none.

    Attributes:
        result: None where it failed.
        error: why it failed; "" where it did not.
    """

    result: Result | None
    error: str = ""


def attempt(work: Callable[[], Result]) -> Attempt[Result]:
    """The result of the work, or what it raised."""
    try:
        return Attempt(work())
    except Exception as error:
        return Attempt(None, in_words(error))


def attempted_blocks(what: str, make: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    """The blocks, or a `Failure` that says why they could not be made.

    Args:
        what: the name of what is made, such as "Load per expert".
        make: makes them.
    """
    made = attempt(make)
    return [Failure(f"{what}: {made.error}")] if made.result is None else made.result


@dataclass(frozen=True)
class ReportSettings:
    """The settings of a report: logits, problem, routers, and the command that makes it.

    Attributes:
        name: of the logits: of their file, without its folders, or "the sample".
        layers: the numbers of the layers examined.
        tokens: of each layer.
        all_tokens: how many there are.
        experts: E.
        k: experts per token.
        capacity_factor: of an equal share.
        capacity: C, tokens an expert may take.
        score: name of the score function of the problem.
        routers: names of the catalogue; the first is the main one.
        seed: of all random numbers.
        timed: whether times are shown, which differ from run to run.
        command: that makes this page.
        date: as given by the caller; "" for none.
        digest: sha256 of the examined logits (float64, row by row).
        versions: package -> version.
    """

    name: str
    layers: tuple[int, ...]
    tokens: int
    all_tokens: int
    experts: int
    k: int
    capacity_factor: float
    capacity: int
    score: str
    routers: tuple[str, ...]
    seed: int
    timed: bool
    command: str
    date: str
    digest: str
    versions: Mapping[str, str]

    @property
    def main(self) -> str:
        """The router that the report is about."""
        return self.routers[0]


def terminal_table(title: str, **options: Any) -> RichTable:
    """An empty table for the terminal: bold title on the left, one rule below the head."""
    return RichTable(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        pad_edge=False,
        **options,
    )


STYLES: Mapping[Tone, str] = {"": "", "good": "green", "poor": "yellow", "bad": "red"}
"""Tone of a cell -> its style on a terminal."""


def as_rich(table: Table, title: str, **options: Any) -> RichTable:
    """The table of a page for the terminal, without its caption; the first column never breaks."""
    drawn = terminal_table(title, **options)
    for place, column in enumerate(table.columns):
        drawn.add_column(
            column.name,
            justify="right" if column.numeric else "left",
            no_wrap=place == 0,
            min_width=column.width or max(map(len, column.name.split())),
            overflow="fold",
        )
    for row in table.rows:
        drawn.add_row(*(Text(cell.text, style=STYLES[cell.tone]) for cell in row))
    return drawn
