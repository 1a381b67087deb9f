"""`lp-routing audit`: run every audit on some routers, on the logits of a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from lp_routing.audits import Finding
from lp_routing.audits import audit as audited
from lp_routing.audits.probe import Example
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
    write_json,
)
from lp_routing.cli.run import long_work, raise_failures
from lp_routing.problem.bounds import at_most
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.problem import RoutingProblem
from lp_routing.report.audits import LEGEND, audit_tables, sentences
from lp_routing.routers.catalogue import Shape, router, router_names
from lp_routing.traces import Trace
from lp_routing.validation import as_int


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, trace = opened(AuditOptions, options)
    _audit(console_for(given), given, trace)
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
    csv_path: Path | None
    jobs: int
    resume_path: Path | None


def _audit(console: Console, options: AuditOptions, trace: Trace) -> None:
    """Run the command and print its results."""
    check_outputs(options)
    names = parse_routers(options.routers, router_names())
    layers, most = parse_layers(options.layers, trace.layers), parse_tokens(options.tokens)
    logits = first_tokens(trace, most)
    _, T, E = logits.shape
    k = as_int(options.k, "k", 1, E, "E, the number of experts")
    capacity = CapacityFactor(options.capacity_factor).of(T, E, k)
    print_input(console, trace, (len(layers), T, E), options)
    sequence = None if trace.real_sequence is None else trace.real_sequence[:most]
    task = partial(findings_of, logits=logits, sequence=sequence, shape=Shape(k, capacity, T, E))
    places = [(layer, name) for layer in layers for name in names]
    points = [{"layer": layer, "router": name} for layer, name in places]
    path, jobs = options.resume_path, options.jobs
    records = long_work(console, task, points, "auditing", path=path, jobs=jobs)
    raise_failures(records, [f"({name}, layer {layer}.)" for layer, name in places])
    found: dict[int, dict[str, list[Finding]]] = {layer: {} for layer in layers}
    for (layer, name), record in zip(places, records, strict=True):
        found[layer][name] = [_finding(each) for each in record["findings"]]
    for layer, findings in found.items():
        for table in audit_tables(layer, findings):
            console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for layer, findings in found.items():
        for line in sentences(layer, findings):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    rows = [
        {"layer": layer, "router": name, **finding.as_json()}
        for layer, by_router in found.items()
        for name, of_router in by_router.items()
        for finding in of_router
    ]
    write_json(options, trace.source, {"findings": rows}, routers=names, tokens=T)
    write_csv(options.csv_path, rows)
    if part := part_taken(trace, layers, T):
        console.print(part, highlight=False)


def findings_of(
    point: Mapping[str, Any], *, logits: Tensor, sequence: Tensor | None, shape: Shape
) -> dict[str, Any]:
    """What the audits find of one router on one layer of logits (L, T, E), as JSON values."""
    layer = logits[point["layer"]]
    problem = RoutingProblem(layer, experts=at_most(shape.capacity))
    found = audited(router(point["router"], shape), layer, problem=problem, sequence=sequence)
    return {"findings": [asdict(finding) for finding in found]}


def _finding(record: Mapping[str, Any]) -> Finding:
    """A finding from its JSON values, in which tuples are lists."""
    told = record["example"]
    example = told and Example(**{name: tuple(values) for name, values in told.items()})
    return Finding(**{**record, "example": example})
