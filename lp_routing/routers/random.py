"""Random routers: noise on the logits, experts sampled by their scores, hashes, uniform draws.

`HashRouter` and `RandomRouter` do not look at the scores at all.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Normalise, Router, WeightedRule, normalised
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import (
    check_seed,
    gumbel,
    largest,
    normal,
    uniform,
    uniform_by_number,
)
from lp_routing.scores import check_logits, named
from lp_routing.validation import as_choice, as_float, as_int, refuse_not_dense

EXPECTED_STD = "a finite number >= 0, or a floating-point tensor of such"


@register("Chance", {"noisy-top-k": lambda s: NoisyTopK(s.k)})
@dataclass(frozen=True, eq=False)
class NoisyTopK(WeightedRule, Router):
    """Row top-k of logits plus normal noise (Shazeer et al. 2017, eq. 3 to 5).

    The noise is part of the scores, which are compared and weigh. `select` on given scores is row
    top-k, the optimum of `token_choice`; measured by the scores without noise, the choice is
    further from it the stronger the noise. Causal. Cost: one `topk`, and one draw per pair.

    Attributes:
        k: experts per token.
        std: standard deviation of the noise: a number, or a tensor that broadcasts to the logits,
            such as (E,), or (..., T, E) for the paper's softplus(x W_noise). 0 is no noise.
        seed: of the random numbers; change it each step to get new ones.
        score: score function of the noisy logits: a function or a name from `lp_routing.scores`.
        normalise: "kept" gives a softmax over the kept logits, as in eq. 3; None; "all".
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
        as_int(self.k, "k", 1)
        _check_std(self.std)
        check_seed(self.seed)
        super().__post_init__()

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The scores of the noisy logits, (..., T, E).

        Raises:
            InputError: a tensor of standard deviations that does not broadcast to the logits.
        """
        wide = check_logits(logits)
        noise = normal(self.seed, wide.shape, wide.device, "NoisyTopK").to(wide.dtype)
        return named(self.score)(wide + noise * self._std_for(wide), mask)

    def select(self, scores: Tensor) -> Tensor:
        """Row top-k; boolean (..., T, E)."""
        return largest(scores, as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts"))

    def _std_for(self, logits: Tensor) -> Tensor:
        """The standard deviations, broadcast to the logits, on their device and in their dtype."""
        std = torch.as_tensor(self.std).to(logits.device, logits.dtype)
        try:
            return std.expand_as(logits)
        except RuntimeError as error:
            raise InputError(
                f"std of shape {tuple(std.shape)} does not broadcast to logits of shape "
                f"{tuple(logits.shape)}; give a number, (E,), or one per logit."
            ) from error


@register("Chance", {"sampled": lambda s: Sampled(s.k)})
@dataclass(frozen=True)
class Sampled(WeightedRule, Router):
    """k experts per token drawn without replacement, each time in proportion to the scores left.

    It takes the k largest of log score + Gumbel noise (Gumbel top-k; Kool et al. 2019). A score of
    0 counts as the smallest positive number, so that k experts are drawn where k are allowed.
    Scores and weights are without noise.

    It approaches the optimum of `token_choice` only as far as its scores are peaked. Causal. Cost:
    one `topk`, and one draw per pair.

    Attributes:
        k: experts per token.
        seed: of the random numbers; change it each step to get new ones.
        score: sampling weights and combine weights, >= 0: a function or a name from
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
        as_int(self.k, "k", 1)
        check_seed(self.seed)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """k draws without replacement per token; boolean (..., T, E).

        Raises:
            InputError: k > E, or an allowed pair whose score is negative.
        """
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
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
        as_float(std, "std", EXPECTED_STD, lambda given: given >= 0)
        return
    refuse_not_dense(std, "std")
    values = std.detach()
    if not values.is_floating_point() or not bool((values.isfinite() & (values >= 0)).all()):
        received = f"{std.dtype} of shape {tuple(std.shape)}" if values.numel() > 8 else str(std)
        raise InputError(f"std={received}: expected {EXPECTED_STD}.")


@dataclass(frozen=True, eq=False)
class Blind(WeightedRule, Router):
    """Base of rules that draw k allowed experts per token independently of the scores.

    They seek no optimum, and all experts are equally likely: loads are equal in expectation only.
    Causal. Cost: one draw per pair and one `topk`.

    Attributes:
        k: experts per token.
        seed: of the draws.
        weights: "equal", 1 over the number of experts the token got; "scores", their scores.
        score: the combine weights if weights="scores": a function or a name from
            `lp_routing.scores`.
        normalise: divide these weights of a token by the sum of its kept scores, or of all.
    """

    seeks = ""
    cost = "one draw per pair and one topk"
    causal = True

    k: int
    seed: int = 0
    weights: Literal["equal", "scores"] = "equal"

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        check_seed(self.seed)
        as_choice(self.weights, "weights", ("equal", "scores"))
        super().__post_init__()

    @abstractmethod
    def keys(self, scores: Tensor) -> Tensor:
        """The random numbers that are compared, float64, broadcasting to the scores (..., T, E)."""

    def select(self, scores: Tensor) -> Tensor:
        """The k allowed experts with the largest keys; boolean (..., T, E)."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        keys = self.keys(scores).expand_as(scores)
        return largest(keys.masked_fill(scores == float("-inf"), float("-inf")), k)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Equal shares, or scores divided as `normalise` says; (..., T, E)."""
        if self.weights == "scores":
            return normalised(scores, chosen, self.normalise)
        return chosen.to(scores.dtype) / chosen.sum(-1, keepdim=True).clamp(min=1)


@register("Chance", {"hash": lambda s: HashRouter(s.k)})
@dataclass(frozen=True, eq=False)
class HashRouter(Blind):
    """Experts by a fixed random hash of the token (Roller et al. 2021, the random hash).

    The same token always goes to the same experts; loads depend on the frequencies of the tokens.
    Where an expert is forbidden, the next one in the token's random order replaces it. With
    weights="scores", score="sqrt_softplus", normalise="kept" it is a hash layer like the first ones
    of DeepSeek-V4, which weigh by learned scores.

    Attributes:
        token_ids: whole numbers (..., T), which are hashed; their axes are the last ones before the
            experts; left out, the token's position in its sequence.
    """

    source = "Roller et al. 2021"

    token_ids: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = self.token_ids
        if ids is not None and not _holds_whole_numbers(ids):
            kind = f"{ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(f"token_ids: expected a tensor of whole numbers (..., T), got {kind}.")

    def keys(self, scores: Tensor) -> Tensor:
        """A random number for each pair of token id and expert.

        Raises:
            InputError: token ids whose shape is not that of the tokens.
        """
        tokens, E = tuple(scores.shape[:-1]), scores.shape[-1]
        if self.token_ids is None:
            ids = torch.arange(tokens[-1], device=scores.device)
        else:
            ids = self.token_ids.to(scores.device)
        if ids.ndim == 0 or tuple(ids.shape) != tokens[-ids.ndim :]:
            raise InputError(
                f"token_ids of shape {tuple(ids.shape)} do not fit tokens of shape {tokens}; "
                f"give one id per token, (T,) or (..., T)."
            )
        return uniform_by_number(self.seed, ids, E)


@register("Chance", {"random": lambda s: RandomRouter(s.k)})
@dataclass(frozen=True, eq=False)
class RandomRouter(Blind):
    """k random allowed experts per token, all equally likely: the baseline to compare with.

    The random numbers belong to positions: change the seed each step to get new ones.
    """

    source = "uniform chance; as a router in Zuo et al. 2022 (THOR)"

    def keys(self, scores: Tensor) -> Tensor:
        """A random number for each position."""
        return uniform(self.seed, scores.shape, scores.device, "RandomRouter")


def _holds_whole_numbers(ids: object) -> bool:
    if not isinstance(ids, Tensor):
        return False
    return not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
