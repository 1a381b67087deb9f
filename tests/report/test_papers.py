"""The page of papers: every claim in a row, every row with a reason, and the page as it is."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.claims import CLAIMS
from lp_routing.cli.commands import main
from lp_routing.report.papers import GLOSSARY, PAPERS, Paper, papers_page

PAGE = Path(lpr.__file__).parents[1] / "docs" / "papers.md"
COMMAND = "lp-routing claims --papers docs/papers.md"


def test_the_page_is_current():
    assert papers_page(CLAIMS, COMMAND) == PAGE.read_text(), f"make it anew: {COMMAND}"


def test_every_claim_has_a_paper_and_every_paper_a_claim_or_a_reason():
    page = papers_page(CLAIMS, "x")
    assert all(f"[{claim.id}](claims.md#" in page for claim in CLAIMS)
    assert all(paper.claims or paper.note for paper in PAPERS)
    assert len({paper.name for paper in PAPERS}) == len(PAPERS)


def test_a_row_by_hand():
    paper = Paper(
        "Best", "Me 2020", "tokens", "tokens = 1", "argmax | ties low", ("O1",), "not all"
    )
    page = papers_page(CLAIMS, "x", [paper])
    assert (
        "| Best | tokens | tokens = 1 | argmax \\| ties low | "
        "[O1](claims.md#o1-bip-balances-optimally) fails (not all) | "
        "`lp-routing claims --only O1` |"
    ) in page
    assert "- Best: Me 2020." in page
    assert all(f"**{term}**" in page for term in GLOSSARY)


def test_a_claim_without_a_paper_has_a_row_of_its_own():
    new = replace(CLAIMS[0], id="X1", title="best is best", formula="s <= m", source="me")
    page = papers_page([*CLAIMS, new], "x")
    assert "| best is best |  | s <= m |  | [X1](claims.md#x1-best-is-best)" in page
    assert "- best is best: me." in page
    assert papers_page(CLAIMS, "x").count("[X1]") == 0


def test_a_claim_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="B99"):
        papers_page(CLAIMS, "x", [replace(PAPERS[0], claims=("B99",))])


def test_links_lead_to_headings_of_the_page_of_claims():
    headings = (PAGE.parent / "claims.md").read_text()
    for claim in CLAIMS:
        assert f"### {claim.id}: {claim.title}\n" in headings


def test_the_command_writes_the_page(tmp_path):
    path = tmp_path / "papers.md"
    words = ["claims", "--only", "B4", "--tokens", "32", "--papers", str(path)]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.output
    assert path.read_text() == papers_page(CLAIMS, f"lp-routing claims --papers {path}")
