"""The work of `lp-routing gap` as points: one a layer and problem, each told as it comes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from lp_routing.cli.long_work import long_work, raise_failures
from lp_routing.cli.named import stated
from lp_routing.cli.options import first_tokens
from lp_routing.cli.sections import Section
from lp_routing.evaluation.compare import comparisons
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.traces import Trace

Place = tuple[int, Section]


def measured(
    console: Console,
    trace: Trace,
    places: Sequence[Place],
    told: Callable[[Place, list[RouterResult]], None],
    *,
    tokens: int | None,
    resume_path: Path | None,
    jobs: int,
    **options: Any,
) -> dict[Place, list[RouterResult]]:
    """The rows of each layer and problem; each told in their order, as soon as may be.

    Where places fail, the others are told all the same, and the last word is an error.

    Args:
        console: where progress is shown.
        trace: the logits.
        places: layers and what judges there.
        told: called with each place and its rows.
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
    found: dict[Place, list[RouterResult]] = {}

    def tell(number: int, record: Mapping[str, Any]) -> None:
        if "rows" in record:
            found[places[number]] = [_row(row) for row in record["rows"]]
            told(places[number], found[places[number]])

    records = long_work(console, task, points, "measuring", path=resume_path, jobs=jobs, told=tell)
    names = [f"(Layer {layer}, {section}, of {trace.source}.)" for layer, section in places]
    raise_failures(records, names)
    return found


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

    The first `tokens` of the layer are judged; `warm_on` batches of as many that follow them are
    what routers with a state have seen. Logits known up to a constant are left to the scores to
    tell, so that routers that mind the constant are not judged.
    """

    every = logits[point["layer"]]
    layer, *others = (every[first : first + tokens] for first in range(0, len(every), tokens))
    problem, shape = stated(layer, point["problem"], k, capacity_factor, point["score"])
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
    return {"rows": [row.as_record() for row in rows]}


def _row(record: Mapping[str, Any]) -> RouterResult:
    """A row of its record: where a number is unknown, NaN again."""

    unknown = {f.name: f.default for f in fields(RouterResult) if record[f.name] is None}
    numbers = {name: nan for name, usual in unknown.items() if isinstance(usual, float)}
    return RouterResult(**{**record, **numbers})
