"""What a claim is: a statement with source, conditions and verdict, and a check with numbers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import refuse_nan_and_inf, whole

Number = float | int | bool | str | None
Breaks = Callable[[Tensor], str | None]
"""Scores (T, E) -> what they show against a statement, in words; None where it stands."""


NOTHING = 1e3
"""A logit so far below all others, and below 0, has a softmax and a sigmoid of exactly 0."""


class Verdict(Enum):
    """What became of a claim; the values are what tables print."""

    HOLDS = "holds"
    CONDITIONAL = "holds only if"
    FAILS = "fails"
    EMPIRICAL = "empirical"


@dataclass(frozen=True, eq=False)
class Subject:
    """What a claim is checked on.

    Attributes:
        logits: float64 (L, T, E); finite where a claim examines them.
        k: experts per token, 1 <= k <= E.
        seed: of whatever the check draws.
    """

    logits: Tensor
    k: int = 2
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """L, T, E."""
        L, T, E = self.logits.shape
        return L, T, E


@dataclass(frozen=True)
class Evidence:
    """What a check found.

    Attributes:
        agrees: whether it is as the verdict says; None where the input leaves nothing to ask, such
            as groups of experts where E is prime.
        sentence: the finding in plain words, with its numbers.
        numbers: the same by name; where layers differ, lists are spelt out as `name, layer 0`.
    """

    agrees: bool | None
    sentence: str
    numbers: Mapping[str, Number] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All attributes as JSON values; NaN and infinite numbers, which JSON lacks, are null."""
        numbers = {name: _finite(number) for name, number in self.numbers.items()}
        return {"agrees": self.agrees, "sentence": self.sentence, "numbers": numbers}


def _finite(number: Number) -> Number:
    return None if isinstance(number, float) and not math.isfinite(number) else number


@dataclass(frozen=True)
class Counterexample:
    """Scores small enough to follow by hand, and the story that they tell.

    Attributes:
        scores: T rows of E numbers.
        story: why the statement fails on them, with the numbers worked by hand.
    """

    scores: tuple[tuple[float, ...], ...]
    story: str

    def tensor(self) -> Tensor:
        """The scores, float64 (T, E)."""
        return torch.tensor(self.scores, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Claim:
    """A statement from the literature, and what a check makes of it.

    Attributes:
        id: such as "B1".
        title: a few words for tables.
        statement: what is claimed, in words.
        formula: the same in symbols (plain text; axis letters as everywhere).
        conditions: under which it is true; empty where it needs none or is false under all.
        source: paper with section or equation; the code file where it is code.
        verdict: what became of it.
        reason: the proof, or why it fails, in a few sentences.
        examine: evidence on a subject; `check` is its door.
        counterexample: the hand-worked case; None where the statement holds.
        breaks: what scores show against the statement as it is claimed. On the counterexample it
            answers; the search for a smallest one asks it.
        betrays: what scores show against the verdict, that is against the statement under its
            conditions, or against what `reason` says instead. A test hunts with it in vain.
        rows_alone: whether neither statement nor check asks which expert an entry of a row belongs
            to, so that rows may be shortened to their finite logits.
        forbidden_too: whether the check may take forbidden pairs (-inf) as pairs of score 0, which
            no token has among its k best: their logits are then put as low as that takes.
    """

    id: str
    title: str
    statement: str
    formula: str
    conditions: str
    source: str
    verdict: Verdict
    reason: str
    examine: Callable[[Subject], Evidence]
    counterexample: Counterexample | None = None
    breaks: Breaks | None = None
    betrays: Breaks | None = None
    rows_alone: bool = False
    forbidden_too: bool = False

    def check(self, logits: Tensor, *, k: int = 2, seed: int = 0) -> Evidence:
        """Evidence for or against the verdict on these logits.

        Args:
            logits: (T, E) or (L, T, E) floating point; finite, or -inf for a forbidden pair.
            k: experts per token.
            seed: of what the check draws.

        Returns:
            `Evidence`; it disagrees where the numbers contradict the verdict, or where the
            counterexample that belongs to the claim breaks nothing.

        Raises:
            InputError: logits of another shape or type, NaN or +inf entries, k > E.
        """
        evidence = self._examined(subject(logits, k=k, seed=seed))
        if self.counterexample is None or self.breaks is None:
            return evidence
        if self.breaks(self.counterexample.tensor()) is None:
            return Evidence(False, "The counterexample breaks nothing.", evidence.numbers)
        return evidence

    def _examined(self, subject: Subject) -> Evidence:
        forbidden = subject.logits.isneginf()
        if not bool(forbidden.any()):
            return self.examine(subject)
        share = float(forbidden.double().mean())
        skipped = f"Does not apply here: {share:.1%} of the pairs are forbidden (-inf), and "
        fewest, m = (int(count) for count in (~forbidden).sum(-1).aminmax())
        if not (self.rows_alone or self.forbidden_too):
            return Evidence(
                None, f"{skipped}this claim needs the logits of every expert for every token."
            )
        if subject.k > fewest:
            few = f"a token has {fewest} logits, fewer than k={subject.k}."
            return Evidence(None, f"{skipped}{few}")
        if self.forbidden_too:
            least = float(subject.logits.masked_fill(forbidden, 0.0).amin())  # 0 or less
            low = subject.logits.masked_fill(forbidden, min(least - NOTHING, 2 * least))
            evidence = self.examine(replace(subject, logits=low))
            said = f"With forbidden pairs (-inf, {share:.1%}) as pairs of score 0: "
            return replace(evidence, sentence=said + evidence.sentence)
        if fewest != m:
            return Evidence(None, f"{skipped}tokens have {fewest} to {m} logits, not all the same.")
        L, T, _ = subject.shape
        short = replace(subject, logits=subject.logits[~forbidden].reshape(L, T, m))
        evidence = self.examine(short)
        said = f"On the {m} logits of each token that are not forbidden (E={m}): "
        return replace(evidence, sentence=said + evidence.sentence)


def subject(logits: Tensor, *, k: int = 2, seed: int = 0) -> Subject:
    """The subject of these logits, (T, E) or (L, T, E), or the reason why they are none."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"claims: expected floating-point logits in a torch tensor, got {kind}.")
    if logits.ndim not in (2, 3) or logits.numel() == 0:
        raise InputError(
            f"claims: expected logits (T, E) or (L, T, E) with entries, got {tuple(logits.shape)}."
        )
    refuse_nan_and_inf(logits, "claims: logits")
    if bool(logits.isneginf().all()):
        raise InputError("claims: every pair of the logits is forbidden (-inf): nothing to check.")
    stacked = logits.detach() if logits.ndim == 3 else logits.detach()[None]
    k = whole(k, "k", 1, logits.shape[-1], "E, the number of experts")
    seed = whole(seed, "seed", 0, 2**63 - 1, "2**63 - 1")
    return Subject(stacked.double(), k, seed)
