"""OR-tools in a process of its own: it cannot be imported beside highspy 1.15 and later.

`apart(function, *arguments)` calls there what imports OR-tools; the rest is what tests ask of it.
"""

import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np


@cache
def _process():
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _called(call):
    function, arguments = pickle.loads(call)
    return pickle.dumps(function(*arguments))


def apart(function, *arguments):
    """What a function of some module returns or raises in the process of OR-tools."""
    call = pickle.dumps((function, arguments))  # by value, where torch would share tensors
    return pickle.loads(_process().submit(_called, call).result())


def end():
    """End the process, if there is one."""
    if _process.cache_info().currsize:
        _process().shutdown()
        _process.cache_clear()


def loaded():
    """Modules that this process has imported."""
    return set(sys.modules)


def flow_value(scores, k, capacity, balanced, scale):
    """Value of the best flow on scores (T, E) in multiples of 1 / scale; None if infeasible.

    Capacity is a number or (E,). Balanced: every token takes k; else what is worth nothing is left.
    """
    from ortools.graph.python import min_cost_flow

    T, E = scores.shape
    flow = min_cost_flow.SimpleMinCostFlow()
    source, sink = T + E, T + E + 1
    token, expert = np.nonzero(scores > -np.inf)
    cost = -np.rint(scores[token, expert] * scale).astype(np.int64)
    add = flow.add_arcs_with_capacity_and_unit_cost
    add(np.full(T, source), np.arange(T), np.full(T, k), np.zeros(T, int))
    add(token, T + expert, np.ones(len(token), int), cost)
    room = np.broadcast_to(capacity, (E,)).astype(np.int64)
    add(T + np.arange(E), np.full(E, sink), room, np.zeros(E, int))
    if not balanced:  # what is not worth sending goes past the experts
        add(np.array([source]), np.array([sink]), np.array([T * k]), np.array([0]))
    flow.set_nodes_supplies(np.array([source, sink]), np.array([T * k, -T * k]))
    status = flow.solve()
    return -flow.optimal_cost() / scale if status == flow.OPTIMAL else None


def mps_value(path):
    """The optimum of the LP in an MPS file by GLOP; None where it found none."""
    from ortools.linear_solver.python import model_builder

    model = model_builder.Model()
    assert model.import_from_mps_file(str(path))
    solver = model_builder.Solver("GLOP")
    optimal = solver.solve(model) == model_builder.SolveStatus.OPTIMAL
    return solver.objective_value if optimal else None
