"""Which capacity factor to take: a recommendation in sentences, and a table factor x method."""

from collections.abc import Callable, Sequence
from math import ceil, floor
from types import SimpleNamespace
from typing import Any, NamedTuple

from rich.table import Table as RichTable

from lp_routing.errors import InputError
from lp_routing.frontier.decide import (
    CAUSAL,
    DROPS,
    IN_ORDER,
    OPTIMUM,
    Decision,
    Holds,
    MethodRow,
)
from lp_routing.report import plots
from lp_routing.report.document import (
    Block,
    Cell,
    Column,
    Folded,
    Paragraph,
    Section,
    Table,
    Tiles,
    counted,
    number,
    terminal_table,
)
from lp_routing.report.figures import drawn
from lp_routing.report.html import page

LEGEND = (
    "kept [%]: of the value of k experts for every token without a capacity. dropped [%]: tokens "
    "that reach no expert. pairs [%]: of k pairs for every token, those not taken. load: largest "
    "over mean load, in the layer where it is largest. slot: shadow price of one more slot at an "
    "expert, in scores, the mean over experts and layers. ms: of one layer, on average. as "
    "optimum: the factor at which the optimum holds as much, or two numbers that bound it. "
    "causal-prices: fitted to the tokens before. balanced: exactly k experts a token, equal loads."
)

SIMPLEST = (DROPS, IN_ORDER, CAUSAL, OPTIMUM)
"""Of the methods that keep enough at the same factor, the first of these is recommended."""

WITH = {
    DROPS: "dropping by score",
    IN_ORDER: "token-major drops",
    CAUSAL: "causal prices",
    OPTIMUM: "prices (the optimum)",
}


def sentences(found: Decision) -> list[str]:
    """The recommendation, what proves it, and what dropping needs for the same."""
    return [_recommended(found), _proof(found), _exchange(found), _others(found)]


def recommended(found: Decision) -> MethodRow | None:
    """The row that is recommended: the least factor that keeps enough, there the simplest rule."""
    best = found.least(OPTIMUM)
    if best is None:
        return None
    least = [row for name in SIMPLEST if (row := found.least(name)) is not None]
    return next(row for row in least if row.factor == best.factor)


def _recommended(found: Decision) -> str:
    row, keep = recommended(found), _percent(found.settings.keep)
    if row is not None:
        return (
            f"Recommended: capacity factor {row.factor:g} ({row.capacity:,} slots an expert) with "
            f"{WITH[row.method]}. It keeps {_percent(row.kept)} of the value without a capacity; "
            f"{keep} were asked for."
        )
    best = [row for row in found.rows if row.method == OPTIMUM][-1]
    return (
        f"None of these factors keeps {keep} of the value without a capacity: with the largest, "
        f"{best.factor:g}, even the optimum keeps {_percent(best.kept)}."
    )


def _proof(found: Decision) -> str:
    return f"Proved: {_held(found, found.target, _percent(found.settings.keep))}"


def _held(found: Decision, held: Holds, what: str) -> str:
    enough = f"{held.enough:,} slots an expert (factor {found.factor(held.enough):.4g}) are enough"
    if held.needed == held.enough:
        return f"{enough} for {what}, with fewer no assignment holds as much."
    fewer = f"{held.needed:,} (factor {found.factor(held.needed):.4g})"
    return f"{enough} for {what}, with fewer than {fewer} no assignment holds as much."


def _exchange(found: Decision) -> str:
    row = found.reference
    assert row.holds is not None
    return (
        f"{row.factor:g} with drops holds what {found.factor(row.holds.enough):.4g} holds with "
        f"prices, {_percent(row.kept)}. Proved: {_held(found, row.holds, 'that')}"
    )


def _others(found: Decision) -> str:
    """The least factor of each method."""
    keep = _percent(found.settings.keep)
    least = {WITH[name]: found.least(name) for name in SIMPLEST}
    needs = [f"{name} {row.factor:g}" for name, row in least.items() if row is not None]
    never = [name for name, row in least.items() if row is None]
    said = [f"The least of these factors that keeps {keep}: {', '.join(needs)}."] if needs else []
    if never and needs:
        said.append(f"None is enough with {' and with '.join(never)}.")
    return " ".join(said)


COLUMNS: dict[str, Callable[[Decision, MethodRow], str]] = {
    "method": lambda _, row: row.method,
    "kept": lambda _, row: _hundredths(row.kept, floor),
    "dropped": lambda _, row: _hundredths(row.dropped, ceil),
    "pairs": lambda _, row: _hundredths(row.pairs_dropped, ceil),
    "load": lambda _, row: "" if row.max_over_mean is None else f"{row.max_over_mean:.2f}",
    "slot": lambda _, row: "" if row.price is None else f"{row.price:.2g}",
    "ms": lambda _, row: "" if row.seconds is None else f"{1000 * row.seconds:.0f}",
    "as optimum": lambda found, row: as_optimum(found, row),
}
"""Column of the table -> text of a row."""


def decision_table(found: Decision) -> RichTable:
    """A line for each factor and method, 80 columns; the recommended one in bold."""
    table = terminal_table("", padding=0)
    table.add_column("factor", justify="right", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    best, last = recommended(found), None
    for row in found.rows:
        new = row.factor != last
        if new and last is not None:
            table.add_section()
        factor = f"{row.factor:g}" if new and row.factor is not None else ""
        cells = [cell(found, row) for cell in COLUMNS.values()]
        table.add_row(factor, *cells, style="bold" if row == best else "")
        last = row.factor
    return table


def as_optimum(found: Decision, row: MethodRow) -> str:
    """The factor at which the optimum holds as much, `1.12`, or bounds of it, `1.09-1.14`."""
    if row.holds is None:
        return ""
    low, high = found.factor(row.holds.needed), found.factor(row.holds.enough)
    if low == high:
        return f"{high:.2f}"
    return f"{floor(100 * low) / 100:.2f}-{ceil(100 * high) / 100:.2f}"


def remarks(found: Decision) -> list[str]:
    """A sentence for each method without an answer."""
    return [f"{row.method}: no answer. {row.why}" for row in found.rows if row.why]


class DecisionPart(NamedTuple):
    """What a report says of the capacity factor.

    Attributes:
        advice: sentences for its summary.
        section: tiles, figure and table.
        decision: all of it; None where nothing is worth anything.
    """

    advice: Sequence[str]
    section: Section
    decision: Decision | None = None


def decision_part(make: Callable[[], Decision]) -> DecisionPart:
    """The decision as a part of a report; where no pair is worth anything, this in words."""
    try:
        found = make()
    except InputError as error:
        return DecisionPart((), Section(ID, TITLE, [Paragraph(f"Not asked: {error}")]))
    section = Section(ID, TITLE, decision_blocks(found, timed=False))
    return DecisionPart(sentences(found), section, found)


ID, TITLE = "decision", "Which capacity factor"


def decision_blocks(found: Decision, *, timed: bool) -> list[Block]:
    """Tiles, figure and table; times only on request."""
    asked = _percent(found.settings.keep)
    row = recommended(found)
    enough = found.target.enough
    tiles = [
        (f"{found.factor(enough):.4g}", f"the least factor at which any assignment keeps {asked}")
    ]
    if row is not None:
        tiles.insert(0, (f"{row.factor:g}", f"recommended, with {WITH[row.method]}"))
    reference = found.reference
    tiles.append((_percent(reference.kept), f"kept by drops at {reference.factor:g}"))
    return [
        Tiles(tiles),
        *drawn(
            "Value over factors",
            lambda: decision_figure(found),
            "What the best assignments of all layers are worth at every capacity, what rules make "
            "of it at the factors asked for, and what one more slot at every expert brings.",
        ),
        _table(found, timed),
        *[Paragraph(text) for text in remarks(found)],
    ]


def decision_figure(found: Decision, title: str = "") -> Any:
    """The curve of all layers together, with the rules at the factors."""
    _, T, E = found.shape
    k, first = found.settings.k, min(row.capacity for row in found.rows)
    assert found.curve.points is not None
    curve = found.curve.points.since(first)
    rules = []
    for name in (DROPS, IN_ORDER, CAUSAL):
        rows = {r.capacity: r.value for r in found.rows if r.method == name}
        at = [C for C in rows if curve.last >= C]
        if at:
            values, keeps = [rows[C] for C in at], [True] * len(at)
            rules.append(SimpleNamespace(name=name, budgets=at, values=values, feasible=keeps))
    return plots.frontier(curve, rules, over="capacity", title=title, share=T * k / E)


def _table(found: Decision, timed: bool) -> Table:
    shown = {name: cell for name, cell in COLUMNS.items() if timed or name != "ms"}
    columns = [Column("method"), Column("factor", numeric=True), Column("slots", numeric=True)]
    columns += [Column(name, numeric=True) for name in list(shown)[1:]]
    best = recommended(found)
    rows = []
    for row in found.rows:
        texts = [cell(found, row) for cell in list(shown.values())[1:]]
        cells = [Cell(text or "-", _sort_key(text)) for text in texts]
        name = Cell(row.method, tone="good" if row == best else "")
        factor = Cell("-") if row.factor is None else number(row.factor)
        rows.append([name, factor, number(row.capacity), *cells])
    legend = LEGEND if timed else LEGEND.replace("ms: of one layer, on average. ", "")
    return Table(f"All layers together. {legend}", columns, rows)


def _sort_key(text: str) -> float | None:
    """The number at the start of a cell."""
    try:
        return float(text.split("-")[0])
    except ValueError:
        return None


def _layer_table(found: Decision) -> Table:
    columns = [Column("method"), Column("layer", numeric=True), Column("slots", numeric=True)]
    names = ("kept %", "tokens dropped", "pairs", "largest load", "slot price", "ms")
    columns += [Column(name, numeric=True) for name in names]
    nothing = float("nan")
    rows = []
    for row in found.by_layer:
        kept, price, seconds = (row.get(name) for name in ("kept", "price", "seconds"))
        rows.append(
            [
                Cell(row["method"]),
                Cell(str(row["layer"]), row["layer"]),
                number(row["capacity"]),
                Cell(_hundredths(kept, floor) or "-", kept),
                *[number(row.get(name, nothing)) for name in ("dropped", "pairs", "max_load")],
                number(nothing if price is None else price, 3),
                number(nothing if seconds is None else 1000 * seconds, 3),
            ]
        )
    return Table("Every layer by itself; loads and pairs are counts.", columns, rows)


def decision_page(found: Decision, source: str, command: str, versions: dict[str, str]) -> str:
    """One self-contained HTML page: the recommendation first."""
    L, T, E = found.shape
    asked = f"{counted(L, 'layer')}, {T:,} tokens, {E:,} experts, k = {found.settings.k}"
    packages = [[Cell(name), Cell(each)] for name, each in versions.items()]
    sections = [
        Section(
            ID,
            "Recommendation",
            [
                *[Paragraph(text) for text in sentences(found) if text],
                *decision_blocks(found, timed=True),
            ],
        ),
        Section("layers", "Layer by layer", [_layer_table(found)]),
        Section(
            "making",
            "How to make this page again",
            [
                Folded("Command", command, opened=True),
                Table("Versions.", [Column("package"), Column("version")], packages),
            ],
        ),
    ]
    subtitle = f"{asked}, scores: {found.settings.score}"
    return page(f"Capacity factor for {source}", subtitle, sections)


def as_json(found: Decision) -> dict[str, Any]:
    """All of it as JSON values."""
    row = recommended(found)
    rows = [_json_row(found, each) for each in found.rows]
    return {
        "recommendation": {
            "factor": None if row is None else row.factor,
            "method": None if row is None else row.method,
            "keep": found.settings.keep,
            "target": _json_holds(found, found.target),
            "drops": _json_row(found, found.reference),
            "sentences": sentences(found),
        },
        "value_without_capacity": found.free,
        "rows": rows,
        "layers": list(found.by_layer),
    }


def _json_row(found: Decision, row: MethodRow) -> dict[str, Any]:
    return {**vars(row), "holds": None if row.holds is None else _json_holds(found, row.holds)}


def _json_holds(found: Decision, held: Holds) -> dict[str, Any]:
    factors = {f"{name}_factor": found.factor(getattr(held, name)) for name in ("needed", "enough")}
    return held._asdict() | factors


def csv_rows(found: Decision) -> list[dict[str, Any]]:
    """The rows of the table with flat columns."""
    flat = []
    for row in found.rows:
        held = {} if row.holds is None else _json_holds(found, row.holds)
        own = {name: value for name, value in vars(row).items() if name != "holds"}
        own |= {f"optimum_{name}": held.get(name) for name in HELD}
        flat.append(own)
    return flat


HELD: Sequence[str] = ("needed", "enough", "needed_factor", "enough_factor")


def _percent(share: float | None) -> str:
    """`99.09 %`, rounded down: what is kept is never overstated."""
    return "" if share is None else f"{_hundredths(share, floor).rstrip('0').rstrip('.')} %"


def _hundredths(share: float | None, rounded: Callable[[float], int]) -> str:
    """A share in per cent with two digits; rounding of floats alone changes none of them."""
    return "" if share is None else f"{rounded(round(1e4 * share, 6)) / 100:.2f}"
