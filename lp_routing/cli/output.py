"""Where results go: tables on the terminal; JSON, CSV and figures to files, or "-" for stdout."""

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from lp_routing import files
from lp_routing.cli.options import versions
from lp_routing.cli.run import check_resumable
from lp_routing.errors import InputError
from lp_routing.files import write_whole
from lp_routing.report.plots import check_drawable, drawn, resize, save
from lp_routing.traces import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STDOUT = Path("-")
"""The name that stands for standard output."""

WRITTEN = {
    "output": "--output",
    "json_path": "--json",
    "csv_path": "--csv",
    "plot_path": "--plot",
    "page_path": "--markdown",
    "papers_path": "--papers",
    "html_path": "--html",
}
"""Field of a command's options -> the option that names a file to write."""

PATHS = ("file", "other", "logits", "resume_path", *WRITTEN)
"""Options that results do not repeat: paths on this machine."""


SAMPLE_K = 2
"""The k of the sample, which commands on it need not state."""


class OutputConsole(Console):
    """A console that raises where the reader of its output has closed it."""

    def on_broken_pipe(self) -> None:
        """Re-raise the error, which `ends_in_words` reports; rich calls this from its handler."""
        raise


def console_for(options: Any) -> OutputConsole:
    """Standard output; standard error where results are written to standard output."""
    return OutputConsole(stderr=any(path == STDOUT for path in _named(options).values()))


def check_outputs(options: Any) -> None:
    """Raise before any work is done where a result cannot be written; nothing is changed.

    Raises:
        InputError: a file that cannot be written, that is read, or that two options name; a figure
            of unknown format.
    """
    seen: dict[Path, str] = {}
    named = _named(options)
    for option, path in named.items():
        if path != STDOUT:
            check_writable(path, options.file, option)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} both name {path}; give two files.")
        if option == "--plot" and path != STDOUT:
            check_drawable(path)
    check_resumable(getattr(options, "resume_path", None), (options.file, *named.values()))


def check_writable(path: Path, read_from: Path | None, option: str) -> None:
    """Raise where a file cannot be written, or is the one to read."""
    try:
        same = read_from is not None and path.exists() and path.samefile(read_from)
    except OSError:  # the file to read is missing, which is reported when it is read
        same = False
    if same:
        raise InputError(f"{option} {path}: this is the file to read; give another name.")
    files.check_writable(path, option)


def stated(options: Any) -> dict[str, Any]:
    """The options by name, for the file of results."""
    return {name: value for name, value in vars(options).items() if name not in PATHS}


def write_json(options: Any, source: str, content: Mapping[str, Any], **actual: Any) -> None:
    """Write results, versions, source and options as JSON, if a file is named.

    Args:
        options: of the command.
        source: the file that was read.
        content: the results.
        actual: options as they were understood, such as a number of tokens for "all".
    """
    if options.json_path is not None:
        asked = stated(options) | actual
        whole = {**content, "versions": versions(), "source": source, "options": asked}
        text = json.dumps(whole, allow_nan=False, indent=1)
        write_text(options.json_path, text + "\n", "--json")


def write_csv(path: Path | None, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as CSV, if a file is named; lists and mappings in a cell are JSON."""
    if path is None:
        return
    columns = list(dict.fromkeys(name for record in records for name in record))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in records)
    write_text(path, table.getvalue(), "--csv")


def print_input(
    console: Console, trace: Trace, shape: Sequence[int], options: Any, words: str = ""
) -> None:
    """The first line of a command: file, layers, tokens, experts, k, capacity factor, scores.

    Args:
        console: where it is printed.
        trace: the file.
        shape: (L, T, E), what is taken of it.
        options: of the command; those of them that it has are stated.
        words: further ones, after the experts.
    """
    layers, tokens, experts = shape
    factor, score = (getattr(options, name, None) for name in ("capacity_factor", "score"))
    says = "" if factor is None else f", capacity factor {factor:g}"
    says += f", scores: {score}" if score else ""
    console.print(
        f"[bold]{escape(trace.source)}[/bold]: {layers} layer(s), {tokens} of "
        f"{len(trace.layer(0))} tokens, {experts} experts; {words}k={options.k}{says}.",
        highlight=False,
    )


def as_typed(command: click.Command, options: Any, *output: str) -> str:
    """The command that makes a page again, without folders, defaults and other files.

    Args:
        command: as click declares it.
        options: as they were given.
        output: the option that names the page, and its path.
    """
    words = ["lp-routing", str(command.name), *_file_names(options)]
    for parameter in command.params:
        name = str(parameter.name)
        given, usual = getattr(options, name, None), parameter.default
        if isinstance(given, str) and isinstance(usual, list | tuple):  # it may be repeated
            usual = ", ".join(usual)
        if name == "k" and options.file is None:
            usual = SAMPLE_K
        if name in (*PATHS, "jobs") or not given or given == usual:
            continue
        for value in given if isinstance(given, tuple) else [given]:
            words += [parameter.opts[0], *([] if value is True else [str(value)])]
    return shlex.join([*words, *output])


def _file_names(options: Any) -> list[str]:
    """Names of the files that a command reads, without folders."""
    files = (options.file, getattr(options, "other", None))
    return [path.name for path in files if path is not None]


def part_taken(trace: Trace, layers: Sequence[int], tokens: int) -> str:
    """What of the file was left out, in a sentence; "" where nothing was."""
    there = len(trace.layer(0))
    parts = []
    if len(layers) < trace.layers:
        parts.append(f"{len(layers)} of {trace.layers} layers")
    if tokens < there:
        parts.append(f"the first {tokens} of {there} tokens of each layer")
    return f"Only {' and '.join(parts)} were taken." if parts else ""


def _named(options: Any) -> dict[str, Path]:
    """Option -> the file that it names."""
    given = {option: getattr(options, field, None) for field, option in WRITTEN.items()}
    return {option: path for option, path in given.items() if path is not None}


def write_figure(path: Path | None, figure: "Figure", width: str) -> None:
    """Write a figure as wide as a page or a column, if a file is named; to stdout as SVG."""
    if path is not None:
        resize(figure, width)
    if path == STDOUT:
        click.echo(drawn(figure, ".svg"), nl=False)
    elif path is not None:
        save(figure, path)


def write_text(path: Path, content: str, option: str) -> None:
    """Write a text to the file that an option names."""
    if path == STDOUT:
        click.echo(content, nl=False)
    else:
        write_whole(path, content, option)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | tuple) else value
