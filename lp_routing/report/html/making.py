"""How the page was made, and how to make it again."""

from lp_routing.report.html.asked import Asked
from lp_routing.report.html.content import Cell, Column, Folded, Paragraph, Section, Table


def making_section(asked: Asked) -> Section:
    """Command, what was read, versions."""
    facts = [
        ("logits", asked.name),
        ("layers", ", ".join(map(str, asked.layers))),
        ("tokens of each layer", f"the first {asked.tokens:,} of {asked.all_tokens:,}"),
        ("experts", f"{asked.experts:,}"),
        ("experts per token, k", f"{asked.k}"),
        ("capacity of an expert", f"{asked.capacity:,} tokens, factor {asked.capacity_factor:g}"),
        ("scores", asked.score),
        ("routers", "; ".join(asked.routers)),
        ("seed", f"{asked.seed}"),
        ("sha256 of the logits examined", asked.digest),
        *([("date", asked.date)] if asked.date else []),
    ]
    but = ", but for the times" if asked.timed else ""
    same = f"The same logits, command and versions give the same page{but}, to the last byte."
    return Section(
        "making",
        "How to make this page again",
        [
            Folded("Command", asked.command, opened=True),
            Paragraph(same),
            Table("What was asked.", [Column("what"), Column("value", wide=True)], _rows(facts)),
            Table(
                "Versions of what the numbers depend on.",
                [Column("package"), Column("version")],
                _rows(list(asked.versions.items())),
            ),
        ],
    )


def _rows(facts: list[tuple[str, str]]) -> list[list[Cell]]:
    return [[Cell(name), Cell(value)] for name, value in facts]
