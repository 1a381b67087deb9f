"""Router logits to scores: pure functions on (..., T, E), padding masked by (..., T).

Half-precision logits are widened to float32 first, which is exact. Different logits may still have
equal scores: a softmax underflows, a sigmoid saturates. Equal logits always have equal scores:
torch's own sigmoid and softplus can differ in the last bit at the end of a vector, so they are
computed here from exp and log1p, in float64, rounded once.
A logit of -inf stays a forbidden pair: its score is -inf.

`competition_scores` are computed from the experts' outputs instead of logits.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import (
    as_bool,
    as_choice,
    as_float,
    as_tensor,
    forbid_masks,
    refuse_nan_and_inf,
    refuse_not_dense,
)

ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]
"""(logits (..., T, E), mask (..., T) or None) -> scores (..., T, E); -inf for padding."""


def logits(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The logits themselves, widened to at least float32, -inf where the token is padding."""
    return masked(check_logits(values), mask)


def softmax(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over experts (Shazeer et al. 2017, eq. 2, without noise)."""
    wide = check_logits(values)
    return _scored(wide, mask, _softmax(wide))


def sigmoid(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sigmoid of each logit on its own (DeepSeek-V3, eq. 15)."""
    wide = check_logits(values)
    return _scored(wide, mask, _sigmoid(wide))


def sqrt_softplus(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Square root of the softplus of each logit on its own (DeepSeek-V4: "sqrtsoftplus").

    sqrt(log(1 + exp(logit))), which stays above 0 down to float32 logits of -170. It is monotone in
    the logit, so row top-k is the same up to ties.
    """
    wide = check_logits(values)
    # beyond 40 either way exp(-40) is lost beside 1: softplus(x) is x, or exp(x), whose root has a
    # gradient where the square root of an underflow has none
    exact = wide.double()
    tail = torch.exp(exact.clamp(max=-40) / 2)
    root = softplus(exact.clamp(min=-40)).sqrt()
    return _scored(wide, mask, torch.where(exact < -40, tail, root).to(wide.dtype))


def probabilities(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """exp(x), for log-probabilities as logits; rows may sum to less than 1.

    For traces of only the largest probabilities, which a softmax would renormalise.
    """
    wide = check_logits(values)
    return _scored(wide, mask, wide.exp())


def unified(values: Tensor, mask: Tensor | None = None, *, rate: float = 0.5) -> Tensor:
    """USMoE's unified score: (1 - rate) softmax + rate * sigmoid * 2 / E (Do et al. 2025, code)."""
    wide = check_logits(values)
    check_rate(rate)
    gate = _sigmoid(wide) * (2 / wide.shape[-1])
    return _scored(wide, mask, (1 - rate) * _softmax(wide) + rate * gate)


def unified_v1(
    values: Tensor, mask: Tensor | None = None, *, rate: float = 0.5, per_token: bool = False
) -> Tensor:
    """USMoE's first version: a softmax over the tokens in place of the sigmoid.

    (1 - rate) softmax over experts + rate * softmax over tokens (arXiv 2503.22996 v1). The second
    term makes a token's score depend on all tokens of its sequence (the axis before the last),
    later ones included, for any pool. Padding is left out. Its entries add up to E over a sequence,
    those of the first term to T, so that it hardly counts unless it is divided by its row sum.

    Args:
        values: logits (..., T, E).
        mask: boolean (..., T), True for real tokens.
        rate: weight of the softmax over tokens.
        per_token: divide the softmax over tokens by its sum over experts, as the older lines do
            that the released files keep as comments (modeling_deepseek.py); which of the two v1 of
            the paper prints is not known.
    """
    wide = check_logits(values)
    check_rate(rate)
    # contiguous along the token axis: else torch sums the last columns in another order
    by_expert = masked(wide, mask).mT.contiguous()
    over_tokens = _softmax(by_expert).mT
    if as_bool(per_token, "per_token"):
        total = over_tokens.sum(-1, keepdim=True)
        over_tokens = over_tokens / total.masked_fill(total == 0, 1.0)
    return _scored(wide, mask, (1 - rate) * _softmax(wide) + rate * over_tokens)


BY_NAME: dict[str, ScoreFunction] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "unified": unified,
    "logits": logits,
    "sqrt_softplus": sqrt_softplus,
    "probabilities": probabilities,
}
"""Scores the command line offers by name."""


def check_rate(rate: float) -> None:
    """Raise `InputError` unless the rate is a number from 0 to 1."""
    as_float(rate, "rate", "a number from 0 to 1", lambda given: 0 <= given <= 1)


def check_logits(values: Tensor, what: str = "logits") -> Tensor:
    """Logits (..., T, E) in float32 or float64; lists and numpy arrays are read as float64.

    Numbers that stand for -inf (`lp_routing.validation.forbid_masks`) become -inf.

    Raises:
        InputError: not dense floating-point numbers with two or more axes, empty, NaN or +inf.
    """
    if not isinstance(values, Tensor):
        values = as_tensor(values, what, "floating-point numbers (..., tokens, experts)")
    refuse_not_dense(values, what)
    if not values.is_floating_point():
        wrong = values.is_complex() or values.dtype == torch.bool
        raise InputError(
            f"{what}: expected floating-point numbers (..., tokens, experts), got {values.dtype} "
            f"of shape {tuple(values.shape)}"
            + ("." if wrong else "; if these are logits, give them with .float().")
        )
    if values.ndim < 2 or values.numel() == 0:
        raise InputError(
            f"{what}: expected floating-point numbers (..., tokens, experts) with at least one "
            f"token and one expert, got {values.dtype} of shape {tuple(values.shape)}."
        )
    wide = values if values.dtype == torch.float64 else values.float()
    refuse_nan_and_inf(wide.detach(), what)
    return forbid_masks(wide)


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """-inf where the token is padding; `mask` (..., T) is True for real tokens.

    Raises:
        InputError: a mask that is not boolean or not one entry per token.
    """
    if mask is None:
        return values
    shape = tuple(values.shape[:-1])
    if not isinstance(mask, Tensor):
        raise InputError(
            f"mask: expected a tensor of booleans of shape {shape} (True for real tokens), got "
            f"{type(mask).__name__}; write torch.as_tensor(mask)."
        )
    if mask.dtype != torch.bool or mask.shape != shape:
        raise InputError(
            f"mask: expected booleans of shape {shape} (True for real tokens), "
            f"got {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return values.masked_fill(~mask[..., None], float("-inf"))


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(x)) of each entry, in its precision.

    Monotone, and equal for equal x: torch's own is neither, in the last bit.
    """
    exact = values.double()
    # beyond 40 exp(-x) is lost beside x
    curved = torch.log1p(torch.exp(exact.clamp(max=40)))
    return torch.where(exact > 40, exact, curved).to(values.dtype)


def _sigmoid(values: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), as `softplus`; logits below -700 count as -700, where it is 1e-304."""
    return (1 / (1 + torch.exp(-values.double().clamp(min=-700)))).to(values.dtype)


def _softmax(values: Tensor) -> Tensor:
    """Softmax; 0, with gradient 0, along lines without an allowed entry."""
    if bool(values.detach().min() > float("-inf")):
        return torch.softmax(values, -1)
    forbidden = (values == float("-inf")).all(-1, keepdim=True)
    return torch.softmax(values.masked_fill(forbidden, 0.0), -1).masked_fill(forbidden, 0.0)


def _scored(values: Tensor, mask: Tensor | None, scores: Tensor) -> Tensor:
    return masked(scores.masked_fill(values == float("-inf"), float("-inf")), mask)


def named(score: ScoreFunction | str) -> ScoreFunction:
    """The score function itself, or the one of that name.

    Raises:
        InputError: neither a function nor a known name.
    """
    if callable(score):
        return score
    if not isinstance(score, str) or score not in BY_NAME:
        raise InputError(f"score {score!r}: expected a function or one of {', '.join(BY_NAME)}.")
    return BY_NAME[score]


def competition_scores(outputs: Tensor, response: Literal["norm", "mean"] = "norm") -> Tensor:
    """The strength of each expert's response to each token, after running all experts.

    The result is used in place of logits: TopK(k, score="logits", normalise="kept") routes by it,
    as in the paper, and so does any other router with score="logits". The paper routes by
    competition in some training steps only, to teach a cheap router.

    Args:
        outputs: (..., T, E, D), the output of every expert for every token, floating point, finite.
        response: "norm", softplus of the Euclidean norm (Pham et al. 2024, arXiv 2402.02526);
            "mean", the mean over D of the softplus of each entry, as in the code released with
            the second version (Nguyen et al. 2025, arXiv 2505.13380, competesmoe.py).

    Returns:
        (..., T, E), positive, in float32 or float64.

    Raises:
        InputError: fewer than three axes, empty, no floating-point numbers, NaN or infinity.

    Cost: all experts on all tokens, and one pass over their outputs.
    """
    as_choice(response, "response", ("norm", "mean"))
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = f"{outputs.dtype}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            f"outputs: expected a floating-point tensor (..., tokens, experts, width), got {kind}."
        )
    if outputs.ndim < 3 or outputs.numel() == 0:
        raise InputError(
            f"outputs: expected (..., tokens, experts, width), none of them 0, got shape "
            f"{tuple(outputs.shape)}."
        )
    refuse_nan_and_inf(outputs.detach().abs(), "outputs")
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    if response == "norm":
        return softplus(torch.linalg.vector_norm(wide, dim=-1))
    return softplus(wide).contiguous().mean(-1)
