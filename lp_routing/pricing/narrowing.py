"""Boxes of prices: a first one from samples of tokens, then smaller ones from contested rows."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.pricing.batch import Batch
from lp_routing.pricing.clearing import Array, Course, Markets, swept
from lp_routing.pricing.priced import Priced
from lp_routing.pricing.rows import NEVER, Contest, Rows, everything
from lp_routing.pricing.screen import screen

STANDARD_ERRORS = 4.0
"""Half the width of a sample's box, in standard errors of what it takes of a constraint."""
SPREAD = 6.0
"""Noise moves prices by up to some times its size, as it adds up from expert to expert."""
DRIFT = 4.0
"""A box reaches so many times as far as the last sweep still moved the prices."""
IDLE = 3.0
"""Constraints that do not bind have so much more room: what others turn away comes to them."""
FEW, ROOM = 2.0, 8.0
"""Units of room that a box leaves at least, and beside prices that rest on all rows."""
SWEEPS, MOST = 6, 60
CALM = 16.0
"""Sweeps go on until the last one moved prices by less than this part of the box."""


class Drawn(NamedTuple):
    """Prices and a box around them, float64 (D,) each; calm where sweeps hardly move them."""

    course: Course
    low: Array
    high: Array
    calm: bool = False


def sampled(batch: Batch, start: Array, dither: float) -> Drawn:
    """Prices (D,) and a box around them, from ever more rows of a sample.

    What they are missing is chance: the box is some standard errors wide.

    Args:
        batch: with its sample.
        start: prices to start from.
        dither: as in `narrowed`.
    """
    priced = batch.priced
    drawn = Drawn(Course(start, np.full(len(priced), np.inf)), *unlimited(priced))
    for size in batch.sizes:
        rows = batch.sample.take(slice(0, size))
        share = float(rows.units.sum()) / batch.units
        contest, load = everything(rows), torch.zeros(len(priced.incidence), dtype=torch.float64)
        if size > batch.sizes[0]:
            low, high = drawn.low, drawn.high
            contest, load, _ = screen(rows, priced, low, high, device=rows.scores.device)
        noise = STANDARD_ERRORS * _standard_error(priced, share, batch.units)
        bounds = what_is_left(priced, load, share)
        drawn = narrowed(contest, priced, bounds, drawn, noise, dither)
    return drawn


def around(batch: Batch, start: Array, dither: float) -> Drawn:
    """A box around prices of another batch, as wide as that of the largest sample would be."""
    priced = batch.priced
    start = np.clip(start, *unlimited(priced))
    rows = batch.sample.take(slice(0, batch.sizes[min(1, len(batch.sizes) - 1)]))
    share = float(rows.units.sum()) / batch.units
    last = float(batch.sample.units.sum()) / batch.units
    whole = torch.zeros(len(priced.incidence), dtype=torch.float64)
    markets = Markets(everything(rows), priced, *what_is_left(priced, whole, share))
    noise = STANDARD_ERRORS * _standard_error(priced, last, batch.units)
    low, high = markets.around(start, np.where(start == 0, IDLE, 1) * noise * share / last)
    course = Course(start, np.full(len(priced), np.inf))
    return Drawn(course, low - dither - priced.finest, high + dither + priced.finest)


def narrowed(
    contest: Contest,
    priced: Priced,
    bounds: tuple[Array, Array],
    drawn: Drawn,
    noise: Array | float = ROOM,
    dither: float = 0.0,
    most: int = MOST,
) -> Drawn:
    """Prices (D,) nearer to where the markets of contested rows clear, and a smaller box.

    The prices may leave the old box by as much as it is wide.

    Args:
        contest: the rows.
        priced: the D constraints.
        bounds: (D,) each, what these rows may take.
        drawn: the prices to start from, and the box in which the contest was found.
        noise: units (D,) by which bounds are uncertain.
        dither: noise that keeps sweeps from stalling where scores are tied; the box allows for it.
        most: sweeps at most.
    """
    if dither:
        contest = contest.with_noise(dither, priced.experts)
    markets = Markets(contest, priced, *bounds)
    lowest, highest = unlimited(priced)
    width = drawn.high - drawn.low
    lowest = np.maximum(lowest, drawn.low - width)
    highest = np.minimum(highest, drawn.high + width)
    room = noise * max(1.0, float(contest.units.mean())) * np.ones(len(priced))
    course = drawn.course
    for _ in range(0, most, SWEEPS):
        course = swept(markets, course, lowest, highest, SWEEPS)
        prices, drift = course.prices, DRIFT * course.moved + SPREAD * dither + priced.finest
        low, high = markets.around(prices, np.where(prices == 0, IDLE * room, room))
        low, high = np.minimum(low, prices - drift), np.maximum(high, prices + drift)
        calm = bool((CALM * course.moved <= high - low).all())
        if calm:
            break
    return Drawn(course, np.clip(low, lowest, highest), np.clip(high, lowest, highest), calm)


def unlimited(priced: Priced) -> tuple[Array, Array]:
    """All prices (D,) whose signs the bounds allow and whose size an optimum may need."""
    lower, upper = priced.lower.cpu().numpy(), priced.upper.cpu().numpy()
    low, high = np.where(lower > 0, -1.0, 0.0), np.where(np.isfinite(upper), 1.0, 0.0)
    return low * priced.dearest, high * priced.dearest


def what_is_left(priced: Priced, load: Tensor, share: float = 1.0) -> tuple[Array, Array]:
    """Bounds (D,) of some rows: their share of the constraints less what is decided."""
    decided = priced.counts(load)
    lower, upper = priced.lower * share - decided, priced.upper * share - decided
    return lower.cpu().numpy(), upper.cpu().numpy()


def _standard_error(priced: Priced, share: float, units: float) -> Array:
    """Of what a sample takes of each constraint, in its units (binomial)."""
    target = torch.where(priced.upper.isfinite(), priced.upper, priced.lower)
    expected = (target * share).clamp(min=1).cpu().numpy()
    return np.asarray(np.sqrt(expected * np.clip(1 - target.cpu().numpy() / units, 0.05, 1)) + FEW)


def tick(sample: Rows) -> float:
    """The step between neighbouring scores where many are equal; 0 where few are."""
    scores = sample.scores[:512].double().cpu()
    best = torch.topk(scores, min(4, scores.shape[1]), dim=1).values
    best = best[best > NEVER]
    distinct: Tensor = torch.unique(best)
    if not len(best) or len(distinct) > 0.95 * len(best):
        return 0.0
    if len(distinct) == 1:
        return float(distinct.abs()) or 1.0
    return float(distinct.diff().median())
