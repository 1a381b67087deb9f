"""`lp-routing gap`: how far each router is from the optimum of one problem, and what it costs.

Routers are judged by one problem for all, or each by the problem that it seeks itself. The work is
one point for each layer and problem; the results are one table over the layers for each problem.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from rich.console import Console
from torch import Tensor

from lp_routing.cli.commands import OWN, PROBLEMS
from lp_routing.cli.options import (
    first_tokens,
    opened,
    parse_layers,
    parse_routers,
    parse_tokens,
)
from lp_routing.cli.output import (
    check_outputs,
    console_for,
    part_taken,
    print_input,
    write_csv,
    write_figure,
    write_json,
)
from lp_routing.cli.run import long_work, raise_failures
from lp_routing.errors import InputError
from lp_routing.evaluation.compare import OPTIMUM, comparisons
from lp_routing.evaluation.evaluate import RouterResult, stated_problem
from lp_routing.report.gap import (
    LAYER_LEGEND,
    LEGEND,
    gap_table,
    summary_sentences,
    summary_table,
    verdict,
)
from lp_routing.report.plots import gap_against_time
from lp_routing.routers import router
from lp_routing.routers.base import Rule
from lp_routing.routers.catalogue import ANY_SHAPE, router_names
from lp_routing.scores import BY_NAME
from lp_routing.traces import Trace

WIDE = 100
"""Columns of a terminal from which the table shows all metrics of the load."""


class GapSection(NamedTuple):
    """A problem, the scores that it is stated with, and the routers that it judges."""

    problem: str
    score: str
    routers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.problem} of {self.score} scores"


Place = tuple[int, GapSection]


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, trace = opened(GapOptions, options)
    _gap(console_for(given), given, trace)
    return 0


@dataclass(frozen=True)
class GapOptions:
    """Options of `gap`."""

    file: Path | None
    routers: str | None
    problem_name: str
    k: int
    capacity_factor: float
    layers: str
    tokens: str
    score: str
    repeats: int
    warm_up: int
    warm_on: int
    seed: int
    by_layer: bool
    json_path: Path | None
    csv_path: Path | None
    plot_path: Path | None
    width: str
    jobs: int
    resume_path: Path | None


def _gap(console: Console, options: GapOptions, trace: Trace) -> None:
    """Run the command and print its results."""
    check_outputs(options)
    names = _names(options)
    layers = parse_layers(options.layers, trace.layers)
    tokens = len(trace.layer(layers[0])[: parse_tokens(options.tokens)])
    sections, idle = sections_of(names, options.problem_name, options.score)
    _check_numbers(trace, layers[0], sections, options)
    shape = len(layers), tokens, trace.router_logits.shape[2]
    own = options.problem_name == OWN  # each router by its own scores
    said = replace(options, score="") if own else options
    print_input(console, trace, shape, said, f"problem: {options.problem_name}, ")
    if idle:
        console.print(f"Seek no named problem, not judged: {'; '.join(idle)}.", highlight=False)

    def show(place: Place, rows: Sequence[RouterResult]) -> None:
        layer, section = place
        if options.by_layer:
            title = f"Layer {layer}, {section}"
            console.print(gap_table(title, rows, wide=console.width >= WIDE))
            console.print(f"{title}, {verdict(rows)}", highlight=False, markup=False)

    places = [(layer, section) for layer in layers for section in sections]
    of_rows = ("k", "capacity_factor", "repeats", "warm_up", "warm_on", "seed")
    found: dict[Place, list[RouterResult]] = {}
    try:
        measure(
            console,
            trace,
            places,
            show,
            found,
            tokens=parse_tokens(options.tokens),
            resume_path=options.resume_path,
            jobs=options.jobs,
            **{name: getattr(options, name) for name in of_rows},
        )
    finally:  # after Ctrl-C or a failure, what there is
        _show_tables(console, sections, found, options)
    _write(found, trace.source, options)
    if options.plot_path is not None:
        panels: dict[str, list[RouterResult]] = {}
        for (_, section), rows in found.items():
            panels.setdefault(f"{trace.source}: {section}", []).extend(rows)
        asked = (
            f"{len(layers)} layer(s), {tokens:,} tokens, {trace.router_logits.shape[2]} experts, "
            f"k = {options.k}, capacity factor {options.capacity_factor:g}"
        )
        titled = {f"{title}, {asked}": rows for title, rows in panels.items()}
        write_figure(options.plot_path, gap_against_time(titled), options.width)
    if part := part_taken(trace, layers, tokens):
        console.print(part, highlight=False)


def _show_tables(
    console: Console,
    sections: Sequence[GapSection],
    found: Mapping[Place, list[RouterResult]],
    options: GapOptions,
) -> None:
    """One table over the layers for each problem, what it says in words, and a legend."""
    for section in sections:
        of_layers = {layer: rows for (layer, each), rows in found.items() if each == section}
        if not of_layers:
            continue
        title = str(section) if options.problem_name == OWN else section.problem
        wide = console.width >= WIDE
        console.print(summary_table(title, section.problem, of_layers, wide=wide))
        for sentence in summary_sentences(of_layers):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if found:
        legend = f"{LEGEND} {LAYER_LEGEND}" if options.by_layer else LEGEND
        console.print(legend, style="dim", highlight=False)
    _tracebacks(found)


def _names(options: GapOptions) -> list[str]:
    """The routers: those that are named, else those that seek the problem."""
    if options.routers is not None:
        return parse_routers(options.routers, (OPTIMUM, *router_names()))
    wanted = PROBLEMS if options.problem_name == OWN else (options.problem_name,)
    seeking = [name for name in router_names() if _seeks(router(name, ANY_SHAPE)) in wanted]
    return [OPTIMUM, *seeking]


def _seeks(built: Any) -> str:
    """The problem that a router seeks; "" where a router of the user does not say."""
    stated = getattr(built, "seeks", "")
    return stated if isinstance(stated, str) else ""


def _tracebacks(found: Mapping[Place, Sequence[RouterResult]]) -> None:
    """Print where routers raised errors of their own, each error once, on stderr."""
    raised = {row.router: row.traceback for rows in found.values() for row in rows if row.traceback}
    for name, traceback in raised.items():
        if not traceback.rstrip().rpartition("\n")[2].startswith("lp_routing.errors.InputError"):
            click.echo(f"{name} raised:\n{traceback}", err=True)


def _check_numbers(
    trace: Trace, layer: int, sections: Sequence[GapSection], options: GapOptions
) -> None:
    """Validate numbers before anything is printed or measured."""
    all_tokens = trace.layer(layer)
    logits = all_tokens[: parse_tokens(options.tokens)]
    most = len(all_tokens) // len(logits) - 1
    if options.warm_on > most:
        raise InputError(
            f"--warm-on {options.warm_on}: {len(logits)} of {len(all_tokens)} tokens leave {most} "
            f"more batches of that size; give --warm-on {most} or less, or fewer --tokens."
        )
    if options.warm_on and options.warm_up:
        raise InputError("--warm-on and --warm-up: give one of the two.")
    for section in sections:
        stated_problem(
            BY_NAME[section.score](logits, None),
            section.problem,
            options.k,
            options.capacity_factor,
        )


def sections_of(
    names: Sequence[str], problem_name: str, score: str
) -> tuple[list[GapSection], list[str]]:
    """The problems with their routers, and the routers that seek no problem.

    One problem for all routers; or, with `own`, for each the problem that it seeks."""
    if problem_name != OWN:
        return [GapSection(problem_name, score, tuple(names))], []
    seeking: dict[tuple[str, str], list[str]] = {}
    idle = []
    for name in names:
        if name == OPTIMUM:
            continue
        built = router(name, ANY_SHAPE)
        if _seeks(built) in PROBLEMS:
            where = built.seeks, own_score(built) or score
            seeking.setdefault(where, []).append(name)
        else:
            idle.append(name)
    if not seeking:
        raise InputError(
            f"--problem {OWN}: none of the routers seeks a problem: {'; '.join(names)}."
        )
    first = (OPTIMUM,) if OPTIMUM in names else ()
    order = sorted(seeking, key=lambda where: PROBLEMS.index(where[0]))
    return [GapSection(*where, (*first, *seeking[where])) for where in order], idle


def own_score(router: Any) -> str:
    """The name of the scores that a router compares, "" where they have none (soft top-k).

    Without noise that it adds to them: it is judged by the scores before noise.
    """
    stated = getattr(router, "score", None)
    if isinstance(stated, str):
        return stated
    if not isinstance(router, Rule):
        return ""
    probe = torch.linspace(-2.0, 2.0, 64).view(8, 8)
    compared = router.scores(probe)
    return next((name for name, score in BY_NAME.items() if score(probe, None).equal(compared)), "")


def measure(
    console: Console,
    trace: Trace,
    places: Sequence[Place],
    show: Callable[[Place, list[RouterResult]], None],
    found: dict[Place, list[RouterResult]],
    *,
    tokens: int | None,
    resume_path: Path | None,
    jobs: int,
    **options: Any,
) -> None:
    """Fill in the rows of each layer and problem, in order, as soon as available.

    Where some fail, the others are still there, and the command ends with an error.

    Args:
        console: where progress is shown.
        trace: the logits.
        places: layers and their sections.
        show: called with each place and its rows.
        found: where they go.
        tokens: how many of each layer, None for all.
        resume_path, jobs: of the sweep.
        options: `section_rows`'s own: k, capacity_factor, repeats, warm_up, warm_on, seed.
    """
    every = None if tokens is None else tokens * (1 + options["warm_on"])
    logits = first_tokens(trace, every)
    task = partial(
        section_rows,
        logits=logits,
        tokens=tokens or logits.shape[1],
        up_to_a_constant=trace.up_to_a_constant,
        **options,
    )
    points = [{"layer": layer, **section._asdict()} for layer, section in places]

    def show_record(number: int, record: Mapping[str, Any]) -> None:
        if "rows" in record:
            found[places[number]] = [RouterResult.from_record(row) for row in record["rows"]]
            show(places[number], found[places[number]])

    records = long_work(
        console, task, points, "measuring", path=resume_path, jobs=jobs, show=show_record
    )
    names = [f"(Layer {layer}, {section}, of {trace.source}.)" for layer, section in places]
    raise_failures(records, names)


def section_rows(
    point: Mapping[str, Any],
    *,
    logits: Tensor,
    tokens: int,
    up_to_a_constant: bool,
    k: int,
    capacity_factor: float,
    repeats: int,
    warm_up: int,
    warm_on: int,
    seed: int,
) -> dict[str, Any]:
    """The rows of one layer of logits (L, T, E) and one problem, as records.

    The first `tokens` of the layer are judged; routers with a state first see `warm_on` batches of
    the tokens that follow. Logits known only up to a constant are derived from the scores, so that
    routers that depend on the constant are not judged.
    """
    every = logits[point["layer"]]
    layer, *others = (every[first : first + tokens] for first in range(0, len(every), tokens))
    worth = BY_NAME[point["score"]](layer, None)
    problem, shape = stated_problem(worth, point["problem"], k, capacity_factor)
    rows = comparisons(
        problem,
        list(point["routers"]),
        logits=None if up_to_a_constant else layer,
        repeats=repeats,
        warm_up=warm_up,
        warm_on=others[:warm_on] or None,
        seed=seed,
        shape=shape,
    )
    return {"rows": [{**row.as_record(), "traceback": row.traceback} for row in rows]}


def _write(found: Mapping[Place, Sequence[RouterResult]], source: str, options: GapOptions) -> None:
    """Write the rows as JSON and as CSV, to the files that are named."""
    records = [
        {"layer": layer, "scores": section.score, **row.as_record()}
        for (layer, section), rows in found.items()
        for row in rows
    ]
    write_json(options, source, {"rows": records})
    write_csv(options.csv_path, records)
