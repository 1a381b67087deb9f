"""How many tokens change experts when their logits are rounded to fewer bits?

`precision` counts them; `precision_flips` says which they are, and the margin of each token's
choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lp_routing.audits.probe import (
    AuditedRouter,
    Finding,
    RouterLike,
    as_audited_router,
    as_logits,
    compare,
    found,
    register,
    unasked,
)
from lp_routing.errors import InputError
from lp_routing.router_outputs import NoRouterOutput
from lp_routing.validation import as_choice, as_instance, as_list

FORMATS = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8 e4m3": torch.float8_e4m3fn,
    "fp8 e5m2": torch.float8_e5m2,
}
"""Name -> dtype the logits are rounded to."""
QUANTILES = (0.1, 0.5, 0.9)
"""Quantiles of the margins that a finding reports."""


@register(*({"rounded_to": name} for name in FORMATS))
def precision(
    router: RouterLike | AuditedRouter, logits: Tensor, *, rounded_to: str = "bf16"
) -> Finding:
    """Round the logits, widen them again, route, and compare.

    Only the logits are rounded: what the router computes from them keeps its own precision.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E).
        rounded_to: one of `FORMATS`. Rounds to nearest; values beyond the largest of the format
            become that value.

    Returns:
        A `Finding` over all tokens. Its `numbers` hold quantiles of the margin, the k-th minus the
        (k+1)-th logit of a token that has k experts, for tokens that "changed" and that "stayed".

    Raises:
        InputError: bad logits, an unknown format, or a router that is not callable.

    Cost: two calls and a sort.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0], [1.0, 1.001]])
        >>> lpr.audits.precision(lpr.routers.TopK(k=1), logits).count
        1
    """
    as_choice(rounded_to, "rounded_to", list(FORMATS))
    ask, logits = as_audited_router(router), as_logits(logits)
    name = f"precision: {rounded_to}"
    question = f"Does every token keep its experts when logits are rounded to {rounded_to}?"
    try:
        before, after = ask(logits), ask(rounded(logits, FORMATS[rounded_to]))
    except NoRouterOutput as reason:
        return unasked(name, question, reason)
    ways = ("as it is", f"in {rounded_to}")
    probe = compare("rounded", before, after, ways)
    spread = {
        "changed": _quantiles(margins(logits, before)[probe.changed]),
        "stayed": _quantiles(margins(logits, before)[~probe.changed]),
    }
    more = []
    if spread["changed"] and spread["stayed"]:
        more = [
            f"The median margin of those that change is {spread['changed'][1]:.3g}, "
            f"of those that stay {spread['stayed'][1]:.3g}."
        ]
    finding = found(name, question, f"when logits are rounded to {rounded_to}", [probe], more)
    quantiles = {
        f"margin of those that {group}, {100 * q:.0f} %": value
        for group, values in spread.items()
        for q, value in zip(QUANTILES, values, strict=False)
    }
    return replace(finding, numbers={**finding.numbers, **quantiles})


def rounded(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits rounded to another dtype and back in their own; -inf stays -inf."""
    largest = min(torch.finfo(dtype).max, torch.finfo(logits.dtype).max)
    finite = logits.clamp(-largest, largest).to(dtype).to(logits.dtype)
    return torch.where(logits.isfinite(), finite, logits)


def margins(logits: Tensor, chosen: Tensor) -> Tensor:
    """The k-th minus the (k+1)-th logit (..., T) of each token, k being how many experts it has.

    inf where a token has no expert, all of them, or all that are allowed.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.5]])
        >>> lpr.audits.margins(logits, torch.tensor([[True, False, False]])).tolist()
        [2.0]
    """
    logits = as_logits(logits)
    as_instance(chosen, Tensor, "chosen", "booleans of the shape of the logits")
    if chosen.dtype != torch.bool or chosen.shape != logits.shape:
        raise InputError(
            f"chosen: expected booleans of shape {tuple(logits.shape)}, got {chosen.dtype} of "
            f"shape {tuple(chosen.shape)}."
        )
    E = logits.shape[-1]
    k = chosen.sum(-1, keepdim=True)
    ordered = logits.sort(-1, descending=True).values.double()
    kth, following = (
        ordered.gather(-1, (k - 1).clamp(min=0)),
        ordered.gather(-1, k.clamp(max=E - 1)),
    )
    known = (k > 0) & (k < E) & kth.isfinite() & following.isfinite()
    return (kth - following).masked_fill(~known, float("inf")).squeeze(-1)


def _quantiles(values: Tensor) -> list[float]:
    """The `QUANTILES` of the finite values; empty where there are none."""
    ordered = values[values.isfinite()].sort().values
    last = len(ordered) - 1
    return [float(ordered[round(q * last)]) for q in QUANTILES] if last >= 0 else []


@dataclass(frozen=True, eq=False)
class PrecisionFlips:
    """Margins of the tokens' choices, and which choices change under rounding.

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
    router: RouterLike | AuditedRouter, logits: Tensor, *, formats: Sequence[str] = tuple(FORMATS)
) -> PrecisionFlips:
    """Round the logits to several formats, widen them again, route, and compare token by token.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E), whose tokens are put in a row.
        formats: names from `lp_routing.audits.FORMATS`.

    Raises:
        InputError: bad logits, no or an unknown format, or a router that is not callable.
        NoRouterOutput: the router did not answer.

    Cost: a call, one more for each format, and a sort.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0], [1.0, 1.001]])
        >>> lpr.audits.precision_flips(lpr.routers.TopK(k=1), logits).changed["bf16"].tolist()
        [False, True]
    """
    named = as_list(formats, "formats", f"some of {', '.join(FORMATS)}")
    if not named or any(not isinstance(name, str) or name not in FORMATS for name in named):
        raise InputError(f"formats={named!r}: expected some of {', '.join(FORMATS)}.")
    ask, logits = as_audited_router(router), as_logits(logits)
    before = ask(logits)
    changed = {
        name: (ask(rounded(logits, FORMATS[name])) != before).any(-1).flatten() for name in named
    }
    return PrecisionFlips(margins(logits, before).flatten(), changed)
