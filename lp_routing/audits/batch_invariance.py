"""Does the routing of a sequence depend on the other sequences, on their order, on padding?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
from lp_routing.validation import as_int

NAME = "batch invariance"
QUESTION = "Does a sequence go to the same experts whatever else is in the batch?"


@register(by_sequence=True)
@asking(NAME, QUESTION)
def batch_invariance(
    router: RouterLike | AuditedRouter,
    logits: Tensor,
    *,
    sequences: int = 4,
    sequence: Tensor | None = None,
) -> Finding:
    """Route every sequence alone, among others, in another order, and with padding.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (B, T, E), a batch of sequences. Or (T, E), a flat batch as most layers see it:
            `sequences` one after the other.
        sequences: number of equal parts that a flat batch is split into, where `sequence` is not
            given.
        sequence: whole numbers (T,), the sequence of each token of a flat batch.

    Returns:
        A `Finding` over all tokens. Its `numbers` are the shares for "alone", "order", "others"
        (every second sequence negated, then the rest) and "padding" (a quarter more tokens on
        either side, masked out), which is asked of routers with a parameter `mask` only.

    Raises:
        InputError: bad logits or sequences, or a router that is not callable.

    Cost: one call for each of up to 64 sequences, and six.

    Example:
        >>> lpr.audits.batch_invariance(lpr.routers.TopK(k=1), torch.randn(16, 4)).verdict
        'holds'
    """
    ask, logits = as_audited_router(router), as_logits(logits)
    sequences = as_int(sequences, "sequences", 2)
    if sequence is not None:
        places = sequence_places(sequence, logits)
        batch = _Batch(tuple(logits[part] for part in places), True, torch.cat(places))
    elif logits.ndim == 2:
        batch = _Batch(logits.tensor_split(min(sequences, len(logits))), True)
    else:
        batch = _Batch(logits.unbind(0), False)
    B = len(batch.parts)
    together = batch.join(batch.route(ask, batch.parts))
    asked: list[tuple[str, Callable[[], Probe]]] = [
        ("alone", partial(_alone, ask, batch, together, b)) for b in spread_out(B, MOST_SEQUENCES)
    ]
    more = []
    if B > 1:
        orders = (list(range(B))[::-1], [*range(1, B), 0])
        asked += [("order", partial(_reordered, ask, batch, together, o)) for o in orders]
        asked += [("others", partial(_among_others, ask, batch, together, kept)) for kept in (0, 1)]
    else:
        more.append("There is one sequence, so no other and no order to ask about.")
    if ask.takes_mask:
        asked.append(("padding", partial(_padded, ask, batch, together)))
    else:
        more.append("Padding was not asked about: the router has no parameter `mask`.")
    probes, refused = try_all(asked)
    if batch.places is not None:
        probes = [placed(probe, batch.places, len(batch.places)) for probe in probes]
    when = "with the rest of the batch"
    return found(NAME, QUESTION, when, probes, more, refused)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Sequences (T_b, E), routed concatenated (flat) or stacked; `places`: their token indices."""

    parts: tuple[Tensor, ...]
    flat: bool
    places: Tensor | None = None

    def route(self, ask: AuditedRouter, parts: Sequence[Tensor]) -> list[Tensor]:
        """The chosen pairs of some sequences that are routed together."""
        return self.split(ask(self.join(parts)), parts)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)) if self.flat else torch.stack(list(parts))

    def split(self, whole_batch: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
        return list(torch.split(whole_batch, [len(p) for p in parts]) if self.flat else whole_batch)


def _alone(ask: AuditedRouter, batch: _Batch, together: Tensor, b: int) -> Probe:
    maps = batch.split(together, batch.parts)
    maps[b] = batch.route(ask, [batch.parts[b]])[0]
    ways = ("when its sequence is routed alone", "in the whole batch")
    return compare("alone", batch.join(maps), together, ways, _only(batch, {b}))


def _reordered(ask: AuditedRouter, batch: _Batch, together: Tensor, order: list[int]) -> Probe:
    routed = batch.route(ask, [batch.parts[b] for b in order])
    maps = batch.join([routed[order.index(b)] for b in range(len(order))])
    ways = ("as the sequences come", "with the sequences in another order")
    return compare("order", together, maps, ways)


def _among_others(ask: AuditedRouter, batch: _Batch, together: Tensor, kept: int) -> Probe:
    """Compare every second sequence, from number `kept` on, when the others are changed."""
    same = set(range(kept, len(batch.parts), 2))
    mixed = [p if b in same else negated(p) for b, p in enumerate(batch.parts)]
    maps = batch.join(batch.route(ask, mixed))
    ways = ("among the sequences of the batch", "among others")
    return compare("others", together, maps, ways, _only(batch, same))


def _padded(ask: AuditedRouter, batch: _Batch, together: Tensor) -> Probe:
    """Compare every sequence padded on both sides with masked tokens of random logits."""
    maps, masks, sizes, wide = [], [], [], []
    for part in batch.parts:
        size = -(-len(part) // 4)
        noise = redrawn(part)
        padded = torch.cat([noise[:size], part, noise[-size:]])
        real = torch.zeros(len(padded), dtype=torch.bool, device=part.device)
        real[size : size + len(part)] = True
        sizes.append(size)
        wide.append(padded)
        masks.append(real)
    answers = batch.split(ask(batch.join(wide), batch.join(masks)), wide)
    for part, size, answer in zip(batch.parts, sizes, answers, strict=True):
        maps.append(answer[size : size + len(part)])
    return compare("padding", together, batch.join(maps), ("without padding", "with padding"))


def _only(batch: _Batch, sequences: set[int]) -> Tensor:
    """Boolean, True for the tokens of some sequences."""
    marks = [torch.full_like(p[:, 0], b in sequences) for b, p in enumerate(batch.parts)]
    return batch.join(marks).bool()
