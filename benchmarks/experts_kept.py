"""Which experts to keep: `python -m benchmarks.experts_kept` (see `benchmarks/README.md`).

On loads of the sample, gpt-oss and OLMoE: what heavy-hitter counting and the greedy choice keep of
the score with all experts, against the best choice (HiGHS, on a sample of the rows) and against a
proved bound (on all rows). Rows go to a CSV file; at the end a table.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import lp_routing as lpr
from benchmarks.side_by_side.cases import GPT_OSS, GPT_OSS_EXPERTS, OLMOE, OLMOE_K
from benchmarks.side_by_side.rows import machine_in_words, versions_in_words
from lp_routing.certificate.certificate import TOLERANCE
from lp_routing.extensions.expert_pruning import (
    best_kept,
    bound_on_kept,
    greedy,
    heavy_hitters,
)

HERE = Path(__file__).parent
GPT_OSS_K, GPT_OSS_LAYERS = 2, (0, 11, 23)
SAMPLE_K = 2
KEPT = (0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Case:
    """What tokens are worth to experts.

    Attributes:
        name: where the scores come from, and the layer.
        scores: float64 (T, E), >= 0.
        counts: float64 (T,), row i stands for this many tokens.
        k: experts per token.
    """

    name: str
    scores: Tensor
    counts: Tensor
    k: int


@dataclass(frozen=True)
class Row:
    """One line of the file; all values are shares of the score with all experts.

    Attributes:
        rows: of the score matrix; "sample" of them where HiGHS is asked, or "all".
        by_tokens, by_score, greedy, best: what the choices keep; best is None on all rows.
        bound: no choice keeps more.
        ended: how HiGHS ended; on all rows what the bound rests on.
        seconds: of HiGHS, or of greedy and bound together.
    """

    case: str
    E: int
    k: int
    keep: int
    scope: str
    rows: int
    by_tokens: float
    by_score: float
    greedy: float
    best: float | None
    bound: float
    ended: str
    seconds: float
    versions: str
    machine: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 where a choice beats a bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts_kept", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="trace files")
    add("--rows", type=int, default=512, help="evenly spaced rows that HiGHS is given (512)")
    add("--limit", type=float, default=20.0, help="seconds for HiGHS (20)")
    add("--out", type=Path, default=HERE / "experts_kept.csv", help="CSV file")
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error(f"--rows {options.rows}: expected at least 1")
    if not options.limit > 0:
        parser.error(f"--limit {options.limit:g}: expected a number of seconds above 0")
    rows = []
    for case in cases(options.data):
        for row in measured(case, options.rows, options.limit):
            rows.append(row)
            write(options.out, rows)
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows))
    wrong = [row for row in rows if beats_bound(row)]
    print(*(f"{row.case}, keep {row.keep}: a choice beats the bound." for row in wrong), sep="\n")
    return 1 if wrong else 0


def cases(data: Path) -> Iterator[Case]:
    """All cases; a line is printed for each file that is absent."""
    for layer, logits in enumerate(lpr.traces.sample().router_logits.double()):
        yield Case(f"sample, layer {layer}", logits.softmax(-1), torch.ones(len(logits)), SAMPLE_K)
    if (data / GPT_OSS).is_file():
        yield from _gpt_oss(data / GPT_OSS)
    else:
        print(f"{data / GPT_OSS} is absent: its cases are left out.")
    for name, file in OLMOE.items():
        if (data / file).is_file():
            yield from _olmoe(data / file, name)
        else:
            print(f"{data / file} is absent: its cases are left out.")


def _gpt_oss(path: Path) -> Iterator[Case]:
    """The softmax over the four experts recorded for a token; the others are worth nothing.

    Two of the four are taken: were all, no expert would stand in for another, and counting the
    score would be best by definition.
    """
    with np.load(path, allow_pickle=False) as file:
        ids, probs = file["expert_ids"], file["probs"]
    for layer in GPT_OSS_LAYERS:
        scores = torch.zeros(ids.shape[1], GPT_OSS_EXPERTS, dtype=torch.float64)
        where = torch.as_tensor(ids[layer].astype(np.int64))
        scores.scatter_(1, where, torch.as_tensor(probs[layer].astype(np.float64)))
        yield Case(f"gpt-oss, layer {layer}", scores, torch.ones(len(scores)), GPT_OSS_K)


def _olmoe(path: Path, name: str) -> Iterator[Case]:
    """The share of a token type's occurrences that went to each expert, by its occurrences."""
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            counts = torch.as_tensor(file[key].astype(np.float64))
            counts = counts[counts.sum(-1) > 0]
            times = counts.sum(-1) / OLMOE_K
            layer = key.removeprefix("counts_L")
            yield Case(f"olmoe {name}, layer {layer}", counts / times[:, None], times, OLMOE_K)


def measured(case: Case, most_rows: int, limit_s: float) -> Iterator[Row]:
    """A line for a sample of the rows with the best choice, and one for all rows."""
    T, E = case.scores.shape
    few = torch.linspace(0, T - 1, min(T, most_rows)).round().long()
    for part in KEPT:
        keep = max(case.k, int(part * E))
        for scope, rows in (("sample", few), ("all", torch.arange(T))):
            scores, counts = case.scores[rows], case.counts[rows].double()
            whole = float(counts @ scores.topk(case.k).values.sum(-1))
            began = time.perf_counter()
            near = greedy(scores, keep, case.k, counts=counts)
            best, ended = None, "subgradient steps on the LP's dual"
            bound = bound_on_kept(scores, keep, case.k, counts=counts)
            if scope == "sample":
                began = time.perf_counter()
                found = best_kept(scores, keep, case.k, counts=counts, time_limit_s=limit_s)
                best, ended, bound = found.value / whole, found.ended, min(bound, found.bound)
            seconds = time.perf_counter() - began
            by_tokens = heavy_hitters(scores, keep, case.k, counts=counts)
            by_score = heavy_hitters(scores, keep, case.k, counts=counts, by="score")
            yield Row(
                case=case.name,
                E=E,
                k=case.k,
                keep=keep,
                scope=scope,
                rows=len(rows),
                by_tokens=by_tokens.value / whole,
                by_score=by_score.value / whole,
                greedy=near.value / whole,
                best=best,
                bound=bound / whole,
                ended=ended,
                seconds=round(seconds, 3),
                versions=versions_in_words(),
                machine=machine_in_words(),
            )


def write(path: Path, rows: Sequence[Row]) -> None:
    """All rows so far, in place of what the file held."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def beats_bound(row: Row) -> bool:
    """Whether a choice is worth more than was proved to be possible, or more than the best."""
    kept = max(row.by_tokens, row.by_score, row.greedy, row.best or 0.0)
    return kept > row.bound * (1 + TOLERANCE)


def table(rows: Sequence[Row]) -> Table:
    """Per cent of the score with all experts."""
    shown = Table(title="Kept score, % of that with all experts")
    names = ("case", "rows", "k", "keep", "by tokens", "by score", "greedy", "best", "bound", "s")
    for name in names:
        shown.add_column(name, justify="left" if name == "case" else "right")
    for row in rows:
        kept = (row.by_tokens, row.by_score, row.greedy, row.best, row.bound)
        shares = ["" if share is None else f"{100 * share:.2f}" for share in kept]
        keep = f"{row.keep} of {row.E}"
        shown.add_row(row.case, f"{row.rows}", f"{row.k}", keep, *shares, f"{row.seconds:.1f}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
