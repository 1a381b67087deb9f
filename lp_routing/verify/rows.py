"""What is reported: one row for each method on each problem, and the findings beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from lp_routing.certificate.certificate import Certificate
from lp_routing.problem.assignment import Assignment
from lp_routing.solvers.solution import Status
from lp_routing.verify.problems import Case

CHAINED = ("token_choice", "expert_choice", "balanced")
ROUNDING = 1e-12


@dataclass(frozen=True)
class Row:
    """One method on one problem of one layer; numbers that do not exist are None.

    `status` is a `Status` name; a router that breaks a constraint has "VIOLATES". `claims_exact`
    says that theory calls the method exact here, so that anything but OPTIMAL refutes it.
    """

    layer: int
    problem: str
    method: str
    kind: str
    status: str
    value: float | None
    bound: float | None
    gap: float | None
    relative_gap: float | None
    violation: float | None
    dropped: int | None
    max_load: float | None
    pairs: float | None
    seconds: float
    claims_exact: bool
    exact_zero: bool
    explanation: str


@dataclass(frozen=True)
class Finding:
    """A statement about one layer that was checked by number."""

    layer: int
    says: str
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """Rows and findings of one case."""

    case: str
    layer: int
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def row_of(
    case: Case,
    *,
    method: str,
    kind: str,
    status: str,
    assignment: Assignment | None,
    certificate: Certificate | None,
    seconds: float,
    claims_exact: bool,
    explanation: str,
) -> Row:
    """The row of one assignment with its certificate, both of which may be missing."""
    c = certificate
    return Row(
        layer=case.layer,
        problem=case.name,
        method=method,
        kind=kind,
        status=status,
        value=None if c is None else _number(c.value),
        bound=None if c is None else _number(c.bound),
        gap=None if c is None else _number(c.gap),
        relative_gap=None if c is None else _number(c.relative_gap),
        violation=None if c is None else c.violation,
        dropped=None if assignment is None else int(assignment.dropped.sum()),
        max_load=None if assignment is None else float(assignment.load.max()),
        pairs=None if assignment is None else float(assignment.load.sum()),
        seconds=seconds,
        claims_exact=claims_exact,
        exact_zero=c is not None and c.exact and c.gap == 0,
        explanation=explanation,
    )


def _number(value: Any) -> float | None:
    return float(value) if isfinite(value) else None


def rows_as_json(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary of JSON values."""
    for outcome in outcomes:
        for row in outcome.rows:
            yield asdict(row)


def chain(outcomes: Sequence[Outcome]) -> list[Finding]:
    """At equal budget the optima are ordered: each at most that of unified, which has fewer bounds.

    One finding for each layer and each of token choice, expert choice and balanced that placed as
    many pairs as unified did; compared as HiGHS found them, up to rounding.
    """
    optima = {
        (row.layer, row.problem): row
        for outcome in outcomes
        for row in outcome.rows
        if row.method == "HiGHS" and row.value is not None
    }
    findings = []
    for (layer, problem), row in optima.items():
        ceiling = optima.get((layer, "unified"))
        if problem not in CHAINED or ceiling is None or row.pairs != ceiling.pairs:
            continue
        low, high = row.value or 0.0, ceiling.value or 0.0
        says = f"{problem} {low:.6g} <= unified {high:.6g} at equal budget ({row.pairs:g} pairs)"
        findings.append(Finding(layer, says, low <= high + ROUNDING * max(abs(low), abs(high))))
    return findings


def refuted(outcomes: Sequence[Outcome]) -> list[str]:
    """What was claimed and did not come out, in words; empty where all is as theory says."""
    failed = [
        f"layer {row.layer}, {row.problem}: {row.method} ended {row.status}"
        f"{' (' + row.explanation + ')' if row.explanation else ''}"
        for outcome in outcomes
        for row in outcome.rows
        if row.claims_exact and row.status not in (Status.OPTIMAL.name, Status.INFEASIBLE.name)
    ]
    failed += [f"layer {f.layer}: {f.says}" for f in chain(outcomes) if not f.holds]
    for outcome in outcomes:
        failed += [f"layer {f.layer}: {f.says}" for f in outcome.findings if not f.holds]
    return failed
