"""Every router by name, built for a batch: what the command line and comparisons offer."""

import math
from collections.abc import Callable
from typing import NamedTuple

from lp_routing.errors import InputError
from lp_routing.routers.auction import Auction
from lp_routing.routers.base import AnyRouter
from lp_routing.routers.dual_updates import BIP, LossFree, OnlineBIP, QuantileBalancing
from lp_routing.routers.expert_choice import CappedExpertChoice, ExpertChoice
from lp_routing.routers.max_score import MaxScore, MaxScoreFlow
from lp_routing.routers.price import FixedPrices, PriceRouter
from lp_routing.routers.random import HashRouter, NoisyTopK, RandomRouter, Sampled
from lp_routing.routers.sinkhorn import Sinkhorn
from lp_routing.routers.soft_top_k import SoftTopK
from lp_routing.routers.sparse import (
    Entmax,
    EntmaxBudget,
    ReLURouter,
    RunningThreshold,
    Threshold,
    TopP,
)
from lp_routing.routers.token_choice import BatchPrioritised, GroupLimited, RandomSecond, TopK
from lp_routing.routers.unified import Unified


class Shape(NamedTuple):
    """What a router is built for.

    Attributes:
        k: experts per token.
        capacity: tokens per expert, at most.
        T: tokens.
        E: experts.
    """

    k: int
    capacity: int
    T: int
    E: int

    @property
    def share(self) -> int:
        """Tokens per expert where loads are equal, rounded down."""
        return self.T * self.k // self.E

    @property
    def cap(self) -> int:
        """Experts a token may have at most where experts choose."""
        return min(2 * self.k, self.E)

    @property
    def groups(self) -> int:
        """Equal groups of experts, eight where E allows it."""
        return math.gcd(self.E, 8)


CATALOGUE: dict[str, Callable[[Shape], AnyRouter]] = {
    "top-k": lambda s: TopK(s.k),
    "drop by score": lambda s: TopK(s.k, s.capacity),
    "drop by position, rank-major": lambda s: TopK(s.k, s.capacity, "position"),
    "drop by position, token-major": lambda s: TopK(s.k, s.capacity, "position", "token"),
    "expert choice": lambda s: ExpertChoice(s.share),
    "unified": lambda s: Unified(s.k),
    "served unified": lambda s: Unified(s.k, serve_all=True),
    "group-limited top-k": lambda s: GroupLimited(s.k, s.groups, -(-s.groups // 2), "top2"),
    "batch prioritised": lambda s: BatchPrioritised(s.k, s.capacity),
    "random second": lambda s: RandomSecond(s.capacity),
    "noisy top-k": lambda s: NoisyTopK(s.k),
    "sampled": lambda s: Sampled(s.k),
    "hash": lambda s: HashRouter(s.k),
    "random": lambda s: RandomRouter(s.k),
    "auction": lambda s: Auction(s.k),
    "sinkhorn, top-k": lambda s: Sinkhorn(s.k),
    "sinkhorn, balanced": lambda s: Sinkhorn(s.k, rounding="balanced"),
    "capped expert choice, top-c": lambda s: CappedExpertChoice(s.share, s.cap),
    "capped expert choice, capped": lambda s: CappedExpertChoice(s.share, s.cap, rounding="capped"),
    "maxscore": lambda s: MaxScore(s.k),
    "maxscore flow": lambda s: MaxScoreFlow(s.k),
    "prices": lambda s: PriceRouter(s.k, s.capacity),
    "fixed prices": lambda s: FixedPrices(s.k, s.capacity),
    "loss-free": lambda s: LossFree(s.k),
    "quantile balancing": lambda s: QuantileBalancing(s.k, rounds=10),
    "quantile balancing, middle": lambda s: QuantileBalancing(s.k, rounds=10, place=0.5),
    "BIP": lambda s: BIP(s.k, iterations=8, capacity=s.capacity),
    "BIP, online": lambda s: OnlineBIP(s.k, window=256),
    "soft top-k": lambda s: SoftTopK(s.k, alpha=0.1, truncate=0.05),
    "entmax": lambda s: Entmax(),  # noqa: ARG005
    "entmax, budget": lambda s: EntmaxBudget(s.k),
    "top-p": lambda s: TopP(0.5),  # noqa: ARG005
    "threshold": lambda s: Threshold(1 / s.E),
    "running threshold": lambda s: RunningThreshold(s.k, rate=1.0, start=1 / s.E),
    "ReLU": lambda s: ReLURouter(),  # noqa: ARG005
}
"""Name -> router for a `Shape`.

`ZeroComputation` is not here: which experts are free is a property of the model. Without capacity
it is "top-k"; with one, calling the last experts of any model free would measure a fiction.
"""


def router(name: str, shape: Shape) -> AnyRouter:
    """The router of that name.

    Raises:
        InputError: an unknown name, with those that there are; a shape that no logits have.
    """
    if shape.E < 1 or shape.T < 1 or not 1 <= shape.k <= shape.E:
        raise InputError(
            f"{shape}: expected at least one token, one expert and 1 <= k <= E, as routers take k "
            f"different experts."
        )
    if name not in CATALOGUE:
        raise InputError(f"router {name!r}: expected one of {', '.join(CATALOGUE)}.")
    return CATALOGUE[name](shape)
