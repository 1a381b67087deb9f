"""`lp-routing decide`: which capacity factor to take, and with which rule."""

import csv
import io
import json
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lp_routing.cli.commands import decide as decide_command
from lp_routing.cli.options import (
    check_writable,
    first_tokens,
    opened,
    parse_factors,
    parse_layers,
    parse_tokens,
    versions,
)
from lp_routing.cli.run import OutputConsole, check_resumable, long_work, raise_failures
from lp_routing.errors import InputError
from lp_routing.files import write_whole
from lp_routing.frontier.decide import DecideSettings, Decision, decide, layer_record
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

NOT_STATED = ("file", "json_path", "csv_path", "html_path", "resume_path")
"""Options that are left out of the JSON file: paths on this machine."""


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    _decide(OutputConsole(), *opened(DecideOptions, options))
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
    _check_outputs(options)
    layers = parse_layers(options.layers, trace.layers)
    logits = first_tokens(trace, parse_tokens(options.tokens))
    _, T, E = logits.shape
    as_int(settings.k, "k", 1, E, "E, the number of experts")
    there = len(trace.layer(0))
    console.print(
        f"[bold]{escape(trace.source)}[/bold]: {len(layers)} layer(s), {T} of {there} tokens, {E} "
        f"experts; k={settings.k}, scores: {settings.score}.",
        highlight=False,
        soft_wrap=True,
    )
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
    if there > T:
        console.print(f"Only the first {T} of {there} tokens of each layer were taken.")
    _write(found, trace.source, options)


def _settings(options: DecideOptions) -> DecideSettings:
    if not 0 < options.keep <= 1:
        raise InputError(f"--keep {options.keep:g}: expected a share above 0 and up to 1.")
    return DecideSettings(
        k=options.k,
        score=options.score,
        factors=parse_factors(options.factors),
        keep=options.keep,
    )


def _check_outputs(options: DecideOptions) -> None:
    """Raise unless each file can be written and no two are the same."""
    outputs = {
        "--json": options.json_path,
        "--csv": options.csv_path,
        "--html": options.html_path,
    }
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        check_writable(path, options.file, option)
        if path is not None and (other := seen.setdefault(path.resolve(), option)) != option:
            raise InputError(f"{other} and {option} both name {path}; give two files.")
    check_resumable(options.resume_path, (options.file, *outputs.values()))


def _write(found: Decision, source: str, options: DecideOptions) -> None:
    """Write the results to the files that are named."""
    if options.json_path is not None:
        stated = {name: getattr(options, name) for name in vars(options) if name not in NOT_STATED}
        content = {**as_json(found), "versions": versions(), "source": source, "options": stated}
        text = json.dumps(content, allow_nan=False, indent=1)
        write_whole(options.json_path, text + "\n", "--json")
    if options.csv_path is not None:
        rows, table = csv_rows(found), io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(options.csv_path, table.getvalue(), "--csv")
    if options.html_path is not None:
        page = decision_page(found, source, _command(options, options.html_path), versions())
        write_whole(options.html_path, page, "--html")


def _command(options: DecideOptions, path: Path) -> str:
    """The command that makes the page again, without folders and defaults."""
    words = ["lp-routing", "decide", *([] if options.file is None else [options.file.name])]
    for parameter in decide_command.params:
        given = getattr(options, str(parameter.name), None)
        if str(parameter.name) in (*NOT_STATED, "jobs") or given in (None, parameter.default):
            continue
        words += [parameter.opts[0], str(given)]
    return " ".join(map(shlex.quote, [*words, "--html", path.name]))
