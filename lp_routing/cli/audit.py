"""`lp-routing audit`: run every audit on some routers, on the logits of a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from lp_routing.audits import Finding
from lp_routing.audits import audit as audited
from lp_routing.cli.options import (
    check_writable,
    opened,
    parse_layers,
    parse_routers,
    parse_tokens,
    versions,
)
from lp_routing.cli.run import OutputConsole
from lp_routing.errors import InputError
from lp_routing.files import write_whole
from lp_routing.problem.bounds import at_most
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.problem import RoutingProblem
from lp_routing.report.audits import LEGEND, audit_tables, sentences
from lp_routing.routers.catalogue import CATALOGUE, Shape, router
from lp_routing.traces import Trace
from lp_routing.validation import as_int


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    _audit(OutputConsole(), *opened(AuditOptions, options))
    return 0


@dataclass(frozen=True)
class AuditOptions:
    """Options of `audit`."""

    file: Path | None
    routers: str
    k: int
    capacity_factor: float
    layers: str
    tokens: str
    json_path: Path | None


def _audit(console: Console, options: AuditOptions, trace: Trace) -> None:

    check_writable(options.json_path, options.file)
    names = parse_routers(options.routers, tuple(CATALOGUE))
    layers, most = parse_layers(options.layers, trace.layers), parse_tokens(options.tokens)
    sequence = None if trace.real_sequence is None else trace.real_sequence[:most]
    found = {}
    for layer in layers:
        logits = trace.layer(layer)[:most]
        if layer == layers[0]:
            T, E = logits.shape
            console.print(
                f"[bold]{escape(trace.source)}[/bold]: {len(layers)} layer(s), {T} of "
                f"{len(trace.layer(layer))} tokens, {E} experts; k={options.k}, capacity factor "
                f"{options.capacity_factor:g}.",
                highlight=False,
            )
        try:
            found[layer] = _of_layer(console, logits, sequence, names, layer, options)
        except InputError as error:
            raise InputError(f"{error} (Layer {layer} of {trace.source}.)") from error
    for layer, findings in found.items():
        for table in audit_tables(layer, findings):
            console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for layer, findings in found.items():
        for line in sentences(layer, findings):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if options.json_path is not None:
        content = json.dumps(_as_json(found, trace.source, options, T), allow_nan=False, indent=1)
        write_whole(options.json_path, content + "\n", "--json")


def _of_layer(
    console: Console,
    logits: Tensor,
    sequence: Tensor | None,
    names: list[str],
    layer: int,
    options: AuditOptions,
) -> dict[str, list[Finding]]:
    """The findings of each router on logits (T, E), with progress printed router by router."""
    T, E = logits.shape
    k = as_int(options.k, "k", 1, E, "E, the number of experts")
    capacity = CapacityFactor(options.capacity_factor).of(T, E, k)
    problem = RoutingProblem(logits, experts=at_most(capacity))
    found = {}
    with console.status("auditing ...") as status:
        for number, name in enumerate(names, 1):
            status.update(f"auditing layer {layer}: {name} ...")
            built = router(name, Shape(k, capacity, T, E))
            found[name] = audited(built, logits, problem=problem, sequence=sequence)
            if not console.is_terminal:
                place = f"layer {layer}, {name}"
                click.echo(f"{number} of {len(names)} audited: {place}", err=True)
    return found


def _as_json(
    found: dict[int, dict[str, list[Finding]]], source: str, options: AuditOptions, tokens: int
) -> dict[str, Any]:

    return {
        "findings": [
            {"layer": layer, "router": name, **finding.as_json()}
            for layer, by_router in found.items()
            for name, findings in by_router.items()
            for finding in findings
        ],
        "versions": versions(),
        "source": source,
        "options": {
            "routers": list(next(iter(found.values()))),
            "k": options.k,
            "capacity_factor": options.capacity_factor,
            "tokens": tokens,
        },
    }
