"""`lp-routing audit` on the terminal: a table a layer, and every fault in a sentence."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from lp_routing.audits import Finding

LEGEND = (
    "holds: no token, or bound, speaks against it; else the share that does. no answer: NaN, an "
    "error, or a call that did not return. -: not asked. >=: causality is asked "
    "at some places, so the share is the least there is. A router keeps the capacity of the whole "
    "batch for its parts; one that grows with the batch is another rule. An audit does not judge."
)
PER_TABLE = 4
"""Most routers in one table, for 80 columns of text."""
ByRouter = Mapping[str, Sequence[Finding]]
"""Name of the router -> its findings, the same audits in the same order."""


def audit_tables(layer: int, findings: ByRouter) -> list[Table]:
    """One row an audit, one column a router; as few tables as fit, of about one size."""
    names = list(findings)
    size = -(-len(names) // -(-len(names) // PER_TABLE))
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    return [_table(layer, {name: findings[name] for name in group}) for group in groups]


def _table(layer: int, findings: ByRouter) -> Table:
    table = Table(
        title=f"Layer {layer}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("audit", no_wrap=True)
    for name in findings:
        width = max(map(len, ["no answer", *name.split()]))
        table.add_column(name, justify="right", min_width=width, overflow="fold")
    for row in zip(*findings.values(), strict=True):
        table.add_row(row[0].audit, *map(cell, row))
    return table


def sentences(layer: int, findings: ByRouter) -> list[str]:
    """A line for every finding that does not hold, router by router; the same reason once only."""
    lines = []
    for name, of_router in findings.items():
        first: dict[str, str] = {}
        for finding in of_router:
            if finding.verdict != "holds":
                first.setdefault(finding.sentence, finding.audit)
        lines += [f"Layer {layer}, {name}, {audit}: {says}" for says, audit in first.items()]
    return lines


def cell(finding: Finding) -> str:
    """A finding in a word or a number, with its colour as rich markup."""
    if finding.verdict == "holds":
        return "[green]holds[/green]"
    if finding.verdict == "not asked":
        return "[dim]-[/dim]"
    if finding.share is None:
        return "[red]no answer[/red]"
    least = ">= " if finding.at_least else ""
    return f"[yellow]{least}{_percent(finding.share)}[/yellow]"


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
