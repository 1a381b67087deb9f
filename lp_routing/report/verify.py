"""`lp-routing verify` on the terminal: a table a layer, one of confirmations, and the verdict."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import isnan

from rich.table import Table as RichTable

from lp_routing.evaluation.verify import (
    PROBLEMS,
    VerifiedCase,
    VerifiedRow,
    chain,
    proofs,
    refuted,
)
from lp_routing.report.document import terminal_table

LEGEND = (
    "gap: what is lost, relative to the optimum (for solvers: what is left unproved). breaks by: "
    "the largest amount by which a bound is broken. dropped: tokens that reach no expert."
)


def layer_table(outcomes: Sequence[VerifiedCase]) -> RichTable:
    """The proofs and the quick rules of one layer, a section for each problem; 80 columns wide."""
    table = terminal_table(f"Layer {outcomes[0].layer}")
    table.add_column("problem / method", no_wrap=True)
    for name in ("value", "gap", "breaks by", "dropped", "max load"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(f"[bold]{outcome.case}[/bold]")
        for row in outcome.rows:
            if row.kind != "confirmation":
                table.add_row(*_cells(row), style=_style(row))
        table.add_section()
    return table


def confirmation_table(outcomes: Sequence[VerifiedCase]) -> RichTable | None:
    """What the other solvers found, a row for each problem and solver; None where nothing."""
    table = terminal_table("Confirmed by other solvers")
    for name in ("problem", "solver"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens", "layers agree", "difference"):
        table.add_column(name, justify="right", no_wrap=True)

    def place(row: VerifiedRow) -> tuple[int, str]:
        return PROBLEMS.index(row.problem), row.method

    for (problem, method), own in groupby(sorted(confirmations(outcomes), key=place), key=place):
        rows = list(own)
        agree = sum(row.agrees is True for row in rows)
        stopped = sum(row.status == "TIME_LIMIT" for row in rows)
        apart = max((row.difference for row in rows if not isnan(row.difference)), default=None)
        table.add_row(
            PROBLEMS[problem],
            _short(method),
            f"{rows[0].tokens}",
            f"{agree} of {len(rows)}" + (f", {stopped} stopped" if stopped else ""),
            "-" if apart is None else f"{apart:.0e}" if apart else "0",
            style="dim" if agree + stopped == len(rows) else "red",
        )
    return table if table.row_count else None


def confirmations(outcomes: Sequence[VerifiedCase]) -> list[VerifiedRow]:
    """The rows of the solvers that confirm."""
    return [row for outcome in outcomes for row in outcome.rows if row.kind == "confirmation"]


def verdict(outcomes: Sequence[VerifiedCase], confirm_seconds: float) -> str:
    """The last line: what was proved and confirmed in that time, or what was refuted."""
    failed = refuted(outcomes)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"NOT PROVED: {failed[0]}{more}."
    rows = [row for outcome in outcomes for row in outcome.rows]
    optima = proofs(outcomes)
    solved = [row for row in optima if row.status == "OPTIMAL"]
    zero = sum(row.exact_zero for row in solved)
    exact = [row for row in rows if row.kind == "router" and row.claims_exact]
    sentences = [
        f"Proved: {count(len(solved), 'optimum', 'optima')}, found by MinCostFlow and certified by "
        f"duality ({zero} with a gap of exactly 0 in exact arithmetic)",
        _confirmed(outcomes, len(optima), confirm_seconds),
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


def _confirmed(outcomes: Sequence[VerifiedCase], cases: int, seconds: float) -> str:
    """How many optima the other solvers confirm, on how many tokens; where they were stopped."""
    most = max((row.tokens for row in proofs(outcomes)), default=0)
    tried, by = confirmations(outcomes), []
    for method in dict.fromkeys(row.method for row in tried):
        own = [row for row in tried if row.method == method]
        found = Counter(
            "stopped by the clock"
            if row.status == "TIME_LIMIT"
            else f"on {'all' if row.tokens == most else f'the first {row.tokens}'} tokens"
            for row in own
        )
        confirmed = sum(row.agrees is True for row in own)
        where = ", ".join(f"{times} {what}" for what, times in found.items())
        by.append(f"{confirmed} of {cases} by {_short(method)} ({where})")
    if not by:
        return f"none confirmed by other solvers (--confirm-seconds {seconds:g})"
    return f"confirmed in {seconds:g} s of solver time: {' and '.join(by)}"


def _short(method: str) -> str:
    """`CLARABEL` for `CVXPY (CLARABEL)`."""
    return method.removeprefix("CVXPY (").removesuffix(")")


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
        if row.status == "INFEASIBLE" and row.kind == "proof"
    ]


def count(number: int, one: str, many: str) -> str:
    """`1 optimum`, `2 optima`."""
    return f"{number} {one if number == 1 else many}"


def _cells(row: VerifiedRow) -> list[str]:
    return [
        f"  {row.method}",
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
    if row.kind == "proof":
        return "dim" if row.status in ("OPTIMAL", "INFEASIBLE") else "red"
    if row.claims_exact and row.status != "OPTIMAL":
        return "red"
    return {"OPTIMAL": "green", "FEASIBLE": "yellow"}.get(row.status, "magenta")
