"""Results of the audits: a row for each audit, a column for each router, every fault in words.

For the terminal (`audit_tables`, `sentences`) and for the page (`audits_section`).
"""

from collections.abc import Mapping, Sequence

from rich.table import Table as RichTable

from lp_routing.audits import Finding
from lp_routing.report.document import (
    Attempt,
    Block,
    Cell,
    Column,
    Failure,
    Paragraph,
    Section,
    Table,
    as_rich,
    percent,
)

LEGEND = (
    "holds: no token, or bound, speaks against it; else the share that does. no answer: NaN, an "
    "error, or a call that did not return. -: not asked. >=: causality is asked "
    "at some places, so the share is the least there is. A router keeps the capacity of the whole "
    "batch for its parts; one that grows with the batch is another rule. An audit does not judge."
)
PER_TABLE = 4
"""Most routers in one table: more do not fit on 80 columns of text."""
ByRouter = Mapping[str, Sequence[Finding]]
"""Name of the router -> its findings, the same audits in the same order."""


def audit_tables(layer: int, findings: ByRouter) -> list[RichTable]:
    """One row for each audit, one column for each router, in tables of about equal width."""
    names = list(findings)
    size = -(-len(names) // -(-len(names) // PER_TABLE))
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    tables = [_answers({name: findings[name] for name in group}) for group in groups]
    return [as_rich(table, f"Layer {layer}", collapse_padding=True) for table in tables]


def sentences(layer: int, findings: ByRouter) -> list[str]:
    """A line for every finding that does not hold, router by router; each reason only once."""
    lines = []
    for name, of_router in findings.items():
        first: dict[str, str] = {}
        for finding in of_router:
            if finding.verdict != "holds":
                first.setdefault(finding.sentence, finding.audit)
        lines += [f"Layer {layer}, {name}, {audit}: {says}" for says, audit in first.items()]
    return lines


def audits_section(layer: int, found: Mapping[str, Attempt[Sequence[Finding]]]) -> Section:
    """Two tables: the answers, and the faults in words."""
    blocks: list[Block] = [
        Failure(f"{name}: {each.error}") for name, each in found.items() if each.result is None
    ]
    answered = {name: each.result for name, each in found.items() if each.result is not None}
    if answered:
        blocks += [
            Paragraph(
                f"Asked of every router on layer {layer}: does the choice for a token hang on "
                "later tokens, on other sequences of the batch, on ties, on the number of bits? An "
                "audit reports; what is a fault depends on where the router is used."
            ),
            _answers(answered),
            _faults(answered),
        ]
    return Section("audits", "Audits", blocks)


def _answers(found: Mapping[str, Sequence[Finding]]) -> Table:
    rows = zip(*found.values(), strict=True)
    return Table(
        "holds: nothing speaks against it; else the share of tokens (for feasibility: of bounds) "
        "that does. no answer: NaN, an error, or a call that did not return. -: not asked.",
        [Column("audit"), *(_column(name) for name in found)],
        [[Cell(row[0].audit), *map(cell, row)] for row in rows],
    )


def _column(name: str) -> Column:
    return Column(name, numeric=True, width=max(map(len, ["no answer", *name.split()])))


def cell(finding: Finding) -> Cell:
    """A finding as a word or as the share that speaks against it."""
    if finding.verdict == "holds":
        return Cell("holds", 0.0, "good")
    if finding.verdict == "not asked":
        return Cell("-")
    if finding.share is None:
        return Cell("no answer", 2.0, "bad")
    least = ">= " if finding.at_least else ""
    return Cell(f"{least}{percent(finding.share)}", finding.share, "poor")


def _faults(found: Mapping[str, Sequence[Finding]]) -> Table:
    rows = [
        [Cell(name), Cell(each.audit), Cell(each.sentence)]
        for name, findings in found.items()
        for each in findings
        if each.verdict != "holds"
    ]
    return Table(
        "What does not hold, or was not asked, in words.",
        [Column("router"), Column("audit"), Column("finding", wide=True)],
        rows,
    )
