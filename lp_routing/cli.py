"""The `lp-routing` command."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lp_routing.errors import InputError

PACKAGES = ("lp-routing", "torch", "numpy", "scipy", "highspy", "cvxpy", "clarabel")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lp-routing")
def main() -> None:
    """Certify Mixture-of-Experts routers against the exact optimum of their assignment problem."""


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--k", default=2, show_default=True, help="Experts per token.")
@click.option(
    "--capacity-factor",
    default=1.25,
    show_default=True,
    help="Capacity of the `capacity` problem, relative to an equal share.",
)
@click.option(
    "--layers", default="all", show_default=True, help='Which layers, e.g. "0,2" or "0-3".'
)
@click.option(
    "--tokens",
    default="1024",
    show_default=True,
    help='How many tokens of each layer, from the first; "all" takes every one (slower).',
)
@click.option(
    "--score",
    type=click.Choice(["softmax", "sigmoid", "unified", "logits"]),
    default="softmax",
    show_default=True,
    help="How logits become scores.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write the rows here."
)
@click.option(
    "--jobs", default=None, type=click.IntRange(1), help="Processes; all cores if left out."
)
def verify(
    file: Path | None,
    k: int,
    capacity_factor: float,
    layers: str,
    tokens: str,
    score: str,
    json_path: Path | None,
    jobs: int | None,
) -> None:
    """Prove the optimum of every named problem and measure the quick rules against it.

    FILE holds router logits: .npz, .npy, .safetensors or .pt, with the key `router_logits` [layers,
    tokens, experts] or [tokens, experts]. Without FILE, the sample that ships with the package.

    Exit status: 0 when all that claims exactness is exact, 1 when something is not, 2 on bad input.
    """
    console = Console()
    try:
        proved = _verify(console, file, k, capacity_factor, layers, tokens, score, json_path, jobs)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    sys.exit(0 if proved else 1)


def _verify(
    console: Console,
    file: Path | None,
    k: int,
    capacity_factor: float,
    layers: str,
    tokens: str,
    score: str,
    json_path: Path | None,
    jobs: int | None,
) -> bool:
    with console.status("loading torch and the solvers ..."):
        from lp_routing import scores, traces
        from lp_routing.report.verify_table import LEGEND, layer_tables, verdict
        from lp_routing.verify import cases, examine_all, refuted, rows_as_json

    _check_writable(json_path)
    trace = traces.sample() if file is None else traces.read(file)
    todo = []
    for layer in parse_layers(layers, trace.layers):
        logits = trace.layer(layer)[: parse_tokens(tokens)]
        try:
            todo += cases(layer, scores.named(score)(logits, None), k, capacity_factor)
        except InputError as error:
            raise InputError(f"{error} (Layer {layer} of {trace.source}.)") from error
    T, E = todo[0].problem.scores.shape
    console.print(
        f"[bold]{escape(trace.source)}[/bold]: {len({case.layer for case in todo})} layer(s), "
        f"{T} of {len(trace.layer(0))} tokens, {E} experts; "
        f"k={k}, capacity factor {capacity_factor:g}, scores: {score}.",
        highlight=False,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("solving each problem twice", total=len(todo))
        outcomes = examine_all(
            todo, min(jobs or os.cpu_count() or 1, len(todo)), lambda _: progress.advance(task)
        )
    for table in layer_tables(outcomes):
        console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    console.print(verdict(outcomes), highlight=False, soft_wrap=True)
    if json_path is not None:
        content = {
            "rows": list(rows_as_json(outcomes)),
            "findings": [vars(f) for outcome in outcomes for f in outcome.findings],
            "versions": versions(),
            "source": trace.source,
            "options": {
                "k": k, "capacity_factor": capacity_factor, "score": score, "tokens": T,
            },
        }  # fmt: skip
        json_path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return not refuted(outcomes)


def parse_layers(text: str, count: int) -> list[int]:
    """`all`, `0,2` or `0-3` as layer numbers below `count`."""
    if text.strip().lower() == "all":
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last.isdecimal() or not last):
            raise InputError(f'--layers {text}: expected "all", "0,2" or "0-3".')
        if int(last or first) >= count or int(first) > int(last or first):
            raise InputError(f"--layers {text}: this file has the layers 0 to {count - 1}.")
        chosen += range(int(first), int(last or first) + 1)
    if not chosen:
        raise InputError(f"--layers {text}: this file has the layers 0 to {count - 1}.")
    return sorted(set(chosen))


def parse_tokens(text: str) -> int | None:
    """`all` as None, else a number of tokens >= 1."""
    if text.strip().lower() == "all":
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f'--tokens {text}: expected "all" or a whole number >= 1.')
    return int(text)


def versions() -> dict[str, str]:
    """Versions of this package and of everything a number depends on."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _check_writable(path: Path | None) -> None:
    """Find out before the work, not after it, that the result cannot be written."""
    if path is None:
        return
    try:
        existed = path.exists()
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror}).") from error
