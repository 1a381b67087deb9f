"""Every router by name, built for a batch: what the command line and comparisons offer."""

from collections.abc import Callable
from typing import NamedTuple

from lp_routing.errors import InputError
from lp_routing.routers.base import AnyRouter
from lp_routing.routers.expert_choice import ExpertChoice
from lp_routing.routers.token_choice import TopK
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


CATALOGUE: dict[str, Callable[[Shape], AnyRouter]] = {
    "top-k": lambda s: TopK(s.k),
    "drop by score": lambda s: TopK(s.k, s.capacity),
    "drop by position, rank-major": lambda s: TopK(s.k, s.capacity, "position"),
    "drop by position, token-major": lambda s: TopK(s.k, s.capacity, "position", "token"),
    "expert choice": lambda s: ExpertChoice(s.share),
    "unified": lambda s: Unified(s.k),
    "served unified": lambda s: Unified(s.k, serve_all=True),
}
"""Name -> router for a `Shape`."""


def router(name: str, shape: Shape) -> AnyRouter:
    """The router of that name.

    Raises:
        InputError: an unknown name, with those that there are.
    """
    if name not in CATALOGUE:
        raise InputError(f"router {name!r}: expected one of {', '.join(CATALOGUE)}.")
    return CATALOGUE[name](shape)
