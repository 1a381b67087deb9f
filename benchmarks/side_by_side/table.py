"""What the rows say: a line a case, how time grows with T, and the aims."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.side_by_side.cases import FACTORS
from benchmarks.side_by_side.rows import Row, disagreement
from benchmarks.side_by_side.solvers import SOLVERS

GROWS_FROM = 65536
"""Tokens from which the growth of time is fitted; below, fixed costs of a call count."""
LEAST_RATIO = {
    "1024x64-k2": 3.0,
    "4096x64-k2": 10.0,
    "16384x256-k8": 15.0,
    "65536x64-k2": 40.0,
    "262144x64-k2": 40.0,
    "1048576x64-k2": 40.0,
}
"""How many times as long OR-tools is to take, at each size."""
MOST_UNITS = {
    "1024x64-k2": 12.0,
    "4096x64-k2": 5.0,
    "16384x256-k8": 6.0,
    "65536x64-k2": 3.0,
    "1048576x64-k2": 2.0,
}
"""`topk` passes that MinCostFlow is to take at most, at each size."""
MOST_GROWTH, MOST_MEMORY = 1.1, 0.5
"""The exponent of T from `GROWS_FROM` up, and memory beyond the scores as a share of theirs."""


def by_case(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The rows of each case, by solver; cases in the order of the file, the last row counts."""
    names = list(dict.fromkeys(row.case for row in rows))
    return {name: {row.solver: row for row in rows if row.case == name} for name in names}


def comparison(rows: Sequence[Row]) -> Table:
    """One line a case: seconds of each solver, and MinCostFlow's figures."""
    table = Table(box=box.SIMPLE_HEAD, title="median seconds", title_justify="left")
    table.add_column("case", no_wrap=True)
    heads = [*SOLVERS, "OR-tools / MinCostFlow", "topk units", "memory / scores", "relative gap"]
    for head in heads:
        table.add_column(head, justify="right")
    table.add_column("values")
    for name, solved in by_case(rows).items():
        ours = solved.get("MinCostFlow")
        table.add_row(
            name,
            *(_seconds(solved.get(solver)) for solver in SOLVERS),
            _number(ratio(solved, "OR-tools"), ".2f"),
            _number(ours.topk_units if ours else None, ".1f"),
            _number(ours.memory_over_scores if ours else None, ".2f"),
            _number(ours.relative_gap if ours else None, ".0e"),
            _agreement(list(solved.values())),
        )
    return table


def ratio(solved: dict[str, Row], solver: str) -> float | None:
    """How many times as long as MinCostFlow a solver takes on the same case."""
    ours, other = solved.get("MinCostFlow"), solved.get(solver)
    if ours is None or other is None or not (ours.ended and other.ended):
        return None
    return other.seconds / ours.seconds if ours.seconds and other.seconds else None


def wrong(rows: Sequence[Row]) -> list[str]:
    """Sentences on answers that contradict each other, or break a bound they should keep."""
    found = [disagreement(list(solved.values())) for solved in by_case(rows).values()]
    broken = [f"{r.case}, {r.solver}: {r.status}" for r in rows if r.status.startswith("BROKEN")]
    return [sentence for sentence in found if sentence] + broken


def growth(rows: Sequence[Row], solver: str, factor: float) -> float | None:
    """The exponent a in seconds ~ T^a, least squares on logarithms, at E = 64 and K = 2."""
    points = [
        (math.log(row.T), math.log(row.seconds))
        for row in rows
        if (row.solver, row.scores, row.E, row.K, row.factor) == (solver, "skewed", 64, 2, factor)
        and row.ended
        and row.seconds
        and row.T >= GROWS_FROM
    ]
    if len({T for T, _ in points}) < 2:
        return None
    T, seconds = np.array(points).T
    return float(np.polyfit(T, seconds, 1)[0])


def aims(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each figure that was aimed at, where the rows have it."""
    cases = by_case(rows)
    for factor in FACTORS:
        of_factor = {size: cases.get(f"skewed-{size}-f{factor:g}", {}) for size in LEAST_RATIO}
        for size, least in LEAST_RATIO.items():
            found = ratio(of_factor[size], "OR-tools")
            words = f"OR-tools / MinCostFlow, {size}, factor {factor:g}"
            yield from _aim(words, found, least, _at_least)
        for size, most in MOST_UNITS.items():
            ours = of_factor[size].get("MinCostFlow")
            words = f"topk units, {size}, factor {factor:g}"
            yield from _aim(words, ours.topk_units if ours else None, most, _at_most)
        exponent = growth(rows, "MinCostFlow", factor)
        yield from _aim(f"growth exponent, factor {factor:g}", exponent, MOST_GROWTH, _at_most)
    for family in ("gpt-oss", "olmoe"):
        solved = [of for name, of in cases.items() if name.startswith(family)]
        ratios = [ratio(of, "OR-tools") for of in solved if _optimal(of)]
        slowest = min((each for each in ratios if each is not None), default=None)
        yield from _aim(
            f"OR-tools / MinCostFlow, worst optimum of {family}", slowest, 1.0, _at_least
        )
    memory = [
        row.memory_over_scores
        for row in rows
        if row.solver == "MinCostFlow" and row.memory_over_scores and row.T >= GROWS_FROM
    ]
    words = f"largest memory / scores (from {GROWS_FROM:,} tokens up)"
    yield from _aim(words, max(memory, default=None), MOST_MEMORY, _at_most)


def _optimal(solved: dict[str, Row]) -> bool:
    """Whether MinCostFlow found an optimum; where there is none, only it explains why."""
    return "MinCostFlow" in solved and solved["MinCostFlow"].status == "OPTIMAL"


def _aim(
    name: str, figure: float | None, aim: float, holds: Callable[[float, float], bool]
) -> Iterator[str]:
    if figure is not None:
        words = "at least" if holds is _at_least else "at most"
        verdict = "met" if holds(figure, aim) else "MISSED"
        yield f"{verdict}: {name}: {figure:.2f} (aim: {words} {aim:g})"


def _at_least(figure: float, aim: float) -> bool:
    return figure >= aim


def _at_most(figure: float, aim: float) -> bool:
    return figure <= aim


def _seconds(row: Row | None) -> str:
    if row is None:
        return ""
    if row.status == "OPTIMAL":
        return _number(row.seconds, ".3g")
    short = row.status.split(":")[0].split(" (")[0]
    return f"{short} {_number(row.seconds, '.3g')}".strip()


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _agreement(rows: Sequence[Row]) -> str:
    if disagreement(rows):
        return "DISAGREES"
    return "agree" if sum(row.ended for row in rows) > 1 else ""
