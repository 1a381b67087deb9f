"""Two reports side by side: the same questions asked of two files, and where the answers differ."""

from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from statistics import mean
from typing import NamedTuple

from lp_routing.claims.claim import Checked
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.frontier.decide import Decision
from lp_routing.report.audits import cell as finding_cell
from lp_routing.report.claims import mark_cell
from lp_routing.report.decide import as_optimum, decision_figure
from lp_routing.report.document import (
    Attempt,
    Block,
    Cell,
    Column,
    Failure,
    Figure,
    Folded,
    Paragraph,
    ReportSettings,
    Section,
    SideBySide,
    Table,
    counted,
    listed,
    number,
    percent,
    quoted,
)
from lp_routing.report.figures import drawn
from lp_routing.report.html import page
from lp_routing.report.layer_results import has_share
from lp_routing.report.report import ReportParts

CAPACITY = "Which capacity factor"


class Side(NamedTuple):
    """One of the two reports: its name on the page, its settings and its parts."""

    name: str
    settings: ReportSettings
    parts: ReportParts

    @property
    def decision(self) -> Decision | None:
        """Which capacity factor; None where that failed or was not asked."""
        part = self.parts.decision.result
        return None if part is None else part.decision


def comparison_page(sides: tuple[Side, Side]) -> tuple[str, bool]:
    """The page as text, and whether all is well, as for a report of its own."""
    a, b = sides
    sections = [
        _summary(sides),
        _capacity(sides),
        _routers(sides),
        _claims(sides),
        _audits(sides),
        _making(a.settings),
    ]
    failed = any(isinstance(block, Failure) for part in sections for block in part.blocks)
    agree = all(each.comes_out for side in sides for each in side.parts.claims.result or ())
    subtitle = f"lp_routing {a.settings.versions.get('lp-routing', '')}: two files, one question"
    subtitle += f"; {a.settings.date}" if a.settings.date else ""
    title = f"Routing reports: {a.name} and {b.name}"
    return page(title, subtitle, sections), agree and not failed


def _summary(sides: tuple[Side, Side]) -> Section:
    """What to take for each, what the main router loses, and what was asked differently."""
    blocks: list[Block] = []
    for side in sides:
        part = side.parts.decision
        if part.result is None:
            blocks.append(Failure(f"{side.name}: {part.error}"))
        elif part.result.advice:
            blocks.append(Paragraph(f"{side.name}: {' '.join(part.result.advice[:3])}"))
        blocks += [
            Failure(f"{side.name}, layer {layer}: {each.error}")
            for layer, each in zip(side.settings.layers, side.parts.layers, strict=True)
            if each.result is None
        ]
    main = sides[0].settings.main
    lost = [_mean([row.relative_gap for row in _rows(side, 0) if has_share(row)]) for side in sides]
    if all(map(isfinite, lost)):
        said = " and ".join(
            f"{percent(share)} in {side.name}" for share, side in zip(lost, sides, strict=True)
        )
        blocks.append(Paragraph(f"{quoted(main)} loses on average {said}."))
    blocks.append(_asked(sides))
    return Section("summary", "Summary", blocks)


def _asked(sides: tuple[Side, Side]) -> Table:
    facts: dict[str, Callable[[ReportSettings], str]] = {
        "layers": lambda s: f"{len(s.layers)}",
        "tokens of each layer": lambda s: f"{s.tokens:,} of {s.all_tokens:,}",
        "experts": lambda s: f"{s.experts:,}",
        "experts per token, k": lambda s: f"{s.k}",
        "capacity factor": lambda s: f"{s.capacity_factor:g}",
        "slots of an expert": lambda s: f"{s.capacity:,}",
        "scores": lambda s: s.score,
        "sha256 of the logits": lambda s: s.digest[:16],
    }
    rows = []
    for name, fact in facts.items():
        texts = [fact(side.settings) for side in sides]
        rows.append([Cell(name), *map(Cell, texts), Cell("" if texts[0] == texts[1] else "differ")])
    return Table("What was asked of each.", [*_columns(sides, "what"), Column("")], rows)


def _columns(sides: tuple[Side, Side], *first: str, numeric: bool = False) -> list[Column]:
    return [*map(Column, first), *(Column(side.name, numeric=numeric) for side in sides)]


def _capacity(sides: tuple[Side, Side]) -> Section:
    """What methods keep at each factor, in both files, and both curves."""
    decisions = [side.decision for side in sides]
    if decisions[0] is None or decisions[1] is None:
        why = [side.parts.decision.error for side in sides if side.decision is None]
        return Section("decision", CAPACITY, [Paragraph(listed(why) or "Not asked.")])
    both = [{(r.factor, r.method): r for r in each.rows} for each in decisions if each is not None]
    rows = []
    for factor, method in both[0]:
        found = [rows_of.get((factor, method)) for rows_of in both]
        kept = [None if row is None else row.kept for row in found]
        equal = [
            Cell("-" if row is None else as_optimum(decision, row) or "-")
            for decision, row in zip(decisions, found, strict=True)
            if decision is not None
        ]
        name = Cell("-") if factor is None else number(factor)
        rows.append([Cell(method), name, *map(_share, kept), _points(kept), *equal])
    a, b = (side.name for side in sides)
    columns = [Column("method"), Column("factor", numeric=True)]
    columns += [Column(f"{name}: kept", numeric=True) for name in (a, b)]
    columns += [Column("difference", numeric=True)]
    columns += [Column(f"{name}: as optimum", numeric=True) for name in (a, b)]
    caption = (
        "kept: of the value without a capacity; difference: of the second to the first, in points "
        "of per cent; as optimum: the factor at which the optimum holds as much."
    )
    blocks: list[Block] = [*_figures(sides), Table(caption, columns, rows)]
    return Section("decision", CAPACITY, blocks)


def _figures(sides: tuple[Side, Side]) -> list[Block]:
    """Both curves beside each other."""
    found: list[Figure] = []
    for place, side in enumerate(sides):
        decision = side.decision
        assert decision is not None

        caption = f"{side.name}: value over the slots of an expert."
        blocks = drawn(f"Factors {place}", partial(decision_figure, decision, side.name), caption)
        if not all(isinstance(block, Figure) for block in blocks):
            return list(blocks)
        found += [block for block in blocks if isinstance(block, Figure)]
    return [SideBySide(found)]


def _share(kept: float | None) -> Cell:
    return Cell("-") if kept is None else Cell(percent(kept, 4), kept)


def _points(kept: Sequence[float | None]) -> Cell:
    """The second minus the first, in points of per cent."""
    first, second = kept
    if first is None or second is None:
        return Cell("-")
    apart = 100 * (second - first)
    return Cell(f"{apart:+.2f}", apart)


def _rows(side: Side, place: int) -> list[RouterResult]:
    return [each.rows[place] for each in side.parts.results]


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else float("nan")


def _routers(sides: tuple[Side, Side]) -> Section:
    """Means over the layers of what each router loses and drops, in both files."""
    a, b = (side.name for side in sides)
    columns = [Column("router")]
    columns += [Column(f"{name}: lost", numeric=True) for name in (a, b)]
    columns += [Column("difference", numeric=True)]
    columns += [Column(f"{name}: dropped", numeric=True) for name in (a, b)]
    columns += [Column(f"{name}: load", numeric=True) for name in (a, b)]
    rows = []
    for place, name in enumerate(sides[0].settings.routers):
        each = [_rows(side, place) for side in sides]
        lost = [_lost(found) for found in each]
        dropped = [_mean([r.dropped_fraction for r in found if r.judged]) for found in each]
        loads = [_mean([r.max_over_mean for r in found if r.judged]) for found in each]
        rows.append(
            [
                Cell(name),
                *lost,
                _points([cell.value for cell in lost]),
                *map(_percent, dropped),
                *[number(load, 3) for load in loads],
            ]
        )
    caption = (
        "Means over the layers. lost: to the certified optimum; difference: of the second to the "
        "first, in points of per cent; dropped: tokens that reach no expert; load: the largest "
        "over the mean."
    )
    return Section("routers", "Routers", [Table(caption, columns, rows)])


def _percent(share: float) -> Cell:
    return Cell(percent(share), share) if isfinite(share) else Cell("-")


def _lost(rows: Sequence[RouterResult]) -> Cell:
    if any(row.feasible is False for row in rows):
        return Cell("breaks a bound", tone="bad")
    return _percent(_mean([row.relative_gap for row in rows if has_share(row)]))


def _claims(sides: tuple[Side, Side]) -> Section:
    """One row for each claim, the evidence of both files beside each other."""
    found = [_answered(side.parts.claims) for side in sides]
    blocks: list[Block] = [
        Failure(f"{side.name}: {side.parts.claims.error}")
        for side in sides
        if side.parts.claims.result is None
    ]
    rows, differ = [], []
    for id, one in found[0].items():  # noqa: A001
        other = found[1].get(id)
        if other is None:
            continue
        marks = [mark_cell(one), mark_cell(other)]
        if marks[0].text != marks[1].text:
            differ.append(id)
        verdict = Cell(f"claim {one.claim.verdict.value}")
        rows.append(
            [Cell(id), Cell(one.claim.title), verdict, *marks, Cell(one.says), Cell(other.says)]
        )
    if rows:
        says = (
            f"The files answer differently on {listed(differ)}."
            if differ
            else (f"Both files answer alike on all {counted(len(rows), 'claim')}.")
        )
        a, b = (side.name for side in sides)
        columns = [*map(Column, ("id", "claim", "our verdict", a, b))]
        columns += [Column(f"evidence on {name}", wide=True) for name in (a, b)]
        caption = "Whether the logits agree with our verdict on each claim, and what they show."
        blocks += [Paragraph(says), Table(caption, columns, rows)]
    return Section("claims", "What papers claim", blocks)


def _answered(claims: Attempt[Sequence[Checked]]) -> dict[str, Checked]:
    return {each.claim.id: each for each in claims.result or ()}


def _audits(sides: tuple[Side, Side]) -> Section:
    """Every router's findings, those of both files beside each other."""
    rows, blocks = [], list[Block]()
    for name in sides[0].settings.routers:
        found = [side.parts.audits[name] for side in sides]
        blocks += [
            Failure(f"{side.name}, {name}: {each.error}")
            for side, each in zip(sides, found, strict=True)
            if each.result is None
        ]
        answers = [{f.audit: finding_cell(f) for f in each.result or ()} for each in found]
        for audit, cell in answers[0].items():
            rows.append([Cell(name), Cell(audit), cell, answers[1].get(audit, Cell("-"))])
    caption = (
        "holds: nothing speaks against it; else the share of tokens (for feasibility: of bounds) "
        "that does."
    )
    columns = _columns(sides, "router", "audit", numeric=False)
    columns[2:] = [Column(column.name, numeric=True) for column in columns[2:]]
    return Section("audits", "Audits", [*blocks, Table(caption, columns, rows)])


def _making(settings: ReportSettings) -> Section:
    packages = [[Cell(name), Cell(version)] for name, version in settings.versions.items()]
    blocks: list[Block] = [
        Folded("Command", settings.command, opened=True),
        Table("Versions.", [Column("package"), Column("version")], packages),
    ]
    return Section("making", "How to make this page again", blocks)
