"""Token choice with chance in it: noise on the logits, or experts drawn by their scores."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Normalise, Router, WeightedRule
from lp_routing.routers.randomness import check_seed, gumbel, normal
from lp_routing.routers.selection import largest
from lp_routing.scores import check_logits, named
from lp_routing.validation import number, refuse_not_dense, whole

EXPECTED_STD = "a finite number >= 0, or a floating-point tensor of such"


@dataclass(frozen=True, eq=False)
class NoisyTopK(WeightedRule, Router):
    """Row top-k of logits plus normal noise (Shazeer et al. 2017, eq. 3 to 5).

    The noise is part of the scores: they choose, weigh, and are what the rule is measured by on
    its own terms. `select` on other scores is row top-k, the optimum of `token_choice`; on the
    clean scores the choice is as far from it as the noise is strong. Causal. Cost: one `topk`, and
    one draw per pair.

    Attributes:
        k: experts per token.
        std: standard deviation of the noise: a number, or a tensor that broadcasts to the logits,
            such as (E,), or (..., T, E) for the paper's softplus(x W_noise). 0 is no noise.
        seed: of the draws, one per position; for new ones each step, change it.
        score: from noisy logits to what is compared and weighs: a function or a name from
            `lp_routing.scores`.
        normalise: "kept" makes the softmax one over the kept logits, as eq. 3 has it; None; "all".
    """

    source = "Shazeer et al. 2017, eq. 3-5"
    seeks = "token_choice"
    cost = "one topk and one draw per pair"
    causal = True

    k: int
    std: float | Tensor = 1.0
    seed: int = 0
    normalise: Normalise = field(default="kept", kw_only=True)

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        _check_std(self.std)
        check_seed(self.seed)
        super().__post_init__()

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score function's of the noisy logits, (..., T, E).

        Raises:
            InputError: a tensor of standard deviations that does not broadcast to the logits.
        """
        wide = check_logits(logits)
        noise = normal(self.seed, wide.shape, wide.device, "NoisyTopK").to(wide.dtype)
        return named(self.score)(wide + noise * self._std_for(wide), mask)

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k; boolean (..., T, E)."""
        return largest(scores, whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts"))

    def _std_for(self, logits: Tensor) -> Tensor:
        """The standard deviations where and as precise as the logits, broadcast to them."""
        std = torch.as_tensor(self.std).to(logits.device, logits.dtype)
        try:
            return std.expand_as(logits)
        except RuntimeError as error:
            raise InputError(
                f"std of shape {tuple(std.shape)} does not broadcast to logits of shape "
                f"{tuple(logits.shape)}; give a number, (E,), or one per logit."
            ) from error


@dataclass(frozen=True)
class Sampled(WeightedRule, Router):
    """k experts per token drawn without replacement, each time in proportion to the scores left.

    One draw is the k largest of log score + Gumbel noise (Gumbel top-k; Kool et al. 2019). A score
    of 0 counts as the smallest positive number, so that k experts are drawn where k are allowed.
    The scores themselves are clean and so are the weights.

    It seeks the optimum of `token_choice` no more than its scores are peaked. Causal. Cost: one
    `topk`, and one draw per pair.

    Attributes:
        k: experts per token.
        seed: of the draws, one per position; for new ones each step, change it.
        score: what is drawn by and weighs, not negative: a function or a name from
            `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Kool et al. 2019, Gumbel top-k, on the softmax of Shazeer et al. 2017"
    seeks = "token_choice"
    cost = "one topk and one draw per pair"
    causal = True

    k: int
    seed: int = 0

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        check_seed(self.seed)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """k draws without replacement per token; boolean (..., T, E).

        Raises:
            InputError: k > E, or an allowed pair whose score is negative.
        """
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        forbidden = scores == float("-inf")
        if bool(((scores < 0) & ~forbidden).any()):
            raise InputError(
                "Sampled draws in proportion to the scores, but some are negative; give scores "
                'that are not, such as score="softmax".'
            )
        log_scores = scores.double().clamp(min=torch.finfo(torch.float64).tiny).log()
        keys = log_scores + gumbel(self.seed, scores.shape, scores.device, "Sampled")
        return largest(keys.masked_fill(forbidden, float("-inf")), k)


def _check_std(std: float | Tensor) -> None:
    if not isinstance(std, Tensor):
        number(std, "std", EXPECTED_STD, lambda given: given >= 0)
        return
    refuse_not_dense(std, "std")
    values = std.detach()
    if not values.is_floating_point() or not bool((values.isfinite() & (values >= 0)).all()):
        received = f"{std.dtype} of shape {tuple(std.shape)}" if values.numel() > 8 else str(std)
        raise InputError(f"std={received}: expected {EXPECTED_STD}.")
