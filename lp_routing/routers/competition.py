"""CompeteSMoE: scores from what the experts answer, in place of a router's logits."""

from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.scores import softplus
from lp_routing.validation import one_of, refuse_nan_and_inf


def competition_scores(outputs: Tensor, response: Literal["norm", "mean"] = "norm") -> Tensor:
    """How strongly each expert responds to each token, all experts having been run.

    The result goes where logits go: TopK(k, score="logits", normalise="kept") routes by it, as the
    authors do, and any other router with score="logits" does so under its own constraints. The
    paper routes by competition in some training steps only, to teach a cheap router.

    Args:
        outputs: (..., T, E, D), what every expert makes of every token, floating point, finite.
        response: "norm", softplus of the Euclidean norm (Pham et al. 2024, arXiv 2402.02526);
            "mean", the mean over D of the softplus of each entry, as in the code released with
            the second version (Nguyen et al. 2025, arXiv 2505.13380, competesmoe.py).

    Returns:
        (..., T, E), positive, in float32 or float64.

    Raises:
        InputError: fewer than three axes, empty, no floating-point numbers, NaN or infinity.

    Cost: all experts on all tokens, and one pass over their outputs.
    """
    one_of(response, "response", ("norm", "mean"))
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
