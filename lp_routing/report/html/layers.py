"""The layers: what the main router loses in each, and what every router does."""

from collections.abc import Sequence
from math import isfinite

from lp_routing.evaluation.evaluate import OK, ROUNDING, GapRow, max_over_mean
from lp_routing.report.gap_table import remarks
from lp_routing.report.html.asked import Asked
from lp_routing.report.html.content import (
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    Section,
    Table,
    number,
    percent,
    quoted,
)
from lp_routing.report.html.examined import Examined, dropped_at_best, has_share
from lp_routing.report.html.outcome import Outcome


def layers_section(asked: Asked, outcomes: Sequence[Outcome[Examined]]) -> Section:
    """Two tables, and a sentence for each router that has no gap."""
    examined = [each.result for each in outcomes if each.result is not None]
    failed = [
        Failure(f"Layer {layer}: {each.error}")
        for layer, each in zip(asked.layers, outcomes, strict=True)
        if each.result is None
    ]
    blocks: list[Block] = [*failed]
    if examined:
        blocks += [
            Paragraph(
                "Lost: what a router's assignment lacks to the certified optimum, relative to it. "
                "A router that breaks a bound of the problem has no such number: it takes what "
                "nobody may take. Click a heading to sort."
            ),
            _by_layer(asked, examined),
            _by_router(asked, examined),
        ]
        said = [f"Layer {each.layer}: {says}" for each in examined for says in remarks(each.rows)]
        if said:
            blocks.append(Folded("Which bounds are broken, and what failed", "\n".join(said)))
    return Section("layers", "Layer by layer", blocks)


def _by_layer(asked: Asked, examined: Sequence[Examined]) -> Table:
    """One row a layer: the main router beside the optimum."""
    columns = [
        Column("layer", numeric=True),
        Column("optimum", numeric=True),
        Column(asked.main, numeric=True),
        Column("lost", numeric=True),
        Column("tokens dropped", numeric=True),
        Column("dropped at the optimum", numeric=True),
        Column("largest load / mean", numeric=True),
        Column("at the optimum", numeric=True),
        Column("dearest slot", numeric=True),
        Column("pairs shared", numeric=True),
    ]
    return Table(
        f"{quoted(asked.main)} beside the optimum, one row a layer. Values are sums of "
        f"{asked.score} scores; the dearest slot is the largest shadow price of an expert: one "
        "more place there brings at most that; pairs shared: of the optimum's pairs, those that "
        "the router takes too.",
        columns,
        [_layer_row(each) for each in examined],
    )


def _layer_row(each: Examined) -> list[Cell]:
    row, best, prices = each.rows[0], each.solution.assignment, each.solution.prices
    expert = each.problem.family("expert")
    dearest = float("nan")
    if prices is not None and expert is not None:
        dearest = float(prices.of(expert).max())
    return [
        Cell(str(each.layer), each.layer),
        number(row.optimum),
        number(row.value),
        lost(row),
        _count(row.dropped),
        _count(None if best is None else dropped_at_best(each)),
        number(row.max_over_mean, 3),
        number(float("nan") if best is None else float(max_over_mean(best.load)), 3),
        number(dearest, 3),
        _share(row.overlap),
    ]


def _by_router(asked: Asked, examined: Sequence[Examined]) -> Table:
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
        *([Column("time [topk]", numeric=True)] if asked.timed else []),
    ]
    timed = " Times are in units of torch.topk on the scores." if asked.timed else ""
    return Table(
        "Every router in every layer. The worst broken bound is in pairs beyond it; causal: "
        f"whether the rule, by what it says of itself, never looks at later tokens.{timed}",
        columns,
        [
            _router_row(row, each.layer, asked.timed)
            for place in range(len(asked.routers))
            for each in examined
            for row in [each.rows[place]]
        ],
    )


def _router_row(row: GapRow, layer: int, timed: bool) -> list[Cell]:
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


def lost(row: GapRow) -> Cell:
    """What a router loses, or why there is no such number."""
    if row.status == OK and not has_share(row):
        return Cell("no share: the optimum is not above 0")
    if row.status == OK:
        says = "0 exactly" if row.gap == 0 else percent(row.relative_gap)
        return Cell(says, row.relative_gap, "good" if row.relative_gap <= ROUNDING else "poor")
    return Cell("breaks a bound" if row.feasible is False else "no answer", None, "bad")


def _count(value: int | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:,}", value)


def _share(value: float) -> Cell:
    return Cell(f"{100 * value:.1f} %", value) if isfinite(value) else Cell("-")
