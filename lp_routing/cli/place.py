"""`lp-routing place`: how many replicas of each expert, and on which device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from rich.markup import escape
from torch import Tensor

from lp_routing import traces
from lp_routing.cli.options import (
    first_tokens,
    opened,
    parse_layers,
    parse_tokens,
    warnings_on_stderr,
)
from lp_routing.cli.output import (
    check_outputs,
    console_for,
    part_taken,
    write_csv,
    write_json,
)
from lp_routing.errors import InputError
from lp_routing.extensions.placement import (
    Placement,
    greedy_placement,
    placement,
    running_mean,
    searched_placement,
)
from lp_routing.extensions.replicas import spread
from lp_routing.report.document import percent, terminal_table
from lp_routing.routers.selection import largest
from lp_routing.traces.formats import BARE, kind_of, load

KEYS = ("loads", "expert_loads", "expert_load", "tokens_per_expert")
"""Keys of a file of loads."""
LEGEND = (
    "Loads of the fullest device over the mean load of a device. as is: experts in their order, "
    "without replicas. EPLB: its greedy rule. exchanges: that, then exchanges between devices. "
    "search: branch and bound. split: the tokens of each expert split among its replicas by the "
    "linear program of LPLB, on the last placement. bound: no placement is below. gap: of the last "
    "placement."
)


@dataclass(frozen=True)
class PlaceOptions:
    """Options of `place`."""

    file: Path | None
    holds: str
    k: int
    layers: str
    tokens: str
    devices: int
    slots: int
    decay: float
    search_s: float
    json_path: Path | None
    csv_path: Path | None


class Placed(NamedTuple):
    """A layer's placements by each rule, in loads over the mean load of a device."""

    layer: str
    peaks: dict[str, float]
    bound: float
    gap: float
    seconds: float
    found: Placement


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, (loads, names, source, part) = _loads(options)
    check_outputs(given)
    console = console_for(given)
    layers = parse_layers(given.layers, len(loads))
    E = loads.shape[1]
    rows = [_placed(names[layer], loads[layer], given) for layer in layers]
    console.print(
        f"[bold]{escape(source)}[/bold]: {len(layers)} of {len(loads)} layer(s), {E} experts; "
        f"{given.devices} devices of {given.slots} slots, "
        f"{given.devices * given.slots - E} replicas more than experts.",
        highlight=False,
        soft_wrap=True,
    )
    table = terminal_table("Fullest device over the mean")
    table.add_column("layer")
    for name in (*rows[0].peaks, "bound", "gap", "ms"):
        table.add_column(name, justify="right")
    for row in [*rows, *([_mean(rows)] if len(rows) > 1 else [])]:
        numbers = [f"{peak:.3f}" for peak in (*row.peaks.values(), row.bound)]
        table.add_row(row.layer, *numbers, percent(row.gap), f"{1000 * row.seconds:.0f}")
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    records = [_record(row) for row in rows]
    write_json(given, source, {"layers": records})
    write_csv(given.csv_path, records)
    if part:
        console.print(part, highlight=False)
    return 0


class Loads(NamedTuple):
    """Loads (L, E) with the names of layers, their source, and what of it was left out."""

    loads: Tensor
    names: Sequence[str]
    source: str
    part: str = ""


def _loads(typed: dict[str, Any]) -> tuple[PlaceOptions, Loads]:
    """Options, and the loads that FILE holds or gives."""
    holds = typed["holds"]
    if holds == "logits":
        options, trace = opened(PlaceOptions, {**typed, "axes": None, "values": None})
        logits = first_tokens(trace, parse_tokens(options.tokens))
        loads = torch.stack([largest(layer, options.k).sum(0) for layer in logits])
        taken = parse_layers(options.layers, trace.layers)
        part = part_taken(trace, taken, logits.shape[1])
        return options, Loads(loads, [str(i) for i in range(len(loads))], trace.source, part)
    options = PlaceOptions(**{**typed, "k": typed["k"] or 0})
    if options.file is None:
        raise InputError(f"--holds {holds}: name the FILE that holds them.")
    if holds == "choices":
        with warnings_on_stderr():
            choices = traces.read_choices(options.file)
        return options, Loads(choices.loads(), choices.layer_names, choices.source)
    loads = _from_file(options)
    return options, Loads(loads, [str(i) for i in range(len(loads))], str(options.file))


def _from_file(options: PlaceOptions) -> Tensor:
    """Loads (L, E); of several steps (N, L, E) their running mean."""
    path = options.file
    assert path is not None
    content = load(path, KEYS, kind=kind_of(path))
    names = [name for name in content if name in KEYS or name == BARE]
    if len(names) != 1 or not isinstance(content[names[0]], Tensor):
        raise InputError(f"{path}: expected loads under one of the keys {', '.join(KEYS)}.")
    loads: Tensor = content[names[0]]
    if loads.ndim == 3:
        return running_mean(loads, options.decay)
    if loads.ndim != 2 or not loads.numel():
        raise InputError(
            f"{path}: expected loads [layers, experts] or [steps, layers, experts], got shape "
            f"{tuple(loads.shape)}."
        )
    return loads


def _placed(layer: str, loads: Tensor, options: PlaceOptions) -> Placed:
    D, S, E = options.devices, options.slots, len(loads)
    rules: dict[str, Callable[..., Placement]] = {
        "EPLB": greedy_placement,
        "exchanges": placement,
    }
    if options.search_s:
        rules["search"] = _search(options.search_s)
    mean = float(loads.double().sum()) / D or 1.0
    peaks = {} if E % D else {"as is": float(loads.reshape(D, -1).double().sum(1).max()) / mean}
    for name, rule in rules.items():
        began = perf_counter()
        found = rule(loads, D, S)
        seconds = perf_counter() - began
        peaks[name] = found.value / mean
    if not loads.is_floating_point() or bool((loads == loads.floor()).all()):
        peaks["split"] = spread(loads, found.replicas > 0).value / mean
    return Placed(layer, peaks, found.bound / mean, found.relative_gap, seconds, found)


def _search(seconds: float) -> Callable[..., Placement]:
    return lambda loads, D, S: searched_placement(loads, D, S, time_limit_s=seconds)


def _mean(rows: list[Placed]) -> Placed:
    n = len(rows)
    peaks = {name: sum(row.peaks[name] for row in rows) / n for name in rows[0].peaks}
    bound, gap, seconds = (
        sum(getattr(row, name) for row in rows) / n for name in ("bound", "gap", "seconds")
    )
    return Placed("mean", peaks, bound, gap, seconds, rows[0].found)


def _record(row: Placed) -> dict[str, Any]:
    """A row of the files of results; `slots` is the expert in each slot, device after device."""
    slots = [
        torch.arange(len(held)).repeat_interleave(held).tolist() for held in row.found.replicas.T
    ]
    return {
        "layer": row.layer,
        **{f"{name.replace(' ', '_').lower()}_max_over_mean": at for name, at in row.peaks.items()},
        "bound_max_over_mean": row.bound,
        "relative_gap": row.gap,
        "seconds": row.seconds,
        "ended": row.found.ended,
        "slots": slots,
    }
