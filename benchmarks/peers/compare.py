"""Whether two routers choose the same experts: token by token, exchanges among ties set apart."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lp_routing.routers import CAPACITY_FORMULAS, AnyRouter, CapacityFactor, StatefulRouter

PeerMap = Callable[[Tensor, Tensor | None], Tensor]
"""(logits (T, E), mask (T,) or None) -> the pairs that a peer chooses, boolean (T, E)."""


@dataclass(frozen=True)
class Subject:
    """A routing function of another project, beside the router of ours that states its rule.

    Attributes:
        function: what is called, and with which options, in words.
        theirs: calls it.
        router: ours.
        state: what ours starts from, where it carries something from batch to batch.
        padded: every third token is padding, for both.
    """

    function: str
    theirs: PeerMap
    router: AnyRouter
    state: Any = None
    padded: bool = False


@dataclass(frozen=True)
class Row:
    """What a comparison found.

    Attributes:
        peer: the package, as it is installed.
        version: of that package.
        function: what was called.
        router: ours, as one writes it.
        tokens: how many were routed, over all layers; or how many cases there were.
        same: of these, those whose sets of experts agree.
        tied: of the rest, those where both took pairs of equal score.
        first: the first token where neither holds, or the error that was raised; "" if none.
        unit: what was counted, tokens or cases.
    """

    peer: str
    version: str
    function: str
    router: str
    tokens: int
    same: int
    tied: int
    first: str
    unit: str = "tokens"

    @property
    def agrees(self) -> bool:
        """All tokens were routed, and alike but for ties."""
        return not self.first and self.same + self.tied == self.tokens


def compare(peer: str, version: str, subject: Subject, layers: Sequence[Tensor]) -> Row:
    """Route the logits of each layer, (T, E), by both; a peer that raises gets a row too."""
    same = tied = 0
    first = ""
    for number, logits in enumerate(layers):
        mask = every_third_is_padding(len(logits)) if subject.padded else None
        ours, scores = routed(subject, logits, mask)
        try:
            theirs = subject.theirs(logits.clone(), mask)
        except Exception as error:  # another version may have another interface
            first = f"{type(error).__name__}: {error}"
            break
        differs = (theirs != ours).any(-1)
        excused = differs & among_ties(theirs, ours, scores)
        same += int((~differs).sum())
        tied += int(excused.sum())
        first = first or first_difference(number, differs & ~excused, theirs, ours)
    tokens = sum(len(logits) for logits in layers)
    return Row(peer, version, subject.function, written(subject.router), tokens, same, tied, first)


def routed(subject: Subject, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What our router chooses, boolean (T, E), and the scores it compares."""
    router = subject.router
    scores = router.scores(logits, mask)
    if isinstance(router, StatefulRouter):
        return router(logits, subject.state, mask=mask)[0].x, scores
    return router(logits, mask=mask).x, scores


def every_third_is_padding(T: int) -> Tensor:
    """Boolean (T,), True for real tokens."""
    return torch.arange(T) % 3 != 2


def among_ties(theirs: Tensor, ours: Tensor, scores: Tensor) -> Tensor:
    """Tokens whose differing pairs all lie in lines where both took the same scores; (T,).

    A line is a token or an expert: equal scores may have changed places within a token (other
    experts) or within an expert (other tokens, where a capacity keeps the best).
    """
    excused = _same_scores(theirs, ours, scores, -1) | _same_scores(theirs, ours, scores, -2)
    return (excused | (theirs == ours)).all(-1)


def _same_scores(theirs: Tensor, ours: Tensor, scores: Tensor, dim: int) -> Tensor:
    a, b = (scores.masked_fill(~x, float("-inf")).sort(dim).values for x in (theirs, ours))
    as_many = theirs.sum(dim, keepdim=True) == ours.sum(dim, keepdim=True)  # -inf may be chosen
    return (a == b).all(dim, keepdim=True) & as_many


def first_difference(layer: int, differs: Tensor, theirs: Tensor, ours: Tensor) -> str:
    """The first of the tokens that differ, in words; "" if there is none."""
    tokens = differs.nonzero().flatten().tolist()
    if not tokens:
        return ""
    token = tokens[0]
    return (
        f"layer {layer}, token {token}: theirs {_experts(theirs[token])}, "
        f"ours {_experts(ours[token])}"
    )


def _experts(row: Tensor) -> str:
    return "{" + ", ".join(str(expert) for expert in row.nonzero().flatten().tolist()) + "}"


def written(router: AnyRouter | CapacityFactor) -> str:
    """A router as one would write it: only what differs from the defaults, keywords last."""
    known = fields(router)  # type: ignore[arg-type]  # every router is a dataclass
    given = [
        (field.name, getattr(router, field.name))
        for field in sorted(known, key=lambda field: bool(field.kw_only))
        if field.default is MISSING or getattr(router, field.name) != field.default
    ]
    return f"{type(router).__name__}({', '.join(f'{n}={_value(v)}' for n, v in given)})"


def _value(value: Any) -> str:
    if isinstance(value, CapacityFactor):
        return written(value)
    return value.__name__ if callable(value) else repr(value)


@dataclass(frozen=True)
class CapacityRule:
    """A peer's capacity of an expert, beside the formula of ours that bears its name.

    Attributes:
        function: what is called.
        theirs: (T, E, K, factor) -> capacity.
        formula: one of `CAPACITY_FORMULAS`.
    """

    function: str
    theirs: Callable[[int, int, int, float], int]
    formula: str


CAPACITY_CASES = [
    (T, E, K, factor)
    for T in (1, 7, 64, 100, 500)
    for E in (2, 8, 10, 64)
    for K in (1, 2, 4)
    for factor in (0.5, 1.0, 1.1, 1.25, 2.0)
    if K <= E
]


def compare_capacities(peer: str, version: str, rule: CapacityRule) -> Row:
    """Both on all of `CAPACITY_CASES`."""
    same, first = 0, ""
    for T, E, K, factor in CAPACITY_CASES:
        ours = CAPACITY_FORMULAS[rule.formula](T, E, K, factor)
        try:
            theirs = rule.theirs(T, E, K, factor)
        except Exception as error:  # another version may have another interface
            first = f"{type(error).__name__}: {error}"
            break
        same += theirs == ours
        if theirs != ours and not first:
            first = f"T={T}, E={E}, K={K}, factor {factor:g}: theirs {theirs}, ours {ours}"
    ours_written = f'CAPACITY_FORMULAS["{rule.formula}"]'
    cases = len(CAPACITY_CASES)
    return Row(peer, version, rule.function, ours_written, cases, same, 0, first, "cases")
