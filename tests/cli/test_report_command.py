"""`lp-routing report`: a case by hand, its options, text that tries to be code, and failures."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from lp_routing import frontier
from lp_routing.claims import CLAIMS, Evidence
from lp_routing.cli.commands import report
from lp_routing.frontier import refine
from lp_routing.routers import CATALOGUE, TopK
from tests.report_pages import Read, fails, made, patch_quick, run, save_small

NASTY = "</script><script>alert(2)</script><img src=x onerror=alert(3)> & \x00 \ud800"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patch_quick(monkeypatch)


@pytest.fixture
def small(tmp_path):
    return save_small(tmp_path)


def test_a_case_by_hand(tmp_path):
    """Two slots at each of two experts; all four tokens like expert 0 best.

    Tokens 2 and 3 like it by most, so top-1 that drops by score keeps these two, worth 4 + 4, and
    drops the others. The optimum sends those to expert 1: 4 + 4 + 3 + 3 = 14. Lost: 6 of 14.
    With three slots it is 4 + 4 + 4 + 3 = 15; with one, 4 + 3 = 7. Without limit 16.
    """
    np.save(tmp_path / "hand.npy", np.array([[4.0, 3.0], [4.0, 3.0], [4.0, 1.0], [4.0, 0.0]]))
    options = ("--k", 1, "--capacity-factor", 1, "--score", "logits", "--routers", "drop-by-score")
    read = made(tmp_path / "page.html", tmp_path / "hand.npy", *options)
    said = read.words("summary").replace("\N{NO-BREAK SPACE}", " ")
    assert "loses 42.9 % of what is attainable in layer 0" in said
    assert "It leaves 2 tokens of a layer without any expert" in said
    assert "under the same bounds the optimum leaves 0" in said
    assert "with 2 slots an expert is worth 14, 87.50 % of what 4 slots" in said
    assert "The last slot at every expert brings 7 in all, one more would bring 1." in said
    (row,) = read.table("layers")
    assert (row["optimum"][1], row["drop-by-score"][1], row["pairs shared"][1]) == (14, 8, 0.5)


@pytest.mark.parametrize(
    ("main", "says"),
    [
        (
            "token-choice",
            "breaks bounds in 1 layer (in layer 0: expert_0 counts 4, at most 2), so there",
        ),
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
        made(path, small, "--routers", "drop-by-score, random")
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_times_are_there_where_they_are_asked_for(small, tmp_path):
    read = made(
        tmp_path / "page.html", small, "--times", "--routers", "drop-by-score, token-choice"
    )
    assert all(row["time [topk]"][1] > 0 for row in read.table("layers", 1))
    assert sum(tag == "figure" for tag, _ in read.tags) == 8
    assert "--times" in read.words("making")


def test_the_command_makes_the_page_again(small, tmp_path):
    settings = ("--k", 3, "--routers", "token-choice", "--seed", 5, "--date", "a day")
    first = made(tmp_path / "page.html", small, *settings, status=0)
    (line,) = re.findall(r"lp-routing report .*?-o page.html", first.words("making"))
    assert line == (
        "lp-routing report small.npz --routers token-choice --k 3 --score softmax "
        "--capacity-factor 1.25 --seed 5 --date 'a day' -o page.html"
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


def test_parts_that_fail_lose_no_other_and_exit_with_1(small, tmp_path, monkeypatch):
    for part in (
        "frontier.over_capacity",
        "cli.report.check_all",
        "report.plots.prices",
        "cli.report.audit",
    ):
        monkeypatch.setattr(f"lp_routing.{part}", fails)
    read = made(tmp_path / "page.html", small, "--routers", "drop-by-score", status=1)
    for section in ("capacity", "claims", "figures", "audits"):
        assert read.words(section).count("ZeroDivisionError: by nothing") == 1, section
    assert sum(tag == "figure" for tag, _ in read.tags) == 5
    assert "What capacity buys, What papers claim and Audits; the reason" in read.words("summary")
    assert read.table("layers")
    assert read.table("certificates")


def test_without_a_layer_the_rest_is_there(small, tmp_path, monkeypatch):
    monkeypatch.setattr("lp_routing.cli.report.examine_layer", fails)
    read = made(tmp_path / "page.html", small, "--routers", "drop-by-score", status=1)
    assert "Layer 0: ZeroDivisionError: by nothing" in read.words("layers")
    for section in ("figures", "capacity", "certificates", "audits"):
        assert "o layer could be examined." in read.words(section)
    assert read.table("claims")


def test_where_there_is_nothing_to_draw_nothing_has_failed(tmp_path):
    """A single token, which takes both experts."""
    np.save(tmp_path / "one.npy", np.array([[1.0, 2.0]]))
    options = ("--routers", "drop-by-score")
    read = made(tmp_path / "page.html", tmp_path / "one.npy", *options)
    assert "Causality: not drawn." in read.words("figures")
    assert "Precision: not drawn." in read.words("figures")


def test_capacities_without_proof_are_not_spoken_of(small, tmp_path, monkeypatch):
    proved = refine._by_prices
    monkeypatch.setattr(refine, "_by_prices", lambda *given: proved(*given) + 1)
    read = made(tmp_path / "page.html", small, "--routers", "drop-by-score", status=1)
    assert "is not proved: its bound is 1 above its value." in read.words("capacity")
    assert "In layer 0 the best assignment with" not in read.words("summary")


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
        (["--seed", "-1"], "Invalid value for '--seed': -1"),
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


def test_what_there_is_is_written_when_interrupted(small, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lp_routing.cli.report.check_all", interrupt)
    read = made(tmp_path / "page.html", small, "--routers", "drop-by-score", status=130)
    assert "Interrupted before it was computed." in read.words("claims")
    assert "Interrupted before it was computed." in read.words("audits")
    assert read.table("layers")
    assert read.table("capacity")


def test_forbidden_pairs_and_padding(tmp_path):
    logits = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(2))
    logits[:, :4, 0] = -torch.inf
    mask = np.arange(16) < 14
    np.savez(tmp_path / "a.npz", router_logits=logits.numpy(), mask=mask)
    options = ("--routers", "drop-by-score")
    read = made(tmp_path / "page.html", tmp_path / "a.npz", *options)
    assert "all 14 tokens of each, 4 experts" in read.words("summary")


def test_the_command_has_a_default_for_everything_but_the_page():
    required = [p.name for p in report.params if p.required]
    assert required == ["output"]


def test_tokens_that_may_go_nowhere_are_not_dropped_by_anyone(tmp_path):
    logits = np.full((1, 10, 4), -np.inf)
    logits[:, :3, 0] = 1.0  # seven tokens may go nowhere
    np.savez(tmp_path / "a.npz", router_logits=logits)
    read = made(tmp_path / "page.html", tmp_path / "a.npz", "--k", 1, "--routers", "drop-by-score")
    assert "It leaves 0 tokens of a layer without any expert" in read.words("summary")
    assert "the optimum leaves 0." in read.words("summary")


def test_there_is_no_share_to_lose_of_an_optimum_of_nothing(tmp_path):
    logits = -1 - np.random.default_rng(0).random((1, 8, 3))
    np.savez(tmp_path / "a.npz", router_logits=logits)
    options = ("--k", 1, "--score", "logits", "--routers", "drop-by-score")
    read = made(tmp_path / "page.html", tmp_path / "a.npz", *options)
    assert "of what is attainable" not in read.words("summary")
    assert "no share: the optimum is not above 0" in read.words("layers")
