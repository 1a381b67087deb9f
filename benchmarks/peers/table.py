"""What the rows and findings say, as tables."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks.peers.compare import Row
from benchmarks.peers.findings import Finding


def conformance_table(rows: Sequence[Row]) -> Table:
    """One line a function: who agrees on how many tokens, and where not."""
    table = Table(box=box.SIMPLE_HEAD, title="same logits, same experts?", title_justify="left")
    for head in ("peer", "version", "function", "ours"):
        table.add_column(head, overflow="fold")
    table.add_column("agree", justify="right")
    table.add_column("first difference", overflow="fold")
    for row in rows:
        style = None if row.agrees else "red"
        cells = (row.peer, row.version, row.function, row.router, agreement(row), row.first)
        table.add_row(*(escape(cell) for cell in cells), style=style)
    return table


def agreement(row: Row) -> str:
    """How many tokens (or cases) have the same sets, and how many more differ only among ties."""
    ties = f" + {row.tied:,} tied" if row.tied else ""
    return f"{row.same:,}{ties} of {row.tokens:,} {row.unit}"


def finding_table(package: str, version: str, findings: Sequence[Finding]) -> Table:
    """One line a finding of one peer."""
    title = f"{package} {version}: differences"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_lines=True)
    table.add_column("what", overflow="fold")
    table.add_column("seen")
    table.add_column("how it was reproduced", overflow="fold")
    for finding in findings:
        seen = "yes" if finding.seen else "no"
        table.add_row(escape(finding.name), seen, escape(finding.sentence))
    return table
