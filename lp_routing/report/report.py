"""A whole report, section by section.

First a summary on one screen, last how to make the page again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from lp_routing.audits import Finding
from lp_routing.claims.claim import Checked
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.report.audits import audits_section
from lp_routing.report.certificates import certificates_section
from lp_routing.report.claims import claims_section
from lp_routing.report.decide import ID, TITLE, DecisionPart
from lp_routing.report.document import (
    Attempt,
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    ReportSettings,
    Section,
    Table,
    Tiles,
    counted,
    listed,
    percent,
    quoted,
)
from lp_routing.report.frontier import CapacitySection, capacity_section, capacity_sentences
from lp_routing.report.gap import layers_section
from lp_routing.report.html import page
from lp_routing.report.layer_results import LayerResult, dropped_at_best, has_share

Claims = Attempt[Sequence[Checked]]


Audits = Mapping[str, Attempt[Sequence[Finding]]]


@dataclass(frozen=True, eq=False)
class ReportParts:
    """The results of each part, or why there are none.

    Attributes:
        layers: one for each layer asked for, in their order.
        decision: which capacity factor.
        figures: the section that holds them.
        capacity: what capacity buys.
        claims: the checked claims.
        audits: router -> its findings.
    """

    layers: Sequence[Attempt[LayerResult]]
    decision: Attempt[DecisionPart]
    figures: Attempt[Section]
    capacity: Attempt[CapacitySection]
    claims: Attempt[Sequence[Checked]]
    audits: Mapping[str, Attempt[Sequence[Finding]]]

    @property
    def results(self) -> list[LayerResult]:
        """Of the layers that could be examined."""
        return [each.result for each in self.layers if each.result is not None]


def report(settings: ReportSettings, found: ReportParts) -> tuple[str, bool]:
    """The page as text, and whether all is well.

    All is well if every part was made, every optimum is proved and no evidence contradicts a
    verdict.
    """
    figures = found.figures.result or _failed("figures", "Figures", found.figures.error)
    each = worst(found.results)
    layer = settings.layers[0] if each is None else each.layer
    parts = [
        found.decision.result.section
        if found.decision.result is not None
        else _failed(ID, TITLE, found.decision.error),
        layers_section(settings, found.layers),
        figures,
        capacity_section(settings, found.capacity),
        certificates_section(settings, found.results),
        claims_section(found.claims),
        audits_section(layer, found.audits),
        making_section(settings),
    ]
    failed = [part.title for part in parts if any(isinstance(b, Failure) for b in part.blocks)]
    buys = (
        [] if found.capacity.result is None else capacity_sentences(settings, found.capacity.result)
    )
    advice = () if found.decision.result is None else found.decision.result.advice
    first = summary_section(
        settings, found.results, buys, found.claims, found.audits, failed, advice
    )
    subtitle = (
        f"lp_routing {settings.versions.get('lp-routing', '')}: {quoted(settings.main)} against "
    )
    subtitle += f"the certified optimum{f'; {settings.date}' if settings.date else ''}"
    well = not failed and all(each.comes_out for each in found.claims.result or ())
    return page(f"Routing report: {settings.name}", subtitle, [first, *parts]), well


def _failed(id: str, title: str, error: str) -> Section:  # noqa: A002
    return Section(id, title, [Failure(error)])


def summary_section(
    settings: ReportSettings,
    results: Sequence[LayerResult],
    buys: Sequence[str],
    claims: Claims,
    audits: Audits,
    failed: Sequence[str] = (),
    advice: Sequence[str] = (),
) -> Section:
    """The summary.

    Args:
        settings: what was asked for.
        results: of the layers that could be examined.
        buys: sentences on the value of capacity.
        claims: the checked claims.
        audits: of each router.
        failed: titles of the parts that failed.
        advice: which capacity factor to take, in sentences; they come first.
    """
    blocks: list[Block] = [Failure(f"{listed(failed)}; the reason stands there.")] if failed else []
    blocks += [Paragraph(text) for text in advice if text]
    tiles = [*_layer_tiles(settings, results), *_other_tiles(claims)]
    if tiles:
        blocks.append(Tiles(tiles))
    paragraphs = [_subject(settings)]
    if results:
        paragraphs += [_proof(results), _loss(settings, results), _others(settings, results)]
    paragraphs.append(" ".join(buys))
    paragraphs.append(" ".join([*_claims(claims), *_audits(settings, audits)]))
    blocks += [Paragraph(text) for text in paragraphs if text]
    return Section("summary", "Summary", blocks)


def worst(results: Sequence[LayerResult]) -> LayerResult | None:
    """The layer where the main router loses most; the first where no loss is known."""
    losses = [e for e in results if has_share(e.rows[0])]
    return max(losses, key=lambda e: e.rows[0].relative_gap, default=next(iter(results), None))


def _subject(settings: ReportSettings) -> str:
    share = settings.tokens * settings.k / settings.experts
    tokens = f"all {settings.tokens:,} tokens"
    if settings.tokens < settings.all_tokens:
        tokens = f"the first {settings.tokens:,} of {settings.all_tokens:,} tokens"
    return (
        f"This page examines {counted(len(settings.layers), 'layer')} of {settings.name}: "
        f"{tokens} of each, {settings.experts:,} experts. A token may go to at most {settings.k} "
        f"of them, and an expert may take at most {settings.capacity:,} tokens, "
        f"{settings.capacity_factor:g} times an equal share of {share:,.6g}. What a pair of token "
        f"and expert is worth is its "
        f"{settings.score} score; the best assignment is the one with the largest sum."
    )


def _proof(results: Sequence[LayerResult]) -> str:
    proved = [each for each in results if each.proved]
    exact = sum(e.certificate is not None and e.certificate.gap == 0 for e in proved)
    layers = counted(len(results), "layer")
    says = f"The best assignment is known and proved for {len(proved)} of {layers}"
    if proved:
        says += (
            f"; evaluated without rounding, value and upper bound are equal in {exact} of "
            f"{len(proved)}"
        )
    return f"{says}. The certificate of each of these, and of every router, is on this page."


def _loss(settings: ReportSettings, results: Sequence[LayerResult]) -> str:
    main, rows = quoted(settings.main), [each.rows[0] for each in results]
    broken = [each for each in results if each.rows[0].feasible is False]
    silent = [each for each in results if not each.rows[0].judged]
    losses = {e.layer: e.rows[0].relative_gap for e in results if has_share(e.rows[0])}
    said = []
    if losses:
        low, high = (f(losses, key=lambda layer: losses[layer]) for f in (min, max))
        said.append(
            f"{main} loses {percent(mean(losses.values()))} of what is attainable on average: "
            f"from {percent(losses[low])} in layer {low} to {percent(losses[high])} in layer "
            f"{high}."
            if len(losses) > 1
            else f"{main} loses {percent(losses[high := next(iter(losses))])} of what is "
            f"attainable in layer {high}."
        )
        said.append(_drops(rows, results))
    if broken:
        each = broken[0]
        said.append(
            f"{main} breaks bounds in {counted(len(broken), 'layer')} (in layer {each.layer}: "
            f"{each.rows[0].breaks}), so there its value is no match for the optimum's."
        )
    if silent:
        said.append(
            f"{main} gave no answer in {counted(len(silent), 'layer')}: {silent[0].rows[0].status}."
        )
    return " ".join(said)


def _drops(rows: Sequence[RouterResult], results: Sequence[LayerResult]) -> str:
    dropped = [row.dropped for row in rows if row.dropped is not None]
    at_best = [dropped_at_best(e) for e in results if e.solution.assignment is not None]
    if not dropped or not at_best:
        return ""
    return (
        f"It leaves {_range(dropped)} tokens of a layer without any expert; under the same bounds "
        f"the optimum leaves {_range(at_best)}."
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _others(settings: ReportSettings, results: Sequence[LayerResult]) -> str:
    """The best of the other routers, and those that break a bound somewhere."""
    keeps, breaks = {}, []
    for place, name in list(enumerate(settings.routers))[1:]:
        rows = [each.rows[place] for each in results]
        if all(row.feasible and has_share(row) for row in rows):
            keeps[name] = mean(row.relative_gap for row in rows)
        elif any(row.feasible is False for row in rows):
            breaks.append(name)
    said = []
    if keeps:
        best = min(keeps, key=lambda name: keeps[name])
        said.append(
            f"Of the {counted(len(settings.routers) - 1, 'other router')} compared, {quoted(best)} "
            f"comes closest to the optimum: it loses {percent(keeps[best])} on average."
        )
    if breaks:
        verb = "breaks" if len(breaks) == 1 else "break"
        said.append(f"{listed([*map(quoted, breaks)])} {verb} a bound in some layer.")
    return " ".join(said)


def _claims(claims: Claims) -> Iterator[str]:
    put = _put(claims)
    if put:
        against = [each.claim.id for each in put if not each.comes_out]
        count, rest = counted(len(put), "claim"), len(claims.result or ()) - len(put)
        fine = len(put) - len(against)
        yield (
            f"Of {count} from papers, our verdicts on {fine} agree with these logits; on "
            f"{listed(against)} they do not."
            if against
            else f"{count} from papers could be checked on these logits, and our verdicts agree "
            "with all."
        )
        if rest:
            yield f"Of {rest} more there was nothing to ask here."


def _put(claims: Claims) -> list[Checked]:
    """The claims that apply to these logits."""
    return [each for each in claims.result or () if each.was_asked]


def _audits(settings: ReportSettings, audits: Audits) -> Iterator[str]:
    found = audits.get(settings.main)
    if found is None or not found.result:
        return
    put = [each for each in found.result if each.verdict != "not asked"]
    faults = [each.audit for each in put if each.verdict == "fails"]
    says = (
        f"{quoted(settings.main)} passes {len(put) - len(faults)} of {counted(len(put), 'audit')}"
    )
    yield f"{says}; not {listed(faults)}." if faults else f"{says}."


def _layer_tiles(
    settings: ReportSettings, results: Sequence[LayerResult]
) -> Iterator[tuple[str, str]]:
    losses = [e.rows[0].relative_gap for e in results if has_share(e.rows[0])]
    if losses:
        mean_of = f", mean of {counted(len(losses), 'layer')}" if len(losses) > 1 else ""
        yield (
            percent(mean(losses)),
            f"of the attainable score lost by {quoted(settings.main)}{mean_of}",
        )
    dropped = [e.rows[0].dropped for e in results if e.rows[0].dropped is not None]
    if dropped:
        yield (
            f"{max(dropped):,}",
            f"tokens of a layer without an expert under {quoted(settings.main)}, at worst",
        )
    if results:
        proved = sum(each.proved for each in results)
        yield f"{proved} of {len(results)}", "optima proved by an exact certificate"


def _other_tiles(claims: Claims) -> Iterator[tuple[str, str]]:
    put = _put(claims)
    if put:
        fine = sum(each.comes_out for each in put)
        yield f"{fine} of {len(put)}", "of our verdicts on papers' claims agree with these logits"


def making_section(settings: ReportSettings) -> Section:
    """Command, what was read, versions."""
    facts = [
        ("logits", settings.name),
        ("layers", ", ".join(map(str, settings.layers))),
        ("tokens of each layer", f"the first {settings.tokens:,} of {settings.all_tokens:,}"),
        ("experts", f"{settings.experts:,}"),
        ("experts per token, k", f"{settings.k}"),
        (
            "capacity of an expert",
            f"{settings.capacity:,} tokens, factor {settings.capacity_factor:g}",
        ),
        ("scores", settings.score),
        ("routers", "; ".join(settings.routers)),
        ("seed", f"{settings.seed}"),
        ("sha256 of the logits examined", settings.digest),
        *([("date", settings.date)] if settings.date else []),
    ]
    but = ", but for the times" if settings.timed else ""
    same = f"The same logits, command and versions give the same page{but}, to the last byte."
    return Section(
        "making",
        "How to make this page again",
        [
            Folded("Command", settings.command, opened=True),
            Paragraph(same),
            Table("What was asked.", [Column("what"), Column("value", wide=True)], _rows(facts)),
            Table(
                "Versions of what the numbers depend on.",
                [Column("package"), Column("version")],
                _rows(list(settings.versions.items())),
            ),
        ],
    )


def _rows(facts: list[tuple[str, str]]) -> list[list[Cell]]:
    return [[Cell(name), Cell(value)] for name, value in facts]
