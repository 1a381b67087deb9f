"""The report's page: what it says is so, nothing is loaded from elsewhere, failures are shown."""

import io
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import lp_routing as lpr
from lp_routing.claims import Evidence
from lp_routing.frontier.refine import Point
from lp_routing.report import frontier as capacity_part
from lp_routing.report import plots
from lp_routing.report.document import (
    Attempt,
    Cell,
    Column,
    Table,
    as_rich,
    counted,
    listed,
    number,
    percent,
)
from lp_routing.report.gap import lost
from lp_routing.report.report import report as assemble
from lp_routing.routers import TopK
from tests.report_pages import FEW, Read, fails, loaded, made, patch_quick, run, save_small

ROUTERS = "drop-by-score, drop-token-major, token-choice"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patch_quick(monkeypatch)


@pytest.fixture
def small(tmp_path):
    return save_small(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page on two layers of the sample, and what was said on the way."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    parts = []

    def assembled(settings, found):
        parts.extend((settings, found))
        return assemble(settings, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lp_routing.cli.report.CLAIMS", FEW)
        patch.setattr("lp_routing.cli.report.page_of", assembled)
        ended = run("-o", path, "--tokens", 128, "--layers", "0,2", "--routers", ROUTERS)
    assert ended.exit_code == 0, ended.output
    settings, found = parts
    return SimpleNamespace(
        read=Read(path.read_text()), said=ended.stderr, settings=settings, found=found
    )


def changed(page, *, well=False, **parts):
    """The page with other parts, taken apart; it says that not all is well, where that is so."""
    text, says = assemble(page.settings, replace(page.found, **parts))
    assert says is well
    return Read(text)


def layer(number):
    return lpr.traces.sample().layer(number)[:128]


def problem_of(number):
    return lpr.problems.capacity(lpr.scores.softmax(layer(number)), 2, 10)


def test_every_part_is_there(page):
    parts = [
        "summary",
        "decision",
        "layers",
        "figures",
        "capacity",
        "certificates",
        "claims",
        "audits",
        "making",
    ]
    ids = [given["id"] for tag, given in page.read.tags if tag == "section"]
    assert ids == parts
    assert not any(given.get("class") == "failure" for _, given in page.read.tags)
    assert sum(tag == "figure" for tag, _ in page.read.tags) == 7
    linked = [given["href"] for tag, given in page.read.tags if tag == "a"]
    every = {given.get("id") for _, given in page.read.tags}
    assert {f"#{part}" for part in parts} <= set(linked)
    assert all(link[1:] in every for link in linked)


def test_ids_are_used_once(page):
    ids = [given["id"] for _, given in page.read.tags if "id" in given]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_from_anywhere(page):
    assert loaded(page.read) == []
    assert "http:" not in "".join(page.read.scripts + page.read.styles)
    assert {tag for tag, _ in page.read.tags}.isdisjoint(
        {"iframe", "object", "embed", "base", "form"}
    )


@pytest.mark.parametrize(
    "part",
    [
        '<img src="https://example.org/a.png">',
        '<link rel="stylesheet" href="a.css">',
        '<svg><image xlink:href="b.png"></image></svg>',
        "<style>@import 'c.css'; p { background: url(d.png) }</style>",
        '<p style="background: url(//e)">x</p>',
    ],
)
def test_what_would_be_loaded_is_found(part):
    assert loaded(Read(part))


def test_only_the_script_of_the_page_may_run(page):
    (script,) = page.read.scripts
    (policy,) = [
        given["content"]
        for tag, given in page.read.tags
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_progress_has_an_estimate(page):
    lines = page.said.splitlines()
    assert lines[0] == "0 of 9 done: layer 0"
    assert all(re.search(r"^\d of 9 done, about \d+ s left: ", line) for line in lines[1:-1])


def test_what_is_lost_is_measured_anew(page):
    """By HiGHS in place of Pricing, and the router called by hand."""
    for row, place in zip(page.read.table("layers"), (0, 2), strict=True):
        best = lpr.solve(problem_of(place), lpr.HiGHS())
        taken = TopK(2, 10)(layer(place))
        value = float((problem_of(place).scores * taken.x).sum())
        loss = 1 - value / float(best.value)
        assert row["layer"] == (str(place), place)
        assert row["lost"][1] == pytest.approx(loss, rel=1e-5)
        assert row["lost"][0].replace("\N{NO-BREAK SPACE}", " ") == percent(loss)
        assert row["optimum"][1] == pytest.approx(float(best.value))
        assert row["tokens dropped"][1] == int(taken.dropped.sum())
    assert len(page.read.table("layers", 1)) == 6


def test_a_router_that_breaks_a_bound_has_no_loss(page):
    rows = [row for row in page.read.table("layers", 1) if row["router"][0] == "token-choice"]
    assert len(rows) == 2
    for row in rows:
        assert row["lost"] == ("breaks a bound", None)
        assert row["worst broken bound"][1] > 0
    assert (
        "\N{LEFT DOUBLE QUOTATION MARK}token-choice\N{RIGHT DOUBLE QUOTATION MARK} breaks a bound"
        in (page.read.words("summary"))
    )


def test_the_prices_on_the_page_prove_its_bounds(page):
    """Whoever has the logits can check the page without a solver."""
    text = page.read.sections["certificates"]
    for place in (0, 2):
        after = text[text.index(f"Prices of layer {place}") :]
        prices = [float(p) for p in re.findall(r"expert \d+: (\S+)", after)[:32]]
        given = lpr.Prices(experts=torch.tensor(prices, dtype=torch.float64))
        proof = lpr.certify(problem_of(place), TopK(2, 10)(layer(place)), given, exact=True)
        rows = page.read.table("certificates")
        optimum, router = [row for row in rows if row["layer"][1] == place][:2]
        assert optimum["assignment"][0] == "optimum"
        assert optimum["gap"] == ("0 exactly", 0.0)
        assert float(proof.bound) == optimum["bound"][1] == router["bound"][1]
        assert float(proof.gap) == router["gap"][1]
        assert {row["arithmetic"][0] for row in (optimum, router)} == {"exact"}
        digest = sha256(np.array(prices).tobytes()).hexdigest()
        assert digest.startswith(optimum["prices"][0])


def test_capacities_are_what_they_buy(page):
    """Against HiGHS at the three capacities that the sentences speak of."""
    scores = lpr.scores.softmax(layer(0))
    shown = int(re.search(r"In layer (\d)", page.read.words("capacity")).group(1))
    scores = lpr.scores.softmax(layer(shown))
    rows = {row["capacity C"][1]: row for row in page.read.table("capacity")}
    values = {
        C: float(lpr.solve(lpr.problems.capacity(scores, 2, C), lpr.HiGHS()).value)
        for C in (9, 10, 11)
    }
    for C, value in values.items():
        assert rows[C]["value"][1] == pytest.approx(value)
    said = page.read.words("capacity")
    assert f"brings {values[10] - values[9]:.4g} in all" in said
    assert f"bring {values[11] - values[10]:.4g}." in said
    taken = TopK(2, 10)(layer(shown))
    attained = float((scores * taken.x).sum())
    (enough,) = re.findall(r"an optimal assignment attains with (\d+)", said)
    for C, attains in ((int(enough), True), (int(enough) - 1, False)):
        best = float(lpr.solve(lpr.problems.capacity(scores, 2, C), lpr.HiGHS()).value)
        assert (best >= attained) is attains


@pytest.mark.parametrize(("value", "enough"), [(700, [700, 699]), (699.5, [700, 699]), (0, [0])])
def test_the_smallest_capacity_is_found(value, enough):
    """A slot is worth 1."""
    found = capacity_part._smallest(value, lambda C: Point(C, C, C, 1), 1000)
    assert [each.budget for each in found] == enough


def test_the_date_is_what_is_said(small, tmp_path, page):
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", page.read.words(""))
    read = made(tmp_path / "page.html", small, "--date", "2031-02-03", "--routers", "token-choice")
    assert "2031-02-03" in read.words("")
    assert ("2031-02-03", None) in [row["value"] for row in read.table("making")]


@pytest.mark.parametrize(
    ("part", "section"),
    [("figures", "figures"), ("capacity", "capacity"), ("claims", "claims")],
)
def test_each_part_that_fails_says_so_in_its_place(page, part, section):
    read = changed(page, **{part: Attempt(None, "It is gone.")})
    assert "Failed. It is gone." in read.words(section)
    others = {"figures", "capacity", "claims", "audits", "layers", "certificates"} - {section}
    assert not any("Failed." in read.words(other) for other in others)


def test_an_audit_that_fails_loses_no_other(page):
    audits = {**page.found.audits, "token-choice": Attempt(None, "It is gone.")}
    read = changed(page, audits=audits)
    assert "Failed. token-choice: It is gone." in read.words("audits")
    assert set(read.table("audits")[0]) == {"audit", *ROUTERS.split(", ")[:1]} | {
        "drop-token-major"
    }


def test_a_figure_that_fails_makes_the_exit_1(page, monkeypatch):
    monkeypatch.setattr(plots, "frontier", fails)
    assert "Value of capacity: ZeroDivisionError: by nothing" in changed(page).words("capacity")


def test_a_layer_that_fails_loses_no_other(page):
    read = changed(page, layers=[page.found.layers[0], Attempt(None, "It is gone.")])
    assert "Failed. Layer 2: It is gone." in read.words("layers")
    assert [row["layer"][1] for row in read.table("layers")] == [0]


def test_means_stand_below_the_layers_and_a_router_that_breaks_a_bound_has_none(page):
    layers, (mean,) = page.read.table("layers"), page.read.foot("layers")
    assert mean[0] == "mean"
    for place, name in enumerate(layers[0]):
        values = [row[name][1] for row in layers]
        if name in ("optimum", "tokens dropped"):
            shown = float(mean[place].replace(",", ""))
            assert shown == pytest.approx(sum(values) / len(values), rel=1e-3)
        if name == "lost":
            assert float(mean[place].split()[0]) == pytest.approx(50 * sum(values), rel=1e-2)
    routers = {row[0]: row for row in page.read.foot("layers", 1)}
    assert routers["token-choice"][2] == "breaks a bound"
    assert routers["drop-by-score"][2] == mean[3]


def test_rounding_is_shown_as_nothing():
    assert percent(-1e-14) == percent(3e-16) == "0 %"
    assert percent(2e-13) == "2.00e-11 %"


def test_evidence_against_a_verdict_is_not_well(page):
    against, agreeing = page.found.claims.result
    against = replace(against, evidence=Evidence(False, "It is otherwise."))
    read = changed(page, claims=Attempt([against, agreeing]))
    assert [row["these logits"][0] for row in read.table("claims")] == ["contradict", "agree"]
    says = f"our verdicts on 1 agree with these logits; on {against.claim.id} they do not"
    assert says in read.words("summary")


def test_claims_that_were_not_asked_are_not_counted(page):
    silent, agreeing = page.found.claims.result
    silent = replace(silent, evidence=Evidence(None, "Does not apply here."))
    read = changed(page, well=True, claims=Attempt([silent, agreeing]))
    says = "1 claim from papers could be checked on these logits, and our verdicts agree with all."
    assert says in read.words("summary")
    assert "of our verdicts on papers' claims agree with these logits1 of 1" in read.words(
        "summary"
    )
    read = changed(page, well=True, claims=Attempt([silent]))
    assert "papers' claims" not in read.words("summary")


def test_an_optimum_without_proof_is_not_well(page):
    first = page.found.layers[0].result
    wider = replace(first.certificate, bound=first.certificate.bound + 1)
    layers = [Attempt(replace(first, certificate=wider)), page.found.layers[1]]
    read = changed(page, layers=layers)
    assert "Failed. Layer 0 is not proved: the gap is 1 (OPTIMAL)." in read.words("certificates")
    assert "proved for 1 of 2 layers" in read.words("summary")


def test_the_prices_on_the_page_prove_the_bounds_of_all_capacities(page):
    found = page.found.capacity.result
    each = next(e for e in page.found.results if e.layer == found.layer)
    scores = each.problem.scores
    bounds = dict(zip(found.curve.budgets.tolist(), found.curve.bounds.tolist(), strict=True))
    inside = [C for C in bounds if 0 < C < max(bounds)]
    assert inside
    assert set(inside) <= set(found.prices)
    for C in inside:
        prices = lpr.Prices(experts=torch.tensor(found.prices[C], dtype=torch.float64))
        proved = float(lpr.dual_bound(lpr.problems.capacity(scores, page.settings.k, C), prices))
        assert proved == pytest.approx(bounds[C], rel=1e-12)
        assert f"C = {C}: {found.prices[C][0]!r}, " in page.read.words("capacity")


def test_an_answer_that_is_not_optimal_is_not_well(page):
    first = page.found.layers[0].result
    doubted = replace(first.solution, status=lpr.Status.FEASIBLE)
    layers = [Attempt(replace(first, solution=doubted)), page.found.layers[1]]
    assert "Layer 0 is not proved" in changed(page, layers=layers).words("certificates")


def test_a_router_above_the_bound_refutes_the_optimum(page):
    first = page.found.layers[0].result
    above = [replace(first.rows[0], relative_gap=-0.01), *first.rows[1:]]
    layers = [Attempt(replace(first, rows=above)), page.found.layers[1]]
    says = "Layer 0 is not proved: drop-by-score is worth more than the bound."
    assert says in changed(page, layers=layers).words("certificates")


@pytest.mark.parametrize(
    ("made_of", "text"),
    [
        (percent(0.0514), "5.14 %"),
        (percent(0.25), "25.0 %"),
        (percent(1.0), "100 %"),
        (percent(0.0), "0 %"),
        (percent(float("nan")), "-"),
        (counted(1, "layer"), "1 layer"),
        (counted(1200, "layer"), "1,200 layers"),
        (listed([]), ""),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (listed(list("abcdefgh"), most=4), "a, b, c and 5 more"),
        (number(float("inf")), Cell("-")),
        (number(1234.5), Cell("1,234.5", 1234.5)),
    ],
)
def test_numbers_in_words(made_of, text):
    assert made_of == text


def test_no_loss_is_said_where_there_is_none():
    row = lpr.evaluation.comparisons(
        lpr.problems.capacity(torch.ones(2, 2), 1, 1), ["optimum"], logits=torch.ones(2, 2)
    )
    assert lost(row[0]) == Cell("0 exactly", 0.0, "good")
    broken = replace(row[0], feasible=False, status="INFEASIBLE", relative_gap=float("nan"))
    assert lost(broken) == Cell("breaks a bound", None, "bad")
    assert lost(replace(broken, feasible=None, status="ValueError: no")).text == "no answer"


def test_a_table_of_the_page_is_drawn_for_the_terminal_too():
    table = Table(
        "A caption.",
        [Column("name"), Column("share of all", numeric=True), Column("more", width=9)],
        [[Cell("[b]a[/b]", tone="bad"), Cell("1.5 %", 0.015, "good"), Cell("x")]],
    )
    drawn = as_rich(table, "A title")
    console = Console(width=80, file=io.StringIO(), record=True, color_system="standard")
    console.print(drawn)
    text = console.export_text(clear=False)
    assert [line.split() for line in text.splitlines() if "1.5" in line] == [
        ["[b]a[/b]", "1.5", "%", "x"]
    ]
    assert text.split()[:2] == ["A", "title"]
    assert "A caption." not in text
    styled = console.export_text(styles=True)
    assert "\x1b[31m[b]a[/b]" in styled  # red
    assert re.search(r"\x1b\[32m *1\.5 %", styled)  # green
    assert [column.min_width for column in drawn.columns] == [4, 5, 9]
    assert [column.justify for column in drawn.columns] == ["left", "right", "left"]
