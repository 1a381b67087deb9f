"""What a claim is, how claims are checked, and how a smallest counterexample is searched for.

A `Claim` is a statement with source, conditions and verdict, and a check with numbers. `check_all`
checks several claims on the same logits. `smallest` and `smallest_case` try every small matrix of
whole numbers, those with the fewest entries first.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import combinations_with_replacement, islice, product
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import as_callable, as_int, refuse_nan_and_inf

Number = float | int | bool | str | None
Refutation = Callable[[Tensor], str | None]
"""Scores (T, E) -> what they show against a statement, in words; None where it stands."""


NOTHING = 1e3
"""A logit this far below all others, and below 0, has a softmax and a sigmoid of exactly 0.

In float64 exp(-746) is 0.
"""


class Verdict(Enum):
    """The result of checking a claim; the values are what tables print."""

    HOLDS = "holds"
    CONDITIONAL = "holds only if"
    FAILS = "fails"
    EMPIRICAL = "empirical"


@dataclass(frozen=True, eq=False)
class ClaimInput:
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
        agrees: whether it is as the verdict says; None where the claim does not apply to the input,
            such as groups of experts where E is prime.
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
    """Scores small enough to follow by hand, and why the statement fails on them.

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
    """A statement from the literature, our verdict on it, and its checks.

    Attributes:
        id: such as "B1".
        title: a few words for tables.
        statement: what is claimed, in words.
        formula: the same in symbols (plain text; axis letters as everywhere).
        conditions: under which it is true; empty where it needs none or is false under all.
        source: paper with section or equation; the code file where it is code.
        verdict: the result: it holds, holds under conditions, fails, or is left to experiment.
        reason: the proof, or why it fails, in a few sentences.
        examine: evidence on an input; call `check`, which validates its arguments first.
        counterexample: the hand-worked case; None where the statement holds.
        refutes_statement: scores -> what they show against the statement as claimed, or None; not
            None on the counterexample. The search for a smallest counterexample calls it.
        refutes_verdict: scores -> what they show against the verdict, that is against the statement
            under its conditions or against `reason`, or None. Tests call it on many scores and
            expect None.
        rows_alone: whether neither statement nor check depends on which expert an entry of a row
            belongs to, so that rows may be shortened to their finite logits.
        forbidden_too: whether the check may treat forbidden pairs (-inf) as pairs of score 0 that
            no token has among its k best: their logits are then set low enough for that.
    """

    id: str
    title: str
    statement: str
    formula: str
    conditions: str
    source: str
    verdict: Verdict
    reason: str
    examine: Callable[[ClaimInput], Evidence]
    counterexample: Counterexample | None = None
    refutes_statement: Refutation | None = None
    refutes_verdict: Refutation | None = None
    rows_alone: bool = False
    forbidden_too: bool = False

    def check(self, logits: Tensor, *, k: int = 2, seed: int = 0) -> Evidence:
        """Evidence for or against the verdict on these logits.

        Args:
            logits: (T, E) or (L, T, E) floating point; finite, or -inf for a forbidden pair.
            k: experts per token.
            seed: of what the check draws.

        Returns:
            `Evidence`; it disagrees where the numbers contradict the verdict, or where the claim's
            counterexample does not refute the statement.

        Raises:
            InputError: logits of another shape or type, NaN or +inf entries, k > E.
        """
        evidence = self._examined(claim_input(logits, k=k, seed=seed))
        if self.counterexample is None or self.refutes_statement is None:
            return evidence
        if self.refutes_statement(self.counterexample.tensor()) is None:
            return Evidence(False, "The counterexample refutes nothing.", evidence.numbers)
        return evidence

    def _examined(self, subject: ClaimInput) -> Evidence:
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


def claim_input(logits: Tensor, *, k: int = 2, seed: int = 0) -> ClaimInput:
    """The validated input of a claim, from logits (T, E) or (L, T, E)."""
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
    k = as_int(k, "k", 1, logits.shape[-1], "E, the number of experts")
    seed = as_int(seed, "seed", 0, 2**63 - 1, "2**63 - 1")
    return ClaimInput(stacked.double(), k, seed)


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
        """Whether the logits allow the check, and it answered or failed."""
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
    """Check claims one after the other; a check that fails does not stop the others.

    Args:
        claims: which.
        logits: (T, E) or (L, T, E), finite.
        k: experts per token.
        seed: of what checks draw.
        begun: callback, called with each claim before its check.

    Raises:
        InputError: logits that no claim can be checked on.
    """
    claim_input(logits, k=k, seed=seed)
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


ENTRIES = ((0, 1), (0, 1, 2), (0, 1, -1))
"""Sets of scores that a search chooses from, the simplest first."""
ENOUGH = 200
"""Matrices tried of each shape and set of scores: more find smaller cases, in more time.

With 100, 200 and 400 all searches together take 5, 9 and 14 s on one core, the slowest (O10c) 2.8,
5.2 and 8.7 s.
"""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Result of a search.

    Attributes:
        scores: the first matrix that refutes the statement, float64 (T, E); None where none does.
        says: what it shows, in words; empty where none does.
        tried: how many matrices were looked at.
    """

    scores: Tensor | None
    says: str
    tried: int


def smallest(
    refutes: Refutation,
    *,
    most_tokens: int = 3,
    most_experts: int = 3,
    entries: Sequence[float] = (0, 1, 2),
    limit: int = 100_000,
) -> SearchResult:
    """The first matrix that refutes a statement: fewest pairs T E, then fewest tokens.

    Matrices that differ only in the order of their rows are tried once.

    Args:
        refutes: scores (T, E) -> what they show against the statement, or None.
        most_tokens, most_experts: the largest T and E to try.
        entries: the scores to choose from, the simplest first.
        limit: how many matrices to look at before giving up.

    Raises:
        InputError: no entries, or sizes below 1.

    Example:
        >>> found = lpr.claims.smallest(lambda scores: "a zero" if (scores == 0).any() else None)
        >>> found.scores.tolist(), found.says
        ([[0.0]], 'a zero')
    """
    T, E = as_int(most_tokens, "most_tokens", 1), as_int(most_experts, "most_experts", 1)
    limit = as_int(limit, "limit", 1)
    as_callable(refutes, "refutes", "a function of scores (T, E)")
    if not entries:
        raise InputError("entries: expected at least one number to choose scores from, got none.")
    tried = 0
    for scores in matrices(T, E, entries):
        if tried == limit:
            break
        tried += 1
        says = refutes(scores)
        if says is not None:
            return SearchResult(scores, says, tried)
    return SearchResult(None, "", tried)


@cache
def smallest_case(claim: Claim) -> SearchResult:
    """The smallest case found against a claim: fewest pairs T E, none more than the one by hand.

    For every number of pairs in turn, and the scores of each of `ENTRIES` and of the case worked by
    hand, the first `ENOUGH` matrices of each shape; the simplest numbers win, then fewer tokens.

    Raises:
        InputError: a claim that has no counterexample.
    """
    if claim.counterexample is None or claim.refutes_statement is None:
        raise InputError(f"{claim.id}: it has no counterexample, so there is none to search for.")
    by_hand, tried = claim.counterexample.tensor(), 0
    kinds = _with_news((*ENTRIES, sorted(set(by_hand.flatten().tolist()))))
    for pairs, (entries, new) in product(range(1, by_hand.numel() + 1), kinds):
        for T in (T for T in range(1, pairs + 1) if pairs % T == 0):
            for case in islice(_of_shape(T, pairs // T, entries, new), ENOUGH):
                tried += 1
                says = claim.refutes_statement(case)
                if says is not None:
                    return SearchResult(case, says, tried)
    return SearchResult(None, "", tried)


def _with_news(kinds: Sequence[Sequence[float]]) -> list[tuple[Sequence[float], set[float]]]:
    """Sets of scores that hold new scores, each with those that no earlier set has."""
    found, known = [], set[float]()
    for entries in kinds:
        new = set(entries) - known
        if new:
            found.append((entries, new))
        known |= new
    return found


def matrices(most_tokens: int, most_experts: int, entries: Sequence[float]) -> Iterator[Tensor]:
    """All matrices up to a size, float64 (T, E), the fewest pairs first, rows in one order."""
    sizes = product(range(1, most_tokens + 1), range(1, most_experts + 1))
    for T, E in sorted(sizes, key=lambda size: (size[0] * size[1], size[0])):
        yield from _of_shape(T, E, entries, set(entries))


def _of_shape(T: int, E: int, entries: Sequence[float], some: set[float]) -> Iterator[Tensor]:
    """All matrices float64 (T, E) with an entry of `some`, each set of rows in one order only."""
    for rows in combinations_with_replacement(product(entries, repeat=E), T):
        if any(not some.isdisjoint(row) for row in rows):
            yield torch.tensor(rows, dtype=torch.float64)
