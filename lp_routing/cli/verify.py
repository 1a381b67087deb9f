"""`lp-routing verify`: prove the optima of a file and measure the quick rules against them.

`MinCostFlow` proves every problem first; then other solvers confirm as many as a budget of time
allows. `--resume` keeps both as they come.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lp_routing import scores
from lp_routing.cli.options import (
    first_tokens,
    opened,
    parse_layers,
    parse_tokens,
)
from lp_routing.cli.output import (
    check_outputs,
    console_for,
    part_taken,
    print_input,
    write_csv,
    write_json,
)
from lp_routing.cli.run import long_work
from lp_routing.errors import InputError
from lp_routing.evaluation.verify import (
    HIGHS_S,
    PROBLEMS,
    VerifiedCase,
    cases,
    chain,
    outcomes_of,
    points_to_confirm,
    points_to_prove,
    refuted,
    rows_as_json,
    seconds_spent,
    truths_of,
    verify_point,
)
from lp_routing.report.verify import (
    LEGEND,
    chain_lines,
    clashes,
    confirmation_table,
    layer_table,
    verdict,
)
from lp_routing.sweep import Progress, Record
from lp_routing.traces import Trace


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, trace = opened(VerifyOptions, options)
    return 0 if _verify(console_for(given), given, trace) else 1


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify`."""

    file: Path | None
    k: int
    capacity_factor: float
    layers: str
    tokens: str
    score: str
    confirm_seconds: float
    json_path: Path | None
    csv_path: Path | None
    jobs: int
    resume_path: Path | None


def _verify(console: Console, options: VerifyOptions, trace: Trace) -> bool:
    """Run the command; returns whether all that claims exactness is exact."""
    check_outputs(options)
    layers = parse_layers(options.layers, trace.layers)
    task = _task(trace, layers, options)
    _, T, E = task.keywords["logits"].shape
    print_input(console, trace, (len(layers), T, E), options)
    outcomes = _outcomes(console, task, layers, options)
    if table := confirmation_table(outcomes):
        console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for sentence in clashes(outcomes):
        console.print(sentence, style="cyan", highlight=False, markup=False)
    says = f"{verdict(outcomes, options.confirm_seconds)} {part_taken(trace, layers, T)}"
    console.print(says.rstrip(), highlight=False, soft_wrap=True)
    findings = [f for outcome in outcomes for f in outcome.findings] + chain(outcomes)
    rows = list(rows_as_json(outcomes))
    content = {"rows": rows, "findings": [vars(finding) for finding in findings]}
    write_json(options, trace.source, content, tokens=T)
    write_csv(options.csv_path, rows)
    return not refuted(outcomes)


def _task(trace: Trace, layers: list[int], options: VerifyOptions) -> "partial[Mapping[str, Any]]":
    """`verify_point` for a file; raises where a problem of a layer cannot be stated."""
    logits = first_tokens(trace, parse_tokens(options.tokens))
    for layer in layers:
        worth = scores.named(options.score)(logits[layer], None)
        try:
            cases(layer, worth, options.k, options.capacity_factor)
        except InputError as error:
            raise InputError(f"{error} (Layer {layer} of {trace.source}.)") from error
    return partial(
        verify_point,
        logits=logits,
        score=options.score,
        k=options.k,
        capacity_factor=options.capacity_factor,
    )


def _outcomes(
    console: Console,
    task: "partial[Mapping[str, Any]]",
    layers: list[int],
    options: VerifyOptions,
) -> list[VerifiedCase]:
    """Prove every problem, layer by layer; then confirm as many as there is time for."""
    work = partial(long_work, console, path=options.resume_path, jobs=options.jobs, question=task)
    to_prove, of_layer = points_to_prove(layers), list[Record]()

    def show(number: int, record: Mapping[str, Any]) -> None:
        """Print a layer's table when its last problem is proved."""
        of_layer.append(dict(record))
        if len(of_layer) == len(PROBLEMS):
            points = to_prove[number + 1 - len(PROBLEMS) : number + 1]
            found = outcomes_of(points, of_layer)
            console.print(layer_table(found))
            for line in chain_lines(found):
                console.print(line, style="dim", highlight=False, soft_wrap=True)
            of_layer.clear()

    proved = work(task=task, points=to_prove, doing="proving", show=show)
    budget = options.confirm_seconds
    given = {"limit_s": min(HIGHS_S, budget), "truths": truths_of(outcomes_of(to_prove, proved))}

    def says(progress: Progress) -> str:
        left = max(0.0, budget - seconds_spent(progress.records))
        return f"{progress.done} of {progress.total}, {left:.0f} s of {budget:g} s left"

    to_confirm = points_to_confirm(layers)
    confirmed = work(
        task=partial(task, **given),
        points=to_confirm,
        doing="confirming",
        enough=lambda records: seconds_spent(records) >= budget,
        says=says,
    )
    return outcomes_of([*to_prove, *to_confirm], [*proved, *confirmed])
