"""Does the routing of a prefix change when later tokens are appended or changed?

`causality` counts the tokens; `causality_map` says for every token at which lengths it changed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.audits.probe import (
    MOST_SEQUENCES,
    AuditedRouter,
    Finding,
    Probe,
    RouterLike,
    as_audited_router,
    as_logits,
    asking,
    compare,
    found,
    negated,
    placed,
    redrawn,
    register,
    sequence_places,
    spread_out,
    try_all,
)
from lp_routing.errors import InputError
from lp_routing.router_outputs import NoRouterOutput
from lp_routing.validation import as_instance, as_int

NAME = "causality"
QUESTION = "Do the experts of a token stay the same whatever tokens come later?"


@register(by_sequence=True)
@asking(NAME, QUESTION)
def causality(
    router: RouterLike | AuditedRouter,
    logits: Tensor,
    *,
    cuts: int = 8,
    sequence: Tensor | None = None,
) -> Finding:
    """Cut the sequence at several places; route the prefix alone, and before other tokens.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E), one sequence in reading order, or (B, T, E).
        cuts: prefixes to try, evenly spaced; those of 1 and of T - 1 tokens are always tried. A
            rule that looks only a few tokens ahead is seen only just before a cut: pass T to try
            every prefix.
        sequence: whole numbers (T,), the sequence of each token of logits (T, E); each is then
            routed alone, and no token counts as later than those of another sequence. Left out,
            the tokens are one sequence.

    Returns:
        A `Finding` over all tokens but the last: a token counts if it changes experts at any cut.
        Its `numbers` are the shares for later tokens "appended" and "changed" (their logits
        negated, or drawn anew). "holds" means that no dependence was found at these cuts, not that
        there is none; "not asked", that none was found but the router gave no answer for some
        prefix.

    Raises:
        InputError: bad logits or cuts, or a router that is not callable.

    Cost: three calls for each cut, for each of up to 64 sequences.

    Example:
        >>> logits = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        >>> lpr.audits.causality(lpr.routers.TopK(k=1), logits).verdict
        'holds'
        >>> lpr.audits.causality(lpr.routers.ExpertChoice(2), logits).verdict
        'fails'
    """
    ask, logits, cuts = as_audited_router(router), as_logits(logits), as_int(cuts, "cuts", 1)
    parts: list[Tensor | None] = [None]
    if sequence is not None:
        parts = [part for part in sequence_places(sequence, logits) if len(part) > 1]
    asked: Asked = []
    cut, unanswered = 0, None
    for i in spread_out(len(parts), MOST_SEQUENCES):
        part = parts[i]
        try:
            places, probes_of = _asked_of(ask, logits if part is None else logits[part], cuts)
        except NoRouterOutput as reason:
            unanswered = unanswered or reason
            continue
        cut += len(places)
        asked += [(name, partial(_in_place, probe, part, len(logits))) for name, probe in probes_of]
    if not cut:
        raise unanswered or NoRouterOutput("there is one token, and none later")
    possible = sum(logits.shape[-2] - 1 if part is None else len(part) - 1 for part in parts)
    probes, refused = try_all(asked)
    if unanswered is not None:
        refused.setdefault("a sequence alone", unanswered)
    more = []
    if cut < possible:
        more.append(
            f"Asked at {cut} of {possible} places: a look at the next few tokens alone shows "
            f"just before one of them, so the count is the least there are."
        )
    if getattr(ask.router, "causal", None) is True and any(p.example for p in probes):
        more.append("The router calls itself causal.")
    when = "when later tokens are appended or changed"
    finding = found(NAME, QUESTION, when, probes, more, refused)
    return replace(finding, at_least=cut < possible)


Asked = list[tuple[str, Callable[[], Probe]]]


def _asked_of(ask: AuditedRouter, logits: Tensor, cuts: int) -> tuple[list[int], Asked]:
    """The prefix lengths of one sequence, and its probes."""
    T = logits.shape[-2]
    if T == 1:
        return [], []
    full = ask(logits)
    others = (negated(logits), redrawn(logits))
    asked: Asked = []
    places = sorted({1, T - 1, *(max(1, T * i // cuts) for i in range(1, cuts))})
    for n in places:
        asked.append(("appended", partial(_appended, ask, logits, full, n)))
        asked += [("changed", partial(_changed, ask, logits, other, full, n)) for other in others]
    return places, asked


def _in_place(probe: Callable[[], Probe], part: Tensor | None, tokens: int) -> Probe:
    return probe() if part is None else placed(probe(), part, tokens)


def _appended(ask: AuditedRouter, logits: Tensor, full: Tensor, n: int) -> Probe:
    T = logits.shape[-2]
    alone = torch.cat([ask(logits[..., :n, :]), full[..., n:, :]], -2)
    ways = (f"in a prefix of {n}", f"once all {T} tokens have come")
    return compare("appended", alone, full, ways, _before(n, logits))


def _changed(ask: AuditedRouter, logits: Tensor, other: Tensor, full: Tensor, n: int) -> Probe:
    replaced = torch.cat([logits[..., :n, :], other[..., n:, :]], -2)
    ways = ("before the tokens that come", f"before others from token {n} on")
    return compare("changed", full, ask(replaced), ways, _before(n, logits))


def _before(n: int, logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[-2], device=logits.device) < n


@dataclass(frozen=True, eq=False)
class CausalityMap:
    """The routing of a growing sequence, compared from each length to the next.

    Attributes:
        lengths: whole numbers (P,), rising, at least two.
        changed: boolean (P - 1, T): whether token i has other experts in prefix r + 1 than in
            prefix r; False where it is not in prefix r.

    Raises:
        InputError: lengths that do not rise from 1 to at most T, another shape, or a token marked
            in a prefix without it.
    """

    lengths: Tensor
    changed: Tensor

    def __post_init__(self) -> None:
        lengths = as_instance(self.lengths, Tensor, "lengths", "a tensor of whole numbers")
        changed = as_instance(self.changed, Tensor, "changed", "a tensor of booleans")
        if lengths.is_complex():
            raise InputError(f"lengths: expected whole numbers, got {lengths.dtype}.")
        rise = lengths.ndim == 1 and len(lengths) > 1 and bool((lengths.diff() > 0).all())
        if not rise or lengths.is_floating_point() or int(lengths[0]) < 1:
            raise InputError(f"lengths: expected two or more rising whole numbers, got {lengths}.")
        rows = len(lengths) - 1
        if changed.ndim != 2 or changed.dtype != torch.bool or len(changed) != rows:
            raise InputError(
                f"changed: expected booleans ({rows}, T), got {changed.dtype} of shape "
                f"{tuple(changed.shape)}."
            )
        if int(lengths[-1]) > changed.shape[1]:
            raise InputError(f"lengths: {int(lengths[-1])} of {changed.shape[1]} tokens.")
        if bool((changed & ~self.asked).any()):
            r, i = (int(place) for place in (changed & ~self.asked).nonzero()[0])
            raise InputError(f"changed[{r}, {i}]: token {i} was not among the first {lengths[r]}.")

    @property
    def asked(self) -> Tensor:
        """Boolean (P - 1, T): the tokens of the shorter prefix of each two."""
        tokens = torch.arange(self.changed.shape[1], device=self.changed.device)
        return tokens < self.lengths[:-1, None].to(self.changed.device)

    @property
    def share(self) -> float:
        """The share of tokens that ever changed, of those in any shorter prefix."""
        return int(self.changed.any(0).sum()) / max(1, int(self.asked.any(0).sum()))


def causality_map(
    router: RouterLike | AuditedRouter, logits: Tensor, *, prefixes: int = 64
) -> CausalityMap:
    """Route prefixes of growing length, and compare each with the one before.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E), one sequence in reading order, T at least 2.
        prefixes: how many lengths to route, evenly spaced from 1 to T; T routes every prefix.

    Returns:
        A `CausalityMap`; all False for a causal router, whose choice for a token never depends on
        later ones.

    Raises:
        InputError: bad logits, fewer than two tokens or prefixes, or a router that is not callable.
        NoRouterOutput: the router did not answer for some length.

    Cost: one call for each prefix.

    Example:
        >>> found = lpr.audits.causality_map(lpr.routers.TopK(k=1), torch.randn(16, 4), prefixes=4)
        >>> found.lengths.tolist(), found.changed.any().item()
        ([1, 6, 11, 16], False)
    """
    ask, logits = as_audited_router(router), as_logits(logits)
    prefixes = as_int(prefixes, "prefixes", 2)
    if logits.ndim != 2 or len(logits) < 2:
        raise InputError(
            f"logits: expected one sequence (T, E) of two or more tokens, got shape "
            f"{tuple(logits.shape)}."
        )
    T = len(logits)
    lengths = torch.linspace(1, T, min(prefixes, T), dtype=torch.float64).round().long()
    changed = torch.zeros(len(lengths) - 1, T, dtype=torch.bool, device=logits.device)
    before = ask(logits[: int(lengths[0])])
    for row, (n, following) in enumerate(pairwise(lengths.tolist())):
        after = ask(logits[:following])
        changed[row, :n] = (after[:n] != before).any(-1)
        before = after
    return CausalityMap(lengths, changed)
