"""GShard's top-2 gating: the second expert is taken by chance, the likelier the more it weighs."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.routers.base import Router, ScoredRule, kept_scores
from lp_routing.routers.capacity import (
    Capacity,
    check_capacity,
    keep_first_choices,
    resolve_capacity,
)
from lp_routing.routers.randomness import check_seed, uniform
from lp_routing.routers.selection import largest


@dataclass(frozen=True)
class RandomSecond(ScoredRule, Router):
    """Top-2 with a random second expert (Lepikhin et al. 2021, Algorithm 1).

    With g1 and g2 the two best scores divided by their sum, the second is kept with probability
    min(1, 2 g2). Then all first choices are served before second ones, each in token order, up to
    the capacity; a second choice that was not kept takes no place (as in the authors' Lingvo).
    The weights are g1 and g2, whether the other was dropped or not.

    It seeks the optimum of `capacity` with k = 2 and misses it in general. Causal without
    capacity. Cost: two `topk`, and a sort over the experts with capacity.

    Attributes:
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor` (with K = 2), or
            None.
        score: what is compared and weighs, not negative: a function or a name from
            `lp_routing.scores`.
        seed: of the draws, one per position of a token; for new ones each step, change it.
    """

    source = "Lepikhin et al. 2021, Algorithm 1"
    seeks = "capacity"
    cost = "two topk; with capacity a sort over the experts"

    capacity: Capacity | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.capacity is not None:
            check_capacity(self.capacity)
        super().__post_init__()
        check_seed(self.seed)

    @property
    def causal(self) -> bool:
        """Without capacity; with it later first choices come before earlier second ones."""
        return self.capacity is None

    def select(self, scores: Tensor) -> Tensor:
        """The first choice, the second by chance, then dropping; boolean (..., T, E).

        Raises:
            InputError: a score of the two best is negative.
        """
        first, both = largest(scores, 1), largest(scores, 2)
        second_share = (_shares(scores, both) * ~first).sum(-1)
        draws = uniform(self.seed, scores.shape[:-1], scores.device, "RandomSecond")
        chosen = first | (both & (draws < 2 * second_share)[..., None])
        if self.capacity is None:
            return chosen
        return keep_first_choices(scores, chosen, resolve_capacity(self.capacity, scores, 2), 2)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """g1 and g2 of the kept pairs, (..., T, E)."""
        shares = _shares(scores, largest(scores.detach(), 2))
        return kept_scores(shares, chosen).to(scores.dtype)


def _shares(scores: Tensor, both: Tensor) -> Tensor:
    """The two best scores divided by their sum, 0 elsewhere, float64 (..., T, E)."""
    kept = kept_scores(scores.double(), both)
    if bool((kept < 0).any()):
        raise InputError(
            "RandomSecond divides by the sum of a token's two best scores, but some are negative; "
            'give scores that are not, such as score="softmax".'
        )
    total = kept.sum(-1, keepdim=True)
    return kept / total.masked_fill(total == 0, 1.0)
