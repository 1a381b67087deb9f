"""Checking some claims on the same logits, each on its own account."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lp_routing.claims.claim import Claim, Evidence, subject
from lp_routing.errors import InputError


@dataclass(frozen=True, eq=False)
class Checked:
    """A claim and what its check found.

    Attributes:
        claim: the claim.
        evidence: None where the check failed.
        error: what it raised, in words; empty where it ended.
    """

    claim: Claim
    evidence: Evidence | None
    error: str = ""

    @property
    def comes_out(self) -> bool:
        """Whether nothing contradicts the stated verdict, and the check ended."""
        return self.evidence is not None and self.evidence.agrees is not False

    @property
    def was_asked(self) -> bool:
        """Whether the logits left anything to ask, and the check answered or failed."""
        return self.evidence is None or self.evidence.agrees is not None

    @property
    def says(self) -> str:
        """The finding, or how the check failed."""
        return self.error if self.evidence is None else self.evidence.sentence

    def as_json(self) -> dict[str, Any]:
        """The claim's words and the evidence as JSON values."""
        claim = self.claim
        words = ("id", "title", "statement", "formula", "conditions", "source", "reason")
        case = claim.counterexample
        return {
            **{name: getattr(claim, name) for name in words},
            "verdict": claim.verdict.value,
            "counterexample": None if case is None else asdict(case),
            "check": where(claim),
            "comes_out": self.comes_out,
            "evidence": None if self.evidence is None else self.evidence.as_json(),
            "error": self.error,
        }


def where(claim: Claim) -> str:
    """The module in which a claim is checked."""
    return claim.examine.__module__


def check_all(
    claims: Sequence[Claim],
    logits: Tensor,
    *,
    k: int = 2,
    seed: int = 0,
    begun: Callable[[Claim], None] = lambda _: None,
) -> list[Checked]:
    """Check claims one after the other; one that fails does not lose the others.

    Args:
        claims: which.
        logits: (T, E) or (L, T, E), finite.
        k: experts per token.
        seed: of what checks draw.
        begun: told of each claim before its check.

    Raises:
        InputError: logits that no claim can be checked on.
    """
    subject(logits, k=k, seed=seed)
    found = []
    for claim in claims:
        begun(claim)
        try:
            found.append(Checked(claim, claim.check(logits, k=k, seed=seed)))
        except Exception as error:
            found.append(Checked(claim, None, f"The check failed: {_in_words(error)}"))
    return found


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def chosen(claims: Sequence[Claim], only: Iterable[str]) -> list[Claim]:
    """The claims of these ids, in the order of `claims`; all of them where no id is given.

    An id without its last small letter means all its parts: O10 is O10a, O10b and O10c.

    Raises:
        InputError: an id that no claim has.
    """
    given = [name.strip() for text in only for name in text.split(",")]
    names = list(filter(None, given)) or given
    for name in names:
        if not any(_means(name, claim.id) for claim in claims):
            raise InputError(
                f'--only "{name}": there is no such claim; there are '
                f"{', '.join(claim.id for claim in claims)}."
            )
    return [c for c in claims if not names or any(_means(name, c.id) for name in names)]


def _means(name: str, claim_id: str) -> bool:
    return bool(re.fullmatch(f"{re.escape(name)}[a-z]?", claim_id, re.IGNORECASE))
