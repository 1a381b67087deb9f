"""Time against T on logarithmic axes, one panel for each K and capacity factor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.rows import Row

PANELS = ((2, 1.0), (2, 1.25), (1, 1.0))
"""K and capacity factor of each panel."""
E = 64
# Okabe and Ito's palette, which the colour-blind can tell apart; every line has its own marker too
STYLES = {
    "MinCostFlow": ("#0072B2", "o"),
    "OR-tools": ("#D55E00", "s"),
    "LEMON": ("#E69F00", "v"),
    "HiGHS": ("#009E73", "^"),
    "POT": ("#CC79A7", "D"),
}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the skewed problems with 64 experts from the rows, as a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(13, 4.6), sharey=True)
    for axes, (K, factor) in zip(panels, PANELS, strict=True):
        chosen = [
            row
            for row in rows
            if (row.scores, row.E, row.K, row.factor) == ("skewed", E, K, factor)
        ]
        _panel(axes, chosen)
        axes.set_title(f"K = {K}, capacity factor {factor:g}")
        axes.set_xlabel("T [tokens]")
    panels[0].set_ylabel("median time of one solve [s]")
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    names = [name for name in (*STYLES, "torch.topk") if name in lines]
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=6)
    figure.suptitle(f"Score matrix in memory to answer, E = {E}; hollow: stopped at the time limit")
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    """The lines of one panel; topk as a thin grey line, limits as hollow markers."""
    for solver, (colour, marker) in STYLES.items():
        ended = sorted((r.T, r.seconds) for r in rows if r.solver == solver and r.ended)
        if ended:
            axes.plot(*zip(*ended, strict=True), color=colour, marker=marker, label=solver)
        late = [r for r in rows if r.solver == solver and r.status.startswith("time limit")]
        for row in late:
            axes.plot(row.T, row.limit_s, marker, color=colour, fillstyle="none", label="_late")
    units = sorted({row.T: row.topk_seconds for row in rows if row.topk_seconds}.items())
    if units:
        axes.plot(*zip(*units, strict=True), color="grey", linewidth=0.8, label="torch.topk")
    axes.set_xscale("log", base=2)
    sizes = sorted({row.T for row in rows})
    axes.set_xticks(sizes, [f"{T:,}" for T in sizes], fontsize="small")
    axes.set_yscale("log")
    axes.grid(which="major", linewidth=0.3)
