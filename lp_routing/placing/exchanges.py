"""Meet lower bounds by exchanges: one token makes room where another one has to go.

A missing pair is added along a path of experts, each of which passes one of its tokens on to the
next, until one has room or a token that has more than it must gives a pair up. These are the
augmenting paths of a flow, with all tokens between two experts as one arc, so that E + 1 nodes are
searched whatever T is; the path taken is the one that loses least at the prices. Without groups, a
bound that no path serves cannot be met (Ford and Fulkerson 1956). With groups, a path must leave
those of both its ends within bounds even where both ends are in the same group.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.placing.placement import INF, Limit, Placement
from lp_routing.placing.rounds import keep_best

SHARE = 2
"""At most half of what is missing goes along one path before the next one is sought."""


@dataclass(frozen=True, eq=False)
class Need:
    """What is missing, and between which nodes a path may serve it: experts, then outside.

    Attributes:
        missing: how many pairs are missing.
        begin: float64 (E + 1,), how many units may begin at each node.
        end: float64 (E + 1,), how many units may end at each node.
        cost: float64 (E + 1,), what it costs at least to begin there.
        owed: float64 (T,), where given, a path begins with one of these rows, which takes the
            first expert; each may do so this many times. Else the first expert loses a token.
    """

    missing: float
    begin: Tensor
    end: Tensor
    cost: Tensor
    owed: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Moves:
    """Tokens that may go along one arc of a path, each (n,), the least loss first."""

    token: Tensor
    amount: Tensor
    loss: Tensor

    def cut(self, units: float) -> Tensor:
        """The amounts of the first `units`, (n,)."""
        before = self.amount.cumsum(0) - self.amount
        return torch.minimum((units - before).clamp(min=0), self.amount)

    def loss_after(self, units: float) -> float:
        """The loss of the next unit; inf where there is none."""
        rest = self.loss[self.amount.cumsum(0) > units]
        return float(rest[0]) if len(rest) else INF


def exchange(placement: Placement) -> bool:
    """Move pairs until all lower bounds are met; False where paths are not enough."""
    graph = _Graph(placement)
    needs = [
        partial(_of_rows if limit.of_tokens else _of_experts, placement, limit)
        for limit in placement.limits
    ]
    return all(graph.serve(need) for need in [partial(_of_rows, placement, None), *needs])


class _Graph:
    """What a unit loses at least between two experts, or between an expert and outside."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.loss: Tensor | None = None
        self.fresh = False

    def serve(self, current: Callable[[], Need | None]) -> bool:
        """Send units along paths until nothing is missing; False where no path is left."""
        need = current()
        while need is not None:
            if self.loss is None:
                self.loss, self.fresh = _losses(self.placement), True
            path = _cheapest_path(self.loss, need)
            if path is not None:
                self._send(path, need, self.loss)
                self.fresh = False
                need = current()
            elif self.fresh:
                return False
            else:
                self.loss = None  # what has moved may have opened new ways
        return True

    def _send(self, path: list[int], need: Need, loss: Tensor) -> None:
        """Send units along a path, or close an arc of it that has none left; `loss` is updated."""
        placement = self.placement
        units = float(torch.minimum(need.begin[path[0]], need.end[path[-1]]))
        units = min(units, max(1, math.ceil(need.missing / SHARE)))
        arcs: list[tuple[int | None, int]] = list(pairwise(path))
        if need.owed is not None:
            arcs.insert(0, (None, path[0]))
        moves = [_moves(placement, a, b, need.owed) for a, b in arcs]
        units = min(units, *(float(move.amount.sum()) for move in moves))
        for (a, b), move in zip(arcs, moves, strict=True):
            amount = move.cut(units)
            moved = amount > 0
            token, amount = move.token[moved], amount[moved]
            if b < placement.problem.E:
                placement.add(token, torch.full_like(token, b), amount)
            if a is not None and a < placement.problem.E:
                placement.add(token, torch.full_like(token, a), -amount)
            if a is not None:
                loss[a, b] = move.loss_after(units)


def _of_rows(placement: Placement, limit: Limit | None) -> Need | None:
    """What rows are short of: each its own bound, or those of the groups of tokens of a limit."""
    if limit is None:
        owed = (placement.lower - placement.per_token).clamp(min=0)
        missing = float(owed.sum())
    else:
        short = (limit.lower - placement.counted(limit)).clamp(min=0)
        owed = torch.minimum(placement.upper - placement.per_token, limit.of_each(short, 0.0))
        missing = float(short.sum())
    if not missing:
        return None
    rooms = placement.rooms()
    rows = (torch.minimum(owed, placement.room(rooms, of_tokens=True)) > 0).nonzero().squeeze(1)
    outside = torch.full((1,), INF, dtype=torch.float64)
    begin = outside.expand(placement.problem.E + 1)
    end = torch.cat([placement.room(rooms, of_tokens=False).cpu(), outside])
    return Need(missing, begin, end, torch.cat([_cost_of_taking(placement, rows), outside]), owed)


def _of_experts(placement: Placement, limit: Limit) -> Need | None:
    """What experts, their groups or the total are short of."""
    short = (limit.lower - placement.counted(limit)).clamp(min=0)
    missing = float(short.sum())
    if not missing:
        return None
    rooms = placement.rooms()
    total = [room if each.is_total else room + INF for each, room in _pairs(placement, rooms)]
    inner = [room + INF if each.is_total else room for each, room in _pairs(placement, rooms)]
    spares = [
        spare + INF if each.is_total and each is not limit else spare
        for each, spare in _pairs(placement, placement.spares())
    ]
    gain = torch.minimum(placement.room(inner, of_tokens=False), limit.of_each(short, 0.0))
    lose = placement.room(spares, of_tokens=False).clamp(min=0)
    from_outside = placement.room(total, of_tokens=False).min().reshape(1)
    begin = torch.cat([lose, from_outside]).cpu()
    end = torch.cat([gain, gain.new_zeros(1)]).cpu()
    return Need(missing, begin, end, torch.zeros_like(begin))


def _pairs(placement: Placement, values: list[Tensor]) -> list[tuple[Limit, Tensor]]:
    return list(zip(placement.limits, values, strict=True))


def _cost_of_taking(placement: Placement, rows: Tensor) -> Tensor:
    """What one of some rows loses at least by taking each expert, float64 (E,) on the CPU."""
    cost = torch.full((placement.problem.E,), INF, dtype=torch.float64)
    for part in placement.chunks(rows):
        cost = torch.minimum(cost, -placement.gains(part).amax(0).cpu())
    return cost


def _losses(placement: Placement) -> Tensor:
    """The least loss of one unit between any two nodes, (E + 1, E + 1) on the CPU."""
    E = placement.problem.E
    loss = torch.full((E + 1, E + 1), INF, dtype=torch.float64)
    spare = placement.room(placement.spares(), of_tokens=True)
    may_drop = torch.minimum(placement.per_token - placement.lower, spare) > 0
    for expert in range(E):
        for rows in placement.chunks((placement.x[:, expert] > 0).nonzero().squeeze(1)):
            here = placement.earned(rows, rows.new_full((1,), expert))
            moving = (here - placement.gains(rows)).amin(0)
            dropping = here[:, 0].masked_fill(~may_drop[rows], INF).min()
            least = torch.cat([moving, dropping.reshape(1)]).cpu()
            loss[expert] = torch.minimum(loss[expert], least)
    room = placement.room(placement.rooms(), of_tokens=True)
    may_add = torch.minimum(placement.upper - placement.per_token, room) > 0
    loss[E, :E] = _cost_of_taking(placement, may_add.nonzero().squeeze(1))
    loss.fill_diagonal_(INF)
    return loss


def _cheapest_path(loss: Tensor, need: Need) -> list[int] | None:
    """The nodes from where a unit may begin to where it may end, or None (Bellman and Ford).

    A gain counts as no loss, so that no circle gains and a path meets no node twice.
    """
    step = loss.clamp(min=0)
    cost = need.cost.masked_fill(need.begin <= 0, INF)
    layers: list[Tensor] = []
    while True:
        through = (cost[:, None] + step).min(0)
        better = through.values < cost
        if not bool(better.any()):
            break
        layers.append(torch.where(better, through.indices, -1))
        cost = torch.minimum(cost, through.values)
    cost = cost.masked_fill(need.end <= 0, INF)
    node = int(cost.argmin())
    if cost[node] == INF:
        return None
    path = [node]
    for layer in reversed(layers):
        if layer[path[0]] >= 0:
            path.insert(0, int(layer[path[0]]))
    return path


def _moves(placement: Placement, a: int | None, b: int, owed: Tensor | None) -> Moves:
    """Who may move from node a to b; a is None where rows take what they are owed."""
    E, rooms = placement.problem.E, None
    if a is None or a == E:
        wanted = placement.upper - placement.per_token if owed is None or a is not None else owed
        rooms = placement.rooms()
        rows = (wanted > 0).nonzero().squeeze(1)
        loss, amount = torch.zeros_like(wanted[rows]), wanted[rows]
    else:
        rows = (placement.x[:, a] > 0).nonzero().squeeze(1)
        loss = placement.earned(rows, rows.new_full((1,), a)).squeeze(1)
        amount = placement.x[rows, a].double()
    if b == E:
        amount = torch.minimum(amount, placement.per_token[rows] - placement.lower[rows])
        rooms = placement.spares()
    else:
        column = rows.new_full((1,), b)
        loss = loss - placement.gains(rows, column).squeeze(1)
        amount = torch.minimum(amount, placement.left(rows, column.expand(len(rows), 1)).squeeze(1))
    possible = (amount > 0) & (loss < INF)
    rows, amount, loss = rows[possible], amount[possible], loss[possible]
    for limit, room in [] if rooms is None else _pairs(placement, rooms):
        if limit.of_tokens:
            amount = keep_best(-loss, amount, limit.labels[rows], room.clamp(min=0))
    order = loss.sort(stable=True).indices
    return Moves(rows[order], amount[order], loss[order])
