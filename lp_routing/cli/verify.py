"""`lp-routing verify`: prove the optima of a file and measure the quick rules against them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from lp_routing import scores
from lp_routing.cli.options import (
    check_writable,
    opened,
    parse_layers,
    parse_tokens,
    versions,
)
from lp_routing.cli.run import OutputConsole
from lp_routing.errors import InputError
from lp_routing.evaluation.verify import (
    Case,
    VerifiedCase,
    cases,
    chain,
    examine_all,
    refuted,
    rows_as_json,
)
from lp_routing.files import write_whole
from lp_routing.report.verify import LEGEND, chain_lines, clashes, layer_tables, verdict
from lp_routing.traces import Trace


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    return 0 if _verify(OutputConsole(), *opened(VerifyOptions, options)) else 1


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify`."""

    file: Path | None
    k: int
    capacity_factor: float
    layers: str
    tokens: str
    score: str
    json_path: Path | None
    jobs: int | None


def _verify(console: Console, options: VerifyOptions, trace: Trace) -> bool:
    """Run the command; returns whether all that claims exactness is exact."""
    check_writable(options.json_path, options.file)
    todo = _cases(trace, options)
    T, E = todo[0].problem.scores.shape
    console.print(
        f"[bold]{escape(trace.source)}[/bold]: {len({case.layer for case in todo})} layer(s), "
        f"{T} of {len(trace.layer(0))} tokens, {E} experts; k={options.k}, "
        f"capacity factor {options.capacity_factor:g}, scores: {options.score}.",
        highlight=False,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("solving each problem with three solvers", total=len(todo))
        jobs = min(options.jobs or os.cpu_count() or 1, len(todo))
        outcomes = examine_all(todo, jobs, lambda outcome: _show_progress(progress, task, outcome))
    for table in layer_tables(outcomes):
        console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for sentence in clashes(outcomes):
        console.print(sentence, style="cyan", highlight=False, markup=False)
    for line in chain_lines(outcomes):
        console.print(line, style="dim", highlight=False, soft_wrap=True)
    there = len(trace.layer(0))
    part = "" if there == T else f" Only the first {T} of {there} tokens of each layer were taken."
    console.print(verdict(outcomes) + part, highlight=False, soft_wrap=True)
    if options.json_path is not None:
        content = json.dumps(
            _as_json(outcomes, trace.source, options, T), allow_nan=False, indent=1
        )
        write_whole(options.json_path, content + "\n", "--json")
    return not refuted(outcomes)


def _show_progress(progress: Progress, task: TaskID, outcome: VerifiedCase) -> None:
    """Move the bar; without a terminal, print a line."""
    progress.advance(task)
    if not progress.console.is_terminal:
        done = progress.tasks[0]
        place = f"layer {outcome.layer}, {outcome.case}"
        click.echo(f"{done.completed:g} of {done.total:g} solved: {place}", err=True)


def _cases(trace: Trace, options: VerifyOptions) -> list[Case]:
    """The named problems of all chosen layers."""
    todo = []
    for layer in parse_layers(options.layers, trace.layers):
        logits = trace.layer(layer)[: parse_tokens(options.tokens)]
        worth = scores.named(options.score)(logits, None)
        try:
            todo += cases(layer, worth, options.k, options.capacity_factor)
        except InputError as error:
            raise InputError(f"{error} (Layer {layer} of {trace.source}.)") from error
    return todo


def _as_json(
    outcomes: list[VerifiedCase], source: str, options: VerifyOptions, tokens: int
) -> dict[str, Any]:

    findings = [f for outcome in outcomes for f in outcome.findings] + chain(outcomes)
    return {
        "rows": list(rows_as_json(outcomes)),
        "findings": [vars(finding) for finding in findings],
        "versions": versions(),
        "source": source,
        "options": {
            "k": options.k,
            "capacity_factor": options.capacity_factor,
            "score": options.score,
            "tokens": tokens,
        },
    }
