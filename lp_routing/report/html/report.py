"""A whole report: what was found, in the order in which it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lp_routing.audits import Finding
from lp_routing.claims.claim import Checked
from lp_routing.report.html.asked import Asked
from lp_routing.report.html.audits import audits_section
from lp_routing.report.html.bought import Bought, bought_section, sentences
from lp_routing.report.html.certificates import certificates_section
from lp_routing.report.html.claims import claims_section
from lp_routing.report.html.content import Failure, Section, quoted
from lp_routing.report.html.examined import Examined
from lp_routing.report.html.layers import layers_section
from lp_routing.report.html.making import making_section
from lp_routing.report.html.outcome import Outcome
from lp_routing.report.html.page import page
from lp_routing.report.html.summary import summary_section, worst


@dataclass(frozen=True, eq=False)
class Found:
    """What was found, or why it was not, part by part.

    Attributes:
        layers: one for each layer asked for, in their order.
        figures: the section that holds them.
        bought: what capacity buys.
        claims: what became of the claims.
        audits: router -> its findings.
    """

    layers: Sequence[Outcome[Examined]]
    figures: Outcome[Section]
    bought: Outcome[Bought]
    claims: Outcome[Sequence[Checked]]
    audits: Mapping[str, Outcome[Sequence[Finding]]]

    @property
    def examined(self) -> list[Examined]:
        """The layers that could be."""
        return [each.result for each in self.layers if each.result is not None]


def report(asked: Asked, found: Found) -> tuple[str, bool]:
    """The page as text, and whether all is well.

    Well: every part was made, every optimum is proved, every claim is as its verdict says.
    """
    figures = found.figures.result or _failed("figures", "Figures", found.figures.error)
    each = worst(found.examined)
    layer = asked.layers[0] if each is None else each.layer
    parts = [
        layers_section(asked, found.layers),
        figures,
        bought_section(asked, found.bought),
        certificates_section(asked, found.examined),
        claims_section(found.claims),
        audits_section(layer, found.audits),
        making_section(asked),
    ]
    failed = [part.title for part in parts if any(isinstance(b, Failure) for b in part.blocks)]
    buys = [] if found.bought.result is None else sentences(asked, found.bought.result)
    first = summary_section(asked, found.examined, buys, found.claims, found.audits, failed)
    subtitle = f"lp_routing {asked.versions.get('lp-routing', '')}: {quoted(asked.main)} against "
    subtitle += f"the certified optimum{f'; {asked.date}' if asked.date else ''}"
    well = not failed and all(each.comes_out for each in found.claims.result or ())
    return page(f"Routing report: {asked.name}", subtitle, [first, *parts]), well


def _failed(id: str, title: str, error: str) -> Section:  # noqa: A002
    return Section(id, title, [Failure(error)])
