"""The registry of routers, by name.

`@register` on a router's class adds it to the catalogue (the names that the command line and
comparisons accept), to the documentation and to the tests of all routers.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

from lp_routing.errors import InputError, did_you_mean
from lp_routing.routers.base import AnyRouter, Rule
from lp_routing.routers.own import GROUP, is_own, loaded, own_router, registered
from lp_routing.validation import as_instance, as_int

Kind = TypeVar("Kind", bound=type[Rule])


class Shape(NamedTuple):
    """The sizes for which a router is built.

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
        """Number of equal groups of experts: the largest common divisor of E and 8."""
        return math.gcd(self.E, 8)


ANY_SHAPE = Shape(k=1, capacity=1, T=8, E=8)
"""For what does not depend on it: the problem that a router seeks, the scores that it compares."""

Build = Callable[[Shape], AnyRouter]


class Entry(NamedTuple):
    """A registered class of routers.

    Attributes:
        kind: the class.
        family: its heading in the documentation.
        rows: name in the catalogue -> function that builds the router for a `Shape`.
    """

    kind: type[Rule]
    family: str
    rows: Mapping[str, Build]


REGISTERED: list[Entry] = []
"""All routers of the package, in import order."""

CATALOGUE: dict[str, Build] = {}
"""Name -> router for a `Shape`: the rows of all that is registered.

Names are slugs: small letters, digits and hyphens, so that lists of them are separated by commas.
"""

FORMER_NAMES = {
    "top-k": "token-choice",
    "topk": "token-choice",
    "drop by position": "drop-by-position",
    "rank-major": "drop-by-position",
    "token-major": "drop-token-major",
    "random second": "gshard",
    "group-limited top-k": "group-limited",
    "capped": "capped-expert-choice-strict",
    "unified": "unified-usmoe",
    "served unified": "served-usmoe",
    "balanced": "sinkhorn-balanced",
    "online": "bip-online",
    "middle": "quantile-balancing-middle",
    "budget": "entmax-budget",
}
"""Names up to 0.1, which held spaces and commas, or their part after the comma -> the slug.

Those whose slug is the name with hyphens for spaces are not listed.
"""


def register(family: str, rows: Mapping[str, Build]) -> Callable[[Kind], Kind]:
    """Decorator: register a router class under the names of its rows; see `Entry`.

    A class without rows is documented and tested but has no name, such as `ZeroComputation`, as the
    number of free experts is a property of the model.

    Raises:
        InputError: a name that is taken.
    """
    taken = [name for name in rows if name in CATALOGUE]
    if taken:
        raise InputError(f"router {taken[0]!r} is registered twice; choose another name.")

    def enter(kind: Kind) -> Kind:
        REGISTERED.append(Entry(kind, family, rows))
        CATALOGUE.update(rows)
        return kind

    return enter


def router_names() -> list[str]:
    """Names of all routers: of the catalogue, and of entry points of installed packages.

    Raises:
        InputError: a package gives its router a name of the catalogue.
    """
    others = list(registered())
    taken = [name for name in others if name in CATALOGUE]
    if taken:
        raise InputError(
            f"an installed package registers a router {taken[0]!r} (entry point of {GROUP}), which "
            f"is a name of the catalogue; it has to choose another."
        )
    return [*CATALOGUE, *others]


def check_name(name: str, known: Collection[str], what: str, else_says: str) -> None:
    """Raise unless a router has this name, or it says where a user's router is (`routers.own`).

    Args:
        name: as given.
        known: all names.
        what: for the start of the error, such as "router" or "--routers:".
        else_says: before the list of names, for a name that resembles none.

    Raises:
        InputError: an unknown name; a former name gets its new one.
    """
    if isinstance(name, str) and is_own(name):
        loaded(name)
        return
    if isinstance(name, str) and name in known:
        return
    hyphened = "-".join(str(name).lower().split())
    now = FORMER_NAMES.get(str(name).lower(), hyphened)
    if now in known:
        raise InputError(f"{what} {name!r} is now called {now!r}.")
    hint = did_you_mean(hyphened, known, else_says)
    raise InputError(f"{what} {name!r} is unknown; {hint}")


def router(name: str, shape: Shape, *, seed: int = 0) -> Any:
    """The router of that name.

    Args:
        name: of the catalogue, or of an entry point; or where a router of yours is:
            "package.module:function", "file.py:function".
        shape: what it is built for.
        seed: of a router of the catalogue that draws at random; others have none.

    Returns:
        A `Router` or `StatefulRouter`; of yours, what the name stands for, with `k` and `capacity`
        filled in where it has parameters of these names.

    Raises:
        InputError: an unknown name, with those that there are; an impossible shape.

    Example:
        >>> shape = lpr.routers.Shape(k=1, capacity=2, T=4, E=3)
        >>> lpr.routers.router("drop-by-score", shape)
        TopK(score='softmax', normalise=None, k=1, capacity=2, by='score', order='rank')
    """
    as_instance(shape, Shape, "shape", "a Shape")
    for field, value in zip(shape._fields, shape, strict=True):
        as_int(value, f"shape: {field}", 0)
    if shape.E < 1 or shape.T < 1 or not 1 <= shape.k <= shape.E:
        raise InputError(
            f"{shape}: expected at least one token, one expert and 1 <= k <= E, as routers take k "
            f"different experts."
        )
    check_name(name, router_names(), "router", "expected one of ")
    if name not in CATALOGUE:
        return own_router(name, shape.k, shape.capacity)
    built: Any = CATALOGUE[name](shape)
    draws = is_dataclass(built) and any(each.name == "seed" for each in fields(built))
    return replace(built, seed=seed) if draws else built
