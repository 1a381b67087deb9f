"""What routers lose to the certified optimum.

For the terminal: one table over the layers (`summary_table`), or one for each (`gap_table`), and in
words what the best router loses. For the page: what the main router loses in each layer, and what
every router does (`layers_section`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean, median

from rich.table import Table as RichTable
from rich.text import Text

from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.evaluation.evaluate import (
    EXACT,
    INFEASIBLE,
    NAN,
    NOT_JUDGED,
    NOT_TRIED,
    OK,
    RouterResult,
    max_over_mean,
)
from lp_routing.report.document import (
    Attempt,
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    ReportSettings,
    Section,
    Table,
    counted,
    number,
    percent,
    quoted,
    terminal_table,
)
from lp_routing.report.layer_results import LayerResult, dropped_at_best, has_share

LEGEND = (
    "gap: what is lost to the certified optimum, relative to it: mean over the layers, and worst, "
    "in which layer; none for a router that breaks a bound of the problem, as its value is no "
    "match for the optimum. dropped: tokens that reach no expert. ms: milliseconds from logits to "
    "assignment; topk: the same in units of torch.topk on the scores; medians of the layers. cold: "
    "a rule with a memory on its first batch, where fixed-prices drops by position and loss-free "
    "is token-choice; --warm-up gives it steps on this batch before, --warm-on on others."
)


def gap_table(title: str, rows: Sequence[RouterResult], wide: bool = False) -> RichTable:
    """One line for each router, the best feasible one first; 80 columns, 100 where `wide`."""
    table = terminal_table(title, padding=(0, 1, 0, 0))
    table.add_column("router", min_width=18, overflow="fold")
    names = ["gap", "breaks by", "dropped", "max/mean"]
    names += ["CV", "entropy", "overlap", "topk"] if wide else ["overlap", "topk"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=order):
        cells = _cells(row)
        table.add_row(Text(row.label), *(cells[name] for name in names), style=_style(row))
    return table


NONE_EXISTS = "no assignment keeps all bounds"

LAYER_LEGEND = (
    "breaks by: the worst broken bound, in pairs. overlap: share of the optimum's pairs that are "
    "taken too."
)
"""Of the columns that only the table of one layer has."""


@dataclass(frozen=True)
class RouterSummary:
    """One router over the layers; NaN where there is no number.

    Attributes:
        label: its name, and what it knows of earlier batches.
        seeks: the problem whose optimum it seeks; "" where it does not say.
        rows: layer -> its row.
    """

    label: str
    seeks: str
    rows: Mapping[int, RouterResult]

    @property
    def keeps_bounds(self) -> bool:
        """Whether it keeps all bounds in every layer."""
        return all(row.status == OK for row in self.rows.values())

    @property
    def gaps(self) -> dict[int, float]:
        """Layer -> relative gap, where all bounds are kept and the optimum is known."""
        gaps = {layer: row.relative_gap for layer, row in self.rows.items()}
        return {layer: gap for layer, gap in gaps.items() if isfinite(gap)}

    @property
    def worst(self) -> int | None:
        """The layer of the largest gap; None where there is no gap in every layer."""
        whole = self.keeps_bounds and len(self.gaps) == len(self.rows)
        return max(self.gaps, key=self.gaps.__getitem__) if whole else None

    def mean(self, column: str) -> float:
        """The mean of a column over the layers that have a number there."""
        values = [float(getattr(row, column)) for row in self.rows.values() if row.judged]
        known = [value for value in values if isfinite(value)]
        return mean(known) if known else NAN

    def median(self, column: str) -> float:
        """The median of a column over the layers that have a number there."""
        values = [float(getattr(row, column)) for row in self.rows.values()]
        known = [value for value in values if isfinite(value)]
        return median(known) if known else NAN

    def reason(self, problem: str) -> str:
        """Why there is no gap, which other problem it seeks, how its answer was read."""
        says = []
        if self.seeks not in ("", EXACT, problem):
            says.append(f"seeks {self.seeks}")
        silent = {layer: row for layer, row in self.rows.items() if not row.judged}
        broken = {layer: row for layer, row in self.rows.items() if row.status == INFEASIBLE}
        if silent:
            first = min(silent)
            row = silent[first]
            why = NONE_EXISTS if row.optimum_status.startswith("INFEASIBLE") else _why(row)
            says.append(f"{why.removeprefix('is ')}{self._where(first, silent)}")
        if broken:
            worst = max(broken, key=lambda layer: broken[layer].violation)
            says.append(f"{broken[worst].breaks}{self._where(worst, broken)}")
        says += sorted({row.note for row in self.rows.values() if row.note})
        return "; ".join(says)

    def _where(self, layer: int, some: Mapping[int, RouterResult]) -> str:
        """The layer of an example, and in how many it is so."""
        if len(self.rows) == 1:
            return ""
        return f" (layer {layer}; in {len(some)} of {len(self.rows)})"


def summaries(of_layers: Mapping[int, Sequence[RouterResult]]) -> list[RouterSummary]:
    """Each router over the layers: by mean gap, then those that break bounds or do not answer."""
    rows: dict[str, dict[int, RouterResult]] = {}
    for layer, results in of_layers.items():
        for row in results:
            rows.setdefault(row.router, {})[layer] = row
    found = []
    for of_router in rows.values():
        named = max(of_router.values(), key=lambda row: bool(row.state))  # failed ones have none
        found.append(RouterSummary(named.label, named.seeks, of_router))
    return sorted(found, key=_rank)


def _rank(each: RouterSummary) -> tuple[int, float]:
    if each.keeps_bounds:
        return 0, each.mean("relative_gap") if each.gaps else 0.0
    return max(order(row)[0] for row in each.rows.values()), each.mean("violation")


def summary_table(
    title: str,
    problem: str,
    of_layers: Mapping[int, Sequence[RouterResult]],
    wide: bool = False,
) -> RichTable:
    """One line for each router over all layers, the best first; 80 columns, 100 where `wide`.

    Args:
        title: above the table.
        problem: the name of the problem that judges.
        of_layers: layer -> its rows.
        wide: whether there is room for the load and the overlap with the optimum.
    """
    table = terminal_table(title, padding=0)  # with others rich cuts the last column
    table.add_column("router", min_width=18, overflow="fold")
    names = ["gap, mean", "worst", "dropped", "ms", "topk"]
    for name in [*names, *(("max/mean", "CV", "overlap") if wide else ())]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for each in summaries(of_layers):
        cells = _summary_cells(each)
        kept = [cells[name] for name in names]
        kept += [_fixed(each.mean("max_over_mean")), _fixed(each.mean("load_cv"))] if wide else []
        kept += [percent_of(each.mean("overlap"))] if wide else []
        rows = list(each.rows.values())
        style = _style(max(rows, key=order))
        table.add_row(Text(each.label), *kept, Text(each.reason(problem)), style=style)
    return table


def _summary_cells(each: RouterSummary) -> dict[str, str]:
    gap = worst = "-"
    if each.worst is not None:
        exact = all(row.gap == 0 for row in each.rows.values())
        gap = share_lost(each.mean("relative_gap"), exact)
        worst = share_lost(each.gaps[each.worst], each.rows[each.worst].gap == 0)
        worst = f"{worst} ({each.worst})" if len(each.rows) > 1 and not exact else worst
    return {
        "gap, mean": gap,
        "worst": worst,
        "dropped": percent_of(each.mean("dropped_fraction")),
        "ms": _three_digits(1e3 * each.median("seconds")),
        "topk": _three_digits(each.median("topk_units")),
    }


def summary_sentences(of_layers: Mapping[int, Sequence[RouterResult]]) -> list[str]:
    """The problem, layers without a proved optimum, and the best routers that keep all bounds."""
    words = next(iter(of_layers.values()))[0].problem
    says = []
    for layer, rows in of_layers.items():
        if not rows[0].optimum_status.startswith("OPTIMAL"):
            says.append(f"Layer {layer}, {verdict(rows)}")
    optima = [rows[0].optimum for rows in of_layers.values() if isfinite(rows[0].optimum)]
    average = " on average" if len(of_layers) > 1 else ""
    if optima:
        words += f": the optimum is {mean(optima):.6g}{average}"
    found = [each for each in summaries(of_layers) if each.seeks != EXACT]
    keeping = [each for each in found if each.worst is not None]
    left = len(found) - len(keeping)
    others = f" {_broken(left)}." if left else ""
    if not keeping:
        return [*says, f"{words}. No router keeps all bounds in every layer.{others}"]
    best = keeping[0]
    cells = _summary_cells(best)
    return [
        *says,
        f"{words}. Best of those that keep all bounds: {best.label}, gap {cells['gap, mean']}"
        f"{average}, {cells['ms']} ms, {cells['topk']} topk.{others}",
    ]


def order(row: RouterResult) -> tuple[int, float]:
    """Sort key: feasible routers by gap, then others by violation, then those without an answer."""
    if not row.judged:
        return 2, 0.0
    if not row.feasible:
        return 1, row.violation
    return 0, row.relative_gap if isfinite(row.relative_gap) else 0.0


def verdict(rows: Sequence[RouterResult]) -> str:
    """The problem, and the best routers that keep its bounds, in a sentence or two."""
    first = rows[0]
    if not isfinite(first.optimum):
        return f"{first.problem}: no optimum to compare with. {first.optimum_status}"
    says = f"{first.problem}: the optimum is {first.optimum:.6g}"
    if not first.optimum_status.startswith("OPTIMAL"):
        says += f" as far as is known ({first.optimum_status}; at most {first.bound:.6g})"
    feasible = [row for row in rows if row.status == OK]
    heuristics = [row for row in feasible if row.seeks != EXACT]
    if not heuristics:
        return f"{says}. No router keeps all bounds."
    best = min(heuristics, key=order)
    others = len([row for row in rows if row.seeks != EXACT]) - len(heuristics)
    left = f"; {_broken(others)}" if others else ""
    return (
        f"{says}. Best of those that keep all bounds: {best.label}, gap {in_percent(best)}, at "
        f"{_units(best)} topk{left}."
    )


def _broken(number: int) -> str:
    return f"{counted(number, 'router breaks', 'routers break')} bounds or gave no answer"


def remarks(rows: Sequence[RouterResult]) -> list[str]:
    """A sentence for each router that breaks a bound or fails."""
    without = [row for row in rows if not row.judged]
    broken = [row for row in rows if row.status == INFEASIBLE]
    return [f"{row.label} {_why(row)}" for row in without] + [
        f"{row.label} is INFEASIBLE: {row.breaks}" for row in broken
    ]


def in_percent(row: RouterResult) -> str:
    """`1.23 %`, `0 exactly`, `3e-05 %` where tiny, or `-` where there is no gap."""
    return share_lost(row.relative_gap, row.gap == 0)


def share_lost(relative_gap: float, exact: bool) -> str:
    """The same of a number; `exact` where it is proved to be 0."""
    if not isfinite(relative_gap):
        return "-"
    if exact:
        return "0 exactly"
    if abs(relative_gap) < 5e-5:
        return f"{100 * relative_gap:.0e} %"
    return f"{100 * relative_gap:.2f} %"


def percent_of(share: float) -> str:
    """`1.2 %`, or `-` where there is no number."""
    return f"{100 * share:.1f} %" if isfinite(share) else "-"


def _fixed(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "-"


def _three_digits(value: float) -> str:
    if not isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cells(row: RouterResult) -> dict[str, str]:
    if not row.judged:
        return dict.fromkeys(_NAMES, "") | {"gap": _without_answer(row)}
    return {
        "gap": in_percent(row) if row.feasible else "INFEASIBLE",
        "breaks by": f"{row.violation:.4g}" if row.violation else "",
        "dropped": f"{row.dropped}",
        "max/mean": f"{row.max_over_mean:.2f}" if row.pairs else "-",
        "CV": f"{row.load_cv:.2f}" if row.pairs else "-",
        "entropy": f"{row.load_entropy:.3f}" if row.pairs else "-",
        "overlap": f"{100 * row.overlap:.1f} %" if isfinite(row.overlap) else "-",
        "topk": _units(row),
    }


_NAMES = ("gap", "breaks by", "dropped", "max/mean", "CV", "entropy", "overlap", "topk")


def _without_answer(row: RouterResult) -> str:
    return next((word for word in (NOT_JUDGED, NOT_TRIED) if row.status.startswith(word)), "failed")


def _why(row: RouterResult) -> str:
    """`is not judged: ...`, `failed: RuntimeError: ...`."""
    word = _without_answer(row)
    return f"failed: {row.status}" if word == "failed" else f"is {row.status}"


def _units(row: RouterResult) -> str:
    return _three_digits(row.topk_units)


def _style(row: RouterResult) -> str:
    if not row.judged:
        return "red"
    if not row.feasible:
        return "bold magenta"
    return "green" if row.relative_gap <= TOLERANCE else "yellow"


def layers_section(settings: ReportSettings, attempts: Sequence[Attempt[LayerResult]]) -> Section:
    """Two tables, and a sentence for each router without a gap."""
    results = [each.result for each in attempts if each.result is not None]
    failed = [
        Failure(f"Layer {layer}: {each.error}")
        for layer, each in zip(settings.layers, attempts, strict=True)
        if each.result is None
    ]
    blocks: list[Block] = [*failed]
    if results:
        blocks += [
            Paragraph(
                "Lost: what a router's assignment lacks to the certified optimum, relative to it. "
                "A router that breaks a bound of the problem has no such number: it takes what "
                "nobody may take. Click a heading to sort."
            ),
            _by_layer(settings, results),
            _by_router(settings, results),
        ]
        said = [f"Layer {each.layer}: {says}" for each in results for says in remarks(each.rows)]
        if said:
            blocks.append(Folded("Which bounds are broken, and what failed", "\n".join(said)))
    return Section("layers", "Layer by layer", blocks)


def _by_layer(settings: ReportSettings, results: Sequence[LayerResult]) -> Table:
    """One row a layer: the main router beside the optimum."""
    columns = [
        Column("layer", numeric=True),
        Column("optimum", numeric=True),
        Column(settings.main, numeric=True),
        Column("lost", numeric=True),
        Column("tokens dropped", numeric=True),
        Column("dropped at the optimum", numeric=True),
        Column("largest load / mean", numeric=True),
        Column("at the optimum", numeric=True),
        Column("dearest slot", numeric=True),
        Column("pairs shared", numeric=True),
    ]
    return Table(
        f"{quoted(settings.main)} beside the optimum, one row a layer. Values are sums of "
        f"{settings.score} scores; the dearest slot is the largest shadow price of an expert: one "
        "more place there brings at most that; pairs shared: of the optimum's pairs, those that "
        "the router takes too.",
        columns,
        rows := [_layer_row(each) for each in results],
        [_mean_row(rows)] if len(rows) > 1 else [],
    )


def _mean_row(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """The means of the columns; "-" where some layer has no number."""
    means = [Cell("mean")]
    for column in list(zip(*rows, strict=True))[1:]:
        values = [cell.value for cell in column if cell.value is not None]
        if len(values) < len(column):
            means.append(Cell("-"))
        elif all("%" in cell.text or cell.text == "0 exactly" for cell in column):
            means.append(Cell(percent(mean(values))))
        else:
            means.append(Cell(number(mean(values), 4).text))
    return means


def _layer_row(each: LayerResult) -> list[Cell]:
    row, best, prices = each.rows[0], each.solution.assignment, each.solution.prices
    expert = each.problem.family("expert")
    highest = float("nan")
    if prices.given and expert is not None:
        highest = float(prices.of(expert).max())
    return [
        Cell(str(each.layer), each.layer),
        number(row.optimum),
        number(row.value),
        lost(row),
        _count(row.dropped),
        _count(None if best is None else dropped_at_best(each)),
        number(row.max_over_mean, 3),
        number(float("nan") if best is None else float(max_over_mean(best.load)), 3),
        number(highest, 3),
        _share(row.overlap),
    ]


def _by_router(settings: ReportSettings, results: Sequence[LayerResult]) -> Table:
    """One row a router and layer."""
    columns = [
        Column("router"),
        Column("layer", numeric=True),
        Column("lost", numeric=True),
        Column("value", numeric=True),
        Column("worst broken bound", numeric=True),
        Column("tokens dropped", numeric=True),
        Column("largest load / mean", numeric=True),
        Column("pairs shared", numeric=True),
        Column("causal"),
        *([Column("time [topk]", numeric=True)] if settings.timed else []),
    ]
    timed = " Times are in units of torch.topk on the scores." if settings.timed else ""
    return Table(
        "Every router in every layer. The worst broken bound is in pairs beyond it; causal: "
        f"whether the rule, by what it says of itself, never looks at later tokens.{timed}",
        columns,
        [
            _router_row(row, each.layer, settings.timed)
            for place in range(len(settings.routers))
            for each in results
            for row in [each.rows[place]]
        ],
        [_router_mean(settings, results, place) for place in range(len(settings.routers))]
        if len(results) > 1
        else [],
    )


def _router_mean(
    settings: ReportSettings, results: Sequence[LayerResult], place: int
) -> list[Cell]:
    """A router's means over the layers, in the columns of its rows."""
    rows = [_router_row(each.rows[place], each.layer, settings.timed) for each in results]
    numbers = _mean_row([row[1:] for row in rows])
    if any(each.rows[place].feasible is False for each in results):
        numbers[1] = Cell("breaks a bound", tone="bad")
    return [rows[0][0], *numbers[:7], rows[0][8], *numbers[8:]]


def _router_row(row: RouterResult, layer: int, timed: bool) -> list[Cell]:
    causal = {True: "yes", False: "no", None: "-"}[row.causal]
    return [
        Cell(row.label),
        Cell(str(layer), layer),
        lost(row),
        number(row.value),
        number(row.violation, 4) if row.violation else Cell("none" if row.judged else "-", 0.0),
        _count(row.dropped),
        number(row.max_over_mean, 3),
        _share(row.overlap),
        Cell(causal),
        *([number(row.topk_units, 3)] if timed else []),
    ]


def lost(row: RouterResult) -> Cell:
    """What a router loses, or why that is unknown."""
    if row.status == OK and not has_share(row):
        return Cell("no share: the optimum is not above 0")
    if row.status == OK:
        says = "0 exactly" if row.gap == 0 else percent(row.relative_gap)
        return Cell(says, row.relative_gap, "good" if row.relative_gap <= TOLERANCE else "poor")
    return Cell("breaks a bound" if row.feasible is False else "no answer", None, "bad")


def _count(value: int | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:,}", value)


def _share(value: float) -> Cell:
    return Cell(f"{100 * value:.1f} %", value) if isfinite(value) else Cell("-")
