"""Experts with replicas on several devices: split their tokens so that no device has too many.

    minimise    z
    subject to  sum_d f_jd = w_j for each expert,  sum_j f_jd <= z for each device,
                f_jd >= 0, and 0 where expert j has no replica on device d

the linear program that LPLB (deepseek-ai/LPLB) solves in each batch; w_j is the load of expert j.
It is a transport problem, so

    least z = max over sets S of devices of (tokens of experts with replicas only in S) / |S|,

as in Hall's theorem, and in whole tokens the least z is that number rounded up. `spread` finds both
with HiGHS and a maximum flow. `edge_wise` is a local rule: two devices that hold the same expert
balance their loads, edge after edge. It minimises the sum of squared loads one coordinate at a
time; with fractional tokens its limit is the optimum, though a single sweep is not, and with whole
tokens it can stop above the optimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import as_bool, as_int, as_list, as_reals, as_tensor

Table = np.ndarray[Any, np.dtype[np.float64]]

SETTLED = 1e-13
"""Share of all tokens: a sweep that moves no more than this along any edge is the last.

It is the rounding of float64 loads; a larger one would stop before the loads are balanced.
"""
MOST_TOKENS = 2**31 - 1
"""Tokens: the maximum flow of SciPy counts in int32."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Tokens of experts over devices, and a proof of how even they are.

    Attributes:
        tokens: float64 (E, D) on the CPU, tokens of each expert on each device.
        value: the largest load of a device.
        bound: a lower bound on the largest load of any split: tokens of experts only on `devices`,
            over their number, rounded up where tokens are whole.
        devices: the set S of the bound.
        ended: how it was found, in words.
    """

    tokens: Tensor
    value: float
    bound: float
    devices: tuple[int, ...]
    ended: str

    @property
    def gap(self) -> float:
        """Value - bound; up to rounding >= 0, and 0 where no split is more even."""
        return self.value - self.bound


def spread(loads: Any, places: Any, *, integral: bool = False) -> Spread:
    """The least largest load of a device.

    Args:
        loads: (E,) whole numbers >= 0, tokens of each expert.
        places: boolean (E, D), where each expert has a replica; at least one each.
        integral: whole tokens, by a maximum flow under the rounded-up bound.

    Raises:
        InputError: not whole loads, not booleans of that shape, an expert without a place.

    Example:
        >>> places = [[True, True], [False, True]]  # expert 0 on both devices, 1 on the second
        >>> found = lpr.extensions.spread([6, 2], places)
        >>> found.value, found.tokens.tolist()
        (4.0, [[4.0, 2.0], [0.0, 2.0]])
    """
    load, held = _checked(loads, places)
    amounts, prices = _by_lp(load, held)
    # the prices are a convex combination of sets, the best of which bounds at least as well
    bound, devices = _best_level(load, held, prices)
    if not as_bool(integral, "integral"):
        return _spread(amounts, bound, devices, "linear program (HiGHS)")
    most = -(-int(load[_confined(held, devices)].sum()) // len(devices))
    least = most
    while (flow := _flow(load, held, most)) is None:
        most += 1
    return _spread(flow, float(least), devices, "maximum flow under the rounded-up bound")


def edge_wise(
    loads: Any,
    places: Any,
    home: Sequence[int] | Tensor,
    *,
    sweeps: int = 10_000,
    integral: bool = False,
) -> Spread:
    """Balance the two devices of every edge in turn, starting with all tokens at their home device.

    An edge is an expert and two of its devices; its tokens there move until the two devices have
    equal loads or none are left to move; with whole tokens, half the difference, rounded down.
    Edges go by expert, then device. It ends after `sweeps`, or where no edge moves anything.

    Args:
        loads, places: as in `spread`.
        home: (E,) the device of each expert's original.
        sweeps: most rounds over all edges.
        integral: whole tokens.

    Raises:
        InputError: as `spread`; a home that holds no replica of its expert.

    Example:
        >>> places = [[True, True], [False, True]]  # expert 0 on both devices, 1 on the second
        >>> round(lpr.extensions.edge_wise([6, 2], places, home=[0, 1]).value, 6)
        4.0
    """
    load, held = _checked(loads, places)
    sweeps = as_int(sweeps, "sweeps", 0)
    amounts = _at_home(load, held, home)
    edges = [
        (j, a, b)
        for j in range(len(load))
        for a, b in combinations(held[j].nonzero()[0].tolist(), 2)
        if load[j]
    ]
    device = amounts.sum(0)
    done, moved = 0, np.inf
    integral = as_bool(integral, "integral")
    while done < sweeps and moved > (0 if integral else SETTLED * load.sum()):
        moved = 0.0
        for edge in edges:
            moved = max(moved, _level(amounts, device, *edge, integral))
        done += 1
    bound, devices = _best_level(load, held, device)
    words = f"edge-wise, {done} sweep(s)" + ("" if done < sweeps else ", stopped")
    return _spread(amounts, float(np.ceil(bound)) if integral else bound, devices, words)


def confined_load(loads: Any, places: Any, devices: Sequence[int]) -> int:
    """Tokens of the experts whose replicas all lie on these devices: their least total load.

    Raises:
        InputError: as `spread`; devices that do not exist.

    Example:
        >>> places = [[True, True], [False, True]]  # expert 0 on both devices, 1 on the second
        >>> lpr.extensions.confined_load([6, 2], places, devices=[1])
        2
    """
    load, held = _checked(loads, places)
    devices = as_list(devices, "devices", "whole numbers")
    for device in devices:
        as_int(device, "device", 0, held.shape[1] - 1, "the last device")
    return int(load[_confined(held, tuple(devices))].sum())


def _checked(loads: Any, places: Any) -> tuple[Table, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Loads float64 (E,) of whole numbers, places boolean (E, D)."""
    load = as_reals(loads, "loads", "tokens per expert").cpu().numpy()
    if load.ndim != 1 or not len(load) or not bool(((load >= 0) & (load == np.floor(load))).all()):
        raise InputError(f"loads: expected whole numbers >= 0, one per expert, got {loads!r}.")
    if load.sum() > MOST_TOKENS:
        raise InputError(f"loads: {load.sum():g} tokens in all are more than 2**31 - 1.")
    held = as_tensor(places, "places", "booleans (experts, devices)").cpu()
    if held.dtype != torch.bool or held.ndim != 2 or held.shape[0] != len(load):
        raise InputError(
            f"places: expected booleans ({len(load)} experts, devices), got {held.dtype} of shape "
            f"{tuple(held.shape)}."
        )
    homeless = (~held.any(-1)).nonzero().flatten()
    if len(homeless):
        raise InputError(f"places: expert {int(homeless[0])} is on no device.")
    return load, held.numpy()


def _by_lp(load: Table, held: Any) -> tuple[Table, Table]:
    """Amounts (E, D) of the LP's optimum, and the prices (D,) of the devices' rows."""
    from scipy.optimize import linprog

    expert, device = held.nonzero()
    n, (E, D) = len(expert), held.shape
    column = np.arange(n)
    per_device = sparse.csr_matrix((np.ones(n), (device, column)), shape=(D, n))
    per_expert = sparse.csr_matrix((np.ones(n), (expert, column)), shape=(E, n))
    total = load.sum() or 1.0
    found = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=sparse.hstack([per_device, -np.ones((D, 1))]),
        b_ub=np.zeros(D),
        A_eq=sparse.hstack([per_expert, sparse.csr_matrix((E, 1))]),
        b_eq=load / total,
        method="highs",
    )
    amounts = np.zeros((E, D))
    amounts[expert, device] = found.x[:n].clip(min=0)
    sums = amounts.sum(1, keepdims=True)
    amounts *= np.divide(load[:, None], sums, out=np.zeros((E, 1)), where=sums > 0)
    return amounts, -found.ineqlin.marginals


def _flow(load: Table, held: Any, most: int) -> Table | None:
    """Whole amounts (E, D) with at most `most` tokens a device; None where there are none."""
    from scipy.sparse.csgraph import maximum_flow

    E, D = held.shape
    expert, device = held.nonzero()
    source, sink = E + D, E + D + 1
    start = np.concatenate([np.full(E, source), expert, E + np.arange(D)])
    end = np.concatenate([np.arange(E), E + device, np.full(D, sink)])
    capacity = np.concatenate([load, load[expert], np.full(D, most)]).astype(np.int32)
    graph = sparse.csr_matrix((capacity, (start, end)), shape=(sink + 1, sink + 1))
    found = maximum_flow(graph, source, sink)
    if found.flow_value < load.sum():
        return None
    between: Table = found.flow[:E, E:source].toarray().astype(np.float64)
    return between.clip(min=0)


def _confined(held: Any, devices: Sequence[int]) -> Any:
    """Boolean (E,): experts without a place outside."""
    outside = np.ones(held.shape[1], dtype=bool)
    outside[list(devices)] = False
    return ~held[:, outside].any(1)


def _best_level(load: Table, held: Any, height: Table) -> tuple[float, tuple[int, ...]]:
    """The best bound among the sets of the highest devices, and its set."""
    order = np.argsort(-height, kind="stable")
    sets = [tuple(sorted(order[: count + 1].tolist())) for count in range(len(order))]
    bounds = [float(load[_confined(held, some)].sum()) / len(some) for some in sets]
    best = int(np.argmax(bounds))
    return bounds[best], sets[best]


def _at_home(load: Table, held: Any, home: Sequence[int] | Tensor) -> Table:
    """All tokens on the home devices, (E, D)."""
    where = as_tensor(home, "home", "one device per expert").cpu()
    E, D = held.shape
    if where.is_floating_point() or where.dtype == torch.bool or tuple(where.shape) != (E,):
        raise InputError(f"home: expected {E} devices as whole numbers, got {home!r}.")
    for j, device in enumerate(where.tolist()):
        if not 0 <= device < D or not held[j, device]:
            raise InputError(f"home: expert {j} has no replica on device {device}.")
    amounts = np.zeros((E, D))
    amounts[np.arange(E), where.numpy()] = load
    return amounts


def _level(amounts: Table, device: Table, j: int, a: int, b: int, integral: bool) -> float:
    """Balance devices a and b with the tokens of expert j, in place; how many moved."""
    move = (device[a] - device[b]) / 2
    move = float(np.trunc(move)) if integral else float(move)
    move = min(max(move, -amounts[j, b]), amounts[j, a])
    for place, change in ((a, -move), (b, move)):
        amounts[j, place] += change
        device[place] += change
    return float(abs(move))


def _spread(amounts: Table, bound: float, devices: tuple[int, ...], words: str) -> Spread:
    return Spread(torch.as_tensor(amounts), float(amounts.sum(0).max()), bound, devices, words)
