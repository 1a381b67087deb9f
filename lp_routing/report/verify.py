"""`lp-routing verify` on the terminal: a table a layer, and in words what was proved."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import isnan

from rich.table import Table as RichTable

from lp_routing.evaluation.verify import HIGHS_S, VerifiedCase, VerifiedRow, chain, refuted
from lp_routing.report.document import terminal_table

LEGEND = (
    "gap: what is lost, relative to the optimum (for solvers: what is left unproved). breaks by: "
    "the largest amount by which a bound is broken. dropped: tokens that reach no expert."
)


def layer_tables(outcomes: Sequence[VerifiedCase]) -> list[RichTable]:
    """One table for each layer, a section for each problem; 80 columns wide."""
    return [
        _layer_table(layer, list(group))
        for layer, group in groupby(outcomes, key=lambda outcome: outcome.layer)
    ]


def verdict(outcomes: Sequence[VerifiedCase]) -> str:
    """The last line: what was proved, or what was refuted."""
    failed = refuted(outcomes)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"NOT PROVED: {failed[0]}{more}."
    rows = [row for outcome in outcomes for row in outcome.rows]
    optima = [row for row in rows if row.method == "MinCostFlow"]
    solved = [row for row in optima if row.status == "OPTIMAL"]
    zero = sum(row.exact_zero for row in solved)
    exact = [row for row in rows if row.kind == "router" and row.claims_exact]
    sentences = [
        f"Proved: {count(len(solved), 'optimum', 'optima')}, found by MinCostFlow and certified by "
        f"duality ({zero} with a gap of exactly 0 in exact arithmetic)",
        _confirmed(rows),
    ]
    if len(optima) > len(solved):
        impossible = count(len(optima) - len(solved), "problem has", "problems have")
        sentences.append(f"{impossible} no feasible assignment at all")
    if exact:
        sentences.append(
            f"the quick rules that claim to be exact are ({len(exact)} of {len(exact)})"
        )
    losses = [row.result.relative_gap for row in rows if row.status == "FEASIBLE"]
    if losses:
        sentences.append(
            f"the others that keep the bounds lose {min(losses):.2%} to {max(losses):.2%}"
        )
    compared = len(chain(outcomes))
    if compared:
        sentences.append(
            f"token choice, expert choice and balanced <= unified at equal budget "
            f"({compared} of {compared})"
        )
    return "; ".join(sentences) + "."


def _confirmed(rows: Sequence[VerifiedRow]) -> str:
    """Which optima the other solvers confirm, on how many tokens; where HiGHS was stopped."""
    most = max((row.tokens for row in rows), default=0)
    by = []
    for method in ("HiGHS", "CVXPY (CLARABEL)"):
        found = Counter(
            f"stopped after {HIGHS_S:g} s"
            if row.status == "TIME_LIMIT"
            else f"on {'all' if row.tokens == most else f'the first {row.tokens}'} tokens"
            for row in rows
            if row.method == method
        )
        cases = ", ".join(f"{times} {what}" for what, times in found.items())
        by.append(f"{method.removeprefix('CVXPY (').removesuffix(')')} ({cases})")
    return f"confirmed by {' and '.join(by)}"


def chain_lines(outcomes: Sequence[VerifiedCase]) -> list[str]:
    """The order of the optima at equal budget, one line a layer."""
    lines = []
    for layer, findings in groupby(chain(outcomes), key=lambda finding: finding.layer):
        sides = [finding.says.split(" <= ") for finding in findings]
        lower = ", ".join(left for left, _ in sides)
        lines.append(f"Layer {layer}: {lower} <= {sides[0][1]}")
    return lines


def clashes(outcomes: Sequence[VerifiedCase]) -> list[str]:
    """Why each infeasible problem is: one sentence each."""
    return [
        f"Layer {row.layer}, {row.problem}: {row.explanation}"
        for outcome in outcomes
        for row in outcome.rows
        if row.status == "INFEASIBLE" and row.method == "MinCostFlow"
    ]


def count(number: int, one: str, many: str) -> str:
    """`1 optimum`, `2 optima`."""
    return f"{number} {one if number == 1 else many}"


def _layer_table(layer: int, outcomes: list[VerifiedCase]) -> RichTable:
    table = terminal_table(f"Layer {layer}")
    table.add_column("problem / method", no_wrap=True)
    for name in ("value", "gap", "breaks by", "dropped", "max load"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(f"[bold]{outcome.case}[/bold]")
        most = max((row.tokens for row in outcome.rows), default=0)
        for row in outcome.rows:
            table.add_row(*_cells(row, most), style=_style(row))
        table.add_section()
    return table


def _cells(row: VerifiedRow, tokens: int) -> list[str]:
    part = "" if row.tokens == tokens else f", {row.tokens} tokens"
    return [
        f"  {row.method.replace('CVXPY (CLARABEL)', 'CLARABEL')}{part}",
        "-" if isnan(row.result.value) else _value(row.result.value),
        _gap(row),
        _violation(row.result.violation),
        "-" if row.result.dropped is None else f"{row.result.dropped}",
        "-" if row.max_load is None else f"{row.max_load:.6g}",
    ]


def _value(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.6g}"


def _gap(row: VerifiedRow) -> str:
    if row.status == "INFEASIBLE":
        return "infeasible"
    if row.status == "TIME_LIMIT":
        return "stopped"
    gap = row.result.relative_gap
    if isnan(gap):
        return "-"
    if row.exact_zero:
        return "0 exactly"
    if row.status == "OPTIMAL":
        return f"{gap:.0e}" if gap else "0"
    return f"{100 * gap:.2f} %"


def _violation(amount: float) -> str:
    if amount == 0 or isnan(amount):
        return ""
    return f"{amount:.0e}" if amount < 1e-3 else f"{amount:.4g}"


def _style(row: VerifiedRow) -> str:
    if row.kind == "solver":
        return "dim" if row.status in ("OPTIMAL", "INFEASIBLE", "TIME_LIMIT") else "red"
    if row.claims_exact and row.status != "OPTIMAL":
        return "red"
    return {"OPTIMAL": "green", "FEASIBLE": "yellow"}.get(row.status, "magenta")
