"""The figures of one layer: loads, prices, assignments, causality, precision, time."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lp_routing.audits.causality import causality_map
from lp_routing.audits.precision import precision_flips
from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.report import plots
from lp_routing.report.document import (
    Block,
    Failure,
    Figure,
    Paragraph,
    ReportSettings,
    Section,
    attempted_blocks,
    quoted,
)
from lp_routing.report.layer_results import LayerResult, longest_sequence
from lp_routing.report.plots import as_svg
from lp_routing.routers.base import AnyRouter
from lp_routing.routers.catalogue import router

if TYPE_CHECKING:
    import matplotlib.figure

Draw = Callable[[], "matplotlib.figure.Figure"]
Drawing = tuple[str, Draw, str]
"""Name of a figure, what draws it, and its caption."""


def figures_section(settings: ReportSettings, each: LayerResult | None) -> Section:
    """Every figure of one layer; one that fails does not stop the others."""
    title = "Figures" if each is None else f"Layer {each.layer} in figures"
    if each is None:
        return Section("figures", title, [Failure("No layer could be examined.")])
    why = (
        ""
        if len(settings.layers) == 1
        else f", the layer in which {quoted(settings.main)} loses most"
    )
    blocks: list[Block] = [Paragraph(f"All figures are of layer {each.layer}{why}.")]
    for name, draw, caption in _figures(settings, each):
        blocks += drawn(name, draw, caption)
    return Section("figures", title, blocks)


def drawn(name: str, draw: Draw, caption: str) -> Sequence[Block]:
    """A figure as part of a page, or why it could not be drawn.

    Having nothing to draw, such as margins where tokens take all experts, is no failure.

    Args:
        name: of the figure, from which its ids are made: "Load per expert" -> "load-per-expert".
        draw: draws it.
        caption: stands under it.
    """

    def make() -> Sequence[Block]:
        prefix = name.lower().replace(" ", "-")
        try:
            figure = draw()
            broad = as_svg(figure, prefix=prefix)
            plots.resize(figure, "column")
            return [Figure(broad, caption, as_svg(figure, prefix=f"{prefix}-narrow"))]
        except InputError as error:
            return [Paragraph(f"{name}: not drawn. {error}")]

    return attempted_blocks(name, make)


def _figures(settings: ReportSettings, each: LayerResult) -> list[Drawing]:
    """The figures of a layer."""
    found = [*_of_assignments(settings, each), *_of_main_router(settings, each)]
    if settings.timed:
        gaps = {f"layer {each.layer}": each.rows}
        caption = "What a smaller gap costs, in units of torch.topk on the same scores."
        found.append(("Gap against time", lambda: plots.gap_against_time(gaps), caption))
    return found


def _of_assignments(settings: ReportSettings, each: LayerResult) -> list[Drawing]:
    """The main router's assignment and the optimum."""
    main, called = settings.main, quoted(settings.main)

    def taken() -> Assignment:
        if each.taken is None:
            raise InputError(f"{main} gave no answer: {each.rows[0].status}")
        return each.taken

    return [
        (
            "Load per expert",
            lambda: plots.load(
                {main: taken(), "optimum": each.solution}, capacity=settings.capacity
            ),
            f"How many tokens every expert gets from {called}, and at the optimum.",
        ),
        (
            "Price per expert",
            lambda: plots.prices(each.solution),
            "The most that one more slot at each expert would bring; the proof of the optimum "
            "rests on these numbers.",
        ),
        (
            "Who goes where",
            lambda: plots.assignment(each.solution, taken(), names=("the optimum", main)),
            f"Pairs on which {called} and the optimum agree, and on which they do not.",
        ),
    ]


def _of_main_router(settings: ReportSettings, each: LayerResult) -> list[Drawing]:
    """What the main router's choices depend on."""
    main = settings.main

    def built() -> AnyRouter:
        made: AnyRouter = router(main, each.shape, seed=settings.seed)
        return made

    return [
        (
            "Causality",
            lambda: plots.causality(causality_map(built(), longest_sequence(each)), name=main),
            f"Which tokens {quoted(main)} sends elsewhere as one sequence grows, the longest where "
            f"the file tells them apart: an example. How many tokens of all sequences hang on "
            f"later ones is what the audit of causality says.",
        ),
        (
            "Precision",
            lambda: plots.precision_flips(precision_flips(built(), each.logits), name=main),
            "Which choices do not survive logits of fewer bits, by how narrowly they were made.",
        ),
    ]
