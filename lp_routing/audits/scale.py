"""Does a router give the right answer on large, shifted and forbidden logits?"""

from collections.abc import Callable

import torch
from torch import Tensor

from lp_routing.audits.probe import (
    AuditedRouter,
    Finding,
    RouterLike,
    as_audited_router,
    as_logits,
    compare,
    counted,
    first_example,
    found,
    register,
    unanswered,
    unasked,
)
from lp_routing.errors import InputError
from lp_routing.router_outputs import NoRouterOutput

FACTOR, OFFSET = 60.0, 1000.0
"""Factor on logits and offset, in logits: a float32 softmax underflows at differences of 104, and
exp overflows at 89, so both are reached from the usual logits of a few units."""
SHIFT = 4
"""Largest offset of a single token, in logits: more than usual differences between tokens, and
where a sigmoid goes from 0.02 to 0.98."""
SHARE_FORBIDDEN = 8
"""One expert in this many is forbidden for each token, at random.

A router that ignores -inf then takes a forbidden pair for about k in this many tokens, which cannot
be missed; a smaller number forbids more and leaves less of the batch as it was.
"""


def _times(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits, logits * FACTOR


def _plus(logits: Tensor) -> tuple[Tensor, Tensor]:
    moved = logits + OFFSET
    return moved - OFFSET, moved


def _minus(logits: Tensor) -> tuple[Tensor, Tensor]:
    moved = logits - OFFSET
    return moved + OFFSET, moved


def _shifted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A whole number from -SHIFT to SHIFT added to all logits of a token, each its own."""
    draw = torch.Generator().manual_seed(5)
    shape = (*logits.shape[:-1], 1)
    shift = torch.randint(-SHIFT, SHIFT + 1, shape, generator=draw).to(logits)
    moved = logits + shift
    return moved - shift, moved


def _entries(chosen: Tensor) -> Tensor:
    """Random pairs of every token, few enough to leave it as many experts as it usually takes."""
    E = chosen.shape[-1]
    count = min(max(1, E // SHARE_FORBIDDEN), E - _usual(chosen))
    draw = torch.Generator().manual_seed(4)
    return (torch.rand(chosen.shape, generator=draw).argsort(-1) < count).to(chosen.device)


def _expert(chosen: Tensor) -> Tensor:
    """All pairs of the most loaded expert."""
    _usual(chosen)
    pairs = torch.zeros_like(chosen)
    pairs[..., int(chosen.flatten(0, -2).sum(0).argmax())] = True
    return pairs


def _token(chosen: Tensor) -> Tensor:
    """All pairs of the first token (of each sequence)."""
    pairs = torch.zeros_like(chosen)
    pairs[..., 0, :] = True
    return pairs


def _usual(chosen: Tensor) -> int:
    """Mean experts per token, rounded up; raises where it is E and none can be forbidden."""
    E = chosen.shape[-1]
    usual = -(-int(chosen.sum()) // chosen[..., 0].numel())
    if usual >= E:
        raise NoRouterOutput(f"its tokens have {usual} of {E} experts, so none can be forbidden")
    return usual


MOVES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "times 60": _times,
    "plus 1000": _plus,
    "minus 1000": _minus,
    "shifted per token": _shifted,
}
"""Way -> (logits of the reference call, changed logits), from the given logits."""
FORBIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "-inf entries": _entries,
    "-inf expert": _expert,
    "-inf token": _token,
}
"""Way -> the pairs to forbid, from the pairs chosen on the given logits."""
WAYS = (*MOVES, *FORBIDS)


@register(*({"way": way} for way in WAYS))
def scale(router: RouterLike | AuditedRouter, logits: Tensor, *, way: str = "times 60") -> Finding:
    """Route changed logits: are the experts the same, and are there NaN, errors or calls that hang?

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E).
        way: one of `WAYS`. "times 60", "plus 1000", "minus 1000" and "shifted per token" ask
            whether every token keeps its experts (the reference for the offsets is the logits with
            the same rounding). A rule that compares tokens may rightly change them when logits are
            multiplied. "shifted per token" adds another constant to each token's logits, which a
            softmax over experts does not feel, so that training with one does not fix it. "-inf
            entries" (an eighth of each token's pairs, at least one), "-inf expert" (the most used
            one) and "-inf token" (the first) ask whether such pairs are never chosen.

    Returns:
        A `Finding` over all tokens; without a count where there is no answer on changed logits.

    Raises:
        InputError: bad logits, an unknown way, or a router that is not callable.

    Cost: two calls.

    Example:
        >>> lpr.audits.scale(lpr.routers.TopK(k=1), torch.tensor([[3.0, 1.0], [2.0, 1.0]])).verdict
        'holds'
    """
    if way not in WAYS:
        raise InputError(f"way={way!r}: expected one of {', '.join(WAYS)}.")
    ask, logits = as_audited_router(router), as_logits(logits)
    name = f"scale: {way}"
    if way in MOVES:
        return _moved(ask, logits, name, way)
    return _forbidden(ask, logits, name, way)


def _moved(ask: AuditedRouter, logits: Tensor, name: str, way: str) -> Finding:
    question = f"Does every token keep its experts with logits {way}?"
    before, after = MOVES[way](logits)
    try:
        if not bool(((after < float("inf")) & (logits.isfinite() == after.isfinite())).all()):
            raise NoRouterOutput(f"logits {way} do not fit {logits.dtype}")
        plain = ask(before)
    except NoRouterOutput as reason:
        return unasked(name, question, reason)
    try:
        moved = ask(after)
    except NoRouterOutput as reason:
        return unanswered(name, question, f"on logits {way}", reason)
    probe = compare(way, plain, moved, ("on logits as they are", f"on logits {way}"))
    return found(name, question, f"with logits {way}", [probe])


def _forbidden(ask: AuditedRouter, logits: Tensor, name: str, way: str) -> Finding:
    question = f"Are pairs of score -inf left alone ({way})?"
    try:
        plain = ask(logits)
        pairs = FORBIDS[way](plain) | (logits == float("-inf"))
    except NoRouterOutput as reason:
        return unasked(name, question, reason)
    try:
        after = ask(logits.masked_fill(pairs, float("-inf")))
    except NoRouterOutput as reason:
        return unanswered(name, question, f"with {way}", reason)
    bad = (after & pairs).any(-1)
    count, of = int(bad.sum()), bad.numel()
    example = first_example(plain, after, bad, ("on logits as they are", f"with {way}"))
    taken = "an expert whose score is -inf"
    sentence = counted(count, of, f"tokens takes {taken}", f"tokens take {taken}")
    return Finding(
        audit=name,
        question=question,
        verdict="fails" if count else "holds",
        sentence=f"{sentence}{f': {example}' if example else ''}.",
        count=count,
        of=of,
        example=example,
    )
