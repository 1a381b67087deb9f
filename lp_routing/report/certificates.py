"""The certificate of every number: value, bound, gap, violation, solver, prices."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from math import isfinite

from lp_routing.certificate.certificate import TOLERANCE, Certificate
from lp_routing.certificate.exact_arithmetic import Number
from lp_routing.certificate.prices import Prices
from lp_routing.evaluation.evaluate import RouterResult
from lp_routing.report.document import (
    Block,
    Cell,
    Column,
    Failure,
    Folded,
    Paragraph,
    ReportSettings,
    Section,
    Table,
    counted,
    number,
)
from lp_routing.report.layer_results import LayerResult

EXACT, ROUNDED = "exact", "float64"


def certificates_section(settings: ReportSettings, results: Sequence[LayerResult]) -> Section:
    """One table, and the prices that prove its bounds."""
    if not results:
        return Section("certificates", "Certificates", [Failure("No layer could be examined.")])
    columns = [
        Column("assignment"),
        Column("layer", numeric=True),
        Column("value", numeric=True),
        Column("bound", numeric=True),
        Column("gap", numeric=True),
        Column("worst broken bound", numeric=True),
        Column("found by"),
        Column("arithmetic"),
        Column("prices"),
    ]
    rows = [row for each in results for row in _rows(each)]
    blocks: list[Block] = [
        Paragraph(
            "For any prices of the experts, weak duality gives a bound that no feasible assignment "
            "exceeds; the bounds here are those of the prices below. Whoever has the logits can "
            "check them in one pass: lp_routing.certify(problem, assignment, prices, exact=True). "
            "Exact arithmetic is in fractions, without rounding; float64 carries some 1e-16 of "
            "what is added up. A gap is proved loss only where no bound is broken."
        ),
        Table("Every value and what proves it.", columns, rows),
    ]
    for each in results:
        if not each.proved:
            blocks.insert(0, Failure(f"Layer {each.layer} is not proved: {_why(each)}"))
        if each.solution.prices.given:
            blocks.append(_folded(settings, each, each.solution.prices))
    return Section("certificates", "The certificate of every number", blocks)


def fingerprint(prices: Prices) -> str:
    """sha256 of the experts' prices as float64 in the order of experts, 16 hexadecimal digits."""
    values = prices.experts
    data = b"" if values is None else values.double().cpu().numpy().tobytes()
    return sha256(data).hexdigest()[:16]


def _rows(each: LayerResult) -> Iterator[list[Cell]]:
    prices = each.solution.prices
    link = Cell(fingerprint(prices), href=f"#prices-{each.layer}") if prices.given else Cell("-")
    if each.certificate is not None:
        solver = f"{each.solution.solver}: {each.solution.status.name}"
        yield _certified("optimum", each.layer, each.certificate, solver, link, each.proved)
    for place, row in enumerate(each.rows):
        if place == 0 and each.main is not None:
            yield _certified(row.label, each.layer, each.main, "router", link)
        elif row.judged:
            yield _measured(row, each.layer, link)


def _certified(
    name: str, layer: int, proof: Certificate, found_by: str, prices: Cell, proved: bool = True
) -> list[Cell]:
    return [
        Cell(name),
        Cell(str(layer), layer),
        _long(proof.value),
        _long(proof.bound),
        Cell(_gap(proof.gap), float(proof.gap), "" if proved else "bad"),
        _violation(proof.violation),
        Cell(found_by),
        Cell(EXACT if proof.exact else ROUNDED),
        prices,
    ]


def _measured(row: RouterResult, layer: int, prices: Cell) -> list[Cell]:
    """A row of `comparisons`, which evaluates tiny gaps exactly and the others in float64."""
    exactly = isfinite(row.relative_gap) and abs(row.relative_gap) <= TOLERANCE
    gap = row.bound - row.value
    return [
        Cell(row.label),
        Cell(str(layer), layer),
        _long(row.value),
        _long(row.bound),
        _measured_gap(row, exactly, gap),
        _violation(row.violation),
        Cell("router"),
        Cell(EXACT if exactly else ROUNDED),
        prices,
    ]


def _measured_gap(row: RouterResult, exactly: bool, gap: float) -> Cell:
    if not row.feasible:
        return Cell("none: breaks a bound", tone="bad")
    return Cell("0 exactly" if exactly and gap == 0 else f"{gap:.6g}", gap)


def _long(value: Number) -> Cell:
    return number(float(value), 15)


def _gap(gap: Number) -> str:
    return "0 exactly" if gap == 0 else f"{float(gap):.6g}"


def _violation(amount: float) -> Cell:
    return Cell("none", 0.0) if amount == 0 else Cell(f"{amount:.6g}", amount, "bad")


def _why(each: LayerResult) -> str:
    if each.certificate is None:
        return f"{each.solution.status.name}. {each.solution.explanation}"
    beaten = [row.label for row in each.rows if row.relative_gap < -TOLERANCE]
    if beaten:
        return f"{beaten[0]} is worth more than the bound."
    return f"the gap is {_gap(each.certificate.gap)} ({each.solution.status.name})."


def _folded(settings: ReportSettings, each: LayerResult, prices: Prices) -> Folded:
    values = [] if prices.experts is None else prices.experts.double().tolist()
    lines = [f"expert {j}: {price!r}" for j, price in enumerate(values)]
    return Folded(
        f"Prices of layer {each.layer}: {counted(len(values), 'number')}, sha256 "
        f"{fingerprint(prices)}...",
        f"{settings.score} scores per slot\n" + "\n".join(lines),
        id=f"prices-{each.layer}",
    )
