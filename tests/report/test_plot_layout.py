"""In figures nothing covers anything; as files and on pages they are safe and repeatable."""

import ast
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import lp_routing as lpr
from lp_routing.report import plots
from lp_routing.report.plots._labels import placed
from lp_routing.report.plots._style import looks, resize
from tests.figures import (
    KINDS,
    ROW,
    certified,
    drawing,
    faults,
    router_curve,
    shown_texts,
    sized,
)

matplotlib = pytest.importorskip("matplotlib")

NASTY = "</svg><script>alert('1')</script> --> $x_1$ & \x00 \N{GREEK SMALL LETTER LAMDA}"


# nothing covers anything


@pytest.mark.parametrize("E", [8, 64, 512])
def test_labels_fit_from_8_to_512_experts(E):
    _, before, after = sized(2 * E, E)
    both = {"top-k, first tokens dropped": before, "the optimum": after}
    assert faults(plots.load(both, capacity=5, ordered=E == 64, title="file.npz, layer 3")) == []
    assert faults(plots.assignment(after, before, title="file.npz, layer 3")) == []


@pytest.mark.parametrize("kind", ["frontier", "gap", "prices", "causality", "flips"])
def test_labels_fit_with_usual_and_with_long_names(kind):
    assert faults(drawing(kind, "a router, after 30 step(s)")) == []


@pytest.mark.parametrize("kind", ["frontier", "load", "assignment", "causality", "flips"])
def test_a_name_without_end_is_cut_and_a_title_goes_on_below(kind):
    assert faults(drawing(kind, "no end " * 30)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_labels_fit_in_a_column(kind):
    figure = drawing(kind, "a router, after 30 step(s)")
    height = figure.get_figheight()
    resize(figure, "column")
    assert figure.get_figwidth() == 3.4
    assert figure.get_figheight() >= height
    assert faults(figure) == []


def crowded():
    """Forty routers in four clusters."""
    places = [(10.0 ** (n % 4) + n, 0.1 ** (n % 3 + 1)) for n in range(40)]
    rows = [
        replace(ROW, router=f"router-{n:02d}", topk_units=units, relative_gap=gap)
        for n, (units, gap) in enumerate(places)
    ]
    return plots.gap_against_time({"forty routers": rows})


def test_forty_names_stand_beside_their_points_and_cover_nothing():
    figure = crowded()
    assert faults(figure) == []
    assert faults(figure) == []  # drawn again
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    names = [(text, box) for text, box in shown_texts(figure) if text.startswith("router-")]
    assert len(names) == 40
    assert all(frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 for _, box in names)


def test_a_name_goes_where_nothing_is():
    """To the right of its point where there is room, else to the left; the second one elsewhere."""
    size, frame = (20.0, 5.0), (0.0, 6.0, 100.0, 14.0)
    (right,) = placed([(10.0, 10.0)], [size], frame, 5.0)
    assert right[0] > 10
    (left,) = placed([(95.0, 10.0)], [size], frame, 5.0)
    assert left[2] < 95
    first, second = placed([(10.0, 10.0), (14.0, 10.0)], [size] * 2, (-50.0, -50, 100, 50), 5.0)
    apart = (second[0] - first[2], first[0] - second[2], second[1] - first[3], first[1] - second[3])
    assert max(apart) > 0


def test_a_name_without_room_covers_as_little_as_it_can():
    boxes = placed([(5.0, 5.0)], [(20.0, 5.0)], (0.0, 0.0, 20.0, 6.0), 5.0)
    assert boxes == [(0.0, 0.0, 20.0, 5.0)]  # as far below the point as it may


def test_a_pdf_embeds_its_fonts_as_truetype(tmp_path):
    plots.save(plots.load({"a": [1, 2]}, title="t"), tmp_path / "a.pdf", width="column")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    with pytest.raises(lpr.InputError, match="width='screen'"):
        plots.save(plots.load({"a": [1, 2]}), tmp_path / "a.pdf", width="screen")


def test_a_covered_label_and_one_off_the_page_are_found():
    figure = plots.load({"a": [1, 2]})
    assert faults(figure) == []
    for place in ((0.5, 0.5), (0.51, 0.5), (0.98, 0.3)):
        figure.text(*place, "a label")
    assert ("a label", "a label") in faults(figure)
    assert "a label" in faults(figure)


def test_every_axis_says_what_it_shows_in_which_unit():
    without = ("expert", "token", "tokens")
    for kind in KINDS:
        for axes in drawing(kind).axes:
            for says in (axes.get_xlabel(), axes.get_ylabel()):
                named = says in without or re.search(r"\[.+\]", says)
                assert named or not says
            assert axes.get_ylabel()


def test_curves_differ_in_colour_and_in_line_and_loads_in_hatch():
    routers = [router_curve(name) for name in "abcde"]
    lines = plots.frontier(certified(), routers).axes[1].lines
    for field in ("get_color", "get_marker"):
        assert len({getattr(line, field)() for line in lines}) == 5
    assert len({str(look.line) for look in looks(5)}) == 5
    assert len({(look.color, str(look.line)) for look in looks(35)}) == 35
    bars = plots.load({"a": [1], "b": [2], "c": [3]}).axes[0].containers
    assert len({group[0].get_hatch() for group in bars}) == 3


# files and pages


@pytest.fixture(scope="module")
def nasty():
    return {kind: plots.as_svg(drawing(kind, NASTY)) for kind in KINDS}


def test_a_page_holds_all_figures_and_no_two_ids_are_the_same(nasty):
    page = ElementTree.fromstring(f"<div>{''.join(nasty.values())}</div>")
    found = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(found) == len(set(found))
    text = "".join(nasty.values())
    pointed = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert pointed
    assert pointed <= set(found)


def test_names_are_escaped_and_no_formula(nasty):
    for svg in nasty.values():
        assert svg.startswith("<svg id=")
        for word in ("<script", "<?xml", "<!DOCTYPE", "<metadata", "http-equiv", "\x00"):
            assert word not in svg
        assert svg.count("</svg>") == 1
        assert "&lt;script&gt;" in svg
        assert "$x_1$" in svg
        (style,) = re.findall(r"<style[^>]*>(.*?)</style>", svg, re.DOTALL)
        assert re.match(r"#figure-\w+ \*", style)


def test_the_same_figure_is_the_same_text_whatever_the_user_prefers(nasty):
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "lines.linewidth": 9}):
        for kind in ("frontier", "load", "assignment"):
            assert plots.as_svg(drawing(kind, NASTY)) == nasty[kind]


def test_a_figure_twice_on_a_page_takes_a_prefix():
    figure = plots.load({"a": [1, 2]}, title="Layer 0")
    first, second = plots.as_svg(figure, prefix="a"), plots.as_svg(figure, prefix="b", title="<b>")
    ids = [re.findall(r'\sid="([^"]+)"', svg) for svg in (first, second)]
    assert not set(ids[0]) & set(ids[1])
    assert 'aria-label="Layer 0' in first
    assert "<title>&lt;b&gt;</title>" in second
    with pytest.raises(lpr.InputError, match="prefix='1 x'"):
        plots.as_svg(figure, prefix="1 x")


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_a_file_is_the_same_each_time_and_holds_no_date(tmp_path, ending):
    for name in "ab":
        plots.save(plots.load({"a": [1, 2]}, title="t"), tmp_path / f"{name}{ending}")
    one, other = ((tmp_path / f"{name}{ending}").read_bytes() for name in "ab")
    assert one == other
    assert len(one) > 1000
    assert b"Date" not in one


def test_files_that_cannot_be_written_are_refused(tmp_path):
    figure = plots.load({"a": [1, 2]})
    with pytest.raises(lpr.InputError, match=r"ending in \.png, \.pdf, \.svg"):
        plots.save(figure, tmp_path / "a.jpg")
    with pytest.raises(lpr.InputError, match="cannot be written"):
        plots.save(figure, tmp_path / "absent" / "a.png")


def test_neither_pyplot_nor_a_backend_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert plots.as_svg(plots.load({"a": [1, 2]}))


def test_matplotlib_is_imported_only_when_something_is_drawn():
    for path in Path(plots.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert "matplotlib" not in (getattr(node, "module", "") or "")
