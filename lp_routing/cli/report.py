"""`lp-routing report`: one HTML page to read and to send, with the proof of its numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import click
from torch import Tensor

from lp_routing import scores
from lp_routing.audits import audit
from lp_routing.claims import CLAIMS
from lp_routing.claims.claim import check_all
from lp_routing.cli.commands import report as report_command
from lp_routing.cli.ending import INTERRUPTED
from lp_routing.cli.options import (
    PROBABILITIES,
    first_tokens,
    opened,
    parse_layers,
    parse_routers,
    parse_tokens,
    versions,
)
from lp_routing.cli.output import as_typed, check_outputs, part_taken, write_text
from lp_routing.cli.run import ReportStep, run_steps
from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import stated_problem
from lp_routing.frontier.decide import DecideSettings, decide, layer_record
from lp_routing.problem.bounds import at_most
from lp_routing.problem.problem import RoutingProblem
from lp_routing.report.comparison import Side, comparison_page
from lp_routing.report.decide import DecisionPart, decision_part
from lp_routing.report.document import Attempt, ReportSettings
from lp_routing.report.figures import figures_section
from lp_routing.report.frontier import capacity_result
from lp_routing.report.layer_results import LayerResult, examine_layer
from lp_routing.report.report import ReportParts, worst
from lp_routing.report.report import report as page_of
from lp_routing.routers import Shape
from lp_routing.routers.catalogue import router, router_names
from lp_routing.traces import Trace

DRAWN, CHECKED, CAPACITY = "figures", "claims", "what capacity buys"
DECIDED = "which capacity factor"
"""Names of the steps that are done once, not for each layer."""

FACTORS, KEEP = (1.0, 1.25, 1.5, 2.0, 3.0), 0.99
"""Capacity factors that are compared beside that of the report, and the share to keep: those that
`lp-routing decide` takes where none are given."""

LAYER_S, FIGURES_S, CAPACITY_S, CLAIMS_S, AUDIT_S = 0.3, 2.1, 1.4, 2.0, 1.1
DECIDE_S = 1.3
"""Processor seconds on the sample of examining a layer, the figures, what capacity buys, the claims
for each layer, the audit of a router, and the capacity factor for each layer, by `lp-routing report
-o page.html`, step by step.

They are weights for the estimate of the time left, in which only their ratios count.
"""


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    if options["other"] is None:
        return _report(*opened(ReportOptions, options))
    swapped = options | {"file": options["other"], "other": options["file"]}
    return _compared([opened(ReportOptions, typed) for typed in (options, swapped)])


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`."""

    file: Path | None
    other: Path | None
    axes: str | None
    values: str | None
    output: Path
    routers: str
    k: int
    capacity_factor: float
    layers: str
    tokens: str
    score: str
    seed: int
    times: bool
    dated: str


def _report(options: ReportOptions, trace: Trace) -> int:
    """Run the command; returns the exit status."""
    check_outputs(options)
    asked = _asked(options, trace)
    found, interrupted = _found(*asked)
    page, well = page_of(asked.settings, found)
    write_text(options.output, page, "--output")
    parts = [part_taken(trace, asked.settings.layers, asked.settings.tokens)]
    return _ended(options.output, parts, well, interrupted)


def _compared(both: Sequence[tuple[ReportOptions, Trace]]) -> int:
    """Run the command on two files; returns the exit status."""
    for options, _ in both:
        check_outputs(options)
    every, names = [_asked(*each) for each in both], [each.source for _, each in both]
    sides, interrupted = [], False
    for asked, name in zip(every, _apart(names), strict=True):
        click.echo(f"{name}:", err=True)
        found, ended = _found(*asked, alone=False)
        sides.append(Side(name, asked.settings, found))
        interrupted = interrupted or ended
    page, well = comparison_page((sides[0], sides[1]))
    output = both[0][0].output
    write_text(output, page, "--output")
    parts = [
        part_taken(trace, asked.settings.layers, asked.settings.tokens)
        for (_, trace), asked in zip(both, every, strict=True)
    ]
    return _ended(output, parts, well, interrupted)


def _apart(names: Sequence[str]) -> list[str]:
    """The names of two files without folders; with a letter where they are the same."""
    short = [Path(name).name for name in names]
    return short if short[0] != short[1] else [f"{short[0]} ({letter})" for letter in "AB"]


def _ended(output: Path, parts: Sequence[str], well: bool, interrupted: bool) -> int:
    """Say what was written; returns the exit status."""
    says = f"{'Interrupted. ' if interrupted else ''}written: {output}"
    click.echo(". ".join([says, *filter(None, parts)]), err=True)
    if interrupted:
        return INTERRUPTED
    return 0 if well else 1


class Asked(NamedTuple):
    """What is asked of a file: settings, logits (L, T, E), the sequence of each token."""

    settings: ReportSettings
    logits: Tensor
    sequence: Tensor | None


def _asked(options: ReportOptions, trace: Trace) -> Asked:
    names = parse_routers(options.routers, router_names())
    layers = parse_layers(options.layers, trace.layers)
    logits = first_tokens(trace, parse_tokens(options.tokens))[layers]
    sequence = None if trace.real_sequence is None else trace.real_sequence[: logits.shape[1]]
    return Asked(_settings(options, trace, layers, names, logits), logits, sequence)


def _settings(
    options: ReportOptions, trace: Trace, layers: list[int], names: list[str], logits: Tensor
) -> ReportSettings:
    """The settings of the page; raises on invalid options before any work is done."""
    _, T, E = logits.shape
    worth = scores.named(options.score)(logits[0], None)
    _, shape = stated_problem(worth, "capacity", options.k, options.capacity_factor)
    return ReportSettings(
        name="the sample" if options.file is None else options.file.name,
        layers=tuple(layers),
        tokens=T,
        all_tokens=len(trace.layer(0)),
        experts=E,
        k=options.k,
        capacity_factor=options.capacity_factor,
        capacity=shape.capacity,
        score=options.score,
        routers=tuple(names),
        seed=options.seed,
        timed=options.times,
        command=as_typed(report_command, options, "-o", options.output.name),
        date=date.today().isoformat() if options.dated == "today" else options.dated,
        digest=sha256(logits.double().numpy().tobytes()).hexdigest(),
        versions=versions(),
    )


def _found(
    settings: ReportSettings, logits: Tensor, sequence: Tensor | None, *, alone: bool = True
) -> tuple[ReportParts, bool]:
    """All parts, and whether Ctrl-C came before the last; a failure does not stop the others.

    Not `alone`, those that a comparison does not show are left out.
    """
    done: dict[str, Attempt[Any]] = {}
    names = [f"layer {layer}" for layer in settings.layers]

    def chosen() -> LayerResult | None:
        return worst([r for name in names if (r := done[name].result) is not None])

    steps = [
        ReportStep(name, LAYER_S, partial(_examined, settings, layer, logits[place], sequence))
        for place, (layer, name) in enumerate(zip(settings.layers, names, strict=True))
    ]
    steps += [
        ReportStep(DECIDED, DECIDE_S * len(names), partial(_decided, settings, logits)),
    ]
    if alone:
        steps += [
            ReportStep(DRAWN, FIGURES_S, lambda: figures_section(settings, chosen())),
            ReportStep(CAPACITY, CAPACITY_S, lambda: capacity_result(settings, chosen())),
        ]
    steps += [
        ReportStep(
            CHECKED,
            CLAIMS_S * len(names),
            lambda: check_all(CLAIMS, logits, k=settings.k, seed=settings.seed),
        ),
        *(
            ReportStep(_audit_of(r), AUDIT_S, partial(_audited, settings, chosen, r))
            for r in settings.routers
        ),
    ]
    interrupted = run_steps(steps, done)
    found = ReportParts(
        layers=[done[name] for name in names],
        decision=done[DECIDED],
        figures=done.get(DRAWN, Attempt(None)),
        capacity=done.get(CAPACITY, Attempt(None)),
        claims=done[CHECKED],
        audits={router: done[_audit_of(router)] for router in settings.routers},
    )
    return found, interrupted


def _decided(settings: ReportSettings, logits: Tensor) -> DecisionPart:
    """The capacity factor for all layers (L, T, E) of the report."""
    factors = tuple(sorted({*FACTORS, settings.capacity_factor}))
    asked = DecideSettings(settings.k, settings.score, factors, KEEP)
    place = {layer: i for i, layer in enumerate(settings.layers)}

    def run(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
        placed = [{**point, "layer": place[point["layer"]]} for point in points]
        return [layer_record(point, logits=logits, settings=asked) for point in placed]

    _, T, E = logits.shape
    return decision_part(lambda: decide(settings.layers, (T, E), asked, run))


def _audit_of(router: str) -> str:
    return f"audit of {router}"


def _problem(settings: ReportSettings, logits: Tensor) -> tuple[RoutingProblem, Shape]:
    worth = scores.named(settings.score)(logits, None)
    return stated_problem(worth, "capacity", settings.k, settings.capacity_factor)


def _examined(
    settings: ReportSettings, layer: int, logits: Tensor, sequence: Tensor | None
) -> LayerResult:

    problem, shape = _problem(settings, logits)
    repeats = 5 if settings.timed else 1
    return examine_layer(
        layer,
        logits,
        problem,
        shape,
        settings.routers,
        sequence=sequence,
        up_to_a_constant=settings.score == PROBABILITIES,
        seed=settings.seed,
        repeats=repeats,
    )


def _audited(settings: ReportSettings, chosen: Callable[[], LayerResult | None], name: str) -> Any:
    """The findings of a router on the layer of the figures."""
    each = chosen()
    if each is None:
        raise InputError("no layer could be examined.")
    bounds = RoutingProblem(each.logits, experts=at_most(settings.capacity))
    built = router(name, each.shape, seed=settings.seed)
    return audit(built, each.logits, problem=bounds, sequence=each.sequence)
