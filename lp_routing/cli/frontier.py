"""`lp-routing frontier`: what a budget buys, what a unit more is worth, and routers beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from rich.console import Console
from torch import Tensor

from lp_routing.cli.options import (
    PROBABILITIES,
    first_tokens,
    opened,
    parse_factors,
    parse_layers,
    parse_routers,
    parse_tokens,
)
from lp_routing.cli.output import (
    STDOUT,
    check_outputs,
    check_writable,
    console_for,
    part_taken,
    print_input,
    write_csv,
    write_figure,
    write_json,
)
from lp_routing.cli.run import long_work, raise_failures
from lp_routing.errors import InputError
from lp_routing.evaluation.compare import router_input
from lp_routing.frontier.summary import FrontierSettings, curve_of, points_file, summary
from lp_routing.report import plots
from lp_routing.report.frontier import LEGEND, frontier_table, sentences
from lp_routing.routers import router
from lp_routing.routers.catalogue import ANY_SHAPE, router_names
from lp_routing.sweep import Record
from lp_routing.traces import Trace

HANDFULS = {
    "total": ("token-choice", "unified-probability"),
    "capacity": ("drop-by-score", "drop-token-major"),
    "k": ("drop-by-score", "drop-token-major"),
    "layers": ("token-choice", "unified-probability"),
}
"""Budget -> default routers."""


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, trace = opened(FrontierOptions, options)
    _frontier(console_for(given), given, trace)
    return 0


@dataclass(frozen=True)
class FrontierOptions:
    """Options of `frontier`."""

    file: Path | None
    over: str
    k: int
    capacity_factor: float
    score: str
    layers: str
    tokens: str
    points: str
    routers: str | None
    seed: int
    json_path: Path | None
    csv_path: Path | None
    plot_path: Path | None
    width: str
    jobs: int
    resume_path: Path | None


def _frontier(console: Console, options: FrontierOptions, trace: Trace) -> None:
    """Run the command and print its results."""
    settings = _settings(options)
    check_outputs(options)
    together = settings.over == "layers"
    layers = parse_layers(options.layers, trace.layers)
    places = [layers] if together else [[layer] for layer in layers]
    drawn = _plot_paths(options, places)
    logits = first_tokens(trace, parse_tokens(options.tokens))
    settings.check(logits[layers])
    settings = _judged(settings, logits[layers])
    shape = len(layers), *logits.shape[1:]
    print_input(console, trace, shape, options, f"over {settings.over}, ")

    def show(name: str, record: Record) -> None:
        console.print(frontier_table(name, settings.over, record))
        for sentence in sentences(settings.over, settings.k, record):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    found = _found(console, logits, places, settings, options, show)
    console.print(LEGEND, style="dim", highlight=False)
    frontiers = [{"of": name, **record} for name, record in found.items()]
    write_json(options, trace.source, {"frontiers": frontiers})
    points = [{"of": name, **point} for name, record in found.items() for point in record["points"]]
    write_csv(options.csv_path, points)
    for path, place, (name, record) in zip(drawn, places, found.items(), strict=False):
        curve = curve_of(record, logits[place], settings)
        title = _title(trace.source, name, logits, settings)
        write_figure(path, _figure(title, curve, record, settings), options.width)
    if part := part_taken(trace, layers, logits.shape[1]):
        console.print(part, highlight=False)


def _found(
    console: Console,
    logits: Tensor,
    places: Sequence[Sequence[int]],
    settings: FrontierSettings,
    options: FrontierOptions,
    show: Callable[[str, Record], None],
) -> dict[str, Record]:
    """Layer (or all layers) -> its summary; printed in order as soon as available."""
    names = [_name(layers, settings) for layers in places]

    def show_record(number: int, record: Record) -> None:
        if "points" in record:
            show(names[number], record)

    path, jobs = options.resume_path, options.jobs
    question = partial(summary, logits=logits, settings=settings)
    records = long_work(
        console,
        partial(question, records=path),
        places,
        "solving",
        path=path,
        jobs=jobs,
        show=show_record,
        question=question,
    )
    raise_failures(records, [f"({name}.)" for name in names])
    if path is not None:
        for layers in places:
            points_file(path, layers).unlink(missing_ok=True)
    return dict(zip(names, records, strict=True))


def _name(layers: Sequence[int], settings: FrontierSettings) -> str:
    return f"{len(layers)} layers" if settings.over == "layers" else f"Layer {layers[0]}"


def _settings(options: FrontierOptions) -> FrontierSettings:
    """The options that all layers share, checked as far as possible without the logits."""
    if options.routers is None:
        names = list(HANDFULS[options.over])
    else:
        given = [part for part in options.routers.split(",") if part.strip().lower() != "none"]
        names = parse_routers(",".join(given), router_names()) if given else []
    points, factors = _points(options)
    return FrontierSettings(
        over=options.over,
        k=options.k,
        capacity_factor=options.capacity_factor,
        score=options.score,
        points=points,
        routers=tuple(names),
        seed=options.seed,
        factors=factors,
    )


def _points(options: FrontierOptions) -> tuple[int | None, tuple[float, ...]]:
    """How many budgets, None for every one; and the capacity factors where these are given."""
    text = options.points.strip().lower()
    if text == "all":
        return None, ()
    if "," in text or "." in text:
        if options.over != "capacity":
            raise InputError(
                f"--points {options.points}: factors are of a capacity; give --over capacity."
            )
        return None, parse_factors(options.points, "--points")
    if not text.isdecimal() or int(text) < 2:
        raise InputError(
            f'--points {options.points}: expected "all", a whole number >= 2, or capacity factors '
            f'such as "1,1.25,1.5".'
        )
    return int(text), ()


def _judged(settings: FrontierSettings, logits: Tensor) -> FrontierSettings:
    """Settings without the routers that cannot be called on probabilities; names them on stderr."""
    if settings.score != PROBABILITIES:
        return settings
    given = router_input(None, settings.worth(logits).flatten(0, 1))
    kept = []
    for name in settings.routers:
        refusal = given.refusal(router(name, ANY_SHAPE))
        if refusal:
            click.echo(f"Warning: {name} is left out: {refusal}.", err=True)
        else:
            kept.append(name)
    return replace(settings, routers=tuple(kept))


def _plot_paths(options: FrontierOptions, places: Sequence[Sequence[int]]) -> list[Path]:
    """A file for each figure: the one that is named; with several layers, one name for each."""
    path = options.plot_path
    if path is None or len(places) == 1:
        return [] if path is None else [path]
    if path == STDOUT:
        raise InputError(f"--plot -: there are {len(places)} figures; give one of the --layers.")
    paths = [path.with_stem(f"{path.stem}-layer-{layers[0]}") for layers in places]
    for each in paths:
        check_writable(each, options.file, "--plot")
    return paths


def _figure(title: str, curve: Any, record: Record, settings: FrontierSettings) -> Any:
    """The curve of a record with its routers."""
    routers = [SimpleNamespace(**each) for each in record["routers"]]
    at = record["answers"]["at"]
    share = record["share"]
    return plots.frontier(curve, routers, over=settings.over, title=title, in_use=at, share=share)


def _title(source: str, name: str, logits: Tensor, settings: FrontierSettings) -> str:
    """What the figure is of: file, layer, tokens, experts, k, and the factor in use."""
    _, T, E = logits.shape
    asked = f"{T:,} tokens, {E:,} experts, k = {settings.k}, {settings.score} scores"
    if settings.over in ("capacity", "k"):
        asked += f", capacity factor {settings.capacity_factor:g}"
    return f"{source}: {name}, {asked}"
