"""`lp-routing claims` on the terminal: a row a claim, and a last word."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from lp_routing.claims import Verdict
from lp_routing.claims.claim import Checked

COLOURS = {
    Verdict.HOLDS: "green",
    Verdict.CONDITIONAL: "yellow",
    Verdict.FAILS: "red",
    Verdict.EMPIRICAL: "cyan",
}
LEGEND = (
    "verdict: what became of the claim as it is made. evidence: what the check measured here; "
    "ok: as the verdict says; AGAINST: it contradicts the verdict; FAILED: the check raised an "
    "error; -: nothing to ask."
)


def claims_table(checked: Sequence[Checked]) -> Table:
    """Id, claim, verdict, whether the evidence is as the verdict says, and the evidence."""
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("id", no_wrap=True)
    table.add_column("claim", min_width=16, ratio=2)
    table.add_column("verdict", min_width=9)
    table.add_column("here", no_wrap=True)
    table.add_column("evidence", ratio=5)
    for each in checked:
        colour = COLOURS[each.claim.verdict]
        table.add_row(
            each.claim.id,
            escape(each.claim.title),
            f"[{colour}]{each.claim.verdict.value}[/{colour}]",
            _mark(each),
            escape(each.says),
        )
    return table


def _mark(checked: Checked) -> str:
    if not checked.comes_out:
        return "[bold red]" + ("FAILED" if checked.evidence is None else "AGAINST") + "[/]"
    assert checked.evidence is not None
    return "[dim]-[/dim]" if checked.evidence.agrees is None else "[green]ok[/green]"


def last_word(checked: Sequence[Checked]) -> str:
    """How many verdicts come out as stated, and which do not."""
    against = [each for each in checked if not each.comes_out]
    asked = [each for each in checked if each.was_asked]
    rest = len(checked) - len(asked)
    silent = f" Of {rest} more there was nothing to ask here." if rest else ""
    if not asked:
        return "No verdict could be tried: there was nothing to ask here."
    if not against:
        return f"All {len(asked)} verdicts come out as stated.{silent}"
    lines = [f"{len(against)} of {len(asked)} verdicts do not come out as stated:{silent}"]
    lines += [f"  {each.claim.id}, {each.claim.title}: {each.says}" for each in against]
    return "\n".join(lines)
