"""The contested rows of one pass: narrow the box, solve the LP, widen where bounds are missed."""

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.pricing.box_lp import Restricted, solve_in_box
from lp_routing.pricing.clearing import Array, Course
from lp_routing.pricing.narrowing import CALM, MOST, Drawn, narrowed, unlimited, what_is_left
from lp_routing.pricing.priced import Priced
from lp_routing.pricing.rows import NEVER, Contest
from lp_routing.pricing.screen import Pairs, all_of, screen
from lp_routing.solvers.base import SolverStatus
from lp_routing.solvers.highs import HiGHS

ENOUGH = 20_000
"""HiGHS solves an LP over so many contested pairs in some hundredths of a second."""
TIE_NOISE = 2.0**-34
"""Ties are broken by less than this share of a typical score, which no certificate notices."""
MOST_ROUNDS = 100
PATIENCE, ALL = 2, 300_000
"""After so many LPs or passes in vain, an LP over all contested pairs, if they are not too many."""
MANY = 1 / 8
"""Where so many constraints are missed, a wider box would hardly do."""
FEW_SWEEPS = 12
ESCAPES = 3
"""So often a box grows because prices leave it; then it is up to the LP to say so."""
OUT_OF_TIME = "Pricing: Time limit reached"


class Level(NamedTuple):
    """A contest, the box in which it is one, and what has been decided on the way to it.

    Attributes:
        contest: what is open at prices between low and high.
        drawn: the box.
        load: float64 (E + places,), units decided in all.
        closed: pairs decided since the level before.
        dither: noise with which markets are cleared here.
    """

    contest: Contest
    drawn: Drawn
    load: Tensor
    closed: Pairs
    dither: float


class Terms(NamedTuple):
    """What is the same in every pass over all rows.

    Attributes:
        priced: the D constraints.
        typical: the size of a typical score.
        few: whether all allowed pairs are few enough for one LP, which is then the next resort.
        deadline: when to stop, on the clock of `time.perf_counter`.
    """

    priced: Priced
    typical: float
    few: bool
    deadline: float


class Settled(NamedTuple):
    """What became of the contested rows.

    Attributes:
        drawn: the last prices; where the box was too narrow, a wider one to screen all rows with.
        pairs: what the contested rows take, where the prices are optimal for the whole problem;
            else None.
        outcome: how the search ended, where it is not to be continued.
        said: why, in words.
    """

    drawn: Drawn
    pairs: Pairs | None = None
    outcome: SolverStatus = SolverStatus.FINISHED
    said: str = ""


NONE = all_of([])


def settle(
    terms: Terms, contest: Contest, load: Tensor, drawn: Drawn, dither: float, effort: int
) -> Settled:
    """The best prices within a box, as far as the box reaches.

    One LP after another: each over what is contested in a box small enough for HiGHS, and where it
    misses bounds, the next in a wider one, up to the box that all rows were screened with.

    Args:
        terms: what is the same in every pass.
        contest: all rows that are contested within the box.
        load: float64 (E + places,), units decided already.
        drawn: the box, and prices in it.
        dither: noise for clearing markets with many ties.
        effort: how often the box was widened before; each time the LP may grow.
    """
    priced = terms.priced
    levels = [Level(contest, drawn, load, NONE, dither)]
    at_once = terms.few and bool((contest.units > 1).any())  # few rows hold most of the units
    if not at_once:
        grown = _descend(priced, levels, effort)
        if grown is not None:
            return Settled(grown)
    limit = contest.pairs if at_once else _enough(priced) * 2**effort
    in_vain = max(PATIENCE - effort, 0)
    for tries in range(MOST_ROUNDS):
        if tries == in_vain and contest.pairs <= ALL:
            del levels[1:]
            limit = max(limit, contest.pairs)
        found = _tried(terms, levels, limit)
        if found.outcome is not SolverStatus.FINISHED:
            said = OUT_OF_TIME if found.outcome is SolverStatus.TIME_LIMIT else found.said
            return Settled(levels[-1].drawn, outcome=found.outcome, said=said)
        if not found.missed.any():
            return _done(levels, found)
        if terms.few and (tries or np.mean(found.missed != 0) > MANY):
            course = Course(found.prices, np.zeros_like(found.prices))
            return Settled(levels[0].drawn._replace(course=course))
        wider = _wider(levels[-1].drawn, found, terms.typical, effort + tries)
        if not _rescreened(priced, levels, wider, found.missed):
            below, above = found.missed < 0, found.missed > 0
            return Settled(_grown(priced, levels[0].drawn, wider.course, below, above, effort))
        limit *= 2
    return Settled(levels[0].drawn)


def _tried(terms: Terms, levels: list[Level], limit: int) -> Restricted:
    """The LP over the last level, once that is small enough."""
    _break_ties(terms.priced, levels, limit, terms.typical, terms.deadline)
    level, left = levels[-1], terms.deadline - time.perf_counter()
    if left <= 0:
        nothing = np.zeros(0)
        return Restricted(SolverStatus.TIME_LIMIT, nothing, nothing, nothing, OUT_OF_TIME)
    return _solve(terms.priced, level, HiGHS(time_limit_s=None if left == float("inf") else left))


def _done(levels: list[Level], found: Restricted) -> Settled:
    """The LP's prices are optimal for the whole problem: what contested rows take at each level."""
    box = Drawn(Course(found.prices, np.zeros_like(found.prices)), found.prices, found.prices)
    closed = [level.closed for level in levels]
    return Settled(box, all_of([*closed, _taken(levels[-1], found)]))


def _enough(priced: Priced) -> int:
    """Contested pairs that are left to the LP without more ado."""
    return ENOUGH + 16 * len(priced)


def _descend(priced: Priced, levels: list[Level], effort: int) -> Drawn | None:
    """Clear the markets until prices are calm, and narrow the box; a grown box if they leave it.

    Most sweeps run on the rows that are contested near the prices of the first few. Should prices
    leave that neighbourhood, the sweeps go on with all contested rows.
    """
    outer = levels[0]
    drawn = _narrowed(priced, outer, FEW_SWEEPS)
    if np.any(_left(drawn, outer.drawn)) and not _settled(drawn, outer.drawn):
        outer = outer._replace(drawn=outer.drawn._replace(course=drawn.course))
        drawn = _narrowed(priced, outer, 2 * FEW_SWEEPS)
    below, above = _left(drawn, outer.drawn)
    if effort < ESCAPES and bool((below | above).any()):
        return _grown(priced, outer.drawn, drawn.course, below, above, effort)
    levels[0] = outer = outer._replace(drawn=outer.drawn._replace(course=drawn.course))
    if not drawn.calm:
        _enter(priced, levels, _generous(drawn))
        inner = levels[-1]
        if inner.contest.pairs <= _enough(priced):
            return None
        if 2 * inner.contest.pairs < outer.contest.pairs:
            drawn = _narrowed(priced, inner, MOST)
            if not np.any(_left(drawn, inner.drawn)):
                _enter(priced, levels, drawn)
                return None
        levels.pop()
        course = drawn.course
        levels[0] = outer = outer._replace(drawn=outer.drawn._replace(course=course))
        drawn = _narrowed(priced, outer, MOST)
    _enter(priced, levels, drawn)
    return None


def _narrowed(priced: Priced, level: Level, most: int) -> Drawn:
    bounds = what_is_left(priced, level.load)
    return narrowed(level.contest, priced, bounds, level.drawn, dither=level.dither, most=most)


def _left(drawn: Drawn, box: Drawn) -> tuple[Array, Array]:
    """Which prices are well below, and well above a box, boolean (D,) each."""
    slack, prices = (box.high - box.low) / 4, drawn.course.prices
    return prices < box.low - slack, prices > box.high + slack


def _settled(drawn: Drawn, box: Drawn) -> bool:
    """Whether prices move little, as seen from a larger box."""
    return bool((CALM * drawn.course.moved <= box.high - box.low).all())


def _generous(drawn: Drawn) -> Drawn:
    """A box with room for prices that still move."""
    room = 2 * (drawn.high - drawn.low) + 16 * drawn.course.moved
    return Drawn(drawn.course, drawn.low - room, drawn.high + room)


def _break_ties(
    priced: Priced, levels: list[Level], limit: int, typical: float, deadline: float
) -> None:
    """Narrow the box until few enough pairs are contested; where scores are tied, add noise."""
    finest = TIE_NOISE * typical
    broken = False
    while levels[-1].contest.pairs > limit and time.perf_counter() < deadline:
        level = levels[-1]
        stalled = level.contest.pairs > 0.9 * levels[-2].contest.pairs
        if stalled or 0 < level.dither < finest:
            if broken:
                return
            noisy = level.contest.with_noise(finest, priced.experts)
            levels[-1] = level = level._replace(contest=noisy, dither=0.0)
            priced = replace(priced, finest=finest * 2.0**-10)  # the noise is to be told apart
            broken = True
        _enter(priced, levels, _narrowed(priced, level, MOST))


def _enter(priced: Priced, levels: list[Level], drawn: Drawn) -> None:
    """Screen the last level's contest in a smaller box, and make that the last level."""
    level = levels[-1]
    low, high = (np.clip(s, level.drawn.low, level.drawn.high) for s in (drawn.low, drawn.high))
    contest, load, closed = screen(level.contest, priced, low, high)
    inner = Drawn(drawn.course, low, high)
    levels.append(Level(contest, inner, level.load + load, closed, level.dither / 8))


def _solve(priced: Priced, level: Level, highs: HiGHS) -> Restricted:
    box = level.drawn.low, level.drawn.high
    centre = np.clip(level.drawn.course.prices, *box)
    bounds = what_is_left(priced, level.load)
    return solve_in_box(level.contest, priced, *bounds, box, centre, highs)


def _taken(level: Level, found: Restricted) -> Pairs:
    """What the LP takes of the last contest."""
    contest = level.contest
    row, rank = (contest.value > NEVER).nonzero().T
    units = torch.as_tensor(found.amounts)[row, rank]
    return Pairs(contest.index[row], contest.expert[row, rank], units)


def _wider(drawn: Drawn, found: Restricted, typical: float, effort: int) -> Drawn:
    """A box around the LP's prices: twice as wide, eight times where bounds are missed."""
    size = max(float(np.abs(found.prices).max(initial=0)), typical)
    width = np.maximum(drawn.high - drawn.low, 2.0**-20 * size * 4.0**effort)
    width = np.where(found.missed != 0, 4 * width, width)
    course = Course(found.prices, width)
    return Drawn(course, found.prices - width, found.prices + width)


def _grown(
    priced: Priced, drawn: Drawn, course: Course, below: Array, above: Array, effort: int
) -> Drawn:
    """A box as large as before, and much larger where prices want to go below or above.

    After some passes in vain it grows everywhere, as prices of other constraints will follow.
    """
    width = drawn.high - drawn.low
    room = np.maximum(np.maximum(4 * width, np.median(width)), course.moved) * 16.0**effort
    below, above = below | (course.prices < drawn.low), above | (course.prices > drawn.high)
    others = width * 4.0 ** (effort - 1) if effort >= PATIENCE else 0.0 * width
    low = np.minimum(drawn.low, course.prices) - np.where(below, room, others)
    high = np.maximum(drawn.high, course.prices) + np.where(above, room, others)
    lowest, highest = unlimited(priced)
    return Drawn(course, np.maximum(low, lowest), np.minimum(high, highest))


def _rescreened(priced: Priced, levels: list[Level], wider: Drawn, missed: Array) -> bool:
    """Go back to the last level whose box has room for the wider one; False where none has."""
    while len(levels) > 1:
        outer = levels[-2].drawn
        room = np.where(
            missed > 0, outer.high - wider.course.prices, wider.course.prices - outer.low
        )
        levels.pop()
        if bool((room > 1e-3 * wider.course.moved)[missed != 0].all()):
            _enter(priced, levels, wider)
            return True
    return False
