"""What papers claim, and whether the evidence is as the verdicts say.

For the terminal (`claims_table`, `last_word`), as a page of Markdown (`markdown_page`), and for the
HTML report (`claims_section`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from rich.table import Table as RichTable

from lp_routing.claims.claim import (
    ENOUGH,
    Checked,
    Claim,
    Counterexample,
    SearchResult,
    Verdict,
    smallest_case,
    where,
)
from lp_routing.report.document import (
    Attempt,
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    Section,
    Table,
    Tone,
    as_rich,
)

LEGEND = (
    "our verdict: what became of the claim as it is made. these logits: agree with the verdict, or "
    "contradict it; FAILED: the check raised an error; -: nothing to ask. evidence: what the check "
    "measured here."
)


def claims_table(checked: Sequence[Checked]) -> RichTable:
    """The table of the page for the terminal."""
    return as_rich(_page_table(checked), "", collapse_padding=True)


def last_word(checked: Sequence[Checked]) -> str:
    """The last line: how many verdicts come out as stated, and which do not."""
    against = [each for each in checked if not each.comes_out]
    settings = [each for each in checked if each.was_asked]
    rest = len(checked) - len(settings)
    silent = f" Of {rest} more there was nothing to ask here." if rest else ""
    if not settings:
        return "No verdict could be tried: there was nothing to ask here."
    if not against:
        return f"All {len(settings)} verdicts come out as stated.{silent}"
    lines = [f"{len(against)} of {len(settings)} verdicts do not come out as stated:{silent}"]
    lines += [f"  {each.claim.id}, {each.claim.title}: {each.says}" for each in against]
    return "\n".join(lines)


PARTS = {
    "B": "USMoE: unified scoring",
    "S": "SoftMoE and LapSum: soft top-k",
    "O": "Other routers that the same linear program judges",
}
EVIDENCE = "**Measured.** "


def markdown_page(
    checked: Sequence[Checked],
    measured_on: str,
    command: str,
    smallest: Callable[[Claim], SearchResult] = smallest_case,
) -> str:
    """The whole page.

    Args:
        checked: the claims in order, with their evidence.
        measured_on: what the evidence was measured on, in words.
        command: the command that makes this page.
        smallest: the result of the search for the smallest counterexample of a claim that has one.
    """
    lines = [
        "# Claims",
        "",
        "What papers and their code claim about routing, checked: the statement as it is made, a",
        "verdict with its reason, the smallest case to follow by hand where it fails, and what a",
        f"check measured. Made by `{command}`; do not edit by hand.",
        "",
        "Where a statement fails, a search looks for the smallest case by the number of pairs:",
        f"{ENOUGH} matrices of each shape at most, of 0 and 1, then with 2 or -1, then with the",
        "numbers of the case worked by hand. Sources are paraphrased; where a paper's numbering",
        "was not at hand, the part of it is named by its topic.",
        "",
        f"Measured on: {measured_on}.",
        "",
        "| id | claim | source | verdict |",
        "|---|---|---|---|",
    ]
    lines += [_markdown_row(each.claim) for each in checked]
    for letter, members in groupby(checked, key=lambda each: each.claim.id[0]):
        lines += ["", f"## {PARTS.get(letter, letter)}"]
        for each in members:
            lines += ["", *_markdown_section(each, smallest)]
    return "\n".join(lines) + "\n"


def _markdown_row(claim: Claim) -> str:
    link = f"[{claim.id}](#{anchor(claim)})"
    cells = (link, claim.title, claim.source, claim.verdict.value)
    return "| " + " | ".join(_escaped_cell(text) for text in cells) + " |"


def anchor(claim: Claim) -> str:
    """The link to a claim's heading, as Markdown renderers make it."""
    kept = (c for c in heading(claim).lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def heading(claim: Claim) -> str:
    """The text of a claim's heading."""
    return f"{claim.id}: {claim.title}"


def _markdown_section(checked: Checked, smallest: Callable[[Claim], SearchResult]) -> Iterator[str]:
    claim = checked.claim
    yield f"### {heading(claim)}"
    yield ""
    yield f"**Claimed.** {claim.statement} ({claim.source})"
    yield ""
    yield "```text"
    yield claim.formula
    yield "```"
    yield ""
    conditions = f" Conditions: {claim.conditions}" if claim.conditions else ""
    yield f"**Verdict: {claim.verdict.value}.** {claim.reason}{conditions}"
    yield ""
    if claim.counterexample is not None:
        yield from _markdown_case(claim.counterexample)
        yield ""
        yield _searched(claim.counterexample, smallest(claim))
        yield ""
    yield f"{EVIDENCE}{checked.says} (`{where(claim)}`)"


def _markdown_case(case: Counterexample) -> Iterator[str]:
    """The matrix as a table, numbered from 1 as in its story, and the story."""
    experts = range(1, len(case.scores[0]) + 1)
    yield "**Counterexample.**"
    yield ""
    yield "| | " + " | ".join(f"expert {j}" for j in experts) + " |"
    yield "|---|" + "---|" * len(experts)
    for i, row in enumerate(case.scores, 1):
        yield f"| token {i} | " + " | ".join(f"{score:g}" for score in row) + " |"
    yield ""
    yield case.story


def _searched(case: Counterexample, smallest: SearchResult) -> str:
    """The result of the search for a smaller case than the one worked by hand."""
    by_hand, found = case.tensor(), smallest.scores
    if found is None or found.tolist() == by_hand.tolist():
        return "**Searched.** The search over small whole numbers finds none smaller than this one."
    rows = ", ".join("(" + ", ".join(f"{x:g}" for x in row) + ")" for row in found.tolist())
    size = "smaller" if found.numel() < by_hand.numel() else "as small"
    return f"**Searched.** The smallest that the search finds is {size}: {rows}."


def _escaped_cell(text: str) -> str:
    return text.replace("|", "\\|")


TONES: dict[Verdict, Tone] = {
    Verdict.HOLDS: "good",
    Verdict.CONDITIONAL: "poor",
    Verdict.FAILS: "bad",
    Verdict.EMPIRICAL: "",
}


def claims_section(found: Attempt[Sequence[Checked]]) -> Section:
    """One row for each claim; its statement and the reason for its verdict are folded."""
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
            _page_table(found.result),
            Folded(
                "What each claim says, where, and the reason for its verdict",
                "\n\n".join(map(_reason, found.result)),
            ),
        ]
    return Section("claims", "What papers claim", blocks)


def _page_table(checked: Sequence[Checked]) -> Table:
    columns = [
        Column("id"),
        Column("claim", width=16),
        Column("our verdict", width=9),
        Column("these logits"),
        Column("evidence on these logits", wide=True),
    ]
    return Table(
        "Our verdict is on the claim; the logits agree with the verdict, so that beside a claim "
        "that fails they show it failing, or they contradict it. -: nothing to ask here.",
        columns,
        [
            [
                Cell(each.claim.id),
                Cell(each.claim.title),
                Cell(f"claim {each.claim.verdict.value}", tone=TONES[each.claim.verdict]),
                mark_cell(each),
                Cell(each.says),
            ]
            for each in checked
        ],
    )


def mark_cell(each: Checked) -> Cell:
    """Whether the logits agree with the verdict on a claim."""
    if each.evidence is None:
        return Cell("FAILED", tone="bad")
    if each.evidence.agrees is None:
        return Cell("-")
    return Cell("agree", tone="good") if each.evidence.agrees else Cell("contradict", tone="bad")


def _reason(each: Checked) -> str:
    claim = each.claim
    conditions = f"\nConditions: {claim.conditions}" if claim.conditions else ""
    return (
        f"{claim.id}: {claim.title}\nClaimed: {claim.statement} ({claim.source})\n"
        f"Verdict: {claim.verdict.value}. {claim.reason}{conditions}"
    )
