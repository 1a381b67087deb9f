"""What `lp-routing frontier` asks of every place."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing import scores
from lp_routing.routers import CapacityFactor
from lp_routing.validation import as_int


@dataclass(frozen=True)
class Asked:
    """What is asked of every place.

    Attributes:
        over: "total", "capacity", "k" or "layers".
        k: experts per token.
        capacity_factor: of the capacity that is fixed, or looked at closer.
        score: name of the function from logits to what a pair is worth.
        points: how many budgets are solved or shown; None for every one.
        routers: names of the catalogue whose curves stand beside the optimum.
        seed: of routers that draw at random.
    """

    over: str
    k: int
    capacity_factor: float
    score: str
    points: int | None
    routers: tuple[str, ...]
    seed: int

    def worth(self, logits: Tensor) -> Tensor:
        """What pairs are worth, of the shape of the logits."""

        return scores.named(self.score)(logits, None)

    def capacity(self, T: int, E: int) -> int:
        """Tokens an expert at the capacity factor, T at most."""

        return min(CapacityFactor(self.capacity_factor).of(T, E, self.k), T)

    def check(self, logits: Tensor) -> None:
        """Raise `InputError` on what makes no sense for logits (L, T, E)."""

        _, T, E = logits.shape
        as_int(self.k, "k", 1, E, "E, the number of experts")
        self.capacity(T, E)
