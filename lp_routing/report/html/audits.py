"""What the audits found: a row a question, a column a router, and every fault in a sentence."""

from collections.abc import Mapping, Sequence

from lp_routing.audits import Finding
from lp_routing.report.html.content import (
    Block,
    Cell,
    Column,
    Failure,
    Paragraph,
    Section,
    Table,
    percent,
)
from lp_routing.report.html.outcome import Outcome


def audits_section(layer: int, found: Mapping[str, Outcome[Sequence[Finding]]]) -> Section:
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
        [Column("audit"), *(Column(name, numeric=True) for name in found)],
        [[Cell(row[0].audit), *map(_cell, row)] for row in rows],
    )


def _cell(finding: Finding) -> Cell:
    if finding.verdict == "holds":
        return Cell("holds", 0.0, "good")
    if finding.verdict == "not asked":
        return Cell("-")
    if finding.share is None:
        return Cell("no answer", 2.0, "bad")
    least = "≥ " if finding.at_least else ""
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
