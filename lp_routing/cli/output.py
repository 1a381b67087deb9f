"""Where results go: tables on the terminal; JSON, CSV and figures to files, or "-" for stdout."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from lp_routing import files
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
    "html_path": "--html",
}
"""Field of a command's options -> the option that names a file to write."""

PATHS = ("file", "other", "logits", "resume_path", *WRITTEN)
"""Options that results do not repeat: paths on this machine."""


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


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write results as JSON, if a file is named."""
    if path is not None:
        write_text(path, json.dumps(content, allow_nan=False, indent=1) + "\n", "--json")


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
