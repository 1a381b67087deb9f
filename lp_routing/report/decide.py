"""Which capacity factor to take: a recommendation in sentences, and a table factor x method."""

from collections.abc import Callable, Sequence
from math import ceil, floor
from typing import Any

from rich.table import Table as RichTable

from lp_routing.frontier.decide import (
    CAUSAL,
    DROPS,
    IN_ORDER,
    OPTIMUM,
    Decision,
    Holds,
    MethodRow,
)
from lp_routing.report.document import terminal_table

LEGEND = (
    "kept [%]: of the value of k experts for every token without a capacity. dropped [%]: tokens "
    "that reach no expert. pairs [%]: of k pairs for every token, those not taken. load: largest "
    "over mean load, in the layer where it is largest. slot: shadow price of one more slot at an "
    "expert, in scores, the mean over experts and layers. ms: of one layer, on average. as "
    "optimum: the factor at which the optimum holds as much, or two numbers that bound it. causal "
    "prices: fitted to the tokens before. balanced: exactly k experts a token, equal loads."
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
