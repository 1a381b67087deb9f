"""Directives whose content is read off the package and the benchmarks, so that it cannot go stale.

`router-table`: the catalogue. `router-classes`: a section for every family of routers.
`gap-table`: what benchmarks/gap.csv says of each router.
`family-table`: the MoE families of transformers that `capture` knows.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from lp_routing.routers import CATALOGUE, Shape, StatefulRouter
from lp_routing.routers.catalogue import REGISTERED
from lp_routing.traces.families import ROUTERS, SCORES

GAP = Path(__file__).parents[2] / "benchmarks" / "gap.csv"
SHAPE = Shape(k=2, capacity=80, T=1024, E=32)
Row = Sequence[str]


def router_rows() -> list[Row]:
    """Name, class, problem sought, whether causal and with a state, of the whole catalogue."""
    routers = ((name, make(SHAPE)) for name, make in CATALOGUE.items())
    return [
        (
            name,
            f":py:class:`{type(each).__name__}`",
            each.seeks or "none",
            "yes" if each.causal else "no",
            "yes" if isinstance(each, StatefulRouter) else "no",
        )
        for name, each in routers
    ]


def measured(k: str, factor: str) -> dict[str, list[dict[str, str]]]:
    """The rows of benchmarks/gap.csv by router; one with a state warm is "NAME, warm"."""
    found: dict[str, list[dict[str, str]]] = {}
    with GAP.open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["K"], row["factor"]) == (k, factor):
                warm = row["warm_up"] not in ("", "0")
                found.setdefault(row["router"] + (", warm" if warm else ""), []).append(row)
    return found


def gap_rows(k: str, factor: str) -> list[Row]:
    """Routers that kept all bounds wherever they were tried, smallest median gap first."""
    lines = []
    for name, rows in measured(k, factor).items():
        judged = [row for row in rows if row["value"]]
        if judged and all(row["feasible"] == "True" for row in judged):
            gaps = [float(row["relative_gap"]) for row in judged]
            dropped = median(float(row["dropped_fraction"]) for row in judged)
            units = median(float(row["topk_units"]) for row in judged)
            cells = (
                name,
                f"{100 * median(gaps):.3f} %",
                f"{100 * max(gaps):.3f} %",
                f"{100 * dropped:.1f} %",
                f"{units:,.0f}" if units >= 100 else f"{units:.3g}",
                "yes" if judged[0]["causal"] == "True" else "no",
                f"{len(judged)}/{len(rows)}",
            )
            lines.append((median(gaps), cells))
    return [cells for _, cells in sorted(lines)]


class Table(Directive):
    """A table whose cells are text, which may hold roles."""

    def table(self, heads: Row, rows: Iterable[Row]) -> list[nodes.Node]:
        """The table node."""
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in heads), cols=len(heads))
        group += nodes.thead("", self._row(heads))
        group += nodes.tbody("", *(self._row(cells) for cells in rows))
        return [nodes.table("", group, classes=["colwidths-auto"])]

    def _row(self, cells: Row) -> nodes.row:
        made = (self.state.inline_text(cell, self.lineno)[0] for cell in cells)
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *text)) for text in made))


class RouterTable(Table):
    """All routers of the catalogue."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return self.table(("name", "class", "seeks", "causal", "state"), router_rows())


class RouterClasses(Directive):
    """A section for each family of registered routers, with what their classes say."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        made: list[nodes.Node] = []
        for family in dict.fromkeys(entry.family for entry in REGISTERED):
            names = (entry.kind.__name__ for entry in REGISTERED if entry.family == family)
            lines = [f".. autoclass:: lp_routing.routers.{name}" for name in names]
            section = nodes.section("", nodes.title("", family), ids=[nodes.make_id(family)])
            self.state.nested_parse(StringList(lines, source="registry"), 0, section)
            made.append(section)
        return made


class GapTable(Table):
    """Medians of benchmarks/gap.csv at one k and capacity factor."""

    option_spec = {"k": directives.unchanged_required, "factor": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The table."""
        heads = (
            "router",
            "gap, median",
            "gap, largest",
            "tokens dropped",
            "time, topk passes",
            "causal",
            "cases",
        )
        self.state.document.settings.record_dependencies.add(str(GAP))
        return self.table(heads, gap_rows(self.options["k"], self.options["factor"]))


def family_rows() -> list[Row]:
    """Family, router class, where its logits are, score function and selection bias."""
    return [
        (
            router.family,
            f"``{name}``",
            router.where.replace("`", "``"),
            router.score if router.score in SCORES else f"config: ``{router.score}``",
            f"``{router.bias}``" if router.bias else "none",
        )
        for name, router in ROUTERS.items()
    ]


class FamilyTable(Table):
    """All router classes that are known from transformers."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        heads = ("family", "router class", "logits", "score", "selection bias")
        return self.table(heads, family_rows())


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry."""
    app.add_directive("router-table", RouterTable)
    app.add_directive("router-classes", RouterClasses)
    app.add_directive("gap-table", GapTable)
    app.add_directive("family-table", FamilyTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
