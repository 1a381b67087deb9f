"""Passes over the rows on the CPU: what tokens take at given prices, and how nearly they change.

A row hands out `may` units, at least `must` of them to experts, up to `copies` to each expert, the
best first; the rest goes to its null, whose score is 0. Where its choice could change first is its
*boundary*: the worst leaf that holds a unit (`out`) and the best that could take one more (`into`).
A leaf between the two that holds some and could take more is the `pivot` (the null of a token that
takes some but not all it may, or an expert that some of a row's copies take). The *margins* say how
much worse each neighbouring exchange is: out -> into, or out -> pivot and pivot -> into.

Ties go to the lower expert; a pair worth exactly nothing is left empty.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]
NONE = -1
TIE = 1e-15
"""A margin of this much of the numbers it is the difference of is rounding: a few units in the
last place of float64."""
BINS, LEAST_MARGIN = 192, 1e-28
"""Half octaves into which margins are sorted, 4 bytes each a leaf; margins of less than this share
of the largest, 2**-93, are in the first. Wider bins would open rows in coarser steps."""


@njit(cache=True, inline="always")
def _insert(values, experts, n, value, expert):
    """Into a list of n, best first; among equals behind those that are there."""
    while n > 0 and values[n - 1] < value:
        values[n] = values[n - 1]
        experts[n] = experts[n - 1]
        n -= 1
    values[n] = value
    experts[n] = expert


@njit(cache=True, inline="always")
def _insert_tied(values, experts, n, value, expert):
    """The same where experts come in any order: among equals, the lower expert first."""
    while n > 0 and (values[n - 1] < value or (values[n - 1] == value and experts[n - 1] > expert)):
        values[n] = values[n - 1]
        experts[n] = experts[n - 1]
        n -= 1
    values[n] = value
    experts[n] = expert


@njit(cache=True, nogil=True)
def respond(scores, price, terms, null, best, units_of, edge, margin, turn, load, warm):
    """One pass: every row's choice at leaf prices, written into the arrays given.

    Args:
        scores: (n, E) floats.
        price: float64 (leaves,).
        terms: int64 (n or 1, 3): must, may, copies.
        null: int16 (n or 1,), the null of each row.
        best: int16 (n, L), each row's L best experts; those of the last pass where `warm`.
        units_of: int32 (n,), how many units go to experts.
        edge: int16 (n, 3), out, pivot, into; NONE where there is none.
        margin: float64 (n, 2), out -> pivot and pivot -> into; without pivot out -> into and inf.
        turn: float64 (n, 2), what a unit that leaves, and one that comes, are worth; or (0, 2).
        load: int64 (leaves,), units at each leaf; overwritten.
    """
    n, E = scores.shape
    L = best.shape[1]
    value = np.empty(L)
    expert = np.empty(L, np.int64)
    load[:] = 0
    for i in range(n):
        t = i if len(terms) > 1 else 0
        must, may, copies = terms[t, 0], terms[t, 1], terms[t, 2]
        empty = null[i if len(null) > 1 else 0]
        known = False
        if warm:
            for r in range(L):
                j = best[i, r]
                _insert_tied(value, expert, r, scores[i, j] - price[j], j)
            worst = value[L - 1]
            ahead = 0
            for j in range(E):
                ahead += (scores[i, j] - price[j]) > worst
            same = L
            while same > 0 and value[same - 1] == worst:
                same -= 1
            known = ahead == same
        if not known:
            for r in range(L):
                _insert(value, expert, r, scores[i, r] - price[r], r)
            worst = value[L - 1]
            for j in range(L, E):
                v = scores[i, j] - price[j]
                if v > worst:
                    _insert(value, expert, L - 1, v, j)
                    worst = value[L - 1]
        for r in range(L):
            best[i, r] = expert[r]
        at_null = -price[empty]
        units = 0
        while units < may:  # whole experts, while they are worth more than an empty place
            r = units // copies
            if units >= must and not value[r] > at_null:
                break
            units += copies
        units = min(units, may)
        if units > must and not value[(units - 1) // copies] > at_null:
            units = must
        units_of[i] = units
        full = units // copies
        part = units - full * copies
        for r in range(full):
            load[expert[r]] += copies
        if part > 0:
            load[expert[full]] += part
        idle = may - units
        if idle > 0:
            load[empty] += idle
        out, pivot, into = NONE, NONE, NONE
        low, middle, high = np.inf, 0.0, -np.inf
        if full > 0:
            out, low = expert[full - 1], value[full - 1]
        following = full
        if part > 0:
            pivot, middle = expert[full], value[full]
            following = full + 1
        if following < L and value[following] > -np.inf:
            into, high = expert[following], value[following]
        if 0 < idle < may - must:
            pivot, middle = empty, at_null
        elif idle > 0:
            if at_null < low:
                out, low = empty, at_null
        elif may > must and at_null > high:
            into, high = empty, at_null
        edge[i, 0], edge[i, 1], edge[i, 2] = out, pivot, into
        if pivot == NONE:
            margin[i, 0], margin[i, 1] = low - high, np.inf
        else:
            margin[i, 0], margin[i, 1] = low - middle, middle - high
        if len(turn):
            turn[i, 0] = middle if pivot != NONE else low
            turn[i, 1] = middle if pivot != NONE else high


@njit(cache=True, nogil=True)
def curvature(edge, margin, terms, width, between):
    """Adds the dual's curvature to `between`: units that change leaf for each unit of price.

    Those are counted whose margin is within the wider of the two leaves' widths (leaves,).
    """
    for i in range(len(edge)):
        copies = terms[i if len(terms) > 1 else 0, 2]
        a = edge[i, 0]
        for side in range(2):
            b = edge[i, 1 + side]
            if b == NONE:
                continue
            if a != NONE:
                within = max(width[a], width[b])
                m = margin[i, 0] if side == 0 or edge[i, 1] == NONE else margin[i, 1]
                if m < within:
                    between[a, b] += copies / (2 * within)
            a = b


@njit(cache=True, nogil=True)
def closest(edge, margin, want, window, opened):
    """Opens, for each leaf, about the `want` rows that are nearest to changing it.

    Margins are sorted into half octaves; window[j] becomes the upper end of leaf j's last one.
    """
    n, leaves = len(edge), len(window)
    bins = BINS
    histogram = np.zeros((leaves, bins), np.int32)
    octave = np.empty(n, np.uint8)
    unit = 1e-300
    for i in range(n):
        m = min(margin[i, 0], margin[i, 1])
        if m < np.inf:
            unit = max(unit, m)
    for i in range(n):
        m = min(margin[i, 0], margin[i, 1]) / unit
        b = bins  # a row that has nothing else to choose
        if m < np.inf:
            b = 0
            if m > LEAST_MARGIN:
                b = min(bins - 1, max(0, bins - 1 + int(np.floor(2 * np.log2(m)))))
        octave[i] = b
        for e in range(3):
            if edge[i, e] != NONE and b < bins:
                histogram[edge[i, e], b] += 1
    last, left = np.empty(leaves, np.int64), np.empty(leaves, np.int64)
    for j in range(leaves):
        count, b, filled = 0, 0, 0
        while b < bins and count + histogram[j, b] < want:
            count += histogram[j, b]
            if histogram[j, b] > 0:
                filled = b
            b += 1
        if b == bins:
            b = filled
        last[j], left[j] = b, want - count
        window[j] = unit * 2.0 ** ((b + 2 - bins) / 2)
    for i in range(n):
        b = octave[i]
        for e in range(3):
            j = edge[i, e]
            if j != NONE and (b < last[j] or (b == last[j] and left[j] > 0)):
                opened[i] = max(opened[i], 1)
                if b == last[j]:
                    left[j] -= 1


@njit(cache=True, nogil=True)
def place(best, units, terms, x):
    """Each row's choice as amounts (n, E), from its best experts and the units that it takes."""
    for i in range(len(best)):
        copies = terms[i if len(terms) > 1 else 0, 2]
        left, r = units[i], 0
        while left > 0:
            x[i, best[i, r]] = min(copies, left)
            left -= copies
            r += 1


@njit(cache=True, nogil=True)
def spread(scores, price, terms, null, edge, margin, target, x, load):
    """Indifferent rows take, of the leaves that are equally good, those with most room.

    Returns how many rows do.
    """
    n, E = scores.shape
    tied = np.empty(E + 1, np.int64)
    room = np.empty(E + 1, np.int64)
    count = 0
    for i in range(n):
        if edge[i, 0] == NONE:
            continue
        t = i if len(terms) > 1 else 0
        must, may, copies = terms[t, 0], terms[t, 1], terms[t, 2]
        empty = null[i if len(null) > 1 else 0]
        j = edge[i, 1] if edge[i, 1] != NONE else edge[i, 0]
        worth = (0.0 if j == empty else np.float64(scores[i, j])) - price[j]
        near = TIE * (abs(worth) + 2 * abs(price[j]))
        if not min(margin[i, 0], margin[i, 1]) <= near:
            continue
        count += 1
        ties, units, idle = 0, 0, may
        for j in range(E):
            idle -= x[i, j]
            if abs(scores[i, j] - price[j] - worth) <= near:
                tied[ties], room[ties] = j, copies
                units += x[i, j]
                load[j] -= x[i, j]
                idle += x[i, j]
                x[i, j] = 0
                ties += 1
        if may > must and abs(-price[empty] - worth) <= near:
            tied[ties], room[ties] = empty, may - must
            load[empty] -= idle - units
            ties += 1
            units = idle
        while units > 0:
            a, most = -1, np.int64(-(1 << 62))
            for b in range(ties):
                if room[b] > 0 and target[tied[b]] - load[tied[b]] > most:
                    a, most = b, target[tied[b]] - load[tied[b]]
            given = min(room[a], units, max(1, most, units // ties))
            room[a] -= given
            units -= given
            load[tied[a]] += given
            if tied[a] < E:
                x[i, tied[a]] += given
    return count


@njit(cache=True, nogil=True)
def suboptimal(scores, price, terms, null, margin, reach, opened, exact, x, found):
    """Rows that would rather choose otherwise at other prices, written into `found`.

    Rows are looked at whose margin is at most `reach` and that are not wholly open (2).
    `exact`: scores and prices are such that their differences are, so that rounding is no excuse.

    Returns how many there are.
    """
    n, E = scores.shape
    count = 0
    for i in range(n):
        if opened[i] == 2 or (opened[i] == 0 and min(margin[i, 0], margin[i, 1]) > reach):
            continue
        t = i if len(terms) > 1 else 0
        must, may, copies = terms[t, 0], terms[t, 1], terms[t, 2]
        empty = null[i if len(null) > 1 else 0]
        idle = may
        low, high, size = np.inf, -np.inf, 0.0
        for j in range(E):
            v = scores[i, j] - price[j]
            if x[i, j] > 0:
                idle -= x[i, j]
                if v < low:
                    low, size = v, max(size, abs(v) + 2 * abs(price[j]))
            if x[i, j] < copies and v > high:
                high = v
        if idle > 0:
            low = min(low, -price[empty])
        if idle < may - must:
            high = max(high, -price[empty])
        near = TIE * size
        wrong = high - low > near
        if exact and not wrong and high - low > -near:
            wrong = _better_pair(scores[i], price, empty, idle, may - must, copies, x[i])
        if wrong:
            found[count] = i
            count += 1
    return count


@njit(cache=True)
def _better_pair(scores, price, empty, idle, spare, copies, x):
    """Whether one unit is better elsewhere, by differences of scores and of prices."""
    E = len(scores)
    for j in range(E):
        if x[j] > 0:
            s = np.float64(scores[j])
            if idle < spare and -s > price[empty] - price[j]:
                return True
            for k in range(E):
                if k != j and x[k] < copies and scores[k] - s > price[k] - price[j]:
                    return True
        if idle > 0 and x[j] < copies and scores[j] > price[j] - price[empty]:
            return True
    return False


@njit(cache=True, nogil=True)
def open_candidates(scores, price, up, down, widened, terms, null, opened, x):
    """Opens rows that hold a widened leaf and could leave it as prices move by `up` and `down`."""
    n, E = scores.shape
    for i in range(n):
        if opened[i]:
            continue
        t = i if len(terms) > 1 else 0
        must, may, copies = terms[t, 0], terms[t, 1], terms[t, 2]
        empty = null[i if len(null) > 1 else 0]
        low, idle = np.inf, may
        for j in range(E):
            idle -= x[i, j]
            if x[i, j] > 0 and widened[j]:
                low = min(low, scores[i, j] - price[j] - up[j])
        if idle > 0 and widened[empty]:
            low = min(low, -price[empty] - up[empty])
        if low == np.inf:
            continue
        for j in range(E):
            v = scores[i, j] - price[j]
            if x[i, j] < copies and not widened[j] and v > -np.inf and v + down[j] >= low:
                opened[i] = 1
        if idle < may - must and not widened[empty] and -price[empty] + down[empty] >= low:
            opened[i] = 1


@njit(cache=True, nogil=True)
def entries(scores, price, up, down, whole, terms, null, x):
    """The entries of open rows that may change as prices rise by `up` or fall by `down`.

    All of a row's where `whole`.

    Args:
        scores: float64 (n, E), of the open rows alone; whole (n,), terms and null likewise.
        x: int64 (n, E), what they hold.

    Returns:
        Where each row's entries begin, int64 (n + 1,); their leaves, int16 (N,), scores, float64,
        amounts and capacities, int64.
    """
    n, E = scores.shape
    first = np.zeros(n + 1, np.int64)
    leaf, value = np.empty(8 * n + E + 1, np.int16), np.empty(8 * n + E + 1)
    amount, cap = np.empty(8 * n + E + 1, np.int64), np.empty(8 * n + E + 1, np.int64)
    c = 0
    for i in range(n):
        must, may, copies = terms[i]
        empty = null[i]
        idle = may
        low, high = np.inf, -np.inf
        for j in range(E):
            v = scores[i, j] - price[j]
            idle -= x[i, j]
            if x[i, j] > 0:
                low = min(low, v - up[j])
            if x[i, j] < copies:
                high = max(high, v + down[j])
        if may > must:
            if idle > 0:
                low = min(low, -price[empty] - up[empty])
            if idle < may - must:
                high = max(high, -price[empty] + down[empty])
        if c + E + 1 > len(leaf):
            leaf, value = _twice(leaf, E), _twice(value, E)
            amount, cap = _twice(amount, E), _twice(cap, E)
        for j in range(E):
            v = scores[i, j] - price[j]
            leaves = x[i, j] > 0 and v - up[j] <= high
            comes = x[i, j] < copies and v + down[j] >= low
            if (whole[i] or leaves or comes) and v > -np.inf:
                leaf[c], value[c], amount[c], cap[c] = j, scores[i, j], x[i, j], copies
                c += 1
        if may > must:
            v = -price[empty]
            leaves = idle > 0 and v - up[empty] <= high
            comes = idle < may - must and v + down[empty] >= low
            if whole[i] or leaves or comes:
                leaf[c], value[c], amount[c], cap[c] = empty, 0.0, idle, may - must
                c += 1
        first[i + 1] = c
    return first, leaf[:c], value[:c], amount[:c], cap[:c]


@njit(cache=True)
def _twice(values, more):
    """The same with room for twice as many, and some more."""
    larger = np.empty(2 * len(values) + more + 1, values.dtype)
    larger[: len(values)] = values
    return larger


@njit(cache=True, nogil=True)
def put_back(first, leaf, amount, held):
    """Amounts of entries written into what their rows hold (n, E)."""
    E = held.shape[1]
    for i in range(len(held)):
        for c in range(first[i], first[i + 1]):
            if leaf[c] < E:
                held[i, leaf[c]] = amount[c]
