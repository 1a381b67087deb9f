"""`lp-routing report`: what the page says is so, nothing on it is code, and nothing is lost."""

import os
import re
import sys
import threading
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing import frontier
from lp_routing.claims import CLAIMS, Evidence
from lp_routing.cli.commands import report
from lp_routing.files import write_whole
from lp_routing.frontier import refine
from lp_routing.frontier.refine import Point
from lp_routing.report import frontier as capacity_part
from lp_routing.report import plots
from lp_routing.report.document import Attempt, Cell, counted, listed, number, percent
from lp_routing.report.gap import lost
from lp_routing.report.report import report as assemble
from lp_routing.routers import CATALOGUE, TopK
from tests.commands import with_k

ROUTERS = "drop by score, drop by position, token-major, top-k"
FEW = (CLAIMS[0], CLAIMS[3])
NASTY = "</script><script>alert(2)</script><img src=x onerror=alert(3)> & \x00 \ud800"
LOADS = {
    "src",
    "srcset",
    "data",
    "poster",
    "action",
    "formaction",
    "background",
    "ping",
    "xlink:href",
}
EMPTY = {"meta", "link", "img", "br", "hr", "input"}


class Read(HTMLParser):
    """A page taken apart: tags with attributes, text by section, tables as cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sections, self.tables, self.scripts, self.styles = [], {}, [], [], []
        self.open, self.section = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "section":
            self.section = given["id"]
        if tag == "table":
            self.tables.append((self.section, []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("th", "td"):
            value = given.get("data-value")
            self.tables[-1][1][-1].append(["", None if value is None else float(value)])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are not nested"

    def handle_data(self, data):
        into = (
            {"script": self.scripts, "style": self.styles}.get(self.open[-1]) if self.open else None
        )
        if into is not None:
            into.append(data)
        elif "svg" not in self.open:
            self.sections[self.section] = self.sections.get(self.section, "") + data
            if self.open[-1:] and {"th", "td"} & set(self.open):
                self.tables[-1][1][-1][-1][0] += data

    def words(self, section):
        return " ".join(self.sections[section].split())

    def table(self, section, place=0):
        """Rows of a table, column -> (text, value)."""
        head, *rows = [rows for where, rows in self.tables if where == section][place]
        names = [text.strip() for text, _ in head]
        return [
            {name: (text.strip(), value) for name, (text, value) in zip(names, row, strict=True)}
            for row in rows
        ]


def run(*arguments):
    return CliRunner().invoke(report, with_k(arguments))


def made(path, *arguments, status=0):
    """The page that a command makes, taken apart."""
    ended = run("-o", path, *arguments)
    assert ended.exit_code == status, ended.output + str(ended.exception)
    return Read(path.read_text())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two claims, and figures that are made but not drawn: `tests/test_plots.py` looks at those."""
    monkeypatch.setattr("lp_routing.cli.report.CLAIMS", FEW)
    monkeypatch.setattr(
        "lp_routing.report.figures.as_svg", lambda _, *, prefix: f'<svg id="{prefix}"></svg>'
    )


@pytest.fixture
def small(tmp_path):
    """One layer of 8 tokens and 3 experts."""
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "small.npz", router_logits=logits.numpy())
    return tmp_path / "small.npz"


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
    assert sum(tag == "figure" for tag, _ in page.read.tags) == 6
    linked = [given["href"] for tag, given in page.read.tags if tag == "a"]
    every = {given.get("id") for _, given in page.read.tags}
    assert {f"#{part}" for part in parts} <= set(linked)
    assert all(link[1:] in every for link in linked)


def test_ids_are_used_once(page):
    ids = [given["id"] for _, given in page.read.tags if "id" in given]
    assert len(ids) == len(set(ids))


def loaded(read):
    """Addresses that a browser would ask something of."""
    found = [
        (tag, address)
        for tag, given in read.tags
        for name, address in given.items()
        if name in LOADS or (name == "href" and tag != "a")
    ]
    css = "".join(read.styles) + "".join(given.get("style") or "" for _, given in read.tags)
    found += [("style", address) for address in re.findall(r"url\(\s*['\"]?([^)'\"]*)", css)]
    found += [("style", rule) for rule in re.findall(r"@import[^;]*|@font-face", css)]
    return [(tag, address) for tag, address in found if not re.match(r"#|data:", address)]


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
    assert lines[0] == "0 of 8 done: layer 0"
    assert all(re.search(r"^\d of 8 done, about \d+ s left: ", line) for line in lines[1:-1])


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
    rows = [row for row in page.read.table("layers", 1) if row["router"][0] == "top-k"]
    assert len(rows) == 2
    for row in rows:
        assert row["lost"] == ("breaks a bound", None)
        assert row["worst broken bound"][1] > 0
    assert "\N{LEFT DOUBLE QUOTATION MARK}top-k\N{RIGHT DOUBLE QUOTATION MARK} breaks a bound" in (
        page.read.words("summary")
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


def test_a_case_by_hand(tmp_path):
    """Two slots at each of two experts; all four tokens like expert 0 best.

    Tokens 2 and 3 like it by most, so top-1 that drops by score keeps these two, worth 4 + 4, and
    drops the others. The optimum sends those to expert 1: 4 + 4 + 3 + 3 = 14. Lost: 6 of 14.
    With three slots it is 4 + 4 + 4 + 3 = 15; with one, 4 + 3 = 7. Without limit 16.
    """
    np.save(tmp_path / "hand.npy", np.array([[4.0, 3.0], [4.0, 3.0], [4.0, 1.0], [4.0, 0.0]]))
    options = ("--k", 1, "--capacity-factor", 1, "--score", "logits", "--routers", "drop by score")
    read = made(tmp_path / "page.html", tmp_path / "hand.npy", *options)
    said = read.words("summary").replace("\N{NO-BREAK SPACE}", " ")
    assert "loses 42.9 % of what is attainable in layer 0" in said
    assert "It leaves 2 tokens of a layer without any expert" in said
    assert "under the same bounds the optimum leaves 0" in said
    assert "with 2 slots an expert is worth 14, 87.50 % of what 4 slots" in said
    assert "The last slot at every expert brings 7 in all, one more would bring 1." in said
    (row,) = read.table("layers")
    assert (row["optimum"][1], row["drop by score"][1], row["pairs shared"][1]) == (14, 8, 0.5)


@pytest.mark.parametrize(
    ("main", "says"),
    [
        ("top-k", "breaks bounds in 1 layer (in layer 0: expert_0 counts 4, at most 2), so there"),
        ("refuses", "gave no answer in 1 layer: ZeroDivisionError: by nothing."),
    ],
)
def test_a_main_router_without_a_loss(tmp_path, monkeypatch, main, says):
    """Of the case by hand."""
    monkeypatch.setitem(CATALOGUE, "refuses", lambda _: fails)
    np.save(tmp_path / "hand.npy", np.array([[4.0, 3.0], [4.0, 3.0], [4.0, 1.0], [4.0, 0.0]]))
    options = ("--k", 1, "--capacity-factor", 1, "--score", "logits", "--routers", main)
    read = made(tmp_path / "page.html", tmp_path / "hand.npy", *options)
    assert says in read.words("summary")
    assert "loses" not in read.words("summary")
    assert read.table("layers")[0]["lost"][1] is None
    assert ("not drawn. refuses gave no answer" in read.words("figures")) is (main == "refuses")


def test_the_same_call_gives_the_same_bytes(small, tmp_path):
    pages = [tmp_path / "1" / "page.html", tmp_path / "2" / "page.html"]
    for path in pages:
        path.parent.mkdir()
        made(path, small, "--routers", "drop by score, random")
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_times_are_there_where_they_are_asked_for(small, tmp_path):
    read = made(tmp_path / "page.html", small, "--times", "--routers", "drop by score, top-k")
    assert all(row["time [topk]"][1] > 0 for row in read.table("layers", 1))
    assert sum(tag == "figure" for tag, _ in read.tags) == 7
    assert "--times" in read.words("making")


def test_the_date_is_what_is_said(small, tmp_path, page):
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", page.read.words(""))
    read = made(tmp_path / "page.html", small, "--date", "2031-02-03", "--routers", "top-k")
    assert "2031-02-03" in read.words("")
    assert ("2031-02-03", None) in [row["value"] for row in read.table("making")]


def test_the_command_makes_the_page_again(small, tmp_path):
    settings = ("--k", 3, "--routers", "top-k", "--seed", 5, "--date", "a day")
    first = made(tmp_path / "page.html", small, *settings, status=0)
    (line,) = re.findall(r"lp-routing report .*?-o page.html", first.words("making"))
    assert line == (
        "lp-routing report small.npz --routers top-k --k 3 --capacity-factor 1.25 --score softmax "
        "--seed 5 --date 'a day' -o page.html"
    )


def test_text_from_anywhere_is_text(tmp_path, monkeypatch):
    """Names of files and routers, errors, dates and claims that try to be markup."""

    def refuse(_):
        raise ValueError(NASTY)

    nasty = replace(CLAIMS[0], title=NASTY, examine=lambda _: Evidence(True, NASTY))
    monkeypatch.setattr("lp_routing.cli.report.CLAIMS", (nasty, replace(nasty, examine=refuse)))
    monkeypatch.setitem(CATALOGUE, f"nasty {NASTY}", lambda s: TopK(s.k))
    monkeypatch.setitem(CATALOGUE, "refuses", refuse)
    monkeypatch.setattr(frontier, "over_capacity", lambda *_, **__: refuse(None))
    path = tmp_path / "<img src=x onerror=alert(1)>.npz"
    np.savez(path, router_logits=2 * np.eye(4, dtype=np.float32))
    options = ("--k", 1, "--date", NASTY, "--routers", f"nasty {NASTY}, refuses")
    read = made(tmp_path / "page.html", path, *options, status=1)
    assert read.scripts == Read((tmp_path / "page.html").read_text()).scripts
    assert len(read.scripts) == 1
    assert not any(tag == "img" or "onerror" in given for tag, given in read.tags)
    assert "<img src=x onerror=alert(1)>.npz" in read.words("")
    for section in ("", "layers", "capacity", "claims", "audits", "making"):
        assert "<script>alert(2)</script>" in read.words(section), section
    assert "\x00" not in (tmp_path / "page.html").read_text()


def test_a_file_without_logits_says_which_keys_it_has(tmp_path):
    np.savez(tmp_path / "a.npz", **{"</script>": np.eye(2)})
    ended = run(tmp_path / "a.npz", "-o", tmp_path / "page.html")
    assert ended.exit_code == 2
    assert "found </script>" in ended.stderr
    assert not (tmp_path / "page.html").exists()


def fails(*_, **__):
    raise ZeroDivisionError("by nothing")


def test_parts_that_fail_lose_no_other_and_exit_with_1(small, tmp_path, monkeypatch):
    for part in (
        "frontier.over_capacity",
        "cli.report.check_all",
        "report.plots.prices",
        "cli.report.audit",
    ):
        monkeypatch.setattr(f"lp_routing.{part}", fails)
    read = made(tmp_path / "page.html", small, "--routers", "drop by score", status=1)
    for section in ("capacity", "claims", "figures", "audits"):
        assert read.words(section).count("ZeroDivisionError: by nothing") == 1, section
    assert sum(tag == "figure" for tag, _ in read.tags) == 4
    assert "What capacity buys, What papers claim and Audits; the reason" in read.words("summary")
    assert read.table("layers")
    assert read.table("certificates")


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
    audits = {**page.found.audits, "top-k": Attempt(None, "It is gone.")}
    read = changed(page, audits=audits)
    assert "Failed. top-k: It is gone." in read.words("audits")
    assert set(read.table("audits")[0]) == {"audit", *ROUTERS.split(", ")[:1]} | {
        "drop by position, token-major"
    }


def test_a_figure_that_fails_makes_the_exit_1(page, monkeypatch):
    monkeypatch.setattr(plots, "frontier", fails)
    assert "Value of capacity: ZeroDivisionError: by nothing" in changed(page).words("capacity")


def test_without_a_layer_the_rest_is_there(small, tmp_path, monkeypatch):
    monkeypatch.setattr("lp_routing.cli.report.examine_layer", fails)
    read = made(tmp_path / "page.html", small, "--routers", "drop by score", status=1)
    assert "Layer 0: ZeroDivisionError: by nothing" in read.words("layers")
    for section in ("figures", "capacity", "certificates", "audits"):
        assert "o layer could be examined." in read.words(section)
    assert read.table("claims")


def test_a_layer_that_fails_loses_no_other(page):
    read = changed(page, layers=[page.found.layers[0], Attempt(None, "It is gone.")])
    assert "Failed. Layer 2: It is gone." in read.words("layers")
    assert [row["layer"][1] for row in read.table("layers")] == [0]


def test_without_matplotlib_the_command_says_what_to_install(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = run(small, "-o", tmp_path / "page.html")
    assert ended.exit_code == 2
    assert "pip install" in ended.stderr
    assert "done" not in ended.stderr


def test_where_there_is_nothing_to_draw_nothing_has_failed(tmp_path):
    """A single token, which takes both experts."""
    np.save(tmp_path / "one.npy", np.array([[1.0, 2.0]]))
    options = ("--routers", "drop by score")
    read = made(tmp_path / "page.html", tmp_path / "one.npy", *options)
    assert "Causality: not drawn." in read.words("figures")
    assert "Precision: not drawn." in read.words("figures")


def test_evidence_against_a_verdict_is_not_well(page):
    against, agreeing = page.found.claims.result
    against = replace(against, evidence=Evidence(False, "It is otherwise."))
    read = changed(page, claims=Attempt([against, agreeing]))
    assert [row["here"][0] for row in read.table("claims")] == ["AGAINST", "ok"]
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


def test_capacities_without_proof_are_not_spoken_of(small, tmp_path, monkeypatch):
    proved = refine._by_prices
    monkeypatch.setattr(refine, "_by_prices", lambda *given: proved(*given) + 1)
    read = made(tmp_path / "page.html", small, "--routers", "drop by score", status=1)
    assert "is not proved: its bound is 1 above its value." in read.words("capacity")
    assert "slots" not in read.words("summary")


def test_an_answer_that_is_not_optimal_is_not_well(page):
    first = page.found.layers[0].result
    doubted = replace(first.solution, status=lpr.Status.FEASIBLE)
    layers = [Attempt(replace(first, solution=doubted)), page.found.layers[1]]
    assert "Layer 0 is not proved" in changed(page, layers=layers).words("certificates")


def test_a_router_above_the_bound_refutes_the_optimum(page):
    first = page.found.layers[0].result
    above = [replace(first.rows[0], relative_gap=-0.01), *first.rows[1:]]
    layers = [Attempt(replace(first, rows=above)), page.found.layers[1]]
    says = "Layer 0 is not proved: drop by score is worth more than the bound."
    assert says in changed(page, layers=layers).words("certificates")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.npz"], "missing.npz"),
        (["--layers", "9"], "--layers 9"),
        (["--tokens", "none"], "--tokens none"),
        (["--k", 40], "k=40"),
        (["--routers", "nobody"], "'nobody' is unknown"),
        (["--routers", "optimum"], "'optimum' is unknown"),
        (["--capacity-factor", "-1"], "capacity"),
        (["--seed", "-1"], "seed=-1"),
        (["-o", "/nowhere/page.html"], "--output /nowhere/page.html"),
        (["-o", "/"], "--output /"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_what_was_there(tmp_path, arguments, says):
    path = tmp_path / "page.html"
    path.write_text("as it was")
    ended = run("-o", path, *arguments)
    assert ended.exit_code == 2
    assert says in ended.stderr
    assert "done" not in ended.stderr
    assert path.read_text() == "as it was"


def test_the_file_that_is_read_is_not_written(small):
    before = small.read_bytes()
    ended = run(small, "-o", small)
    assert ended.exit_code == 2
    assert "this is the file to read" in ended.stderr
    assert small.read_bytes() == before


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("as it was")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(lpr.InputError, match="No space left on device"):
        write_whole(path, "half a page")
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_page_keeps_it(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("as it was")
    with path.open() as reader:
        write_whole(path, "new")
        assert reader.read() == "as it was"
    assert path.read_text() == "new"


def test_what_there_is_is_written_when_interrupted(small, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lp_routing.cli.report.check_all", interrupt)
    read = made(tmp_path / "page.html", small, "--routers", "drop by score", status=130)
    assert "Interrupted before it was computed." in read.words("claims")
    assert "Interrupted before it was computed." in read.words("audits")
    assert read.table("layers")
    assert read.table("capacity")


def test_forbidden_pairs_and_padding(tmp_path):
    logits = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(2))
    logits[:, :4, 0] = -torch.inf
    mask = np.arange(16) < 14
    np.savez(tmp_path / "a.npz", router_logits=logits.numpy(), mask=mask)
    options = ("--routers", "drop by score")
    read = made(tmp_path / "page.html", tmp_path / "a.npz", *options)
    assert "all 14 tokens of each, 4 experts" in read.words("summary")


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


def test_the_command_has_a_default_for_everything_but_the_page():
    required = [p.name for p in report.params if p.required]
    assert required == ["output"]


def test_tokens_that_may_go_nowhere_are_not_dropped_by_anyone(tmp_path):
    logits = np.full((1, 10, 4), -np.inf)
    logits[:, :3, 0] = 1.0  # seven tokens may go nowhere
    np.savez(tmp_path / "a.npz", router_logits=logits)
    read = made(tmp_path / "page.html", tmp_path / "a.npz", "--k", 1, "--routers", "drop by score")
    assert "It leaves 0 tokens of a layer without any expert" in read.words("summary")
    assert "the optimum leaves 0." in read.words("summary")


def test_there_is_no_share_to_lose_of_an_optimum_of_nothing(tmp_path):
    logits = -1 - np.random.default_rng(0).random((1, 8, 3))
    np.savez(tmp_path / "a.npz", router_logits=logits)
    options = ("--k", 1, "--score", "logits", "--routers", "drop by score")
    read = made(tmp_path / "page.html", tmp_path / "a.npz", *options)
    assert "of what is attainable" not in read.words("summary")
    assert "no share: the optimum is not above 0" in read.words("layers")


def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: told.append(pipe.read_text()))
    told = []
    reader.start()
    write_whole(pipe, "a page")
    reader.join()
    assert told == ["a page"]
    assert pipe.is_fifo()
