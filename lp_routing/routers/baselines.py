"""Routers that do not look at the scores: a fixed hash, and pure chance."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Router, WeightedRule, normalised
from lp_routing.routers.randomness import check_seed, uniform, uniform_by_number
from lp_routing.routers.selection import largest
from lp_routing.validation import one_of, whole


@dataclass(frozen=True, eq=False)
class Blind(WeightedRule, Router):
    """What rules that draw k allowed experts per token without regard to the scores share.

    They seek no optimum, and every expert is as likely as any other: equal loads are expected, not
    guaranteed. Causal. Cost: one draw per pair and one `topk`.

    Attributes:
        k: experts per token.
        seed: of the draws.
        weights: "equal", 1 over the number of experts the token got; "scores", their scores.
        score: what weighs where the weights are "scores": a function or a name from
            `lp_routing.scores`.
        normalise: divide such weights of a token by the sum of its kept scores, or of all.
    """

    seeks = ""
    cost = "one draw per pair and one topk"
    causal = True

    k: int
    seed: int = 0
    weights: Literal["equal", "scores"] = "equal"

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        check_seed(self.seed)
        one_of(self.weights, "weights", ("equal", "scores"))
        super().__post_init__()

    @abstractmethod
    def keys(self, scores: Tensor) -> Tensor:
        """The draws that decide, float64, broadcasting to the scores (..., T, E)."""

    def select(self, scores: Tensor) -> Tensor:
        """The k allowed experts with the largest draws; boolean (..., T, E)."""
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        keys = self.keys(scores).expand_as(scores)
        return largest(keys.masked_fill(scores == float("-inf"), float("-inf")), k)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Equal shares, or scores divided as `normalise` says; (..., T, E)."""
        if self.weights == "scores":
            return normalised(scores, chosen, self.normalise)
        return chosen.to(scores.dtype) / chosen.sum(-1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, eq=False)
class HashRouter(Blind):
    """Experts by a fixed random hash of the token (Roller et al. 2021, the random hash).

    The same token goes to the same experts, whatever its context; which loads that makes follows
    the frequencies of the tokens. Where an expert is forbidden, the next one of the token's own
    random order takes its place. With weights="scores", score="sqrt_softplus", normalise="kept"
    it is the kind of hash layer that DeepSeek-V4 starts with, which weighs by learned scores.

    Attributes:
        token_ids: whole numbers (..., T), what is hashed, its axes the last ones before the
            experts; left out, the token's place in its sequence.
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
        """A draw for each pair of token number and expert.

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


@dataclass(frozen=True, eq=False)
class RandomRouter(Blind):
    """k random allowed experts per token, each as likely as any other: the floor to compare with.

    The draws belong to positions: for new ones each step, change the seed.
    """

    source = "uniform chance; as a router in Zuo et al. 2022 (THOR)"

    def keys(self, scores: Tensor) -> Tensor:
        """A draw for each position."""
        return uniform(self.seed, scores.shape, scores.device, "RandomRouter")


def _holds_whole_numbers(ids: object) -> bool:
    if not isinstance(ids, Tensor):
        return False
    return not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
