"""`lp-routing claims`: check what papers claim on the logits of a file."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from lp_routing.claims import CLAIMS, Claim, Evidence, SearchResult
from lp_routing.claims.claim import Checked, chosen, claim_input, smallest_case
from lp_routing.cli.commands import claims as claims_command
from lp_routing.cli.options import (
    opened,
    parse_layers,
    parse_tokens,
)
from lp_routing.cli.output import (
    as_typed,
    check_outputs,
    console_for,
    part_taken,
    write_csv,
    write_json,
    write_text,
)
from lp_routing.cli.run import long_work, raise_failures
from lp_routing.report.claims import LEGEND, claims_table, last_word, markdown_page
from lp_routing.report.papers import papers_page
from lp_routing.sweep import ERROR
from lp_routing.traces import Trace


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    given, trace = opened(ClaimsOptions, options)
    return 0 if _claims(console_for(given), given, trace) else 1


@dataclass(frozen=True)
class ClaimsOptions:
    """Options of `claims`."""

    file: Path | None
    axes: str | None
    values: str | None
    only: tuple[str, ...]
    k: int
    layers: str
    tokens: str
    seed: int
    json_path: Path | None
    csv_path: Path | None
    page_path: Path | None
    papers_path: Path | None
    jobs: int
    resume_path: Path | None


def _claims(console: Console, options: ClaimsOptions, trace: Trace) -> bool:
    """Run the command; returns whether all verdicts come out as stated."""
    todo = chosen(CLAIMS, options.only)
    check_outputs(options)
    layers, most = parse_layers(options.layers, trace.layers), parse_tokens(options.tokens)
    checked, said = _checked(console, todo, trace, layers, most, options)
    console.print(claims_table(checked))
    console.print(LEGEND, style="dim", highlight=False)
    part = part_taken(trace, layers, most or len(trace.layer(0)))
    console.print(
        f"{last_word(checked)} {part}".rstrip(), highlight=False, markup=False, soft_wrap=True
    )
    write_json(options, trace.source, {"claims": [each.as_json() for each in checked]})
    write_csv(options.csv_path, [each.as_json() for each in checked])
    if options.page_path is not None:
        found = _searched(console, todo, options.jobs)
        command = as_typed(claims_command, options, "--markdown", str(options.page_path))
        text = markdown_page(checked, said, command, lambda claim: found[claim.id])
        write_text(options.page_path, text, "--markdown")
    if options.papers_path is not None:
        command = f"lp-routing claims --papers {options.papers_path}"
        write_text(options.papers_path, papers_page(CLAIMS, command), "--papers")
    return all(each.comes_out for each in checked)


def _checked(
    console: Console,
    todo: list[Claim],
    trace: Trace,
    layers: list[int],
    most: int | None,
    options: ClaimsOptions,
) -> tuple[list[Checked], str]:
    """The claims with their evidence, and a description of the logits."""
    logits = torch.stack([trace.layer(layer)[:most] for layer in layers])
    claim_input(logits, k=options.k, seed=options.seed)  # raises before any work on bad input
    L, T, E = logits.shape
    named = "the sample" if options.file is None else Path(trace.source).name
    said = f"{named}, {L} layer(s), {T} tokens, {E} experts; k={options.k}, seed {options.seed}"
    console.print(f"[bold]{escape(trace.source)}[/bold]: {said}.", highlight=False)
    records = long_work(
        console,
        partial(evidence, logits=logits, k=options.k, seed=options.seed),
        [claim.id for claim in todo],
        "checking",
        path=options.resume_path,
        jobs=options.jobs,
    )
    return [_as_checked(*pair) for pair in zip(todo, records, strict=True)], said


def _searched(console: Console, claims: list[Claim], jobs: int) -> dict[str, SearchResult]:
    """The smallest case of every claim that has one, by its id."""
    ids = [claim.id for claim in claims if claim.counterexample is not None]
    records = long_work(console, smallest, ids, "searching", path=None, jobs=jobs)
    raise_failures(records, [f"(The smallest case of {claim_id}.)" for claim_id in ids])
    found = {}
    for claim_id, record in zip(ids, records, strict=True):
        rows = record["scores"]
        scores = None if rows is None else torch.tensor(rows)
        found[claim_id] = SearchResult(scores, record["says"], record["tried"])
    return found


def smallest(claim_id: str) -> dict[str, Any]:
    """The smallest case against a claim, as JSON values."""
    found = smallest_case(next(claim for claim in CLAIMS if claim.id == claim_id))
    rows = None if found.scores is None else found.scores.tolist()
    return {"scores": rows, "says": found.says, "tried": found.tried}


def evidence(claim_id: str, *, logits: Tensor, k: int, seed: int) -> dict[str, Any]:
    """What the check of one claim finds on logits (L, T, E), as JSON values."""
    claim = next(claim for claim in CLAIMS if claim.id == claim_id)
    return claim.check(logits, k=k, seed=seed).as_json()


def _as_checked(claim: Claim, record: dict[str, Any]) -> Checked:
    """A claim with its evidence, or with why its check failed."""
    if ERROR in record:
        return Checked(claim, None, f"The check failed: {record[ERROR]}")
    return Checked(claim, Evidence(**record))
