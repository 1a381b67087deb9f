"""The solvers side by side, each as a function from an instance to its answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

import lp_routing as lpr
from benchmarks.side_by_side.cases import Case, Instance

COST_SCALE = 2.0**40
"""OR-tools takes whole costs: scores are rounded to multiples of 1 / COST_SCALE."""

CHUNK_ENTRIES = 1 << 22
"""Entries handed to OR-tools and LEMON in one call: 32 MiB of int64, small beside their graphs."""
Amounts = torch.Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver gives.

    Attributes:
        status: OPTIMAL or INFEASIBLE, else the solver's own words.
        x: amounts (T, E), or None.
        bound: no assignment is worth more; None where the solver gives no proof.
        prices: instead of a bound, what one is computed from after the clock has stopped.
    """

    status: str
    x: Amounts | None = None
    bound: float | None = None
    prices: lpr.Prices | None = None


def ours(solver: lpr.solvers.Solver, instance: Instance) -> Answer:
    """`lp_routing.solve`, from the matrix to the certified solution."""
    solution = lpr.solve(instance.problem(), solver)
    x = None if solution.assignment is None else solution.assignment.x
    known = solution.status in (lpr.Status.OPTIMAL, lpr.Status.INFEASIBLE)
    words = "" if known else f": {solution.explanation}"
    return Answer(f"{solution.status.name}{words}", x, float(solution.bound))


def min_cost_flow(instance: Instance) -> Answer:
    """This package's own method."""
    return ours(lpr.MinCostFlow(), instance)


def highs(instance: Instance) -> Answer:
    """The whole LP by HiGHS (dual simplex), through this package."""
    return ours(lpr.HiGHS(), instance)


def or_tools(instance: Instance) -> Answer:
    """`SimpleMinCostFlow` (cost scaling): token nodes, expert nodes, a sink; arcs by numpy."""
    from ortools.graph.python import min_cost_flow

    flow = min_cost_flow.SimpleMinCostFlow()
    T, E = instance.scores.shape
    supply, experts, sink = instance.supplies(), np.arange(T, T + E, dtype=np.int32), T + E
    firsts = [_add_pairs(flow, instance, rows) for rows in _row_chunks(T, E)]
    _add_arcs_to(flow, sink, experts, np.full(E, instance.capacity))
    if not instance.rows_exact:  # what is not worth sending goes past the experts
        _add_arcs_to(flow, sink, np.arange(T, dtype=np.int32), supply)
    flow.set_nodes_supplies(np.arange(T, dtype=np.int32), supply)
    flow.set_nodes_supplies(np.array([sink], np.int32), np.array([-supply.sum()]))
    status = flow.solve()
    if status != flow.OPTIMAL:
        return Answer(f"{status.name}" if status == flow.INFEASIBLE else f"FAILED: {status.name}")
    x = np.zeros((T, E), np.int32)
    for first, rows in zip(firsts, _row_chunks(T, E), strict=True):
        allowed = instance.scores[rows].numpy() > -np.inf
        x[rows][allowed] = flow.flows(np.arange(first, first + np.count_nonzero(allowed)))
    return Answer("OPTIMAL", x)


def lemon(instance: Instance) -> Answer:
    """LEMON's `NetworkSimplex` through pylmcf: token nodes, expert nodes, a sink."""
    from pylmcf import Graph

    T, E = instance.scores.shape
    scores, supply, often = instance.scores.numpy(), instance.supplies(), instance.multiplicity
    allowed = np.ones((T, E + 1), bool)  # the sink is the column after the experts
    np.greater(scores, -np.inf, out=allowed[:, :E])
    allowed[:, E] = not instance.rows_exact
    token, column = np.nonzero(allowed)
    pair = column < E
    cost = np.zeros(len(token) + E, np.int64)
    cost[: len(token)][pair] = -np.rint(scores[token[pair], column[pair]] * COST_SCALE)
    cost[: len(token)] -= cost.min()  # costs must be >= 0; every unit pays this shift once
    room = np.full(len(token) + E, instance.capacity, np.int64)
    room[: len(token)] = np.where(pair, 1 if often is None else often[token], supply[token])
    tails, heads = np.concatenate([token, T + np.arange(E)]), np.full(len(room), T + E)
    heads[: len(token)] = T + column  # arcs stand in the order in which pylmcf keeps them
    graph = Graph(T + E + 1, tails, heads)
    graph.set_node_supply(np.concatenate([supply, np.zeros(E), [-supply.sum()]]).astype(np.int64))
    graph.set_edge_capacities(room)
    graph.set_edge_costs(cost)
    try:
        graph.solve()
    except (RuntimeError, ValueError) as error:
        infeasible = "infeasible" in str(error).lower()
        return Answer("INFEASIBLE" if infeasible else f"FAILED: {error}")
    x = np.zeros((T, E), np.int32)
    x[token[pair], column[pair]] = graph.result()[: len(token)][pair]
    return Answer("OPTIMAL", x)


def pot(instance: Instance) -> Answer:
    """POT's `ot.emd` (network simplex): balanced transport, no limit on a single pair."""
    import ot

    supply, E = instance.supplies(), instance.scores.shape[1]
    if not (instance.rows_exact and instance.columns_exact and (supply == 1).all()):
        raise ValueError("POT states one expert a token and all slots taken, nothing else.")
    if not bool(instance.scores.isfinite().all()):
        raise ValueError("POT has no forbidden pairs.")
    cost = -instance.scores.numpy().astype(np.float64)
    slots = np.full(E, float(instance.capacity))
    plan, log = ot.emd(supply.astype(np.float64), slots, cost, numItermax=10**9, log=True)
    if log["warning"] is not None:
        return Answer(f"FAILED: {log['warning']}")
    return Answer("OPTIMAL", plan, prices=lpr.Prices(experts=torch.as_tensor(-log["v"])))


SOLVERS: dict[str, Callable[[Instance], Answer]] = {
    "MinCostFlow": min_cost_flow,
    "OR-tools": or_tools,
    "LEMON": lemon,
    "HiGHS": highs,
    "POT": pot,
}
LIMIT_S = {"MinCostFlow": 600.0, "OR-tools": 600.0, "LEMON": 600.0, "HiGHS": 60.0, "POT": 60.0}
"""Seconds after which a single solve is stopped: longer fills more cells of the table."""


def applies(solver: str, case: Case) -> bool:
    """Whether the solver can state the case at all, and is there."""
    if solver == "LEMON" and find_spec("pylmcf") is None:
        return False
    return solver != "POT" or case.is_transport


def evaluate(instance: Instance, x: Amounts) -> tuple[float, float]:
    """Value of any answer in float64, and the largest amount by which it breaks a bound."""
    T, E = instance.scores.shape
    supply = torch.tensor(instance.supplies())
    often = torch.ones(T) if instance.multiplicity is None else torch.tensor(instance.multiplicity)
    value, broken, load = 0.0, 0.0, torch.zeros(E, dtype=torch.float64)
    for rows in _row_chunks(T, E):
        amounts = torch.as_tensor(x[rows]).double()
        worth = torch.where(amounts > 0, instance.scores[rows].double() * amounts, 0.0)
        value += float(worth.sum())
        load += amounts.sum(0)
        excess = amounts.sum(1) - supply[rows]
        excess = excess.abs() if instance.rows_exact else excess
        pairs = amounts - often[rows, None]
        broken = max(broken, float(excess.max()), float(pairs.max()), float(-amounts.min()))
    excess = load - instance.capacity
    excess = excess.abs() if instance.columns_exact else excess
    return value, max(broken, float(excess.max()))


def _row_chunks(T: int, E: int) -> Iterator[slice]:
    step = max(1, CHUNK_ENTRIES // E)
    for start in range(0, T, step):
        yield slice(start, min(start + step, T))


def _add_pairs(flow: Any, instance: Instance, rows: slice) -> int:
    """Add the arcs of the allowed pairs of some rows; the number of the first of them."""
    scores = instance.scores[rows].numpy()
    token, expert = np.nonzero(scores > -np.inf)
    cost = -np.rint(scores[token, expert] * COST_SCALE).astype(np.int64)
    token += rows.start
    often = instance.multiplicity
    room = np.ones(len(token), np.int64) if often is None else often[token]
    first = flow.num_arcs()
    flow.add_arcs_with_capacity_and_unit_cost(
        token.astype(np.int32), (expert + len(instance.scores)).astype(np.int32), room, cost
    )
    return int(first)


def _add_arcs_to(
    flow: Any, sink: int, nodes: np.ndarray[Any, Any], room: np.ndarray[Any, Any]
) -> None:
    """Add free arcs from nodes to the sink."""
    sinks, free = np.full(len(nodes), sink, np.int32), np.zeros(len(nodes), np.int64)
    flow.add_arcs_with_capacity_and_unit_cost(nodes, sinks, room, free)
