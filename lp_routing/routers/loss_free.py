"""Loss-free balancing: a bias per expert steers who is chosen, and never what a choice weighs."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lp_routing.routers.base import StatefulRouter, WeightedRule
from lp_routing.routers.carried import check_state, cold_prices
from lp_routing.routers.selection import largest
from lp_routing.scores import ScoreFunction
from lp_routing.validation import one_of, share, whole


@dataclass(frozen=True)
class LossFree(WeightedRule, StatefulRouter[Tensor]):
    """Row top-k of score + bias; weights are the scores without it (Wang et al. 2024).

    After each batch the bias of an expert moves against its load: `bias += rate * sign(mean load -
    load)`. With prices -bias this is a sign step down the dual of `balanced`, whose slope in the
    price of expert j is T k / E - load_j; "proportional" is the plain subgradient step. Causal: a
    batch is routed with the bias that earlier ones left.
    State: the biases (..., E) in units of score, one set for each entry of the leading dimensions;
    write `logits.reshape(-1, E)` where a batch of sequences shares one.
    Cost: one `topk`, and a sum over the tokens.

    Attributes:
        k: experts per token.
        rate: step of a bias; 1e-3 suits sigmoid scores. 0 freezes it.
        update: "sign", a step of the same size for every expert; "proportional", `rate` for each
            token that an expert is above or below the mean (Wang et al., the variant they reject).
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores ("kept", as
            DeepSeek-V3 does), or of all.
    """

    source = "Wang et al. 2024, arXiv 2408.15664, Algorithm 1; DeepSeek-V3, arXiv 2412.19437, 2.1.2"
    seeks = "balanced"
    cost = "one topk, and a sum over the tokens"
    causal = True

    k: int
    rate: float = 1e-3
    update: Literal["sign", "proportional"] = "sign"
    score: ScoreFunction | str = field(default="sigmoid", kw_only=True)

    def __post_init__(self) -> None:
        whole(self.k, "k", 1)
        share(self.rate, "rate")
        one_of(self.update, "update", ("sign", "proportional"))
        super().__post_init__()

    def initial(self, scores: Tensor) -> Tensor:
        """No bias: zeros (..., E)."""
        return cold_prices(scores)

    def step(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Row top-k of score + bias, and the biases (..., E) for the next batch."""
        k = whole(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        bias = check_state(state, (*scores.shape[:-2], scores.shape[-1]), "the biases of experts")
        chosen = largest(scores + bias[..., None, :], k)
        load = chosen.sum(-2).to(bias.dtype)
        short = load.mean(-1, keepdim=True) - load
        return chosen, bias + self.rate * (torch.sign(short) if self.update == "sign" else short)
