"""Starts one process for each case, solver and round, and makes rows of what comes back."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.side_by_side.cases import Case
from benchmarks.side_by_side.rows import Row, row
from benchmarks.side_by_side.solvers import LIMIT_S, applies
from benchmarks.side_by_side.worker import Order, Record

ROOT = Path(__file__).parents[2]
GAVE_UP = ("time limit", "failed: killed")


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        solvers: their names, in the order in which they take turns.
        repeats: solves in one process; None for more on small matrices than on large ones.
        rounds: processes for each case and solver; between them the others have their turn.
        data: the folder of the trace files.
        limit_s: for a single solve of any solver; None for each solver's own.
    """

    solvers: Sequence[str]
    repeats: int | None = None
    rounds: int = 2
    data: Path = Path()
    limit_s: float | None = None

    def repeats_of(self, case: Case) -> int:
        """Five solves a process up to a million entries, two up to 32 million, then one."""
        entries = case.T * case.E
        return self.repeats or (5 if entries <= 1 << 20 else 2 if entries <= 1 << 25 else 1)

    def limit_of(self, solver: str) -> float:
        """Seconds for a single solve."""
        return self.limit_s or LIMIT_S[solver]


def run(cases: Sequence[Case], plan: Plan, known: Sequence[Row] = ()) -> Iterator[Row]:
    """Measure all that is not `known`, smallest cases first; a row as soon as it is complete."""
    rows = list(known)
    have = {(row.case, row.solver) for row in known}
    for case in cases:
        todo = [name for name in plan.solvers if applies(name, case)]
        todo = [name for name in todo if (case.name, name) not in have]
        for new in measured(case, todo, plan, rows):
            rows.append(new)
            yield new


def measured(case: Case, todo: Sequence[str], plan: Plan, rows: Sequence[Row]) -> Iterator[Row]:
    """The rows of one case; the solvers take turns, a process each."""
    records: dict[str, list[Record]] = {solver: [] for solver in todo}
    for turn in range(plan.rounds):
        for solver in list(records):
            limit_s = plan.limit_of(solver)
            outcome = gave_up_before(case, solver, rows) or process(
                Order(case, solver, plan.repeats_of(case), limit_s, str(plan.data))
            )
            if isinstance(outcome, str):
                del records[solver]
                yield row(case, solver, limit_s, outcome)
                continue
            records[solver].append(outcome)
            if turn == plan.rounds - 1:
                yield row(case, solver, limit_s, records[solver])


def gave_up_before(case: Case, solver: str, rows: Sequence[Row]) -> str:
    """Why a case is not tried: the solver gave up on one of its family that is not larger."""
    for old in rows:
        same = (old.scores, old.K, old.factor) == case.family and old.solver == solver
        if same and old.status.startswith(GAVE_UP) and old.T * old.E <= case.T * case.E:
            return f"not tried: {solver} gave up at {old.case} ({old.status})"
    return ""


def process(order: Order) -> Record | str:
    """The record of a fresh process, or a sentence that says how it ended without one."""
    command = [sys.executable, "-m", "benchmarks.side_by_side.worker", json.dumps(asdict(order))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return Record(**json.loads(ended.stdout.splitlines()[-1]))
    if ended.returncode == -signal.SIGALRM:
        return f"time limit ({order.limit_s:g} s)"
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        return f"failed: killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    said = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
    return f"failed: {said[-1]}"
