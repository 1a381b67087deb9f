"""Repair: from the choice at approximate prices to one within all capacities.

1. `exchanged`: moves between experts at small loss, by these prices.
2. `without_excess`: an expert that is still above capacity drops the tokens that lose least.
3. `filled`: tokens with an empty slot go to experts with room.

The last two always end within the capacities; some slots may stay empty.
"""

import torch
from torch import Tensor

INF = float("inf")
ROUNDS = 2
"""Most rounds of moves in `exchanged`, each a pass over the tokens that may move: time against gap.

`python -m benchmarks.router_constants`: a mean gap of 3.4e-4 with 1, 3.2e-4 with 2, 3.1e-4 with 4.
"""


def exchanged(
    held: Tensor, priced: Tensor, prices: Tensor, load: Tensor, capacity: int, k: int
) -> tuple[Tensor, Tensor]:
    """Move tokens from experts above capacity, and to priced experts with room, at small cost.

    In every round each token has one candidate move. It leaves its worst expert above capacity; a
    token without one may leave its worst expert, or fill an empty slot, if that raises its score.
    Its target is where it earns most: an expert with room, none, or a full expert minus the loss of
    moving one of that expert's tokens to an expert with room. Moves that lose least are made first.
    Those into full experts are compensated in the next round; the last round has none.

    Args:
        held: boolean (B, n, E), the chosen pairs of some tokens.
        priced: (B, n, E), their scores minus prices.
        prices: (B, E).
        load: (B, E), of all tokens.
        capacity: slots of each expert.
        k: slots of a token.

    Returns:
        The chosen pairs after the moves, and the load.
    """
    B, n, E = held.shape
    V = E + 1  # the last place of each entry means no expert: worth 0, never full
    held = torch.cat([held, held.sum(2, keepdim=True) < k], 2)
    priced = torch.cat([priced, priced.new_zeros(B, n, 1)], 2)
    charge = torch.cat([prices, prices.new_zeros(B, 1)], 1).flatten()
    load = torch.cat([load, load.new_full((B, 1), -INF)], 1)
    first = torch.arange(0, B * V, V, device=held.device)[:, None]
    token = torch.arange(B * n, device=held.device).view(B, n)
    for turn in range(ROUNDS):
        over, room = load > capacity, load < capacity
        if not bool((over[:, :E] | (room[:, :E] & (prices > 0))).any()):
            break
        leave = held & over[:, None]
        forced = leave.any(2)
        worst, source = priced.masked_fill(~torch.where(forced[..., None], leave, held), INF).min(2)
        others = priced.masked_fill(held, -INF)
        others[..., E] = 0.0
        full = load.new_zeros(B, V).masked_fill_(~room, INF)
        away = full
        if turn < ROUNDS - 1:
            loss = worst - (others - full[:, None]).amax(2)
            away = torch.full_like(load, INF).scatter_reduce_(1, source, loss, "amin")
            away = away.clamp(min=0).minimum(full).masked_fill(over, INF)
        goal, to = (others - away[:, None]).max(2)
        out, into, gain = source + first, to + first, goal - worst
        grows = (gain + charge[into] - charge[out] > 0) & room.view(-1)[into]
        asking = token[(forced | grows) & (to != source)]
        if not len(asking):
            break
        asking = asking[gain.flatten()[asking].argsort(descending=True, stable=True)]
        excess = torch.where(over, load - capacity, INF).flatten()
        asking = asking[_first(out.flatten()[asking], excess).sort().values]
        slots = (capacity - load).clamp(min=1).flatten()
        asking = asking[_first(into.flatten()[asking], slots)]
        out, into = out.flatten()[asking], into.flatten()[asking]
        held.view(-1, V)[asking, out % V] = False
        held.view(-1, V)[asking, into % V] = True
        one = load.new_ones(1).expand(len(asking))
        load.view(-1).index_add_(0, into, one).index_add_(0, out, one, alpha=-1)
    return held[..., :E], load[:, :E]


def without_excess(x: Tensor, scores: Tensor, capacity: int) -> Tensor:
    """Drop pairs of experts above capacity, those first that lose least; ties to the earlier token.

    A token loses the pair's score minus that of the best expert with room that it does not hold, or
    minus 0.

    Args:
        x: boolean (B, T, E).
        scores: (B, T, E), minus the value of an empty slot.
        capacity: slots of each expert.
    """
    E = x.shape[2]
    load = _count(x, 1)
    entry, token, expert = (x & (load > capacity)[:, None]).nonzero(as_tuple=True)
    full = x[entry, token] | (load >= capacity)[entry]
    elsewhere = scores[entry, token].masked_fill(full, -INF).amax(1).clamp(min=0)
    order = (scores[entry, token, expert] - elsewhere).argsort(stable=True)
    place = (entry * E + expert)[order]
    drop = order[_first(place, (load - capacity).clamp(min=0).flatten())]
    x = x.clone()
    x[entry[drop], token[drop], expert[drop]] = False
    return x


def filled(x: Tensor, scores: Tensor, capacity: int, k: int, *, must: bool = False) -> Tensor:
    """Fill empty slots where there is room, best pairs first; boolean (B, T, E).

    In every round each token with an empty slot proposes to its best expert with room, and experts
    accept the best proposals. A refusal means that the expert is now full, so there are at most E +
    k rounds. With `must`, tokens that already hold all experts with room then get a slot by an
    exchange with another token.

    Args:
        x: boolean (B, T, E), feasible.
        scores: (B, T, E), minus the value of an empty slot.
        capacity: slots of each expert.
        k: slots of a token.
        must: whether slots must be filled, where needed by exchanges.
    """
    B, T, E = x.shape
    room, x = capacity - _count(x, 1), x.reshape(-1, E).clone()
    if not bool((room > 0).any()):
        return x.view(B, T, E)
    rows = (_count(x, 1) < k).nonzero()[:, 0]
    held, offers = x.index_select(0, rows), scores.reshape(-1, E).index_select(0, rows)
    offers = offers.masked_fill(held | (offers <= 0), -INF)
    while len(rows):
        entry = rows // T
        value, expert = offers.masked_fill((room <= 0)[entry], -INF).max(1)
        some = ((value > -INF) & (held.sum(1) < k)).nonzero()[:, 0]
        if not len(some):
            break
        some = some[value[some].argsort(descending=True, stable=True)]
        rows, held, offers, expert = rows[some], held[some], offers[some], expert[some]
        place = entry[some] * E + expert
        taken = _first(place, room.flatten())
        held[taken, expert[taken]], offers[taken, expert[taken]] = True, -INF
        x[rows[taken], expert[taken]] = True
        room = room - torch.bincount(place[taken], minlength=B * E).view(B, E)
    x = x.view(B, T, E)
    return _filled_by_swaps(x, scores, capacity, k) if must else x


def _count(x: Tensor, dim: int) -> Tensor:
    """The number of True along a dimension, int64; bytes add up several times as fast."""
    return x.view(torch.uint8).sum(dim, dtype=torch.int32).long()


def _first(place: Tensor, most: Tensor) -> Tensor:
    """Indices of the first `most[p]` entries of each place p."""
    order = place.argsort(stable=True)
    place = place[order]
    count = torch.bincount(place, minlength=len(most))
    rank = torch.arange(len(place), device=place.device) - (count.cumsum(0) - count)[place]
    return order[rank < most[place]]


def _filled_by_swaps(x: Tensor, scores: Tensor, capacity: int, k: int) -> Tensor:
    """Fill empty slots by one exchange each, as long as that gains.

    A token i with an empty slot takes expert j from a token that moves on to an expert m with room.
    Without forbidden pairs there is always such a token: j is full and m is not, so some token
    holds j and not m.
    """
    B = len(x)
    x = x.clone()
    for b in range(B):
        while True:
            room = x[b].sum(0) < capacity
            needy = (x[b].sum(1) < k).nonzero()[:, 0]
            if not len(needy) or not bool(room.any()):
                break
            s, held = scores[b], x[b]
            onward = s.masked_fill(held | ~room | (s <= 0), -INF).max(1)
            loss = (s - onward.values[:, None]).masked_fill(~held, INF).min(0)  # (E,)
            wish = s[needy].masked_fill(held[needy] | (s[needy] <= 0), -INF)
            gain = wish - loss.values
            best = int(gain.argmax())
            value = float(gain.flatten()[best])
            i, j = int(needy[best // gain.shape[1]]), best % gain.shape[1]
            if not value > 0:
                break
            mover = int(loss.indices[j])
            x[b, mover, j], x[b, mover, int(onward.indices[mover])] = False, True
            x[b, i, j] = True
    return x
