"""`verify`: the proved optimum of every named problem, and how far each quick rule is from it.

`prove` solves a case with `MinCostFlow` on all tokens and judges its quick rules by the exact
certificate; `confirm` has another solver find the same optimum, where it takes too long on all
tokens on the first of them. `verify_point` does one or the other for a `sweep`, `outcomes_of` reads
the records, and `chain` and `refuted` draw conclusions from the rows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite, nan
from time import perf_counter
from typing import Any

from torch import Tensor

from lp_routing import scores as score_functions
from lp_routing.certificate.violations import ROUNDING
from lp_routing.evaluation.evaluate import Evaluator, RouterResult, stated_problem
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import Router, Shape, router
from lp_routing.solvers import CVXPY, HiGHS, MinCostFlow
from lp_routing.solvers.solve import Solution, Status, solve
from lp_routing.sweep import ERROR

PROBLEMS = (
    "token_choice",
    "expert_choice",
    "unified",
    "served_unified",
    "capacity",
    "balanced",
    "capped_expert_choice",
)
"""The named problems, in the order in which they are shown."""

SOLVERS = ("HiGHS", "CLARABEL")
"""The solvers that confirm what `MinCostFlow` found: simplex and interior point."""

HIGHS_PAIRS = 2**17
"""Pairs that HiGHS is given, those of a layer's first tokens: more confirm a larger part of it.

On 131,072 pairs, 4,096 x 32 of the sample or 1,024 x 128 of made scores with k = 8, it takes 0.4 to
2 s where there is no total budget.
"""

SAMPLE_PAIRS = 2**14
"""Pairs that CLARABEL is given, and HiGHS where there is a total budget.

On 16,384 pairs, 512 x 32 or 128 x 128, CLARABEL takes 0.8 to 1.6 s and HiGHS with a total 0.6 s;
on four times as many 5 s and 9 s.
"""

HIGHS_S = 10.0
"""Seconds after which HiGHS is stopped on one problem: more confirm optima on slow machines."""


@dataclass(frozen=True)
class Case:
    """A named problem on the scores (T, E) of one layer."""

    layer: int
    name: str
    scores: Tensor
    k: int
    capacity_factor: float

    def stated(self, tokens: int | None = None) -> tuple[RoutingProblem, Shape]:
        """The problem on the first tokens, all if None, and the shape of its routers."""
        return stated_problem(self.scores[:tokens], self.name, self.k, self.capacity_factor)


def cases(layer: int, scores: Tensor, k: int, capacity_factor: float) -> list[Case]:
    """The seven named problems on scores (T, E).

    Raises:
        InputError: scores, k or a capacity factor of which a problem cannot be stated.
    """
    found = [Case(layer, name, scores, k, capacity_factor) for name in PROBLEMS]
    for case in found:
        case.stated()
    return found


RULES = {
    "token_choice": ("token-choice",),
    "expert_choice": ("expert-choice",),
    "unified": ("unified-probability",),
    "served_unified": ("served-probability",),
    "capacity": ("drop-by-score", "drop-by-position", "drop-token-major"),
    "balanced": ("token-choice", "drop-by-score"),
    "capped_expert_choice": ("expert-choice",),
}
"""The quick rules for each named problem, by their names in the catalogue."""

EXACT_RULES = ("token_choice", "expert_choice", "unified", "served_unified")
"""The problems of which theory says that their quick rule is exact."""


CHAINED = ("token_choice", "expert_choice", "balanced")


@dataclass(frozen=True)
class VerifiedRow:
    """One solver or quick rule on one problem of one layer.

    Attributes:
        layer: its number.
        problem: name of the problem.
        tokens: how many of the layer's tokens, from the first, the problem holds.
        kind: "proof" by MinCostFlow, "confirmation" by another solver, or "router".
        status: a `Status` name, or "VIOLATES" for a router that breaks a bound.
        explanation: of that status, in words; "" where there is nothing to explain.
        claims_exact: whether theory says that the method is exact here, so that any status but
            OPTIMAL refutes it; a solver that is stopped by the clock claims nothing.
        max_load: tokens of the busiest expert; None without an assignment.
        result: its numbers by the certificate, as for any router.
        agrees: of a confirmation: whether MinCostFlow finds as much on the same tokens, or neither
            finds anything; None where it was stopped.
        difference: of the two values, relative to MinCostFlow's; NaN where there are no two.
    """

    layer: int
    problem: str
    tokens: int
    kind: str
    status: str
    explanation: str
    claims_exact: bool
    max_load: float | None
    result: RouterResult
    agrees: bool | None = None
    difference: float = nan

    @property
    def method(self) -> str:
        """The name of the solver or rule."""
        return self.result.router

    @property
    def exact_zero(self) -> bool:
        """Whether the gap is exactly 0; gaps near 0 are evaluated in exact arithmetic."""
        return self.result.gap == 0

    def as_record(self) -> dict[str, Any]:
        """Column -> JSON value."""
        own = {name: value for name, value in vars(self).items() if name != "result"}
        own["difference"] = self.difference if isfinite(self.difference) else None
        exact = {"method": self.method, "exact_zero": self.exact_zero}
        return {**self.result.as_record(), **own, **exact}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "VerifiedRow":
        """The row of a record."""
        own = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        own["difference"] = nan if record["difference"] is None else record["difference"]
        return cls(**own, result=RouterResult.from_record(record))


@dataclass(frozen=True)
class VerifyFinding:
    """A statement about one layer that was checked by number."""

    layer: int
    says: str
    holds: bool


@dataclass(frozen=True)
class VerifiedCase:
    """Rows of one case, the proof first, then the confirmations and the rules.

    Attributes:
        case: name of the problem.
        layer: its number.
        rows: of the methods that ended.
        errors: why others did not.
    """

    case: str
    layer: int
    rows: tuple[VerifiedRow, ...]
    errors: tuple[str, ...] = ()

    @property
    def findings(self) -> list[VerifyFinding]:
        """Whether the other solvers agree, and what stopped a method."""
        most = max((row.tokens for row in self.rows), default=0)
        found = [
            VerifyFinding(
                self.layer,
                f"{self.case}: MinCostFlow and {row.method} agree"
                + ("" if row.tokens == most else f" on the first {row.tokens} tokens")
                + (" (infeasible)" if row.status == Status.INFEASIBLE.name else ""),
                row.agrees,
            )
            for row in self.rows
            if row.agrees is not None
        ]
        stopped = (f"{self.case}: stopped by {error}" for error in self.errors)
        return found + [VerifyFinding(self.layer, says, False) for says in stopped]


def verify_point(
    point: Mapping[str, Any],
    *,
    logits: Tensor,
    score: str,
    k: int,
    capacity_factor: float,
    limit_s: float = HIGHS_S,
    truths: Mapping[str, float] | None = None,
) -> Mapping[str, Any]:
    """The rows of one point of a sweep, as records.

    Args:
        point: "layer" and "problem", a name; with "solver" too, one of `SOLVERS`, it confirms, else
            MinCostFlow proves and the quick rules are judged.
        logits: (L, T, E).
        score: name of the scores.
        k, capacity_factor: of the problems.
        limit_s: after which HiGHS is stopped, in seconds.
        truths: what MinCostFlow found by `truth_key`, so that it is not solved again.
    """
    worth = score_functions.named(score)(logits[point["layer"]], None)
    case = Case(point["layer"], point["problem"], worth, k, capacity_factor)
    if "solver" in point:
        truth = (truths or {}).get(truth_key(case.layer, case.name))
        rows = [confirm(case, point["solver"], limit_s=limit_s, truth=truth)]
    else:
        rows = prove(case)
    return {"rows": [row.as_record() for row in rows]}


def truth_key(layer: int, problem: str) -> str:
    """The name of a case among the `truths` of `verify_point`."""
    return f"{layer} {problem}"


def truths_of(outcomes: Sequence[VerifiedCase]) -> dict[str, float]:
    """What MinCostFlow found on all tokens; -inf where there is no feasible assignment."""
    return {
        truth_key(row.layer, row.problem): row.result.value
        if isfinite(row.result.value)
        else -math.inf
        for row in proofs(outcomes)
    }


def points_to_prove(layers: Sequence[int]) -> list[dict[str, Any]]:
    """One point for each layer and problem, layer by layer."""
    return [{"layer": layer, "problem": name} for layer in layers for name in PROBLEMS]


def points_to_confirm(layers: Sequence[int]) -> list[dict[str, Any]]:
    """One point for each layer, problem and solver, in the order of use.

    There may be time for some alone: each seven cases hold every problem once, on layers far apart.
    """
    step = max(1, len(layers) // len(PROBLEMS))
    return [
        {"layer": layers[(turn + place * step) % len(layers)], "problem": name, "solver": solver}
        for turn in range(len(layers))
        for place, name in enumerate(PROBLEMS)
        for solver in SOLVERS
    ]


def outcomes_of(
    points: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> list[VerifiedCase]:
    """The cases of the points, from all their records, in the order of layers and `PROBLEMS`.

    Proofs stand before confirmations, and these before the rules. A point that was not computed has
    an empty record.
    """
    order = ("proof", "confirmation", "router")
    rows: dict[tuple[int, str], list[VerifiedRow]] = {}
    errors: dict[tuple[int, str], list[str]] = {}
    for point, record in zip(points, records, strict=True):
        case = point["layer"], point["problem"]
        found = [VerifiedRow.from_record(row) for row in record.get("rows", ())]
        rows.setdefault(case, []).extend(found)
        if ERROR in record:
            errors.setdefault(case, []).append(record[ERROR])
    cases = sorted(rows, key=lambda case: (case[0], PROBLEMS.index(case[1])))
    return [
        VerifiedCase(
            name,
            layer,
            tuple(sorted(rows[layer, name], key=lambda row: order.index(row.kind))),
            tuple(errors.get((layer, name), ())),
        )
        for layer, name in cases
    ]


def rows_as_json(outcomes: Sequence[VerifiedCase]) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary of JSON values."""
    for outcome in outcomes:
        for row in outcome.rows:
            yield row.as_record()


def proofs(outcomes: Sequence[VerifiedCase]) -> list[VerifiedRow]:
    """The rows of MinCostFlow on all tokens."""
    return [row for outcome in outcomes for row in outcome.rows if row.kind == "proof"]


def seconds_spent(records: Sequence[Mapping[str, Any] | None]) -> float:
    """Time of all solvers in records of confirmations, in seconds."""
    rows = (row for record in records for row in (record or {}).get("rows", ()))
    return math.fsum(row["seconds"] for row in rows)


def chain(outcomes: Sequence[VerifiedCase]) -> list[VerifyFinding]:
    """At equal budget the optima are ordered: none exceeds that of unified, which has fewer bounds.

    One finding for each layer and each of token choice, expert choice and balanced that placed as
    many pairs as unified did; compared as MinCostFlow found them, up to rounding.
    """
    optima = {
        (row.layer, row.problem): row.result
        for row in proofs(outcomes)
        if isfinite(row.result.value)
    }
    findings = []
    for (layer, problem), result in optima.items():
        ceiling = optima.get((layer, "unified"))
        if problem not in CHAINED or ceiling is None or result.pairs != ceiling.pairs:
            continue
        low, high = result.value, ceiling.value
        says = f"{problem} {low:.6g} <= unified {high:.6g} at equal budget ({result.pairs:g} pairs)"
        findings.append(
            VerifyFinding(layer, says, low <= high + ROUNDING * max(abs(low), abs(high)))
        )
    return findings


def refuted(outcomes: Sequence[VerifiedCase]) -> list[str]:
    """The claims that the numbers contradict, in words; empty where all are confirmed."""
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


AGREEMENT = 1e-6
"""Relative: two solvers agree where their values differ by less than this.

It is the tolerance of `CVXPY`, whose interior-point method ends some 1e-8 short of the optimum.
"""


def prove(case: Case) -> list[VerifiedRow]:
    """The optimum by MinCostFlow, and what the quick rules make of the problem."""
    problem, shape = case.stated()
    truth = solve(problem, MinCostFlow())
    judge = Evaluator(problem, truth)
    judged = [_rule_row(case, name, shape, judge) for name in RULES[case.name]]
    return [_solver_row(case, "proof", truth), *judged]


def confirm(
    case: Case, solver: str, *, limit_s: float = HIGHS_S, truth: float | None = None
) -> VerifiedRow:
    """The optimum by another solver, compared with MinCostFlow's on the same tokens.

    Args:
        case: which; on the first tokens alone where it has more pairs than the solver gets.
        solver: one of `SOLVERS`.
        limit_s: after which HiGHS is stopped, in seconds.
        truth: MinCostFlow's value on all tokens, -inf where infeasible; solved for if left out.
    """
    whole, _ = case.stated()
    tokens = tokens_for(solver, whole)
    problem = whole if tokens == whole.T else case.stated(tokens)[0]
    used = HiGHS(time_limit_s=limit_s) if solver == "HiGHS" else CVXPY(solver)
    solution = solve(problem, used)
    row = _solver_row(case, "confirmation", solution)
    if solution.status is Status.TIME_LIMIT:
        return row
    if truth is None or tokens < whole.T:
        truth = float(solve(problem, MinCostFlow()).value)
    return _compared(row, truth, float(solution.value), problem.smallest_score)


def tokens_for(solver: str, problem: RoutingProblem) -> int:
    """How many first tokens of a problem a solver gets, enough that experts have a share."""
    few = solver == "CLARABEL" or problem.family("total") is not None
    fit = (SAMPLE_PAIRS if few else HIGHS_PAIRS) // problem.E
    return min(max(fit, problem.E), problem.T)


def _compared(row: VerifiedRow, truth: float, other: float, smallest: float) -> VerifiedRow:
    """The row with its agreement with MinCostFlow, whose value is -inf where infeasible."""
    infeasible = (truth == -math.inf, row.status == Status.INFEASIBLE.name)
    if any(infeasible):
        return replace(row, agrees=all(infeasible))
    scale = max(abs(truth), smallest)
    agrees = abs(truth - other) <= AGREEMENT * scale
    return replace(row, agrees=agrees, difference=abs(truth - other) / scale if scale else 0.0)


def _solver_row(case: Case, kind: str, solution: Solution) -> VerifiedRow:
    judge, taken = Evaluator(solution.problem, solution), solution.assignment
    result = replace(judge.nothing(solution.solver), seconds=solution.seconds)
    return VerifiedRow(
        layer=case.layer,
        problem=case.name,
        tokens=solution.problem.T,
        kind=kind,
        status=solution.status.name,
        explanation=solution.explanation,
        claims_exact=solution.status is not Status.TIME_LIMIT,
        max_load=None if taken is None else float(taken.load.max()),
        result=result if taken is None else judge.judged(result, taken.x),
    )


def _rule_row(case: Case, name: str, shape: Shape, judge: Evaluator) -> VerifiedRow:
    rule = router(name, shape)
    assert isinstance(rule, Router)  # none of these has a state
    began = perf_counter()
    taken = Assignment(rule.select(judge.problem.scores))
    unjudged = replace(judge.nothing(name), seconds=perf_counter() - began)
    result = judge.judged(unjudged, taken.x)
    kept = Status.OPTIMAL if result.is_optimal else Status.FEASIBLE
    return VerifiedRow(
        layer=case.layer,
        problem=case.name,
        tokens=judge.problem.T,
        kind="router",
        status=kept.name if result.feasible else "VIOLATES",
        explanation=result.breaks,
        claims_exact=case.name in EXACT_RULES and judge.truth.status is not Status.INFEASIBLE,
        max_load=float(taken.load.max()),
        result=result,
    )
