"""Rounds of deferred choice: tokens ask for their best pairs, bounds keep the most urgent.

In each round every token that wants more asks for its best pairs that still have room. A bound
that is asked for more than it has room for keeps what its tokens would miss most: what a pair
earns above the best one its token has not asked for. All others ask again in the next round.
Whenever a token is refused, some bound is full, so there are at most as many rounds as bounds.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from lp_routing.certificate.best_response import largest_in_turn
from lp_routing.placing.placement import INF, Limit, Placement, at, sums_of

BYTES_PER_REQUEST = 64
BLOCK = 1 << 18
"""About so many requests are sorted together."""
FEW = 8
"""Up to this many ranks are found by repeated maxima."""
SMALL = 1 << 20
"""Up to this many pairs, requests may take more memory than the scores."""


class Floor(Enum):
    """Which pairs a token asks for, and what it would miss without one.

    NEEDED: any allowed pair, instead of which it would have to take its next best one.
    ALLOWED: any allowed pair, without which it would have nothing.
    EARNED: what scores and earns something, instead of the next best one or nothing.
    SCORED: what scores something, instead of nothing.
    """

    NEEDED = 0
    ALLOWED = 1
    EARNED = 2
    SCORED = 3


@dataclass(frozen=True, eq=False)
class Requests:
    """Pairs asked for, each (n,), tokens in ascending order.

    Attributes:
        token: int64.
        expert: int64.
        amount: float64, how many copies.
        worth: float64, what the token would miss without the pair.
        more: int64 (m,), tokens that may want to ask for further pairs.
    """

    token: Tensor
    expert: Tensor
    amount: Tensor
    worth: Tensor
    more: Tensor


def fill(placement: Placement, want: Tensor, floor: Floor, demanded: Limit | None = None) -> None:
    """Add pairs, best first, while every upper bound allows.

    Args:
        placement: where pairs are added.
        want: float64 (T,), how many more pairs each row wants at most.
        floor: which pairs come into question.
        demanded: fill only the sets of this limit that are below their lower bound, up to it.
    """
    want, limits = want.clone(), placement.limits
    rooms = placement.rooms()
    for index, limit in enumerate(limits):
        if limit is demanded:
            short = (limit.lower - placement.counted(limit)).clamp(min=0)
            rooms[index] = torch.minimum(rooms[index], short)
    rows = (want > 0).nonzero().squeeze(1)
    while len(rows):
        open_tokens = placement.room(rooms, of_tokens=True)
        open_experts = placement.room(rooms, of_tokens=False) > 0
        if demanded is not None:
            member = demanded.labels < len(demanded.lower)
            if demanded.of_tokens:
                open_tokens = open_tokens.masked_fill(~member, 0)
            else:
                open_experts &= member
        torch.minimum(want, open_tokens, out=want)
        rows = _where(want[rows] > 0, rows)
        experts = open_experts.nonzero().squeeze(1)
        if not len(rows) or not len(experts):
            return
        rows = _answer(placement, _requests(placement, rows, experts, want, floor), rooms, want)


def _where(chosen: Tensor, rows: Tensor) -> Tensor:
    """The chosen rows, without a copy where that is all of them."""
    return rows if bool(chosen.all()) else rows[chosen]


def _answer(placement: Placement, asked: Requests, rooms: list[Tensor], want: Tensor) -> Tensor:
    """Grant what has room, and say which rows ask again; `rooms` and `want` are lowered."""
    granted = asked.amount
    for limit, room in zip(placement.limits, rooms, strict=True):
        labels = limit.labels[asked.token if limit.of_tokens else asked.expert]
        granted = keep_best(asked.worth, granted, labels, room)
    placement.add(asked.token, asked.expert, granted)
    want.index_add_(0, asked.token, granted, alpha=-1)
    for limit, room in zip(placement.limits, rooms, strict=True):
        room -= limit.count(asked.token if limit.of_tokens else asked.expert, granted)
    again = torch.zeros(len(want), dtype=torch.bool, device=want.device)
    again[asked.token[granted < asked.amount]] = True
    again[asked.more] = True
    return (again & (want > 0)).nonzero().squeeze(1)


def keep_best(worth: Tensor, amount: Tensor, labels: Tensor, room: Tensor) -> Tensor:
    """Amounts (n,) cut down so that the sum of each label keeps within its room (R,).

    The worthiest are kept, on ties the first; label R has room for everything.
    """
    sums = sums_of(labels, amount, len(room))
    over = sums > torch.cat([room, room.new_full((1,), INF)])
    if not bool(over.any()):
        return amount
    kept = amount.clone()
    for part in _shares(sums * over, BLOCK):
        place = (part & over)[labels].nonzero().squeeze(1)
        place = place[worth[place].sort(descending=True, stable=True).indices]
        place = place[labels[place].sort(stable=True).indices]
        label, wanted = labels[place], amount[place]
        counted = torch.where(part, sums * over, 0.0)
        before = wanted.cumsum(0) - wanted - (counted.cumsum(0) - counted)[label]
        kept[place] = torch.minimum((room[label] - before).clamp(min=0), wanted)
    return kept


def _shares(sums: Tensor, most: int) -> list[Tensor]:
    """Masks (R,) that cut labels into runs of about `most` each, so that sorting needs little."""
    run = ((sums.cumsum(0) - sums) / most).floor()
    return [run == number for number in torch.unique(run).tolist()]


def _requests(
    placement: Placement, rows: Tensor, experts: Tensor, want: Tensor, floor: Floor
) -> Requests:
    """What each of some rows asks for among some experts."""
    problem = placement.problem
    needed = float((want[rows] / placement.copies[rows]).clamp(max=problem.E).ceil().max())
    ranks = min(len(experts), int(needed))
    if problem.T * problem.E > SMALL:
        # the list of requests stays smaller than the scores
        ranks = min(ranks, max(1, problem.E * problem.scores.itemsize // BYTES_PER_REQUEST))
    columns = None if len(experts) == problem.E else experts
    # filled in place: parts that are put together later would be there twice
    whole = rows.new_empty((2, len(rows) * ranks))
    real = want.new_empty((2, len(rows) * ranks))
    n, more = 0, list[Tensor]()
    for part in placement.chunks(rows, len(experts)):
        token, expert, amount, worth, unsatisfied = _ask(
            placement, part, columns, want, ranks, floor
        )
        here = slice(n, n + len(token))
        whole[0, here], whole[1, here], real[0, here], real[1, here] = token, expert, amount, worth
        n = here.stop
        more.append(unsatisfied)
    return Requests(whole[0, :n], whole[1, :n], real[0, :n], real[1, :n], torch.cat(more))


def _ask(
    placement: Placement,
    rows: Tensor,
    columns: Tensor | None,
    want: Tensor,
    ranks: int,
    floor: Floor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The requests of a few rows: token, expert, amount, worth, and who may want more."""
    where: Tensor | slice = rows
    if len(rows) == int(rows[-1]) - int(rows[0]) + 1:
        where = slice(int(rows[0]), int(rows[-1]) + 1)  # read in place
    earned = placement.gains(where, columns)
    if floor is Floor.EARNED:
        earned.masked_fill_(earned <= 0, -INF)
    if floor in (Floor.EARNED, Floor.SCORED):
        earned.masked_fill_(at(placement.problem.scores, where, columns) <= 0, -INF)
    wanted, width = want[where, None], earned.shape[1]
    if ranks == width and bool((wanted >= width * placement.copies[where, None]).all()):
        best, column = earned, torch.arange(width, device=rows.device).expand_as(earned)
    else:
        best, column = _best(earned, min(ranks + 1, width))
    expert = column if columns is None else columns[column]
    left = placement.left(where, expert[:, :ranks]) * (best[:, :ranks] > -INF)
    amount = torch.minimum((wanted - (left.cumsum(1) - left)).clamp(min=0), left)
    last = (wanted / placement.copies[where, None]).ceil().clamp(max=ranks).long()
    best = torch.cat([best, best.new_full((len(best), ranks + 1 - best.shape[1]), -INF)], 1)
    instead = best.gather(1, last)
    if floor is Floor.NEEDED:  # a token without another way comes first
        instead = instead.clamp(min=-4 * placement.scale)
    else:
        instead = instead.clamp(min=0) if floor is Floor.EARNED else instead.zero_()
    asked = amount > 0
    token = rows[:, None].expand_as(amount)[asked]
    worth = (best[:, :ranks] - instead)[asked]
    more = rows[asked.all(1) & (ranks < width)]
    return token, expert[:, :ranks][asked], amount[asked], worth, more


def _best(earned: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """The `ranks` largest of each row and their columns, on ties the first; `earned` is used up."""
    if ranks > FEW:
        ranked = earned.sort(dim=1, descending=True, stable=True)
        return ranked.values[:, :ranks], ranked.indices[:, :ranks]
    return largest_in_turn(earned, ranks)
