"""Exchanges: a min-cost flow on the compact graph, where tokens are arcs, not nodes.

A unit moves from leaf j to leaf k where a row gives up one at j for one at k, at the cost
s_ij - s_ik, the least over all rows that may; and along the tree, at no cost, where a bound leaves
room. From the nodes that hold too much, Dijkstra's algorithm on reduced costs finds the cheapest
paths to those that lack something; prices of the nodes passed rise, so that no cost becomes
negative; and as much moves along each path as it allows (the primal-dual form of successive
shortest paths; Ahuja, Magnanti and Orlin, Network Flows, sections 9.7 and 9.8). Where no path leads
on, the nodes reached are a cut: they hold more than bounds let them keep, and no row can give up
any of it elsewhere.

Scores are integers on a common grid where they fit (no rounding, ties are exact), else float64.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]

DONE, NO_PATH, OUT_OF_STEPS = 0, 1, 2

CHILD, SIBLING, LEAVING, COMING = 0, 1, 2, 3
"""Columns of a heap's nodes: two links, the entry that gives a unit up, the one that takes it."""


@njit(cache=True, inline="always")
def _meld(cost, node, a, b):
    """One pairing heap of two (Fredman, Sedgewick, Sleator and Tarjan 1986); -1 is an empty one."""
    if a < 0:
        return b
    if b < 0:
        return a
    if cost[b] < cost[a]:
        a, b = b, a
    node[b, SIBLING] = node[a, CHILD]
    node[a, CHILD] = b
    return a


@njit(cache=True)
def _without_top(cost, node, top):
    """The heap without its least node: its children melded in pairs, the pairs from the right."""
    pairs = np.int32(-1)
    a = node[top, CHILD]
    while a >= 0:
        b = node[a, SIBLING]
        node[a, SIBLING] = -1
        rest = np.int32(-1)
        if b >= 0:
            rest = node[b, SIBLING]
            node[b, SIBLING] = -1
            a = _meld(cost, node, a, b)
        node[a, SIBLING] = pairs
        pairs = a
        a = rest
    merged = np.int32(-1)
    while pairs >= 0:
        following = node[pairs, SIBLING]
        node[pairs, SIBLING] = -1
        merged = _meld(cost, node, merged, pairs)
        pairs = following
    return merged


@njit(cache=True)
def _refresh(heap, top, least, amount, cap, none, j, k):
    """Drop arcs that are no longer there from the top of the heap of j -> k."""
    cost, node, free = heap
    at = top[j, k, 0]
    while at >= 0:
        w, x = node[at, LEAVING], node[at, COMING]
        if amount[w] > 0 and amount[x] < cap[x]:
            break
        following = _without_top(cost, node, at)
        node[at, SIBLING] = free[0]
        free[0] = at
        free[1] += 1
        at = following
    top[j, k, 0] = at
    least[j, k] = none
    if at >= 0:
        least[j, k], top[j, k, 1], top[j, k, 2] = cost[at], node[at, LEAVING], node[at, COMING]


@njit(cache=True, inline="always")
def _offer(heap, top, least, j, k, c, w, x):
    """An arc from j to k at cost c: entry w gives up what entry x takes."""
    cost, node, free = heap
    at = free[0]
    free[0] = node[at, SIBLING]
    free[1] -= 1
    cost[at] = c
    node[at, CHILD], node[at, SIBLING], node[at, LEAVING], node[at, COMING] = -1, -1, w, x
    top[j, k, 0] = _meld(cost, node, top[j, k, 0], at)
    if c < least[j, k]:
        least[j, k], top[j, k, 1], top[j, k, 2] = c, w, x


@njit(cache=True)
def _grown(heap, need):
    """The same nodes with room for at least so many more."""
    cost, node, free = heap
    size = len(cost)
    bigger = size + max(size, need)
    costs, nodes = np.empty(bigger, cost.dtype), np.empty((bigger, 4), np.int32)
    costs[:size], nodes[:size] = cost, node
    for at in range(size, bigger):
        nodes[at, SIBLING] = free[0]
        free[0] = at
    free[1] += bigger - size
    return costs, nodes, free


class Entries(NamedTuple):
    """The entries of all rows, and by leaf, linked, those that hold something."""

    first: Array
    row: Array
    leaf: Array
    value: Array
    amount: Array
    cap: Array
    head: Array
    after: Array
    before: Array


class Bounds(NamedTuple):
    """The tree: flows within bounds, parents and children."""

    flow: Array
    lower: Array
    upper: Array
    parent: Array
    child_first: Array
    child: Array


class Arcs(NamedTuple):
    """The cheapest arc from leaf to leaf: the top of its heap, its entries and cost."""

    top: Array  # node of the heap, entry that gives a unit up, entry that takes it
    least: Array
    known: Array  # the leaves whose arcs have been looked for


class Search(NamedTuple):
    """Shortest paths from the nodes that hold too much."""

    distance: Array
    key: Array  # the distance while a node waits to be visited, else never
    came: Array  # the node before, -1 where a path begins
    visited: Array


@njit(cache=True)
def _linked(first, leaf, value, amount, cap, leaves):
    """The entries with the lists of those that hold something."""
    N = first[-1]
    row, after, before = np.empty(N, np.int32), np.empty(N, np.int32), np.empty(N, np.int32)
    head = np.full(leaves, -1, np.int32)
    entries = Entries(first, row, leaf, value, amount, cap, head, after, before)
    for i in range(len(first) - 1):
        for w in range(first[i], first[i + 1]):
            row[w] = i
            if amount[w] > 0:
                _link(entries, w)
    return entries


@njit(cache=True, inline="always")
def _link(entries, w):
    j = entries.leaf[w]
    entries.after[w], entries.before[w] = entries.head[j], -1
    if entries.head[j] >= 0:
        entries.before[entries.head[j]] = w
    entries.head[j] = w


@njit(cache=True, inline="always")
def _unlink(entries, w):
    following, previous = entries.after[w], entries.before[w]
    if previous >= 0:
        entries.after[previous] = following
    else:
        entries.head[entries.leaf[w]] = following
    if following >= 0:
        entries.before[following] = previous


@njit(cache=True)
def _children(parent):
    """Where the children of each node begin, and the children."""
    V = len(parent)
    first = np.zeros(V + 1, np.int64)
    for v in range(V - 1):
        first[parent[v] + 1] += 1
    for v in range(V):
        first[v + 1] += first[v]
    child, fill = np.empty(V, np.int64), first.copy()
    for v in range(V - 1):
        child[fill[parent[v]]] = v
        fill[parent[v]] += 1
    return first, child


@njit(cache=True)
def _look(u, entries, heap, arcs):
    """Find the arcs out of a leaf: every entry that holds some of it, with the rest of its row."""
    arcs.known[u] = True
    w = entries.head[u]
    while w >= 0:
        i = entries.row[w]
        start, stop = entries.first[i], entries.first[i + 1]
        if heap[2][1] < stop - start:
            heap = _grown(heap, stop - start)
        for x in range(start, stop):
            if x != w and entries.amount[x] < entries.cap[x]:
                cost = entries.value[w] - entries.value[x]
                _offer(heap, arcs.top, arcs.least, u, entries.leaf[x], cost, w, x)
        w = entries.after[w]
    return heap


@njit(cache=True)
def _relax(u, near, paid, least, price, distance, key, came):
    """Relax the arcs from leaf u to all leaves: without a branch, so that it runs in vectors."""
    for k in range(len(least)):
        more = least[k] - paid + price[k]
        far = near + (more if more > 0 else 0)
        better = far < distance[k]
        distance[k] = far if better else distance[k]
        key[k] = far if better else key[k]
        came[k] = u if better else came[k]


@njit(cache=True)
def _nearest(key, never):
    """The node that is next to be visited, -1 where there is none."""
    near = never
    for k in key:
        near = k if k < near else near
    if near == never:
        return -1
    u = 0
    while key[u] != near:
        u += 1
    return u


@njit(cache=True)
def _shortest(entries, bounds, heap, arcs, search, price, excess, never, counts):
    """Shortest paths from all nodes with too much, until every node that lacks some is visited.

    Returns the heap, how many nodes were visited, and the position of the last that lacks some; -1
    where there is none.
    """
    distance, key, came, visited = search
    flow, lower, upper, parent, child_first, child = bounds
    V, leaves = len(price), len(entries.head)
    lacking, seen, last = 0, 0, -1
    for v in range(V):
        distance[v] = key[v] = 0 if excess[v] > 0 else never
        came[v] = -1
        lacking += excess[v] < 0
    while lacking > 0 or last < 0:
        u = _nearest(key, never)
        if u < 0:
            break
        near, paid = key[u], price[u]
        key[u] = never
        visited[seen] = u
        if excess[u] < 0:
            last = seen
            lacking -= 1
        seen += 1
        if u < leaves:
            if not arcs.known[u]:
                counts[1] += 1
                heap = _look(u, entries, heap, arcs)
            _relax(u, near, paid, arcs.least[u], price, distance, key, came)
        if u < V - 1 and flow[u] < upper[u]:
            k = parent[u]
            far = near + max(price[k] - paid, 0)
            if far < distance[k]:
                distance[k], key[k], came[k] = far, far, u
        for at in range(child_first[u], child_first[u + 1]):
            k = child[at]
            if flow[k] > lower[k]:
                far = near + max(price[k] - paid, 0)
                if far < distance[k]:
                    distance[k], key[k], came[k] = far, far, u
    return heap, seen, last


@njit(cache=True)
def _room(end, entries, bounds, arcs, came, excess, price, most, never):
    """How much can move along the path to `end`, no step of which costs more than `most`."""
    moving, v, leaves = -excess[end], end, len(entries.head)
    while came[v] >= 0:
        u = came[v]
        if u < leaves and v < leaves:
            if not arcs.least[u, v] < never or arcs.least[u, v] - price[u] + price[v] > most:
                return 0
            w, x = arcs.top[u, v, 1], arcs.top[u, v, 2]
            moving = min(moving, entries.amount[w], entries.cap[x] - entries.amount[x])
        elif bounds.parent[u] == v:
            moving = min(moving, bounds.upper[u] - bounds.flow[u])
        else:
            moving = min(moving, bounds.flow[v] - bounds.lower[v])
        v = u
    return min(moving, excess[v])


@njit(cache=True)
def _move(moving, end, entries, bounds, heap, arcs, came, excess, none):
    """Move so much along the path to `end`; how many entries gave some up."""
    excess[end] += moving
    v, steps, leaves = end, 0, len(entries.head)
    while came[v] >= 0:
        u = came[v]
        if u < leaves and v < leaves:
            _swap(moving, u, v, entries, heap, arcs, none)
            steps += 1
        elif bounds.parent[u] == v:
            bounds.flow[u] += moving
        else:
            bounds.flow[v] -= moving
        v = u
    excess[v] -= moving
    return steps


@njit(cache=True)
def _swap(moving, u, v, entries, heap, arcs, none):
    """Move so much of one row from leaf u to leaf v, and update the row's other arcs."""
    leaf, value, amount, cap = entries.leaf, entries.value, entries.amount, entries.cap
    top, least, known = arcs
    w, x = top[u, v, 1], top[u, v, 2]
    opens, empties = amount[w] == cap[w], amount[w] == moving
    begins, fills = amount[x] == 0, amount[x] + moving == cap[x]
    amount[w] -= moving
    amount[x] += moving
    if empties:
        _unlink(entries, w)
    if begins:
        _link(entries, x)
    if not (opens or empties or begins or fills):
        return
    i = entries.row[w]
    for y in range(entries.first[i], entries.first[i + 1]):
        k = leaf[y]
        if empties and y != w and top[u, k, 1] == w:
            _refresh(heap, top, least, amount, cap, none, u, k)
        if fills and y != x and top[k, v, 2] == x:
            _refresh(heap, top, least, amount, cap, none, k, v)
        if opens and y != w and amount[y] > 0 and known[k] and not (begins and y == x):
            _offer(heap, top, least, k, u, value[y] - value[w], y, w)
        if begins and y != x and amount[y] < cap[y] and known[v]:
            _offer(heap, top, least, v, k, value[x] - value[y], x, y)


@njit(cache=True, nogil=True)
def exchange(
    first,
    leaf,
    value,
    amount,
    cap,
    price,
    flow,
    excess,
    parent,
    lower,
    upper,
    tie,
    never,
    steps,
    counts,
):
    """Move units until no node holds too much; amounts, prices, flow and excess change in place.

    Args:
        first: int64 (n + 1,), where the entries of each row begin.
        leaf: int16 (N,), the leaf of each entry; a row has a leaf once.
        value: (N,) its score, int64 or float64; `price` and the costs have the same dtype.
        amount, cap: int64 (N,), units held, at most.
        price: (V,) of all nodes, ancestors' included.
        flow: int64 (V,), from each node to its parent.
        excess: int64 (V,), what arrives at a node and does not leave it.
        parent, lower, upper: int64 (V,), the tree.
        tie: up to this a cost is none.
        never: larger than every cost; four times as much is still a number of that type.
        steps: units may move so many times at most.
        counts: int64 (4,), added to: searches, leaves looked at, moves, entries moved.

    Returns:
        DONE, NO_PATH or OUT_OF_STEPS; and which nodes were reached last, boolean (V,).
    """
    V, N, leaves, longest = len(parent), first[-1], 0, 0
    for w in range(N):
        leaves = max(leaves, leaf[w] + 1)
    for i in range(len(first) - 1):
        longest = max(longest, first[i + 1] - first[i])
    entries = _linked(first, leaf, value, amount, cap, leaves)
    child_first, child = _children(parent)
    bounds = Bounds(flow, lower, upper, parent, child_first, child)
    most_offers = 2 * V * longest
    empty = np.empty(0, value.dtype), np.empty((0, 4), np.int32), np.array([-1, 0], np.int32)
    heap = _grown(empty, N + most_offers)
    none = 4 * never  # no arc: costs more than any, whatever the prices
    arcs = Arcs(
        np.full((leaves, leaves, 3), -1, np.int32),
        np.full((leaves, leaves), none, value.dtype),
        np.zeros(leaves, np.bool_),
    )
    search = Search(
        np.empty(V, value.dtype),
        np.empty(V, value.dtype),
        np.empty(V, np.int64),
        np.empty(V, np.int64),
    )
    reached, moves = np.zeros(V, np.bool_), 0
    while True:
        heap, seen, last = _shortest(
            entries, bounds, heap, arcs, search, price, excess, never, counts
        )
        if last < 0:
            for v in search.visited[:seen]:
                reached[v] = True
            return NO_PATH if seen else DONE, reached
        counts[0] += 1
        farthest = search.distance[search.visited[last]]
        for v in search.visited[: last + 1]:
            price[v] += farthest - search.distance[v]
        most = none  # the first path is as it was found; others may have been used up by then
        for end in search.visited[: last + 1]:
            while excess[end] < 0:
                if heap[2][1] < most_offers:
                    heap = _grown(heap, most_offers)
                moving = _room(end, entries, bounds, arcs, search.came, excess, price, most, never)
                if moving <= 0:
                    break
                most = tie
                counts[2] += 1
                counts[3] += _move(
                    moving, end, entries, bounds, heap, arcs, search.came, excess, none
                )
                moves += 1
                if moves >= steps:
                    return OUT_OF_STEPS, reached
