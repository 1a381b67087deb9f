"""`lp-routing choices`: recorded choices in numbers, and two recordings compared."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lp_routing import traces
from lp_routing.cli.options import parse_layers, warnings_on_stderr
from lp_routing.cli.output import check_outputs, console_for, write_csv, write_json
from lp_routing.errors import InputError
from lp_routing.evaluation.choices import ChoiceFacts, Difference, choice_facts, differences
from lp_routing.report.document import percent, terminal_table
from lp_routing.traces import RecordedChoices

LEGEND = (
    "max/mean: load of the busiest expert over the mean load. idle: experts without a token. "
    "dropped: pairs beyond the capacity, the first tokens first. together: the two experts that "
    "share most tokens, and the share of the rarer one's tokens. devices: max/mean of devices, "
    "each with neighbouring experts. differ: tokens whose experts are not the k best of the "
    "logits. gap: value lost to these, in scores."
)
LEGEND_OF_TWO = (
    "differ: tokens whose sets of experts differ. overlap: pairs of the first that the second has. "
    "by margin: tokens that differ, in each quarter of the tokens by the distance of the last "
    "chosen logit to the next one, smallest first."
)


@dataclass(frozen=True)
class ChoicesOptions:
    """Options of `choices`."""

    file: Path
    other: Path | None
    logits: Path | None
    axes: str | None
    experts: int | None
    capacity_factor: float
    devices: int | None
    score: str | None
    layers: str
    json_path: Path | None
    csv_path: Path | None


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given = ChoicesOptions(**options)
    check_outputs(given)
    console = console_for(given)
    choices = _read(given.file, given)
    layers = parse_layers(given.layers, len(choices.expert_ids))
    L, T, _ = choices.expert_ids.shape
    console.print(
        f"[bold]{escape(choices.source)}[/bold]: {len(layers)} of {L} layer(s), {T} tokens, "
        f"{choices.experts} experts, at most {choices.k} a token.",
        highlight=False,
        soft_wrap=True,
    )
    rows = (
        _compared(console, choices, layers, given)
        if given.other
        else _alone(console, choices, layers, given)
    )
    write_json(given, choices.source, {"rows": rows})
    write_csv(given.csv_path, rows)
    return 0


def _read(path: Path, options: ChoicesOptions) -> RecordedChoices:
    """Choices with their logits, from the file of --logits where it is given."""
    with warnings_on_stderr():
        found = traces.read_choices(path, axes=options.axes, experts=options.experts)
        if options.logits is None:
            return found
        logits = traces.read(options.logits).router_logits
    L, T, _ = found.expert_ids.shape
    if logits.shape[:2] != (L, T) or logits.shape[2] < found.experts:
        raise InputError(
            f"--logits {options.logits}: logits of shape {tuple(logits.shape)} do not belong to "
            f"choices of {L} layers, {T} tokens and {found.experts} experts in {path}."
        )
    return replace(found, logits=logits, experts=logits.shape[2])


def _alone(
    console: Console, choices: RecordedChoices, layers: list[int], options: ChoicesOptions
) -> list[dict[str, Any]]:
    facts = [
        choice_facts(
            choices,
            layer,
            capacity_factor=options.capacity_factor,
            devices=options.devices,
            score=options.score or "softmax",
        )
        for layer in layers
    ]
    shown = {
        "max/mean": lambda each: f"{each.max_over_mean:.2f}",
        "idle": lambda each: str(each.idle),
        "dropped": lambda each: percent(each.dropped),
        "together": _together,
    }
    if options.devices is not None:
        shown["devices"] = lambda each: f"{each.devices_max_over_mean:.2f}"
    if choices.logits is not None:
        shown |= {
            "differ": lambda each: percent(each.differ),
            "gap": lambda each: percent(each.gap),
        }
    table = terminal_table(f"Recorded choices, capacity factor {options.capacity_factor:g}")
    table.add_column("layer")
    for name in shown:
        table.add_column(name, justify="right")
    for each in facts:
        table.add_row(each.layer, *(show(each) for show in shown.values()))
    if len(facts) > 1:
        means = _mean(facts)
        table.add_row("mean", *("" if name == "together" else shown[name](means) for name in shown))
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    return [asdict(each) for each in facts]


def _mean(facts: list[ChoiceFacts]) -> ChoiceFacts:
    names = ("max_over_mean", "idle", "dropped", "devices_max_over_mean", "differ", "gap")
    means = {
        name: sum(found) / len(found)
        for name in names
        if None not in (found := [getattr(each, name) for each in facts])
    }
    return replace(facts[0], layer="mean", **means)


def _together(facts: ChoiceFacts) -> str:
    if facts.together is None:
        return "-"
    return f"{facts.together[0]} + {facts.together[1]} ({percent(facts.together_share)})"


def _compared(
    console: Console, choices: RecordedChoices, layers: list[int], options: ChoicesOptions
) -> list[dict[str, Any]]:
    assert options.other is not None
    every = differences(choices, _read(options.other, replace(options, logits=None)))
    found = [every[layer] for layer in layers]
    table = terminal_table(f"Against {options.other}")
    by_margin = bool(found[0].by_margin)
    for name in ("layer", "differ", "overlap", *(["by margin"] if by_margin else [])):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for each in [*found, *([_mean_of_two(found)] if len(found) > 1 else [])]:
        margins = [" ".join(percent(share) for share in each.by_margin)] if by_margin else []
        table.add_row(each.layer, percent(each.differ), percent(each.overlap), *margins)
    console.print(table)
    console.print(LEGEND_OF_TWO, style="dim", highlight=False)
    return [asdict(each) for each in found]


def _mean_of_two(found: list[Difference]) -> Difference:
    n = len(found)
    return Difference(
        "mean",
        sum(each.differ for each in found) / n,
        sum(each.overlap for each in found) / n,
        tuple(sum(part) / n for part in zip(*(each.by_margin for each in found), strict=True)),
    )
