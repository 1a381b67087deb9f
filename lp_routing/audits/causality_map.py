"""Which earlier tokens change experts when later ones come, token by token."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.audits.subject import RouterLike, Subject, as_logits, as_subject
from lp_routing.errors import InputError
from lp_routing.validation import whole


@dataclass(frozen=True, eq=False)
class CausalityMap:
    """The routing of a growing sequence, compared from each length to the next.

    Attributes:
        lengths: whole numbers (P,), rising, at least two.
        changed: boolean (P - 1, T): whether token i has other experts in the first
            `lengths[r + 1]` tokens than in the first `lengths[r]`; False where it was not there.

    Raises:
        InputError: lengths that do not rise from 1 to at most T, another shape, or a token marked
            before it came.
    """

    lengths: Tensor
    changed: Tensor

    def __post_init__(self) -> None:
        lengths, changed = self.lengths, self.changed
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
        """Boolean (P - 1, T): the tokens that were there before others came."""
        tokens = torch.arange(self.changed.shape[1], device=self.changed.device)
        return tokens < self.lengths[:-1, None].to(self.changed.device)

    @property
    def share(self) -> float:
        """Of the tokens that were there before others came, the share that ever changed."""
        return int(self.changed.any(0).sum()) / max(1, int(self.asked.any(0).sum()))


def causality_map(
    router: RouterLike | Subject, logits: Tensor, *, prefixes: int = 64
) -> CausalityMap:
    """Route ever longer prefixes of a sequence, and compare each with the one before.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E), one sequence in reading order, T at least 2.
        prefixes: how many lengths to route, evenly spaced from 1 to T; T of them are every one.

    Returns:
        A `CausalityMap`; all False for a causal router, whose choice for a token never depends on
        later ones.

    Raises:
        InputError: bad logits, fewer than two tokens or prefixes, or a router that is not callable.
        NoAnswer: the router did not answer for some length.

    Cost: a call a prefix.
    """
    ask, logits = as_subject(router), as_logits(logits)
    prefixes = whole(prefixes, "prefixes", 2)
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
