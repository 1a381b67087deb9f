"""`lp-routing decide`: which capacity factor to take, and with which rule."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lp_routing.cli.commands import decide as decide_command
from lp_routing.cli.options import (
    first_tokens,
    opened,
    parse_factors,
    parse_layers,
    parse_tokens,
    versions,
)
from lp_routing.cli.output import (
    as_typed,
    check_outputs,
    console_for,
    part_taken,
    print_input,
    write_csv,
    write_json,
    write_text,
)
from lp_routing.cli.run import long_work, raise_failures
from lp_routing.errors import InputError
from lp_routing.frontier.decide import DecideSettings, decide, layer_record
from lp_routing.report.decide import (
    LEGEND,
    as_json,
    csv_rows,
    decision_page,
    decision_table,
    remarks,
    sentences,
)
from lp_routing.sweep import Record
from lp_routing.traces import Trace
from lp_routing.validation import as_int


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, trace = opened(DecideOptions, options)
    _decide(console_for(given), given, trace)
    return 0


@dataclass(frozen=True)
class DecideOptions:
    """Options of `decide`."""

    file: Path | None
    k: int
    factors: str
    keep: float
    score: str
    layers: str
    tokens: str
    json_path: Path | None
    csv_path: Path | None
    html_path: Path | None
    jobs: int
    resume_path: Path | None


def _decide(console: Console, options: DecideOptions, trace: Trace) -> None:
    """Run the command and print its results."""
    settings = _settings(options)
    check_outputs(options)
    layers = parse_layers(options.layers, trace.layers)
    logits = first_tokens(trace, parse_tokens(options.tokens))
    _, T, E = logits.shape
    as_int(settings.k, "k", 1, E, "E, the number of experts")
    print_input(console, trace, (len(layers), T, E), options)
    task = partial(layer_record, logits=logits, settings=settings)

    def records(points: list[dict[str, Any]]) -> list[Record]:
        path, jobs = options.resume_path, options.jobs
        found = long_work(console, task, points, "routing", path=path, jobs=jobs)
        raise_failures(found, [f"(Layer {point['layer']}.)" for point in points])
        return found

    found = decide(layers, (T, E), settings, records)
    for sentence in sentences(found):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(decision_table(found))
    for sentence in remarks(found):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(LEGEND, style="dim", highlight=False)
    write_json(options, trace.source, as_json(found))
    write_csv(options.csv_path, csv_rows(found))
    if options.html_path is not None:
        command = as_typed(decide_command, options, "--html", options.html_path.name)
        page = decision_page(found, trace.source, command, versions())
        write_text(options.html_path, page, "--html")
    if part := part_taken(trace, layers, T):
        console.print(part, highlight=False)


def _settings(options: DecideOptions) -> DecideSettings:
    if not 0 < options.keep <= 1:
        raise InputError(f"--keep {options.keep:g}: expected a share above 0 and up to 1.")
    return DecideSettings(
        k=options.k,
        score=options.score,
        factors=parse_factors(options.factors),
        keep=options.keep,
    )
