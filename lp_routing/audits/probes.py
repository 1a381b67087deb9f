"""What several audits do: ask a router in two situations, and compare token by token."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.audits.finding import Example, Finding, counted, stripped
from lp_routing.router_outputs import NoAnswer


@dataclass(frozen=True, eq=False)
class Probe:
    """One comparison: which tokens were asked, which of them changed, and the first that did.

    Attributes:
        name: what was varied; several probes may share a name.
        asked: boolean (..., T).
        changed: boolean (..., T), within `asked`.
        example: the first token that changed.
    """

    name: str
    asked: Tensor
    changed: Tensor
    example: Example | None


def compare(
    name: str, before: Tensor, after: Tensor, ways: tuple[str, str], asked: Tensor | None = None
) -> Probe:
    """Two maps (..., T, E) of the same tokens, compared where `asked` (..., T) or (T,) says."""
    everyone = torch.ones_like(before[..., 0]) if asked is None else asked.expand(before.shape[:-1])
    changed = (before != after).any(-1) & everyone
    return Probe(name, everyone, changed, first_example(before, after, changed, ways))


def first_example(
    before: Tensor, after: Tensor, which: Tensor, ways: tuple[str, str]
) -> Example | None:
    """The first of the tokens `which` (..., T) with its experts in both maps."""
    if not bool(which.any()):
        return None
    token = tuple(int(i) for i in which.nonzero()[0])
    return Example(token, _experts(before[token]), _experts(after[token]), ways)


def try_all(
    named: Iterable[tuple[str, Callable[[], Probe]]],
) -> tuple[list[Probe], list[str]]:
    """The probes the router answered, and a sentence for each name under which it did not.

    Raises:
        NoAnswer: it answered none of them.
    """
    probes: list[Probe] = []
    refused: dict[str, NoAnswer] = {}
    for name, ask in named:
        try:
            probes.append(ask())
        except NoAnswer as reason:
            refused.setdefault(name, reason)
    if not probes:
        raise next(iter(refused.values()), NoAnswer("there is nothing to ask"))
    return probes, [f"Not all asked ({name}): {stripped(why)}." for name, why in refused.items()]


def found(
    audit: str,
    question: str,
    when: str,
    probes: Sequence[Probe],
    more: Iterable[str] = (),
    refused: Sequence[str] = (),
) -> Finding:
    """One finding of all probes: a token counts if it changed in any of them.

    Args:
        audit: its name.
        question: what was asked.
        when: the situation in words, as in "3 of 8 tokens change experts {when}".
        probes: at least one.
        more: sentences to add.
        refused: sentences about what the router did not answer; where nothing else speaks against
            it, the question is then not answered either.
    """
    union = merged(audit, probes)
    count, of, example = int(union.changed.sum()), int(union.asked.sum()), union.example
    sentence = counted(count, of, f"tokens changes experts {when}", f"tokens change experts {when}")
    if example is not None:
        sentence += f": {example}"
    names = dict.fromkeys(p.name for p in probes)
    return Finding(
        audit=audit,
        question=question,
        verdict="fails" if count else "not asked" if refused else "holds",
        sentence=" ".join([f"{sentence}.", *more, *refused]),
        count=count,
        of=of,
        example=example,
        numbers={
            name: _share(merged(name, [p for p in probes if p.name == name])) for name in names
        },
    )


def merged(name: str, probes: Sequence[Probe]) -> Probe:
    """Several probes as one: a token was asked, and changed, if it was so in any of them."""
    examples = [p.example for p in probes if p.example is not None]
    return Probe(
        name,
        torch.stack([p.asked for p in probes]).any(0),
        torch.stack([p.changed for p in probes]).any(0),
        min(examples, key=lambda example: example.token, default=None),
    )


def negated(logits: Tensor) -> Tensor:
    """The logits with their signs turned; forbidden pairs stay forbidden."""
    return torch.where(logits.isfinite(), -logits, logits)


def redrawn(logits: Tensor, seed: int = 1) -> Tensor:
    """Normal random logits, twice as spread as the given ones, forbidden where those are."""
    known = logits[logits.isfinite()].double()
    spread = float(known.std()) if known.numel() > 1 else 0.0
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(logits.shape, generator=draw).to(logits)
    return torch.where(logits.isfinite(), normal * (2 * spread or 2.0), logits)


def _experts(row: Tensor) -> tuple[int, ...]:
    return tuple(int(j) for j in row.nonzero()[:, 0])


def _share(probe: Probe) -> float:
    return int(probe.changed.sum()) / max(1, int(probe.asked.sum()))
