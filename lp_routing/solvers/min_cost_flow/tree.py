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
    parent, nodes, null, leaves = _topology(problem)
    E, root = problem.E, len(parent) - 1
    may = np.broadcast_to(terms[:, 1], problem.T)
    lower, upper = np.zeros(root + 1, dtype=np.int64), np.full(root + 1, units)
    lower[root] = units
    upper[E:leaves] = 0 if "token_group" in nodes else idle
    if "token_group" in nodes:
        np.add.at(upper, null, may - terms[:, 0])
    stated = np.zeros((2, root + 1), dtype=bool)  # a lower, an upper bound of its own
    for kind, at in nodes.items():
        family = problem.family(kind)
        assert family is not None
        low, high = family.lower.cpu().numpy(), family.upper.cpu().numpy()
        if kind == "token_group":  # so many of the group's units are left empty
            assert family.members is not None
            given = family.members.cpu().numpy() @ may
            stated[:, at] = high <= given, low > 0
            lower[at] = np.maximum(0, given - np.minimum(high, given))
            upper[at] = given - low  # less than 0: impossible
        else:  # an upper bound beyond all units is none: what the children can take bounds a group
            stated[:, at] = low > 0, high <= units
            lower[at] = low
            most = units * (1 if kind == "expert" else leaves)
            upper[at] = np.maximum(low, np.where(high <= units, high, most))
    own = np.full(root + 1, OWN)
    sources = _tighten(parent, lower, upper, stated) if tight else (own, own)
    if sources is None:
        return None
    low_from, high_from = sources
    tree = Tree(E, leaves, parent, lower, upper, low_from, high_from, nodes)
    return tree, null.astype(np.int16)


def _topology(problem: RoutingProblem) -> tuple[Array, dict[str, Array], Array, int]:
    """Parents; the nodes of each kind of constraint; each token's null, or (1,); the leaves."""
    E, total = problem.E, problem.family("total")
    inner, sequences = (_nested(problem.family(kind)) for kind in ("expert_group", "token_group"))
    leaves = E + len(sequences) + 1
    top = leaves + len(inner)  # the total, where there is one; groups of experts come before it
    first = top + (total is not None)  # of the groups of tokens
    root = first + len(sequences)
    parent, null = np.full(root + 1, root), np.full(1, E)
    parent[root] = -1
    parent[:E], parent[leaves:top] = _parents(inner, E, leaves, root if total is None else top)
    nodes = {
        "expert": np.arange(E),
        "expert_group": _by_row(inner, leaves),
        "total": np.array([top]),
        "token_group": _by_row(sequences, first),
    }
    if sequences:
        group, parent[first:root] = _parents(sequences, problem.T, first, root)
        parent[E : leaves - 1] = np.arange(first, root)
        null = np.where(group == root, leaves - 1, group - first + E)
    stated = {kind: at for kind, at in nodes.items() if problem.family(kind) is not None}
    return parent, stated, null, leaves


def _nested(family: Family | None) -> list[tuple[int, Array]]:
    """Row and member mask of each group, smaller groups first, so that children precede parents."""
    if family is None or family.members is None:
        return []
    masks = family.members.cpu().numpy()
    return [(row, masks[row]) for row in np.argsort(masks.sum(1), kind="stable").tolist()]


def _parents(
    groups: list[tuple[int, Array]], members: int, first: int, over: int
) -> tuple[Array, Array]:
    """The smallest groups around each member, and around each group, as nodes; else `over`.

    Args:
        groups: nested, smaller ones first.
        members: how many there are.
        first: the node of the first group.
        over: the node above those without a group.
    """
    of_member, of_group = np.full(members, over), np.full(len(groups), over)
    for at in reversed(range(len(groups))):
        inside = groups[at][1]
        of_group[at] = of_member[inside.argmax()]
        of_member[inside] = first + at
    return of_member, of_group


def _by_row(groups: list[tuple[int, Array]], first: int) -> Array:
    """The node of each row of a family whose groups, in their order, are the nodes from `first`."""
    nodes = np.empty(len(groups), dtype=np.int64)
    nodes[[row for row, _ in groups]] = first + np.arange(len(groups))
    return nodes


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
