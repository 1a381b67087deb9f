"""Amounts within all bounds, or the clash that forbids them, by one maximum flow.

It is exact for problems that are a network flow: those with whole bounds and nested groups.
The flow runs through each token's best pairs at the prices and may move what was taken (a
circulation with demands; Hoffman 1960). It looks at dense tables of all pairs.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from lp_routing.certificate.best_response import best_response
from lp_routing.certificate.prices import Prices, clipped, pair_prices
from lp_routing.problem.problem import RoutingProblem

Array = np.ndarray[Any, Any]


def _ranks(problem: RoutingProblem, prices: Prices) -> Array:
    """For each pair the number of pairs its token prefers at the prices, (T, E)."""
    ranks = np.empty((problem.T, problem.E), dtype=np.int64)
    paid = pair_prices(problem, clipped(problem, prices))
    for response in best_response(problem, *paid, all_ranks=True):
        order = response.experts.cpu().numpy()
        np.put_along_axis(ranks[response.rows], order, np.arange(problem.E)[None, :], axis=1)
    return ranks


def meet_demands(problem: RoutingProblem, x: Array, prices: Prices) -> Array | None:
    """Amounts between all bounds, changing x through as few new pairs of each token as needed."""
    allowed, ranks = problem.allowed.cpu().numpy(), _ranks(problem, prices)
    lower, _ = problem.token_bounds()
    width = max(1, int((lower / problem.copies()).max().ceil()))
    while True:
        token, expert = np.nonzero(allowed & ((ranks < width) | (x > 0)))
        amounts = _circulation(problem, x, token, expert)
        if amounts is not None:
            repaired = np.zeros_like(x)
            repaired[token, expert] = amounts
            return repaired
        if width >= problem.E:
            return None
        width = min(2 * width, problem.E)


def cut(problem: RoutingProblem) -> dict[str, Array] | None:
    """The demands that clash most with what can be given, where no assignment exists.

    Nodes that a surplus reaches (see `_circulation`) but cannot leave are one side of a cut: what
    must enter it is more than what may leave (Hoffman 1960).

    Args:
        problem: with whole bounds and nested groups.

    Returns:
        For each family of constraints -1 where it must bring units in, 1 where it may take them
        out, else 0: float64, one for each constraint. None where an assignment exists, or where
        amounts are too large for whole numbers of 32 bits.
    """
    token, expert = np.nonzero(problem.allowed.cpu().numpy())
    nothing = np.zeros((problem.T, problem.E))
    network = _network(problem, nothing, token, expert)
    if network.demand > np.iinfo(np.int32).max:
        return None
    result = maximum_flow(network.graph, network.source, network.sink)
    if result.flow_value == network.demand:
        return None
    residual = network.graph - result.flow
    residual.eliminate_zeros()
    inside = np.zeros(network.sink + 1)
    inside[breadth_first_order(residual, network.source, return_predecessors=False)] = 1.0
    crossing = inside[network.tail] - inside[network.head]
    parts = {"total": crossing[-1:]}
    first = 0
    for side, singles in (("token", problem.T), ("expert", problem.E)):
        groups = problem.family(f"{side}_group")
        parts[side] = crossing[first : first + singles]
        first += singles
        if groups is not None and groups.members is not None:
            order = _by_size(groups.members.cpu().numpy())
            parts[f"{side}_group"] = crossing[first : first + len(order)][np.argsort(order)]
            first += len(order)
    return {family.kind: parts[family.kind] for family in problem.families}


class Network(NamedTuple):
    """What is still to be sent, from source to sink, so that every arc keeps its bounds.

    Attributes:
        graph: what arcs can still take or give back, int32.
        tail, head: of the arcs that have bounds: those of tokens, of experts, the total.
        experts: node of the first expert.
        source, sink: where surpluses begin and shortages end; the largest two nodes.
        demand: the sum of the surpluses.
    """

    graph: csr_array
    tail: Array
    head: Array
    experts: int
    source: int
    sink: int
    demand: float


def _network(problem: RoutingProblem, x: Array, token: Array, expert: Array) -> Network:
    """The network of the given pairs, when x has been sent already.

    Nodes: root -> nested groups of tokens -> tokens -> experts -> nested groups -> root. Arcs below
    their lower bound are raised to it, which leaves nodes with too much or too little.
    """
    arcs, source_count, nodes_in_all = _arcs(problem)
    source, sink = nodes_in_all, nodes_in_all + 1
    tail, head, lower, upper = (np.array(column) for column in zip(*arcs, strict=True))
    carried = np.concatenate(
        [_through(problem, "token", x.sum(1)), _through(problem, "expert", x.sum(0)), [x.sum()]]
    )
    raised = np.maximum(carried, lower)
    excess = np.zeros(sink + 1)
    np.add.at(excess, head, raised - carried)
    np.add.at(excess, tail, carried - raised)
    nodes = np.nonzero(excess)[0]
    demand = float(excess[excess > 0].sum())
    over = excess[nodes] > 0
    copies, taken = problem.copies().cpu().numpy()[token], x[token, expert]
    places = expert + source_count
    tails = [tail, head, token, places, np.where(over, source, nodes)]
    heads = [head, tail, places, token, np.where(over, nodes, sink)]
    room = [upper - raised, raised - lower, copies - taken, taken, np.abs(excess[nodes])]
    # no arc carries more than the whole demand, so larger limits are none
    limits = np.concatenate(room).clip(max=min(demand, np.iinfo(np.int32).max)).astype(np.int32)
    shape = (sink + 1, sink + 1)
    graph = csr_array((limits, (np.concatenate(tails), np.concatenate(heads))), shape=shape)
    return Network(graph, tail, head, source_count, source, sink, demand)


def _circulation(problem: RoutingProblem, x: Array, token: Array, expert: Array) -> Array | None:
    """Amounts on the given pairs within all bounds, found from x by augmenting, or None."""
    T, E = problem.T, problem.E
    network = _network(problem, x, token, expert)
    if network.demand > np.iinfo(np.int32).max:
        return None
    result = maximum_flow(network.graph, network.source, network.sink)
    if result.flow_value < network.demand:
        return None
    experts = slice(network.experts, network.experts + E)
    sent = np.asarray(result.flow[:T, experts].todense())[token, expert]
    return np.asarray(x[token, expert] + sent)


def _arcs(problem: RoutingProblem) -> tuple[list[tuple[int, int, float, float]], int, int]:
    """Arcs that have bounds: tail, head, bounds; how many nodes are of tokens, how many in all."""
    source_side, source_count = _tree(problem, "token", first=0)
    sink_side, sink_count = _tree(problem, "expert", first=source_count)
    top, bottom = source_count + sink_count, source_count + sink_count + 1
    arcs = [(parent if parent >= 0 else top, node, *bounds) for node, parent, bounds in source_side]
    arcs += [(n, parent if parent >= 0 else bottom, *bounds) for n, parent, bounds in sink_side]
    total = problem.family("total")
    arcs.append((bottom, top, *((0.0, np.inf) if total is None else _pairs_of(total)[0])))
    return arcs, source_count, bottom + 1


def _through(problem: RoutingProblem, side: str, amounts: Array) -> Array:
    """What the arc of each node of one side carries, in the order of `_tree`."""
    groups = problem.family(f"{side}_group")
    if groups is None or groups.members is None:
        return amounts
    members = groups.members.cpu().numpy()
    return np.concatenate([amounts, members[_by_size(members)] @ amounts])


def _by_size(members: Array) -> Array:
    return np.argsort(members.sum(1), kind="stable")


def _tree(
    problem: RoutingProblem, side: str, first: int
) -> tuple[list[tuple[int, int, tuple[float, float]]], int]:
    """Nodes of one side as (node, parent or -1, bounds), singles first, and their number.

    The parent is the smallest group that contains the node; among equal groups, the next one.
    """
    size = problem.T if side == "token" else problem.E
    singles, groups = problem.family(side), problem.family(f"{side}_group")
    members = np.zeros((0, size), dtype=bool)
    bounds = [(0.0, float("inf"))] * size if singles is None else _pairs_of(singles)
    if groups is not None and groups.members is not None:
        members = groups.members.cpu().numpy()
        order = _by_size(members)
        members, group_bounds = members[order], _pairs_of(groups)
        bounds = bounds + [group_bounds[row] for row in order]
    nodes = []
    for index, bound in enumerate(bounds):
        if index < size:
            inside = members[:, index]
        else:
            own = members[index - size]
            inside = (members >= own).all(1) & (np.arange(len(members)) > index - size)
        parent = first + size + int(inside.argmax()) if inside.any() else -1
        nodes.append((first + index, parent, bound))
    return nodes, len(bounds)


def _pairs_of(family: Any) -> list[tuple[float, float]]:
    return list(zip(family.lower.tolist(), family.upper.tolist(), strict=True))
