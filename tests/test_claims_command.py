"""`lp-routing claims` and the page that it makes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing import claims
from lp_routing.claims import CLAIMS, Evidence
from lp_routing.claims.checking import Checked, check_all
from lp_routing.cli import main
from lp_routing.report.claims_page import anchor, page

PAGE = Path(lpr.__file__).parents[1] / "docs" / "claims.md"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["claims", *map(str, arguments)])


def test_some_claims_on_the_sample(tmp_path):
    path, markdown = tmp_path / "claims.json", tmp_path / "claims.md"
    ended = run("--only", "B4,B1", "--tokens", 64, "--json", path, "--markdown", markdown)
    assert ended.exit_code == 0, ended.output
    assert "All 2 verdicts come out as stated." in ended.output
    written = json.loads(path.read_text())
    assert [each["id"] for each in written["claims"]] == ["B1", "B4"]
    assert all(each["comes_out"] for each in written["claims"])
    assert written["versions"]["lp-routing"] == lpr.__version__
    assert "### B4: " in markdown.read_text()
    assert "--tokens 64" in markdown.read_text()


def test_evidence_against_a_verdict_exits_with_1(monkeypatch, tmp_path):
    against = replace(CLAIMS[0], examine=lambda _: Evidence(False, "It is otherwise."))
    monkeypatch.setattr(claims, "CLAIMS", (against, CLAIMS[3]))
    path = tmp_path / "claims.json"
    ended = run("--tokens", 32, "--json", path)
    assert ended.exit_code == 1
    assert "1 of 2 verdicts do not come out as stated" in ended.output
    assert "It is otherwise." in ended.output
    assert [each["comes_out"] for each in json.loads(path.read_text())["claims"]] == [False, True]


def test_a_check_that_raises_exits_with_1_and_the_others_are_told(monkeypatch):
    def raises(_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(claims, "CLAIMS", (replace(CLAIMS[0], examine=raises), CLAIMS[3]))
    ended = run("--tokens", 32)
    assert ended.exit_code == 1
    assert "The check failed: ZeroDivisionError: by nothing" in ended.output
    assert CLAIMS[3].title.split()[0] in ended.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "B99"], "there is no such claim"),
        (["--k", "40"], "k=40"),
        (["--tokens", "none"], "--tokens none"),
        (["--layers", "9"], "--layers 9"),
        (["missing.npz"], "missing.npz"),
        (["--markdown", "/nowhere/page.md"], "--markdown /nowhere/page.md"),
    ],
)
def test_bad_input_exits_with_2(arguments, says):
    ended = run("--only", "B4", *arguments) if "--only" not in arguments else run(*arguments)
    assert ended.exit_code == 2
    assert says in ended.output


def test_forbidden_pairs_are_refused_with_a_reason(tmp_path):
    logits = np.zeros((8, 4), dtype=np.float32)
    logits[0, 0] = -np.inf
    np.save(tmp_path / "logits.npy", logits)
    ended = run(tmp_path / "logits.npy")
    assert ended.exit_code == 2
    assert "forbid some pairs" in ended.output


def test_links_lead_to_headings():
    text = page([Checked(claim, None, "-") for claim in CLAIMS], "nothing", "none")
    headings = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert len(headings) == len(CLAIMS)
    for claim in CLAIMS:
        assert f"](#{anchor(claim)})" in text


def words_and_numbers(text):
    return NUMBER.sub("#", text), [float(number) for number in NUMBER.findall(text)]


def test_the_page_is_current():
    """Its words are those of the claims; its figures are measured again, up to rounding."""
    logits = lpr.traces.sample().router_logits[:, :1024]
    L, T, E = logits.shape
    said = f"the sample, {L} layer(s), {T} tokens, {E} experts; k=2, seed 0"
    command = "lp-routing claims --markdown docs/claims.md"
    now, figures = words_and_numbers(page(check_all(CLAIMS, logits), said, command))
    stated, old = words_and_numbers(PAGE.read_text())
    assert now.splitlines() == stated.splitlines(), f"make it anew: {command}"
    for figure, before in zip(figures, old, strict=True):
        assert figure == pytest.approx(before, rel=0.02, abs=1e-6), f"make it anew: {command}"


def test_a_page_with_another_figure_is_not_current():
    assert words_and_numbers("holds 95.1 % of 4") == ("holds # % of #", [95.1, 4.0])
    assert words_and_numbers("at 3e-13, not -2")[1] == [3e-13, -2.0]
