"""`lp-routing claims` and the page that it makes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lp_routing as lpr
from lp_routing.claims import CLAIMS, Evidence
from lp_routing.claims.claim import Checked, check_all
from lp_routing.cli import main
from lp_routing.report.claims import EVIDENCE, anchor, markdown_page
from tests.commands import with_k

PAGE = Path(lpr.__file__).parents[1] / "docs" / "claims.md"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")
ALL = "lp_routing.cli.claims.CLAIMS"


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["claims", *with_k(arguments)])


def test_some_claims_on_the_sample(tmp_path):
    path, markdown = tmp_path / "claims.json", tmp_path / "claims.md"
    ended = run("--only", ",B4, B1", "--tokens", 64, "--json", path, "--markdown", markdown)
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
    monkeypatch.setattr(ALL, (against, CLAIMS[3]))
    path = tmp_path / "claims.json"
    ended = run("--tokens", 32, "--json", path)
    assert ended.exit_code == 1
    assert "1 of 2 verdicts do not come out as stated" in ended.output
    assert "It is otherwise." in ended.output
    assert [each["comes_out"] for each in json.loads(path.read_text())["claims"]] == [False, True]


def test_what_was_not_asked_does_not_count_as_come_out(monkeypatch):
    silent = replace(CLAIMS[0], examine=lambda _: Evidence(None, "Nothing to ask."))
    monkeypatch.setattr(ALL, (silent, CLAIMS[3]))
    said = "All 1 verdicts come out as stated. Of 1 more there was nothing to ask here."
    assert said in run("--tokens", 32).output
    monkeypatch.setattr(ALL, (silent,))
    assert "No verdict could be tried" in run("--tokens", 32).output


def test_a_check_that_raises_exits_with_1_and_the_others_are_told(monkeypatch):
    def raises(_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(
        "lp_routing.cli.claims.CLAIMS", (replace(CLAIMS[0], examine=raises), CLAIMS[3])
    )
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


def test_forbidden_pairs_are_skipped_with_a_reason(tmp_path):
    logits = np.zeros((8, 4), dtype=np.float32)
    logits[0, 0] = -np.inf
    np.save(tmp_path / "logits.npy", logits)
    ended = run(tmp_path / "logits.npy")
    assert ended.exit_code == 0
    assert "forbidden" in ended.output


def test_links_lead_to_headings():
    text = markdown_page([Checked(claim, None, "-") for claim in CLAIMS], "nothing", "none")
    headings = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert len(headings) == len(CLAIMS)
    for claim in CLAIMS:
        assert f"](#{anchor(claim)})" in text


def static_and_measured(text):
    """The lines that do not depend on logits, and those that do."""
    lines = text.splitlines()
    measured = [line for line in lines if line.startswith(EVIDENCE)]
    return [line for line in lines if not line.startswith(EVIDENCE)], measured


def words_and_numbers(text):
    return NUMBER.sub("#", text), [float(number) for number in NUMBER.findall(text)]


def is_current(now, stated):
    """Whether two pages have the same words, and figures measured alike up to rounding."""
    (static, measured), (old_static, old_measured) = map(static_and_measured, (now, stated))
    if static != old_static or len(measured) != len(old_measured):
        return False
    for line, before in zip(measured, old_measured, strict=True):
        (words, figures), (old_words, old_figures) = map(words_and_numbers, (line, before))
        if words != old_words or figures != pytest.approx(old_figures, rel=0.02, abs=1e-6):
            return False
    return True


def test_the_page_is_current():
    """Its words are those of the claims; its figures are measured again, up to rounding."""
    logits = lpr.traces.sample().router_logits[:, :1024]
    L, T, E = logits.shape
    said = f"the sample, {L} layer(s), {T} tokens, {E} experts; k=2, seed 0"
    command = "lp-routing claims --tokens 1024 --markdown docs/claims.md"
    now = markdown_page(check_all(CLAIMS, logits), said, command)
    assert is_current(now, PAGE.read_text()), f"make it anew: {command}"


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("= 1.381.", "= 1.39."),
        ("arXiv 2503.22996", "arXiv 2503.22997"),
        ("2048 pairs", "2148 pairs"),
    ],
    ids=["a figure of a story", "a source", "a measured figure"],
)
def test_a_page_with_another_figure_is_not_current(was, is_now):
    text = PAGE.read_text()
    assert was in text
    assert is_current(text, text)
    assert not is_current(text.replace(was, is_now), text)


def test_one_path_for_both_files_is_refused(tmp_path):
    ended = run("--only", "B4", "--json", tmp_path / "x", "--markdown", tmp_path / "x")
    assert ended.exit_code == 2
    assert "give two files" in ended.output


def test_the_table_of_a_counterexample_counts_from_1_as_its_story_does():
    text = markdown_page([Checked(CLAIMS[0], None, "-")], "nothing", "none")
    assert "| token 1 | 2 | -1 |" in text
    assert "expert 0" not in PAGE.read_text()
    assert "token 0" not in PAGE.read_text()


def test_claims_of_an_earlier_run_are_not_checked_again(monkeypatch, tmp_path):
    kept = ("--tokens", 32, "--resume", tmp_path / "kept.jsonl")
    assert run("--only", "B1", *kept).exit_code == 0

    def raises(_):
        raise AssertionError("checked again")

    monkeypatch.setattr(
        "lp_routing.cli.claims.CLAIMS", (replace(CLAIMS[0], examine=raises), CLAIMS[3])
    )
    ended = run(*kept, "--json", tmp_path / "claims.json")
    assert ended.exit_code == 0, ended.output
    assert "checking: 2 of 2" in ended.stderr
    written = json.loads((tmp_path / "claims.json").read_text())["claims"]
    logits = lpr.traces.sample().router_logits[:, :32]
    fresh = check_all([CLAIMS[0], CLAIMS[3]], logits)
    for each, now in zip(written, fresh, strict=True):
        assert each["evidence"] == json.loads(json.dumps(now.evidence.as_json()))
    other = run("--only", "B1", *kept, "--seed", 1)
    assert other.exit_code == 2
    assert "seed was 0, is 1" in other.stderr


def test_an_interruption_of_claims_says_how_to_go_on(monkeypatch):
    def stops(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "lp_routing.cli.claims.CLAIMS", (CLAIMS[3], replace(CLAIMS[0], examine=stops))
    )
    ended = run("--tokens", 32)
    assert ended.exit_code == 130
    assert "Interrupted. 1 of 2 are done, and nothing is kept" in ended.stderr
