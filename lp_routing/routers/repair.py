"""From what tokens want at nearly right prices to what fits: no expert above its capacity.

First cheap chains of tokens that hesitate anyway (`along_paths`). Then, where something is still
wrong, an expert above its capacity lets go who loses least by going where there is room
(`evicted`), and empty slots go where there is room (`filled`). These two always end in what fits;
the most that can happen is that slots stay empty.
"""

import torch
from torch import Tensor

from lp_routing.routers.dual_steps import Answer, Tokens

INF = float("inf")
HOPS = 4
"""Moves in a chain, at most."""
DOUBLINGS = 3
"""Following a pointer to itself so often follows 8 of them."""
ROUNDS = 8
"""Rounds of chains, at most, in each direction."""


def along_paths(
    tokens: Tokens, answer: Answer, load: Tensor, capacity: Tensor, prices: Tensor
) -> tuple[Tensor, Tensor]:
    """Move tokens along chains of experts from those above capacity to those with room.

    Nodes are the experts and "nowhere"; a token hesitates between two of them, and moving it costs
    its margin. Shortest chains from all experts above capacity at once form a forest
    (Bellman and Ford), and one chain of each tree is used in a round: trees have no node in common,
    so no token is moved twice. Where every chain is a shortest one this is the method of successive
    shortest paths, which keeps a flow optimal for what it carries. Afterwards, priced experts with
    room draw tokens in the same way, over the arcs reversed.

    Args:
        tokens: those near a tie, n of them.
        answer: theirs.
        load: (B, E + 1), of all tokens.
        capacity: (B,).
        prices: (B, E).

    Returns:
        Their experts (n, k + 1), the last two exchanged where a token moved; the load after.
    """
    B, V = load.shape
    n = len(tokens.entry)
    margin, order = answer.margin.sort(stable=True)
    a, b = answer.expert[order, -2], answer.expert[order, -1]
    arc = (tokens.entry[order] * V + a) * V + b
    margin = torch.cat([margin.masked_fill(a == b, INF), margin.new_full((1,), INF)])
    waiting = torch.arange(n + 1, device=load.device)
    never = load.new_full((B, V), INF)
    prices = torch.cat([prices, prices.new_zeros(B, 1)], 1)
    limit = torch.cat([capacity[:, None].expand(B, V - 1), never[:, :1]], 1)
    for drawing in (False, True):
        for _ in range(ROUNDS):
            room = load < limit
            if drawing:
                begin = room & (prices > 0)
                begin[:, -1] = False
                start, end = -prices, torch.where(load > 0, prices, never)
            else:
                begin = load > limit
                start, end = torch.zeros_like(prices), torch.where(room, -prices, never)
            if not bool(begin.any()):
                break
            first = waiting.new_full((B * V * V,), n)
            first.scatter_reduce_(0, arc, waiting[:-1], "amin")
            first = first.view(B, V, V)
            if drawing:
                first = first.mT
            chain = _chains(margin[first], torch.where(begin, start, never), end, drawing)
            if chain is None:
                break
            parent, on, tip, root = chain
            used = first.gather(1, parent[:, None])[:, 0].masked_fill(~on, n)
            waiting[used.flatten()] = n
            change = tip.to(load) - root.to(load)
            load = load - change if drawing else load + change
    moved = order[waiting[:-1] == n]
    expert = answer.expert.clone()
    expert[moved, -2:] = answer.expert[moved, -2:].flip(1)
    return expert, load


def _chains(
    cost: Tensor, start: Tensor, end: Tensor, gain: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """One shortest chain from each root, no node in two of them.

    Args:
        cost: (B, V, V), of an arc.
        start: (B, V), what it costs to begin at each node; inf where none may.
        end: (B, V), what it costs to end at each node; inf where none may.
        gain: whether a chain has to gain something in all.

    Returns:
        The node before each, int64 (B, V); boolean (B, V): which nodes are reached by an arc of a
        chain, end one, begin one. None if there is no chain.
    """
    B, V = start.shape
    places = torch.arange(V, device=start.device).expand(B, V)
    dist, parent = start, places
    for _ in range(HOPS):
        through = (dist[:, :, None] + cost).min(1)
        better = through.values < dist
        parent = torch.where(better, through.indices, parent)
        dist = torch.minimum(dist, through.values)
    root = parent
    for _ in range(DOUBLINGS):
        root = root.gather(1, root)
    rooted = parent.gather(1, root) == root
    total = (dist + end).masked_fill(~rooted | (root == places), INF)
    if gain:
        total = total.masked_fill(total >= 0, INF)
    best = torch.full_like(total, INF).scatter_reduce_(1, root, total, "amin").gather(1, root)
    leads = (total == best) & (total < INF)
    lowest = torch.full_like(root, V).scatter_reduce_(
        1, root, places.masked_fill(~leads, V), "amin"
    )
    tip = leads & (lowest.gather(1, root) == places)
    if not bool(tip.any()):
        return None
    on, above = tip.long(), parent
    for _ in range(DOUBLINGS):
        on = on.scatter_add(1, above, on).clamp(max=1)
        above = above.gather(1, above)
    return parent, (on > 0) & (parent != places), tip, lowest < V


def evicted(x: Tensor, scores: Tensor, floor: float, capacity: int) -> Tensor:
    """Drop pairs of experts above capacity, those first that lose least; ties to the earlier token.

    What a token loses is the pair's score less that of the best expert with room it does not hold,
    or less the floor.

    Args:
        x: boolean (B, T, E).
        scores: (B, T, E).
        floor: what an empty slot is worth.
        capacity: slots of each expert.
    """
    E = x.shape[2]
    load = x.sum(1)
    entry, token, expert = (x & (load > capacity)[:, None]).nonzero(as_tuple=True)
    full = x[entry, token] | (load >= capacity)[entry]
    elsewhere = scores[entry, token].masked_fill(full, -INF).amax(1).clamp(min=floor)
    order = (scores[entry, token, expert] - elsewhere).argsort(stable=True)
    place = (entry * E + expert)[order]
    drop = order[_first(place, (load - capacity).clamp(min=0).flatten())]
    x = x.clone()
    x[entry[drop], token[drop], expert[drop]] = False
    return x


def filled(x: Tensor, scores: Tensor, floor: float, capacity: int, k: int) -> Tensor:
    """Fill empty slots where there is room, best pairs first; boolean (B, T, E).

    In every round each token with an empty slot asks the expert with room that scores best, and
    experts take the best of those who ask. A token that is refused leaves a full expert behind, so
    there are at most E + k rounds. Where tokens must be served, those for which only experts that
    they hold have room then get a slot by exchange: another token makes room for them.

    Args:
        x: boolean (B, T, E), feasible.
        scores: (B, T, E).
        floor: pairs that score at most this are not taken; -inf where tokens must be served.
        capacity: slots of each expert.
        k: slots of a token.
    """
    B, _, E = x.shape
    entry, token = (x.sum(2) < k).nonzero(as_tuple=True)
    room, held = capacity - x.sum(1), x[entry, token]
    offers = scores[entry, token]
    offers = offers.masked_fill(held | (offers <= floor), -INF)
    empty = k - held.sum(1)
    while len(entry):
        value, expert = offers.masked_fill((room <= 0)[entry], -INF).max(1)
        asking = ((value > -INF) & (empty > 0)).nonzero()[:, 0]
        if not len(asking):
            break
        asking = asking[value[asking].argsort(descending=True, stable=True)]
        place = entry[asking] * E + expert[asking]
        taken = asking[_first(place, room.flatten())]
        held[taken, expert[taken]], offers[taken, expert[taken]] = True, -INF
        empty[taken] -= 1
        gone = torch.bincount(entry[taken] * E + expert[taken], minlength=B * E)
        room = room - gone.view(B, E)
    x = x.clone()
    x[entry, token] = held
    return _exchanged(x, scores, floor, capacity, k) if floor == -INF else x


def _first(place: Tensor, most: Tensor) -> Tensor:
    """Positions in the list of the first `most[p]` entries of each place p."""
    order = place.argsort(stable=True)
    place = place[order]
    count = torch.bincount(place, minlength=len(most))
    rank = torch.arange(len(place), device=place.device) - (count.cumsum(0) - count)[place]
    return order[rank < most[place]]


def _exchanged(x: Tensor, scores: Tensor, floor: float, capacity: int, k: int) -> Tensor:
    """Empty slots filled by one exchange each, as long as that gains.

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
            onward = s.masked_fill(held | ~room | (s <= floor), -INF).max(1)
            loss = (s - onward.values[:, None]).masked_fill(~held, INF).min(0)  # (E,)
            wish = s[needy].masked_fill(held[needy] | (s[needy] <= floor), -INF)
            gain = wish - loss.values
            best = int(gain.argmax())
            value = float(gain.flatten()[best])
            i, j = int(needy[best // gain.shape[1]]), best % gain.shape[1]
            if not value > floor:
                break
            mover = int(loss.indices[j])
            x[b, mover, j], x[b, mover, int(onward.indices[mover])] = False, True
            x[b, i, j] = True
    return x
