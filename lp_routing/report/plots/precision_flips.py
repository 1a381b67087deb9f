"""How many tokens change experts in fewer bits, against the margin of their choice."""

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lp_routing.audits.precision import PrecisionFlips
from lp_routing.errors import InputError
from lp_routing.report.plots._style import (
    BLACK,
    GREY,
    Numbers,
    house_style,
    label,
    legend_below,
    looks,
    new_figure,
    plain_numbers,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS_PER_DECADE = 3
"""Of margins: more show finer steps, of fewer tokens each."""
ENOUGH = 25
"""Fewest tokens of a bin: a share of fewer says little (an eighth of all tokens below 200)."""


class Bins(NamedTuple):
    """Tokens sorted by margin.

    Attributes:
        edges: log10 of the margins between bins, (B + 1,); the first bin is that of the ties
            where `ties`.
        tokens: how many each bin has, (B,).
        of: the bin of each token, (T,); -1 without a margin.
        ties: whether the first bin is that of margin 0, drawn left of all others.
    """

    edges: Numbers
    tokens: NDArray[np.int64]
    of: NDArray[np.int64]
    ties: bool


@house_style()
def precision_flips(flips: PrecisionFlips, *, name: str = "router", title: str = "") -> "Figure":
    """The share of tokens that change experts, by margin, one curve a format.

    Args:
        flips: of `lp_routing.audits.precision_flips`.
        name: of the router.
        title: what the figure is of.

    Returns:
        Share of tokens [%] over the margin [logits], logarithmic, a margin of 0 (a tie) apart on
        the left; below, how many tokens there are in each third of a decade. Thirds with few tokens
        share a point. Tokens without a margin (no expert, or every one allowed) are left out and
        counted.

    Raises:
        InputError: no flips, or no token with a margin.
    """
    if not isinstance(flips, PrecisionFlips):
        raise InputError(
            f"precision flips: expected what lp_routing.audits.precision_flips gives, got "
            f"{type(flips).__name__}."
        )
    bins = binned(flips.margins.double().cpu().numpy())
    figure = new_figure(4.6, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for (kind, changed), look in zip(flips.changed.items(), looks(len(flips.changed)), strict=True):
        flags = changed.cpu().numpy()
        where, shares = shares_of(flags, bins)
        above.plot(
            where,
            shares,
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            markerfacecolor="white",
            label=f"{label(kind)}: {100 * flags.mean():.3g} % of all tokens",
        )
    above.set_ylabel("tokens that change\nexperts [%]")
    above.set_ylim(-2, 102)
    above.set_title(wrapped(f"{label(name)}: choices that do not survive rounding of the logits"))
    below.stairs(bins.tokens, bins.edges, fill=True, facecolor=GREY, edgecolor=BLACK)
    below.set_ylabel("tokens")
    plain_numbers(below, "y")
    _margin_axis(below, bins, int((bins.of < 0).sum()))
    above.grid(linewidth=0.3)
    legend_below(figure)
    figure.align_ylabels()
    return figure


def binned(margins: Numbers) -> Bins:
    """Tokens in bins of a third of a decade of their margin, ties apart.

    Raises:
        InputError: no token has a margin.
    """
    known = np.isfinite(margins)
    positive = known & (margins > 0)
    ties = bool((known & (margins == 0)).any())
    if not known.any():
        raise InputError("precision flips: no token has a margin, so there is nothing to draw.")
    logs = np.log10(margins, where=positive, out=np.zeros_like(margins)) * BINS_PER_DECADE
    low, high = 0, 1
    if positive.any():
        low = int(np.floor(logs[positive].min()))
        high = max(low + 1, int(np.ceil(logs[positive].max())))
    of = np.full(len(margins), -1)
    of[positive] = np.clip(np.floor(logs[positive]).astype(int) - low, 0, high - low - 1) + ties
    of[known & (margins == 0)] = 0
    edges = np.arange(low - ties, high + 1) / BINS_PER_DECADE
    tokens = np.bincount(of[of >= 0], minlength=len(edges) - 1)
    return Bins(edges, tokens, of, ties)


def shares_of(changed: NDArray[np.bool_], bins: Bins) -> tuple[Numbers, Numbers]:
    """Where to draw, and the share of the tokens there that changed, in per cent.

    Neighbouring bins are put together from the left until they have tokens enough for a share.
    """
    least = max(1, min(ENOUGH, int(bins.tokens.sum()) // 8))
    counts = np.bincount(bins.of[changed & (bins.of >= 0)], minlength=len(bins.tokens))
    cuts = [0, 1] if bins.ties else [0]
    for end in range(cuts[-1] + 1, len(bins.tokens) + 1):
        if bins.tokens[cuts[-1] : end].sum() >= least:
            cuts.append(end)
    if cuts[-1] < len(bins.tokens):  # too few are left for a part of their own
        cuts = [*(cuts[:-1] if len(cuts) > 1 + bins.ties else cuts), len(bins.tokens)]
    parts = [(i, j) for i, j in pairwise(cuts) if bins.tokens[i:j].sum()]
    where = [(bins.edges[i] + bins.edges[j]) / 2 for i, j in parts]
    shares = [100 * counts[i:j].sum() / bins.tokens[i:j].sum() for i, j in parts]
    return np.array(where), np.array(shares)


def _margin_axis(axes: "Axes", bins: Bins, left_out: int) -> None:
    """Decades as plain numbers, thinned, and 0 under the ties."""
    low, high = bins.edges[int(bins.ties)], bins.edges[-1]
    decades = np.arange(np.ceil(low), np.floor(high) + 1)
    decades = decades[:: max(1, -(-len(decades) // 8))]
    ticks = [(float(place), f"{10.0**place:g}") for place in decades]
    if not ticks:
        ticks = [(float(edge), f"{10.0**edge:.2g}") for edge in (low, high)]
    if bins.ties:
        ticks = [t for t in ticks if t[0] > bins.edges[1]]
        ticks.insert(0, (float(bins.edges[:2].mean()), "0"))
        axes.axvline(bins.edges[1], color=BLACK, linewidth=0.6)
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    says = f"; {left_out:,} tokens have none" if left_out else ""
    axes.set_xlabel(f"margin: k-th minus (k+1)-th logit [logits]{says}")
