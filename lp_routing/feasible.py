"""A feasible assignment near given prices, without an LP: for a solver that was stopped early.

Lower bounds are met by a maximum flow over each token's best pairs at the prices (a circulation
with demands; Hoffman 1960); the pairs of positive score that still fit are then added greedily.
"""

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from lp_routing.best_response import best_response
from lp_routing.prices import Prices, clipped, pair_prices
from lp_routing.problem import RoutingProblem

Array = np.ndarray[Any, Any]


def feasible_assignment(problem: RoutingProblem, prices: Prices) -> Tensor | None:
    """Whole amounts (T, E) that satisfy every bound, or None.

    None where no assignment exists, and where the problem is not a network flow
    (`why_not_integral`). Ties go to the lower token, then the lower expert.
    """
    if not problem.is_integral:
        return None
    ranks = _ranks(problem, prices)
    x = np.zeros(ranks.shape, dtype=np.int64)
    if any(bool((family.lower > 0).any()) for family in problem.families):
        found = _meet_demands(problem, ranks)
        if found is None:
            return None
        x = found
    return torch.as_tensor(_fill_up(problem, x))


def _ranks(problem: RoutingProblem, prices: Prices) -> Array:
    """For each pair the number of pairs its token prefers at the prices, (T, E)."""
    ranks = np.empty((problem.T, problem.E), dtype=np.int64)
    paid = pair_prices(problem, clipped(problem, prices))
    for response in best_response(problem, *paid, all_ranks=True):
        order = response.experts.cpu().numpy()
        np.put_along_axis(ranks[response.rows], order, np.arange(problem.E)[None, :], axis=1)
    return ranks


def _meet_demands(problem: RoutingProblem, ranks: Array) -> Array | None:
    """Amounts between all lower and upper bounds, on as few of each token's pairs as needed."""
    allowed = problem.allowed.cpu().numpy()
    lower, _ = problem.token_bounds()
    width = max(1, int((lower / problem.copies()).max().ceil()))
    while True:
        token, expert = np.nonzero(allowed & (ranks < width))
        amounts = _circulation(problem, token, expert)
        if amounts is not None:
            x = np.zeros(allowed.shape, dtype=np.int64)
            x[token, expert] = amounts
            return x
        if width >= problem.E:
            return None
        width = min(2 * width, problem.E)


def _circulation(problem: RoutingProblem, token: Array, expert: Array) -> Array | None:
    """Flow on the given pairs within all bounds, or None.

    Nodes: root -> nested groups of tokens -> tokens -> experts -> nested groups -> root. An arc's
    lower bound becomes a demand of its head and a supply of its tail, served by one maximum flow.
    """
    T, E = problem.T, problem.E
    everything = int(problem.copies().sum()) * E
    source_side, source_count = _tree(problem, "token", first=0)
    sink_side, sink_count = _tree(problem, "expert", first=source_count)
    top, bottom = source_count + sink_count, source_count + sink_count + 1
    source, sink = bottom + 1, bottom + 2
    arcs = [(parent if parent >= 0 else top, node, *bounds) for node, parent, bounds in source_side]
    arcs += [
        (node, parent if parent >= 0 else bottom, *bounds) for node, parent, bounds in sink_side
    ]
    total = problem.family("total")
    whole = (0.0, np.inf) if total is None else (float(total.lower[0]), float(total.upper[0]))
    arcs.append((bottom, top, *whole))

    tail, head, lower, upper = (np.array(column) for column in zip(*arcs, strict=True))
    lower, upper = lower.astype(np.int64), np.minimum(upper, everything).astype(np.int64)
    excess = np.zeros(sink + 1, dtype=np.int64)
    np.add.at(excess, head, lower)
    np.add.at(excess, tail, -lower)
    nodes = np.nonzero(excess)[0]
    supplies = np.where(excess[nodes] > 0, source, nodes), np.where(excess[nodes] > 0, nodes, sink)
    tails = np.concatenate([tail, token, supplies[0]])
    heads = np.concatenate([head, expert + source_count, supplies[1]])
    copies = problem.copies().cpu().numpy().astype(np.int64)
    room = np.concatenate([upper - lower, copies[token], np.abs(excess[nodes])])
    graph = csr_array((room.astype(np.int32), (tails, heads)), shape=(sink + 1, sink + 1))
    result = maximum_flow(graph, source, sink)
    if result.flow_value < excess[excess > 0].sum():
        return None
    return np.asarray(result.flow[:T, source_count : source_count + E].todense())[token, expert]


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
        order = np.argsort(members.sum(1), kind="stable")
        members, group_bounds = members[order], _pairs_of(groups)
        bounds = bounds + [group_bounds[row] for row in order]
    sets = np.concatenate([np.eye(size, dtype=bool), members]) if len(members) else None
    nodes = []
    for index, bound in enumerate(bounds):
        parent = -1
        if sets is not None:
            above = [
                row
                for row in range(max(size, index + 1), len(bounds))
                if (sets[index] <= sets[row]).all()
            ]
            parent = first + above[0] if above else -1
        nodes.append((first + index, parent, bound))
    return nodes, len(bounds)


def _pairs_of(family: Any) -> list[tuple[float, float]]:
    return list(zip(family.lower.tolist(), family.upper.tolist(), strict=True))


def _fill_up(problem: RoutingProblem, x: Array) -> Array:
    """Add pairs of positive score, best first, while every upper bound allows."""
    scores = problem.scores.double().cpu().numpy()
    copies = problem.copies().cpu().numpy()
    token, expert = np.nonzero(scores > 0)
    order = np.argsort(-scores[token, expert], kind="stable")
    room, touching = _room(problem, x)
    for i, j in zip(token[order].tolist(), expert[order].tolist(), strict=True):
        limits = [*touching["token"][i], *touching["expert"][j]]
        amount = min([copies[i] - x[i, j], *(room[limit] for limit in limits)])
        if amount > 0:
            x[i, j] += int(amount)
            for limit in limits:
                room[limit] -= amount
    return x


def _room(problem: RoutingProblem, x: Array) -> tuple[list[float], dict[str, list[list[int]]]]:
    """What each finite upper bound still allows, and which bounds each token and expert touches."""
    amounts = torch.as_tensor(x).to(problem.scores.device).double()
    room: list[float] = []
    touching: dict[str, list[list[int]]] = {
        "token": [[] for _ in range(problem.T)],
        "expert": [[] for _ in range(problem.E)],
    }
    for family in problem.families:
        left = family.upper - family.activity(amounts.sum(1), amounts.sum(0))
        side = "token" if family.kind.startswith("token") else "expert"
        for row in left.isfinite().nonzero().flatten().tolist():
            if family.kind == "total":
                touched = list(range(problem.E))
            elif family.members is None:
                touched = [row]
            else:
                touched = family.members[row].nonzero().flatten().tolist()
            for index in touched:
                touching[side][index].append(len(room))
            room.append(float(left[row]))
    return room, touching
