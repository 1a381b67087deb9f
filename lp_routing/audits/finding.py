"""What an audit found: how many tokens, the first of them, and a sentence that says so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "fails", "not asked"]
MOST_NAMED = 8


@dataclass(frozen=True)
class Example:
    """One token and its experts in two situations.

    Attributes:
        token: its index, (t,) or (b, t) for token t of sequence b.
        before: its experts in the first situation.
        after: its experts in the second.
        ways: the two situations in words, such as ("alone", "with the others").
    """

    token: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    ways: tuple[str, str]

    def __str__(self) -> str:
        *sequence, token = self.token
        which = f"token {token}" + "".join(f" of sequence {b}" for b in sequence)
        first, second = self.ways
        return (
            f"{which} goes to {experts_in_words(self.before)} {first}, "
            f"to {experts_in_words(self.after)} {second}"
        )


@dataclass(frozen=True)
class Finding:
    """The answer to one question about one router on one batch.

    Attributes:
        audit: the name of the audit.
        question: what was asked; "holds" is yes, "fails" is no.
        verdict: "holds", "fails", or "not asked", where the question makes no sense for the input
            or the router gives no answer to judge by.
        sentence: the finding in plain words.
        count: tokens (for feasibility: bounds) that speak against; None where nothing was counted.
        of: how many were asked.
        example: the first token that speaks against.
        numbers: what else was measured, by name: shares, margins, amounts.
        at_least: whether the count is the least there are, since not every place was asked.
    """

    audit: str
    question: str
    verdict: Verdict
    sentence: str
    count: int | None = None
    of: int | None = None
    example: Example | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    at_least: bool = False

    @property
    def share(self) -> float | None:
        """`count / of`; None where nothing was counted."""
        return None if self.count is None or not self.of else self.count / self.of

    def as_json(self) -> dict[str, Any]:
        """All attributes and the share, as JSON values."""
        return {**asdict(self), "share": self.share}


def unasked(audit: str, question: str, reason: object) -> Finding:
    """The finding that there is none, and why."""
    return Finding(audit, question, "not asked", f"Not asked: {stripped(reason)}.")


def unanswered(audit: str, question: str, situation: str, reason: object) -> Finding:
    """The finding that the router gave no answer where it had to."""
    return Finding(audit, question, "fails", f"No answer {situation}: {stripped(reason)}.")


def counted(count: int, of: int, one: str, many: str) -> str:
    """`None of 8 {one}`, `1 of 8 {one} (12.5 %)`, `2 of 8 {many} (25 %)`."""
    if not count:
        return f"None of {of} {one}"
    return f"{count} of {of} {one if count == 1 else many} ({100 * count / of:.3g} %)"


def experts_in_words(experts: tuple[int, ...]) -> str:
    """`no expert`, `expert 1`, `experts 1 and 4`; many are not all named."""
    if not experts:
        return "no expert"
    if len(experts) == 1:
        return f"expert {experts[0]}"
    if len(experts) > MOST_NAMED:
        return f"{len(experts)} experts ({', '.join(map(str, experts[:3]))}, ...)"
    *most, last = map(str, experts)
    return f"experts {', '.join(most)} and {last}"


def stripped(reason: object) -> str:
    """A reason without its full stop, to end a sentence with."""
    return str(reason).rstrip(".")
