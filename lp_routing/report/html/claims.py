"""What the papers claim, and whether the evidence of these logits is as the verdicts say."""

from collections.abc import Sequence

from lp_routing.claims.claim import Checked, Verdict
from lp_routing.report.claims_table import last_word
from lp_routing.report.html.content import (
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    Section,
    Table,
    Tone,
)
from lp_routing.report.html.outcome import Outcome

TONES: dict[Verdict, Tone] = {
    Verdict.HOLDS: "good",
    Verdict.CONDITIONAL: "poor",
    Verdict.FAILS: "bad",
    Verdict.EMPIRICAL: "",
}


def claims_section(found: Outcome[Sequence[Checked]]) -> Section:
    """A row a claim; what is claimed and why it holds or fails, on request."""
    blocks: list[Block] = []
    if found.result is None:
        blocks.append(Failure(found.error))
    else:
        blocks += [
            Paragraph(
                f"{last_word(found.result)} A verdict is what a proof, a counterexample or an "
                "experiment made of the claim; here: whether the logits of this report agree with "
                "that verdict."
            ),
            _table(found.result),
            Folded(
                "What each claim says, where, and the reason for its verdict",
                "\n\n".join(map(_reason, found.result)),
            ),
        ]
    return Section("claims", "What papers claim", blocks)


def _table(checked: Sequence[Checked]) -> Table:
    columns = [
        Column("id"),
        Column("claim"),
        Column("verdict"),
        Column("here"),
        Column("evidence on these logits", wide=True),
    ]
    return Table(
        "ok: as the verdict says; AGAINST: the evidence contradicts it; -: nothing to ask here.",
        columns,
        [
            [
                Cell(each.claim.id),
                Cell(each.claim.title),
                Cell(each.claim.verdict.value, tone=TONES[each.claim.verdict]),
                _mark(each),
                Cell(each.says),
            ]
            for each in checked
        ],
    )


def _mark(each: Checked) -> Cell:
    if each.evidence is None:
        return Cell("FAILED", tone="bad")
    if each.evidence.agrees is None:
        return Cell("-")
    return Cell("ok", tone="good") if each.evidence.agrees else Cell("AGAINST", tone="bad")


def _reason(each: Checked) -> str:
    claim = each.claim
    conditions = f"\nConditions: {claim.conditions}" if claim.conditions else ""
    return (
        f"{claim.id}: {claim.title}\nClaimed: {claim.statement} ({claim.source})\n"
        f"Verdict: {claim.verdict.value}. {claim.reason}{conditions}"
    )
