"""`lp-routing report A B`: answers of two files side by side, against the reports of each."""

import numpy as np
import pytest

from tests.report_pages import fails, loaded, made, patch_quick, run

# Four tokens that all prefer expert 0, and four of which two prefer each. With k = 1 and capacity
# factor 1 there are two slots an expert: dropping by score keeps two of the first four, and all of
# the others.
CROWDED = [[[3.0, 2.0], [3.0, 2.5], [4.0, 2.0], [5.0, 1.0]]]
EVEN = [[[3.0, 2.0], [2.0, 3.0], [4.0, 2.0], [1.0, 5.0]]]
OPTIONS = ("--k", 1, "--score", "logits", "--capacity-factor", 1, "--routers", "drop-by-score")


@pytest.fixture
def files(tmp_path):
    for name, logits in (("crowded", CROWDED), ("even", EVEN)):
        values = np.array(logits, dtype=np.float32)
        np.savez(tmp_path / f"{name}.npz", router_logits=values, axes="LTE")
    return tmp_path / "crowded.npz", tmp_path / "even.npz"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patch_quick(monkeypatch)
    monkeypatch.setattr("lp_routing.report.figures.plots.resize", lambda *_: None)


def test_two_files_by_hand(files, tmp_path):
    """Dropping by score keeps 5 + 4 of 15; the best are 5, 4, 2.5 and 2: lost are 4.5 of 13.5."""
    read = made(tmp_path / "page.html", *files, *OPTIONS)
    assert loaded(read) == []
    assert list(read.sections)[1:] == [
        "summary",
        "decision",
        "routers",
        "claims",
        "audits",
        "making",
    ]
    (row,) = read.table("routers")
    assert row["crowded.npz: lost"] == ("33.3\xa0%", pytest.approx(4.5 / 13.5))
    assert row["even.npz: lost"] == ("0\xa0%", 0)
    assert row["difference"] == ("-33.33", pytest.approx(-100 * 4.5 / 13.5))
    assert row["crowded.npz: dropped"][1] == 0.5
    kept = {(r["method"][0], r["factor"][0]): r for r in read.table("decision")}
    assert kept["drop-by-score", "1"]["crowded.npz: kept"][1] == pytest.approx(9 / 15)
    assert kept["drop-by-score", "1"]["even.npz: kept"][1] == 1
    assert kept["optimum", "1"]["difference"][1] == pytest.approx(100 * (1 - 13.5 / 15))
    asked = {row["what"][0]: row for row in read.table("summary")}
    assert asked["experts"][""][0] == ""
    assert asked["sha256 of the logits"][""][0] == "differ"
    says = read.words("summary")
    assert "loses on average 33.3 % in crowded.npz and 0 % in even.npz." in says
    assert says.count("Recommended: capacity factor") == 2
    assert "report crowded.npz even.npz" in read.words("making")


def test_a_file_beside_itself_differs_in_nothing(files, tmp_path):
    read = made(tmp_path / "page.html", files[0], files[0], *OPTIONS)
    assert all(row[""][0] == "" for row in read.table("summary"))
    assert all(row["difference"][1] in (0, None) for row in read.table("decision"))
    assert "Both files answer alike on all" in read.words("claims")
    assert "crowded.npz (A)" in read.words("summary")
    for row in read.table("audits"):
        assert row["crowded.npz (A)"] == row["crowded.npz (B)"]


def test_sides_have_what_their_own_reports_have(files, tmp_path):
    both = made(tmp_path / "page.html", *files, *OPTIONS)
    for file in files:
        alone = made(tmp_path / "alone.html", file, *OPTIONS)
        assert f"{file.name}: {alone.words('summary')[8:100]}" in both.words("summary")
        (one,) = alone.table("layers", 1)
        (row,) = both.table("routers")
        assert row[f"{file.name}: lost"][1] == pytest.approx(one["lost"][1])


def test_a_part_that_fails_in_one_file_fails_the_page_and_loses_no_other(
    files, tmp_path, monkeypatch
):
    monkeypatch.setattr("lp_routing.cli.report.audit", fails)
    read = made(tmp_path / "page.html", *files, *OPTIONS, status=1)
    assert read.words("audits").count("ZeroDivisionError: by nothing") == 2
    assert read.table("routers")


def test_a_page_over_a_file_and_a_file_that_is_missing_are_refused(files, tmp_path):
    ended = run(*files, "-o", files[1], *OPTIONS)
    assert ended.exit_code == 2
    assert "this is the file to read" in ended.stderr
    ended = run(files[0], tmp_path / "missing.npz", "-o", tmp_path / "page.html", *OPTIONS)
    assert ended.exit_code == 2
    assert "missing.npz" in ended.stderr
    assert not (tmp_path / "page.html").exists()
