"""The compact graph: every bound of an integral routing problem is a node of one tree.

Each token hands out a fixed number of units: as many as it may take. A unit goes to an expert, or
is left empty: then it goes to the token's *null*. Experts and nulls are the leaves. An inner node
is a group of experts, the total, or a group of tokens (which bounds the units that its tokens leave
empty). The root takes every unit. So each constraint bounds the flow from one node to its parent:

    token -> expert -> group of experts -> total -> root
    token -> null -> group of tokens ------------> root

Prices live on the nodes. A leaf's price is the sum of those on its path to the root.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lp_routing.certificate.prices import Prices, clipped
from lp_routing.problem.constraints import Family
from lp_routing.problem.problem import RoutingProblem

Array = np.ndarray[Any, np.dtype[Any]]

OWN, BELOW, BESIDE, NATURAL = 0, 1, 2, 3
"""A bound is the node's own (stated, or all that its leaf can take), or follows from those of its
children, from those of its siblings and its parent, or from what there is to give to its leaf."""


@dataclass(frozen=True, eq=False)
class Tree:
    """Nodes 0..E-1 are experts, then nulls, then inner nodes (children before parents), the root.

    Attributes:
        experts: E.
        leaves: experts and nulls together.
        parent: int64 (V,), -1 for the root.
        lower, upper: int64 (V,), bounds on the flow to the parent, as tight as the others imply.
        low_from, high_from: int8 (V,), what each bound follows from: OWN, BELOW or BESIDE.
        family: the node that each constraint of each family has, by kind.
    """

    experts: int
    leaves: int
    parent: Array
    lower: Array
    upper: Array
    low_from: Array
    high_from: Array
    family: dict[str, Array]

    @property
    def root(self) -> int:
        """The last node, which takes every unit."""
        return len(self.parent) - 1

    @property
    def units(self) -> int:
        """What all tokens hand out together."""
        return int(self.upper[self.root])

    def above(self) -> Array:
        """Boolean (leaves, V - 1): whether a node lies on the path of a leaf to the root."""
        found = np.zeros((self.leaves, self.root), dtype=bool)
        for leaf in range(self.leaves):
            node = leaf
            while node != self.root:
                found[leaf, node] = True
                node = self.parent[node]
        return found

    def through(self, load: Array) -> Array:
        """Flow through each node but the root (V - 1,), from the loads of the leaves."""
        flow = np.zeros(self.root + 1, dtype=load.dtype)
        flow[: self.leaves] = load
        for node in range(self.leaves, self.root):
            flow[node] += flow[:node][self.parent[:node] == node].sum()
        return flow[: self.root]

    def natural(self, price: Array) -> Array:
        """Which prices (V - 1,) stand for no bound: all that there is goes to the node, or none."""
        source = np.where(price > 0, self.high_from[:-1], self.low_from[:-1])
        found: Array = source == NATURAL
        return found

    def own(self, paid: Array) -> Array:
        """Prices of the nodes (V - 1,) themselves from what a unit pays at each node (V,)."""
        return paid[:-1] - paid[self.parent[:-1]]

    def leaf_prices(self, price: Array) -> Array:
        """What a unit pays at each leaf: the sum of the prices (V - 1,) on its path to the root."""
        paid = np.append(price, 0).astype(price.dtype)
        for node in range(self.root - 1, -1, -1):
            paid[node] += paid[self.parent[node]]
        return paid[: self.leaves]


def tree_of(
    problem: RoutingProblem, terms: Array, units: int, idle: int, *, tight: bool = True
) -> tuple[Tree, Array] | None:
    """The tree of a problem, and the null of each token, (T,) or (1,) where all have the same.

    None where its bounds contradict each other, whatever the pairs; not `tight`, as they stand.

    Args:
        problem: whole bounds and nested groups.
        terms: int64 (T, 3) or (1, 3): what each token must and may take.
        units, idle: what all tokens hand out, and may leave empty (of all processes).
        tight: narrow bounds to what the others imply.
    """
    T, E = problem.T, problem.E
    must, may = np.broadcast_to(terms[:, :2], (T, 2)).T if T else np.zeros((2, 0), np.int64)
    inner, sequences = (_nested(problem.family(kind)) for kind in ("expert_group", "token_group"))
    own = np.full(T, len(sequences))  # the smallest group of each token; the last: none
    for at in reversed(range(len(sequences))):
        own[sequences[at][1]] = at
    nulls = len(sequences) + 1
    leaves = E + nulls
    total = problem.family("total")
    nodes = leaves + len(inner) + (total is not None) + len(sequences)
    parent = np.full(nodes + 1, nodes)
    parent[nodes] = -1
    lower, upper = np.zeros(nodes + 1, dtype=np.int64), np.full(nodes + 1, units)
    states = np.zeros((2, nodes + 1), dtype=bool)  # a lower, an upper bound of its own
    place: dict[str, Array] = {}

    def bound(node: int, family: Family, row: int, of: int | None = None) -> None:
        low, high = float(family.lower[row]), float(family.upper[row])
        if of is None:
            # an upper bound beyond all units is none: what the children can take bounds a group
            lower[node] = low
            upper[node] = max(low, high if high <= units else units * (1 if node < E else leaves))
            states[:, node] = low > 0, high <= units
        else:  # so many of the group's units are left empty
            lower[node], upper[node] = (
                max(0, of - min(high, of)),
                of - low,
            )  # less than 0: impossible
            states[:, node] = high <= of, low > 0

    experts = problem.family("expert")
    if experts is not None:
        place["expert"] = np.arange(E)
        for j in range(E):
            bound(j, experts, j)
    for node in range(E):
        own_group = _smallest(inner, node)
        parent[node] = nodes if own_group is None else leaves + own_group
    top = leaves + len(inner)
    if inner:
        group = problem.family("expert_group")
        assert group is not None
        place["expert_group"] = np.empty(len(inner), dtype=np.int64)
        for at, (row, _) in enumerate(inner):
            outer = _smallest(inner, int(inner[at][1].argmax()), at)
            parent[leaves + at] = nodes if outer is None else leaves + outer
            bound(leaves + at, group, row)
            place["expert_group"][row] = leaves + at
    if total is not None:
        bound(top, total, 0)
        below = parent[:top] == nodes
        below[E:leaves] = False
        parent[:top][below] = top
        place["total"] = np.array([top])
    first = top + (total is not None)
    for at in range(nulls):
        mine = own == at
        upper[E + at] = int((may - must)[mine].sum()) if sequences else idle
        if at < len(sequences):
            parent[E + at] = first + at
    if sequences:
        group = problem.family("token_group")
        assert group is not None
        place["token_group"] = np.empty(len(sequences), dtype=np.int64)
        for at, (row, members) in enumerate(sequences):
            outer = _smallest(sequences, int(members.argmax()), at)
            parent[first + at] = nodes if outer is None else first + outer
            bound(first + at, group, row, of=int(may[members].sum()))
            place["token_group"][row] = first + at
    lower[nodes] = units
    own_bounds = np.full(nodes + 1, OWN), np.full(nodes + 1, OWN)
    sources = _tighten(parent, lower, upper, states) if tight else own_bounds
    if sources is None:
        return None
    low_from, high_from = sources
    tree = Tree(E, leaves, parent, lower, upper, low_from, high_from, place)
    return tree, (E + own if sequences else np.full(1, E)).astype(np.int16)


def _nested(family: Family | None) -> list[tuple[int, Array]]:
    """Row and member mask of each group, smaller groups first, so that children precede parents."""
    if family is None or family.members is None:
        return []
    masks = family.members.cpu().numpy()
    return [(row, masks[row]) for row in np.argsort(masks.sum(1), kind="stable").tolist()]


def _smallest(groups: list[tuple[int, Array]], member: int, after: int = -1) -> int | None:
    """Which of the nested groups behind position `after` is the smallest that holds a member."""
    found = (at for at in range(after + 1, len(groups)) if groups[at][1][member])
    return next(found, None)


def _tighten(
    parent: Array, lower: Array, upper: Array, states: Array
) -> tuple[Array, Array] | None:
    """Narrow bounds to what children, siblings and parents leave, in place.

    Returns:
        For both sides, int8 (V,): what each bound follows from. None where they cannot be met.
    """
    root = len(parent) - 1
    inner = np.unique(parent[:root])
    children = {node: np.flatnonzero(parent == node) for node in inner.tolist()}
    stated = lower.copy(), upper.copy()
    below = lower.copy(), upper.copy()  # what the children, or a leaf itself, leave
    for node, at in children.items():  # children come before their parents
        below[0][node], below[1][node] = lower[at].sum(), upper[at].sum()
        lower[node] = max(lower[node], below[0][node])
        upper[node] = min(upper[node], below[1][node])
    if bool((lower > upper).any()):
        return None
    for node, at in reversed(children.items()):
        low, high = lower[at].copy(), upper[at].copy()
        lower[at] = np.maximum(low, lower[node] - (high.sum() - high))
        upper[at] = np.minimum(high, upper[node] - (low.sum() - low))
    leaf = np.ones(root + 1, dtype=bool)
    leaf[inner] = False
    sides = zip((lower, upper), stated, below, states, strict=True)
    low_from, high_from = (
        np.where(
            own & (now == said), OWN, np.where(now != under, BESIDE, np.where(leaf, NATURAL, BELOW))
        )
        for now, said, under, own in sides
    )
    return low_from, high_from


def prices_of(problem: RoutingProblem, tree: Tree, price: Array) -> Prices:
    """Prices of the problem's own constraints from those of the nodes (V - 1,).

    A price that pays for a bound which only others imply is moved to these: to the parent and, with
    the other sign, to the siblings; or to the children. What a pair pays stays the same.
    """
    price = np.append(price, 0.0)
    for node in np.unique(tree.parent[: tree.root]):
        at = np.flatnonzero(tree.parent == node)
        less = np.minimum(price[at], 0)[tree.low_from[at] == BESIDE].min(initial=0.0)
        more = np.maximum(price[at], 0)[tree.high_from[at] == BESIDE].max(initial=0.0)
        price[at] -= less + more
        price[node] += less + more
    for node in range(tree.root - 1, tree.leaves - 1, -1):
        source = tree.high_from if price[node] > 0 else tree.low_from
        if source[node] == BELOW:
            price[tree.parent == node] += price[node]
            price[node] = 0.0
    price[: len(price) - 1][tree.natural(price[:-1])] = 0.0  # no bound stands for these
    table = {kind: torch.as_tensor(price[nodes]) for kind, nodes in tree.family.items()}
    device = problem.scores.device
    groups = table.get("token_group")
    inner = table.get("expert_group")
    found = Prices(
        experts=table.get("expert", torch.zeros(problem.E, dtype=torch.float64)).to(device),
        total=float(table["total"][0]) if "total" in table else 0.0,
        token_groups=None if groups is None else -groups.to(device),
        expert_groups=None if inner is None else inner.to(device),
    )
    table = clipped(problem, found)
    return replace(
        found,
        experts=table.get("expert", found.experts),
        total=float(table["total"][0]) if "total" in table else 0.0,
        token_groups=table.get("token_group"),
        expert_groups=table.get("expert_group"),
    )


def node_prices(problem: RoutingProblem, tree: Tree, prices: Prices) -> Array:
    """The prices (V - 1,) of the nodes that a problem's prices stand for, to start from."""
    found = np.zeros(tree.root)
    for family in problem.families:
        if family.kind in tree.family:
            sign = -1.0 if family.kind == "token_group" else 1.0
            found[tree.family[family.kind]] = sign * prices.of(family).cpu().numpy()
    return found
