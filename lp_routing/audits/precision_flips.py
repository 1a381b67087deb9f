"""Which tokens change experts in fewer bits, and by what margin each had chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.audits.precision import FORMATS, margins, rounded
from lp_routing.audits.subject import RouterLike, Subject, as_logits, as_subject
from lp_routing.errors import InputError


@dataclass(frozen=True, eq=False)
class PrecisionFlips:
    """Margins of choices, and which of them do not survive rounding.

    Attributes:
        margins: float64 (T,), >= 0 in logits: the k-th minus the (k+1)-th logit of a token with k
            experts; inf where there is no such pair.
        changed: format -> boolean (T,), whether the token has other experts once its logits are
            rounded.

    Raises:
        InputError: margins that are no vector or hold NaN, no format, or other lengths.
    """

    margins: Tensor
    changed: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.margins.ndim != 1 or not len(self.margins) or bool(self.margins.isnan().any()):
            raise InputError(
                f"margins: expected numbers (T,) without NaN, got shape "
                f"{tuple(self.margins.shape)}."
            )
        if not self.changed:
            raise InputError("changed: expected at least one format, got none.")
        for name, flags in self.changed.items():
            if flags.dtype != torch.bool or flags.shape != self.margins.shape:
                raise InputError(
                    f"changed[{name!r}]: expected booleans {tuple(self.margins.shape)}, got "
                    f"{flags.dtype} of shape {tuple(flags.shape)}."
                )


def precision_flips(
    router: RouterLike | Subject, logits: Tensor, *, formats: Sequence[str] = tuple(FORMATS)
) -> PrecisionFlips:
    """Round the logits to several formats, widen them again, route, and compare token by token.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E), whose tokens are put in a row.
        formats: names from `lp_routing.audits.FORMATS`.

    Raises:
        InputError: bad logits, no or an unknown format, or a router that is not callable.
        NoAnswer: the router did not answer.

    Cost: a call, one more for each format, and a sort.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"formats={list(formats)!r}: expected some of {', '.join(FORMATS)}.")
    ask, logits = as_subject(router), as_logits(logits)
    before = ask(logits)
    changed = {
        name: (ask(rounded(logits, FORMATS[name])) != before).any(-1).flatten() for name in formats
    }
    return PrecisionFlips(margins(logits, before).flatten(), changed)
