"""Replicas of experts and the devices that hold them, so that no device has too many tokens.

    minimise    z
    subject to  sum_d n_jd = r_j >= 1        for each expert: its replicas
                sum_j n_jd = S               for each device: its slots
                sum_j n_jd w_j / r_j <= z    for each device: its load
                n_jd whole numbers >= 0

the problem of EPLB (deepseek-ai/EPLB, `rebalance_experts` without groups): w_j is the load of
expert j, and each of its replicas serves the same share of it. Two lower bounds on z need no
solver:

* the mean, sum_j w_j / D;
* the least z with sum_j max(1, ceil(w_j / z)) <= S D: an expert needs w_j / z replicas at least.

Both hold too where the tokens of an expert may be split unevenly among its replicas, as LPLB
(deepseek-ai/LPLB) splits them in each batch (`spread`): then z bounds what a replica serves.

EPLB gives one replica more, again and again, to the expert whose replicas have most, which attains
the second bound; then the replicas, largest first, go to the device with the least load that has a
free slot. The second step is not optimal. `placement` goes on from there: it exchanges replicas
between the fullest device and another as long as that lowers the larger of the two loads; where all
fullest devices are stuck it ends above the optimum, by as much as the bound tells.
`searched_placement` decides both steps by branch and bound, for small cases.
"""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.solvers.highs import search
from lp_routing.validation import as_bool, as_float, as_int, as_reals, refuse_nan_and_inf

Table = np.ndarray[Any, np.dtype[np.float64]]
Whole = np.ndarray[Any, np.dtype[np.int64]]

ROUNDING = 1e-12
"""Relative to the mean load: an exchange must lower the load by more, so that rounding of float64
sums cannot make two devices exchange for ever."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Replicas on devices, and a proof of how even their loads are.

    Attributes:
        replicas: int64 (E, D) on the CPU, replicas of each expert on each device.
        loads: float64 (D,), tokens of each device.
        bound: a lower bound on the largest load of any placement with as many devices and slots.
        ended: how it was found, in words.
    """

    replicas: Tensor
    loads: Tensor
    bound: float
    ended: str

    @property
    def value(self) -> float:
        """The largest load of a device."""
        return float(self.loads.max())

    @property
    def gap(self) -> float:
        """Value - bound; up to rounding >= 0, and 0 where no placement is more even."""
        return self.value - self.bound

    @property
    def relative_gap(self) -> float:
        """Gap over bound; 0 where nothing is loaded."""
        return self.gap / self.bound if self.bound else 0.0

    def loads_under(self, loads: Any) -> Tensor:
        """Tokens of each device, float64 (D,), where the experts have these loads (E,) instead.

        Raises:
            InputError: not a finite number >= 0 for each expert.

        Example:
            >>> found = lpr.extensions.placement([6.0, 2.0], devices=2, slots=1)
            >>> found.loads_under([1.0, 5.0]).tolist()
            [1.0, 5.0]
        """
        load = _loads(loads, len(self.replicas))
        share = torch.as_tensor(load) / self.replicas.sum(1)
        return share @ self.replicas.double()


def greedy_placement(loads: Any, devices: int, slots: int) -> Placement:
    """The rule of EPLB without groups: most loaded first, to the least loaded device with room.

    Args:
        loads: (E,) finite numbers >= 0, tokens of each expert.
        devices: D.
        slots: S, replicas that a device holds; D S >= E.

    Ties go to the lower expert and to the lower device.

    Raises:
        InputError: bad loads; fewer slots than experts.

    Example:
        >>> lpr.extensions.greedy_placement([6.0, 2.0, 2.0], devices=2, slots=2).loads.tolist()
        [5.0, 5.0]
    """
    load, D, S = _checked(loads, devices, slots)
    copies = _most_even_copies(load, D * S)
    return _placed(load, copies, _packed(load / copies, copies, D, S), "EPLB's greedy rule")


def placement(loads: Any, devices: int, slots: int) -> Placement:
    """EPLB's rule, then exchanges between the fullest device and others until none helps.

    Args:
        loads, devices, slots: as in `greedy_placement`.

    Raises:
        InputError: as `greedy_placement`.

    Cost: O(D S^2) a step; each step lowers the larger of two loads.

    Example:
        >>> loads = [4, 2, 2, 2, 1, 1]  # largest first ends in 4 + 2 + 1 against 2 + 2 + 1
        >>> lpr.extensions.greedy_placement(loads, devices=2, slots=3).value
        7.0
        >>> lpr.extensions.placement(loads, devices=2, slots=3).value
        6.0
    """
    load, D, S = _checked(loads, devices, slots)
    copies = _most_even_copies(load, D * S)
    held = _exchanged(load / copies, _packed(load / copies, copies, D, S))
    return _placed(load, copies, held, "EPLB's rule and exchanges")


def searched_placement(
    loads: Any, devices: int, slots: int, *, integral: bool = True, time_limit_s: float = 60.0
) -> Placement:
    """The same by HiGHS: branch and bound over replicas and devices.

    With integral=False the bound is that of the linear program, in which an expert may have
    fractions of replicas; the replicas are then those of `placement`. For some tens of slots: there
    are E (D S - E + 1) D whole numbers to choose.

    Args:
        loads, devices, slots: as in `greedy_placement`.
        integral: search for the best; else only for the linear program's bound.
        time_limit_s: seconds after which the search stops with the best so far.

    Raises:
        InputError: as `greedy_placement`; nothing found in time.

    Example:
        >>> found = lpr.extensions.searched_placement([6, 2, 2], devices=2, slots=2)
        >>> round(found.value, 9), round(found.bound, 9)
        (5.0, 5.0)
    """
    load, D, S = _checked(loads, devices, slots)
    E, most = len(load), D * S - len(load) + 1
    scale = load.sum() / D or 1.0
    number = np.arange(1, most + 1)
    share = (load[:, None] / scale / number).ravel()  # (E R): a replica's load where there are r
    n, pairs = E * most * D, E * most
    # columns: n[j, r, d], then whether j has r replicas, then z
    of_pair = sparse.kron(sparse.identity(pairs), np.ones((1, D)))
    rows = sparse.bmat(
        [
            [of_pair, -sparse.diags(np.tile(number, E).astype(float)), None],
            [None, sparse.kron(sparse.identity(E), np.ones((1, most))), None],
            [sparse.kron(np.ones((1, pairs)), sparse.identity(D)), None, None],
            [sparse.kron(share[None], sparse.identity(D)), None, -np.ones((D, 1))],
        ]
    )
    low = np.concatenate([np.zeros(pairs), np.ones(E), np.full(D, S), np.full(D, -np.inf)])
    high = np.concatenate([np.zeros(pairs), np.ones(E), np.full(D, S), np.zeros(D)])
    found = search(
        np.append(np.zeros(n + pairs), -1.0),
        rows.tocsr(),
        low.astype(float),
        high.astype(float),
        column_upper=np.concatenate(
            [np.repeat(np.tile(number, E), D).astype(float), np.ones(pairs), [np.inf]]
        ),
        whole=np.append(np.full(n + pairs, float(as_bool(integral, "integral"))), 0.0),
        time_limit_s=time_limit_s,
    )
    bound = max(-float(found.bound * scale), _bound(load, D, S))
    if not integral:
        kept = placement(loads, devices, slots)
        return Placement(kept.replicas, kept.loads, bound, f"{kept.ended}; {found.ended}")
    chosen = np.rint(found.x[:n]).astype(np.int64).reshape(E, most, D).sum(1)
    return Placement(
        torch.as_tensor(chosen),
        torch.as_tensor((load / chosen.sum(1)) @ chosen),
        bound,
        found.ended,
    )


def running_mean(loads: Any, decay: float) -> Tensor:
    """Exponential mean of loads over steps: the last step counts 1, one before `decay`, and so on.

    Args:
        loads: (N, ...) finite numbers, N steps in their order.
        decay: from 0 (the last step alone) to 1 (the plain mean).

    Returns:
        float64, the shape of one step.

    Raises:
        InputError: no step, NaN or infinity, a decay outside 0 to 1.

    Example:
        >>> lpr.extensions.running_mean([[0.0, 4.0], [4.0, 0.0]], decay=1.0).tolist()
        [2.0, 2.0]
    """
    steps = as_reals(loads, "loads", "tokens per step and expert").cpu()
    if steps.ndim < 2 or not steps.numel():
        raise InputError(f"loads: expected (steps, ..., experts), got shape {tuple(steps.shape)}.")
    refuse_nan_and_inf(steps, "loads")
    decay = as_float(decay, "decay", "a number from 0 to 1", lambda given: 0 <= given <= 1)
    weight = decay ** torch.arange(len(steps) - 1, -1, -1, dtype=torch.float64)
    mean: Tensor = torch.tensordot(weight / weight.sum(), steps, dims=1)
    return mean


def _loads(loads: Any, E: int | None = None) -> Table:
    """Loads float64 (E,)."""
    load = as_reals(loads, "loads", "tokens per expert").cpu()
    right = load.ndim == 1 and len(load) and (E is None or len(load) == E)
    if not right or not bool((load.isfinite() & (load >= 0)).all()):
        count = "one" if E is None else f"{E}, one"
        raise InputError(
            f"loads: expected finite numbers >= 0, {count} per expert, got {loads!r} of shape "
            f"{tuple(load.shape)}."
        )
    found: Table = load.numpy()
    return found


def _checked(loads: Any, devices: int, slots: int) -> tuple[Table, int, int]:
    load = _loads(loads)
    D, S = as_int(devices, "devices", 1), as_int(slots, "slots", 1)
    if len(load) > D * S:
        raise InputError(
            f"slots={S} on each of {D} devices hold {D * S} replicas, fewer than the "
            f"{len(load)} experts; give at least slots={-(-len(load) // D)}."
        )
    return load, D, S


def _most_even_copies(load: Table, slots: int) -> Whole:
    """Replicas (E,) of each expert, `slots` in all, so that the largest share is least."""
    copies = np.ones(len(load), dtype=np.int64)
    queue = [(-w, j) for j, w in enumerate(load.tolist())]
    heapq.heapify(queue)
    for _ in range(slots - len(load)):
        _, j = queue[0]
        copies[j] += 1
        heapq.heapreplace(queue, (-load[j] / copies[j], j))
    return copies


def _packed(share: Table, copies: Whole, D: int, S: int) -> Whole:
    """The expert in each slot (D, S): largest share first, to the least loaded with a free slot."""
    held = np.empty((D, S), dtype=np.int64)
    queue = [(0.0, d, 0) for d in range(D)]
    for j in np.repeat(np.arange(len(share)), copies)[
        np.argsort(-np.repeat(share, copies), kind="stable")
    ]:
        load, d, used = heapq.heappop(queue)
        held[d, used] = j
        if used + 1 < S:
            heapq.heappush(queue, (load + share[j], d, used + 1))
    return held


def _exchanged(share: Table, held: Whole) -> Whole:
    """Slots after exchanges with the fullest device; each lowers the larger of two loads.

    The loads, in falling order, fall in lexical order, so that it ends.
    """
    held, least = held.copy(), ROUNDING * share[held].sum() / len(held)
    while True:
        weight = share[held]
        device = weight.sum(1)
        full = int(device.argmax())
        # give[a, d, b]: what the fullest device loses when its slot a goes to d for slot b there
        give = weight[full][:, None, None] - weight[None]
        larger = np.maximum(device[full] - give, device[None, :, None] + give)
        larger[:, full] = np.inf
        a, d, b = np.unravel_index(int(larger.argmin()), larger.shape)
        if not larger[a, d, b] < device[full] - least:
            return held
        held[full, a], held[d, b] = held[d, b], held[full, a]


def _bound(load: Table, D: int, S: int) -> float:
    """The larger of the two bounds that need no solver."""
    return float(max(load.sum() / D, (load / _most_even_copies(load, D * S)).max()))


def _placed(load: Table, copies: Whole, held: Whole, ended: str) -> Placement:
    D, S = held.shape
    replicas = np.zeros((len(load), D), dtype=np.int64)
    np.add.at(replicas, (held, np.arange(D)[:, None]), 1)
    device = (load / copies)[held].sum(1)
    bound = min(_bound(load, D, S), float(device.max()))
    return Placement(torch.as_tensor(replicas), torch.as_tensor(device), bound, ended)
