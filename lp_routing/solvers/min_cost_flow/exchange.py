"""Exchanges: a min-cost flow on the compact graph, where tokens are no nodes but ways to move.

A unit moves from leaf j to leaf k where a row gives up one at j for one at k, at the cost
s_ij - s_ik, the least over all rows that may; and along the tree, at no cost, where a bound leaves
room. From a node that holds too much, Dijkstra's algorithm on reduced costs finds the cheapest way
to one that lacks something; prices of the nodes passed rise, so that no cost becomes negative; and
as much moves as the way allows (successive shortest paths; Ahuja, Magnanti and Orlin, Network
Flows, section 9.7). Where no way leads on, the nodes reached are a cut: they hold more than bounds
let them keep, and no row can give up any of it elsewhere.

Scores are integers on a common grid where they fit (no rounding, ties are exact), else float64.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]

DONE, NO_WAY, OUT_OF_STEPS = 0, 1, 2


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
def _refresh(heap, top, least, amount, cap, never, j, k):
    """Drop ways that are no longer there from the top of the heap of j -> k."""
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
    least[j, k] = never
    if at >= 0:
        least[j, k], top[j, k, 1], top[j, k, 2] = cost[at], node[at, LEAVING], node[at, COMING]


@njit(cache=True, inline="always")
def _offer(heap, top, least, j, k, c, w, x):
    """A way from j to k at cost c: entry w gives up what entry x takes."""
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
        never: larger than every cost.
        steps: units may move so many times at most.
        counts: int64 (4,), added to: ways found, scans, units moved, entries moved.

    Returns:
        DONE, NO_WAY or OUT_OF_STEPS; and which nodes were reached last, boolean (V,).
    """
    n, N, V = len(first) - 1, first[-1], len(parent)
    leaves = 0
    for w in range(N):
        leaves = max(leaves, leaf[w] + 1)
    row = np.empty(N, np.int32)
    after, before = np.empty(N, np.int32), np.empty(N, np.int32)
    head = np.full(leaves, -1, np.int32)  # the entries that hold something, by leaf, linked
    for i in range(n):
        for w in range(first[i], first[i + 1]):
            row[w] = i
            if amount[w] > 0:
                j = leaf[w]
                after[w], before[w] = head[j], -1
                if head[j] >= 0:
                    before[head[j]] = w
                head[j] = w
    longest = 0
    for i in range(n):
        longest = max(longest, first[i + 1] - first[i])
    most_offers = 2 * V * longest
    empty = np.empty(0, value.dtype), np.empty((0, 4), np.int32), np.array([-1, 0], np.int32)
    heap = _grown(empty, N + most_offers)
    top = np.full((leaves, leaves, 3), -1, np.int32)  # node, entry leaving, entry coming
    least = np.full((leaves, leaves), never, value.dtype)
    known = np.zeros(leaves, np.bool_)  # the leaves whose ways have been looked for
    distance, key = np.empty(V, value.dtype), np.empty(V, value.dtype)
    came, way = np.empty(V, np.int32), np.empty(V, np.int8)
    gives, takes = np.empty(V, np.int32), np.empty(V, np.int32)
    visited = np.empty(V, np.int64)
    reached = np.zeros(V, np.bool_)
    child_first = np.zeros(V + 1, np.int64)
    for v in range(V - 1):
        child_first[parent[v] + 1] += 1
    for v in range(V):
        child_first[v + 1] += child_first[v]
    child = np.empty(V, np.int64)
    fill = child_first.copy()
    for v in range(V - 1):
        child[fill[parent[v]]] = v
        fill[parent[v]] += 1
    source, moves = 0, 0
    while True:
        passed = 0
        while passed < V and excess[source] <= 0:
            source = (source + 1) % V
            passed += 1
        if passed == V:
            return DONE, reached
        distance[:] = never
        key[:] = never
        came[source] = -1
        distance[source] = 0
        key[source] = 0
        end, seen = -1, 0
        while True:
            u, near = -1, never
            for v in range(V):
                if key[v] < near:
                    near, u = key[v], v
            if u < 0:
                reached[:] = False
                for at in range(seen):
                    reached[visited[at]] = True
                return NO_WAY, reached
            key[u] = never
            visited[seen] = u
            seen += 1
            if excess[u] < 0:
                end = u
                break
            pu = price[u]
            if u < leaves:
                if not known[u]:
                    counts[1] += 1
                    known[u] = True
                    w = head[u]
                    while w >= 0:
                        start, stop = first[row[w]], first[row[w] + 1]
                        if heap[2][1] < stop - start:
                            heap = _grown(heap, stop - start)
                        for x in range(start, stop):
                            if x != w and amount[x] < cap[x]:
                                _offer(heap, top, least, u, leaf[x], value[w] - value[x], w, x)
                        w = after[w]
                for k in range(leaves):
                    if least[u, k] < never:
                        far = near + max(least[u, k] - pu + price[k], 0)
                        if far < distance[k]:
                            distance[k], key[k], came[k], way[k] = far, far, u, 0
            if u < V - 1 and flow[u] < upper[u]:
                k = parent[u]
                far = near + max(price[k] - pu, 0)
                if far < distance[k]:
                    distance[k], key[k], came[k], way[k] = far, far, u, -1
            for at in range(child_first[u], child_first[u + 1]):
                k = child[at]
                if flow[k] > lower[k]:
                    far = near + max(price[k] - pu, 0)
                    if far < distance[k]:
                        distance[k], key[k], came[k], way[k] = far, far, u, -1
        counts[0] += 1
        for at in range(seen):
            price[visited[at]] += distance[end] - distance[visited[at]]
        for v in visited[:seen]:
            if v != source and way[v] >= 0:
                gives[v], takes[v] = top[came[v], v, 1], top[came[v], v, 2]
        while True:
            if heap[2][1] < most_offers:
                heap = _grown(heap, most_offers)
            moving = min(excess[source], -excess[end])
            v = end
            while v != source:
                u = came[v]
                if way[v] < 0:
                    if u < V - 1 and parent[u] == v:
                        moving = min(moving, upper[u] - flow[u])
                    else:
                        moving = min(moving, flow[v] - lower[v])
                else:
                    moving = min(moving, amount[gives[v]], cap[takes[v]] - amount[takes[v]])
                v = u
            if moving <= 0:
                break
            excess[source] -= moving
            excess[end] += moving
            counts[2] += 1
            v = end
            while v != source:
                u = came[v]
                if way[v] < 0:
                    if u < V - 1 and parent[u] == v:
                        flow[u] += moving
                    else:
                        flow[v] -= moving
                    v = u
                    continue
                counts[3] += 1
                w, x = gives[v], takes[v]
                start, stop = first[row[w]], first[row[w] + 1]
                opens, empties = amount[w] == cap[w], amount[w] == moving
                begins, fills = amount[x] == 0, amount[x] + moving == cap[x]
                amount[w] -= moving
                amount[x] += moving
                if empties:
                    if before[w] >= 0:
                        after[before[w]] = after[w]
                    else:
                        head[u] = after[w]
                    if after[w] >= 0:
                        before[after[w]] = before[w]
                if begins:
                    after[x], before[x] = head[v], -1
                    if head[v] >= 0:
                        before[head[v]] = x
                    head[v] = x
                if not (opens or empties or begins or fills):
                    v = u
                    continue
                for y in range(start, stop):
                    k = leaf[y]
                    if empties and y != w and top[u, k, 1] == w:
                        _refresh(heap, top, least, amount, cap, never, u, k)
                    if fills and y != x and top[k, v, 2] == x:
                        _refresh(heap, top, least, amount, cap, never, k, v)
                    if opens and y != w and amount[y] > 0 and known[k] and not (begins and y == x):
                        _offer(heap, top, least, k, u, value[y] - value[w], y, w)
                    if begins and y != x and amount[y] < cap[y] and known[v]:
                        _offer(heap, top, least, v, k, value[x] - value[y], x, y)
                v = u
            moves += 1
            if moves >= steps:
                return OUT_OF_STEPS, reached
            if excess[source] <= 0 or excess[end] >= 0:
                break
            again = True
            v = end
            while again and v != source:  # the same way once more, while it costs nothing
                u = came[v]
                if way[v] < 0:
                    if u < V - 1 and parent[u] == v:
                        again = flow[u] < upper[u] and price[v] - price[u] <= tie
                    else:
                        again = flow[v] > lower[v] and price[v] - price[u] <= tie
                else:
                    again = least[u, v] < never and least[u, v] - price[u] + price[v] <= tie
                    if again:
                        gives[v], takes[v] = top[u, v, 1], top[u, v, 2]
                v = u
            if not again:
                break
