"""The claims as a page of Markdown, for a reader who has the papers open."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from lp_routing.claims import Claim, Counterexample
from lp_routing.claims.claim import ENOUGH, Checked, Found, smallest_case, where

PARTS = {
    "B": "USMoE: unified scoring",
    "S": "SoftMoE and LapSum: soft top-k",
    "O": "Other routers that the same linear program judges",
}
EVIDENCE = "**Measured.** "


def page(
    checked: Sequence[Checked],
    measured_on: str,
    command: str,
    smallest: Callable[[Claim], Found] = smallest_case,
) -> str:
    """The whole page.

    Args:
        checked: the claims in order, with their evidence.
        measured_on: what the evidence was measured on, in words.
        command: the command that makes this page.
        smallest: what a search for the smallest case brought home, for claims that have one.
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
    lines += [_row(each.claim) for each in checked]
    for letter, members in groupby(checked, key=lambda each: each.claim.id[0]):
        lines += ["", f"## {PARTS.get(letter, letter)}"]
        for each in members:
            lines += ["", *_section(each, smallest)]
    return "\n".join(lines) + "\n"


def _row(claim: Claim) -> str:
    link = f"[{claim.id}](#{anchor(claim)})"
    cells = (link, claim.title, claim.source, claim.verdict.value)
    return "| " + " | ".join(_cell(text) for text in cells) + " |"


def anchor(claim: Claim) -> str:
    """The link to a claim's heading, as Markdown renderers make it."""
    kept = (c for c in heading(claim).lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def heading(claim: Claim) -> str:
    """The text of a claim's heading."""
    return f"{claim.id}: {claim.title}"


def _section(checked: Checked, smallest: Callable[[Claim], Found]) -> Iterator[str]:
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
        yield from _case(claim.counterexample)
        yield ""
        yield _searched(claim.counterexample, smallest(claim))
        yield ""
    yield f"{EVIDENCE}{checked.says} (`{where(claim)}`)"


def _case(case: Counterexample) -> Iterator[str]:
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


def _searched(case: Counterexample, smallest: Found) -> str:
    """What the search finds beside the case worked by hand."""
    by_hand, found = case.tensor(), smallest.scores
    if found is None or found.tolist() == by_hand.tolist():
        return "**Searched.** The search over small whole numbers finds none smaller than this one."
    rows = ", ".join("(" + ", ".join(f"{x:g}" for x in row) + ")" for row in found.tolist())
    size = "smaller" if found.numel() < by_hand.numel() else "as small"
    return f"**Searched.** The smallest that the search finds is {size}: {rows}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
