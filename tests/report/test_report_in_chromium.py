"""The report in a real headless Chromium: it renders, sorts, fits a phone, and can be read.

Skipped where there is no browser: `sh tests/install_chromium.sh` fetches one (`make test` does).
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lp_routing.claims import CLAIMS
from lp_routing.cli.commands import report
from lp_routing.routers import CATALOGUE

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

OURS = Path(__file__).parents[2] / ".venv" / "chromium"
ON_PATH = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
NAME = "<img src=x onerror=alert(1)>.npz"
ROUTER = "</svg><script>alert(2)</script> --!> <img src=x onerror=alert(3)>"
ROUTERS = f"{ROUTER}, drop-token-major, token-choice, batch-prioritised"
PHONE, SMALL = {"width": 375, "height": 740}, {"width": 320, "height": 640}
LEGIBLE = 4.5
"""Least contrast of text (WCAG 2.2, success criterion 1.4.3)."""

CONTRASTS = """
() => {
  const parsed = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = (rgb) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const { rgb, a } = parsed(getComputedStyle(e).backgroundColor);
      if (a === 1) return rgb;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *:not(svg *):not(script)")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((e) => e.checkVisibility())
    .map((e) => {
      const [a, b] = [luminance(parsed(getComputedStyle(e).color).rgb), luminance(behind(e))];
      return [e.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}
"""
"""The text of every element with text of its own, and its contrast to what is behind it."""


def candidates():
    """Path, and environment, of browsers that may be there; ours has its own libraries and font."""
    ours = {"FONTCONFIG_FILE": str(OURS / "fonts.conf"), "LD_LIBRARY_PATH": str(OURS / "lib")}
    found = [(OURS / "chromium", ours)] if (OURS / "chromium").exists() else []
    return found + [(path, {}) for name in ON_PATH if (path := shutil.which(name))]


@pytest.fixture(scope="module")
def browser():
    reasons = ["none found"]
    with sync_api.sync_playwright() as playwright:
        for path, variables in candidates():
            try:
                found = playwright.chromium.launch(
                    executable_path=path, args=QUIET, env={**os.environ, **variables}
                )
            except sync_api.Error as error:
                reasons.append(f"{path}: {error}")
                continue
            yield found
            found.close()
            return
    pytest.skip(f"no headless Chromium: {reasons[-1]}")


@pytest.fixture(scope="module")
def address(tmp_path_factory, browser):
    """A report on a file and a router with nasty names; some break bounds, so have no loss."""
    folder = tmp_path_factory.mktemp("report")
    logits = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(1))
    np.savez(folder / NAME, router_logits=logits.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lp_routing.cli.report.CLAIMS", (CLAIMS[0], CLAIMS[3], CLAIMS[4]))
        patch.setitem(CATALOGUE, ROUTER, CATALOGUE["drop-by-score"])
        output = ["-o", str(folder / "page.html"), "--routers", ROUTERS, "--k", "2"]
        ended = CliRunner().invoke(report, [str(folder / NAME), *output])
    assert ended.exit_code == 0, ended.output
    return (folder / "page.html").as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the report; what the browser complained of, and asked for, stands on the page."""
    contexts = []

    def open_(viewport=None, **options):
        if viewport is not None:
            options["viewport"] = viewport
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.complaints, page.asked = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (page.complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()


def column(page, name, table=1):
    """Texts of a column of a table of the layers, from the top."""
    return page.evaluate(
        """([table, name]) => {
          const given = document.querySelectorAll("#layers table")[table];
          const heads = [...given.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
          const place = heads.indexOf(name);
          return [...given.tBodies[0].rows].map((row) => row.cells[place].textContent);
        }""",
        [table, name],
    )


def heading(page, name, table=1):
    return page.locator("#layers table").nth(table).get_by_role("columnheader", name=name)


def losses(page):
    """The numbers of the column "lost"; None without one."""
    said = {"breaks a bound": None, "0 exactly": 0.0}
    texts = column(page, "lost")
    return [said[text] if text in said else float(text.removesuffix("\xa0%")) for text in texts]


def test_it_renders_without_complaint_and_asks_for_nothing(opened, address):
    page = opened()
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith("data:")] == [address]
    assert NAME in page.title()
    assert NAME in page.locator("h1").inner_text()
    assert ROUTER in page.locator("#summary").inner_text()
    assert page.locator("img, [onerror]").count() == 0
    assert page.locator("script").count() == 1
    figures = page.locator("figure .broad svg")
    assert figures.count() == 7
    for figure in figures.all():
        box = figure.bounding_box()
        assert box["width"] > 500
        assert box["height"] > 150


def test_a_click_sorts_and_a_second_one_turns_it(opened):
    page = opened()
    before = losses(page)
    known = [loss for loss in before if loss is not None]
    assert None in before
    assert known != sorted(known)
    assert heading(page, "lost").get_attribute("aria-sort") is None
    unknown = [None] * before.count(None)
    for order, turned in (("ascending", False), ("descending", True), ("ascending", False)):
        heading(page, "lost").get_by_role("button").click()
        assert losses(page) == sorted(known, reverse=turned) + unknown
        assert heading(page, "lost").get_attribute("aria-sort") == order
    heading(page, "router").get_by_role("button").click()
    assert heading(page, "lost").get_attribute("aria-sort") is None
    assert page.locator("th[aria-sort]").count() == 1
    assert page.complaints == []


def test_names_sort_as_names_and_equal_ones_stay_in_order(opened):
    page = opened()
    names = column(page, "router")
    assert column(page, "layer") == ["0", "1"] * 4
    heading(page, "router").get_by_role("button").click()
    assert column(page, "router") == sorted(names)
    assert column(page, "layer") == ["0", "1"] * 4
    layers = heading(page, "layer").get_by_role("button")
    layers.click()
    layers.click()
    assert column(page, "layer") == ["1"] * 4 + ["0"] * 4
    assert column(page, "router") == sorted(set(names)) * 2
    heading(page, "router").get_by_role("button").click()
    assert column(page, "router") == sorted(names)
    assert column(page, "layer") == ["1", "0"] * 4


def test_numbers_sort_as_numbers(opened):
    """As text, 10 would come before 2."""
    page = opened()
    table = page.locator("#capacity table")
    cells = "tables => [...tables[0].tBodies[0].rows].map(row => row.cells[0].textContent)"
    table.get_by_role("columnheader", name="value").get_by_role("button").click()
    table.get_by_role("columnheader", name="capacity C").get_by_role("button").click()
    shown = [int(text) for text in table.evaluate_all(cells)]
    assert shown == sorted(shown)
    assert shown[-1] >= 10


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_sorts(opened, key):
    page = opened()
    heading(page, "layer").get_by_role("button").focus()
    page.keyboard.press("Tab")  # the next heading
    assert page.evaluate("document.activeElement.textContent") == "lost"
    page.keyboard.press(key)
    known = [loss for loss in losses(page) if loss is not None]
    assert known == sorted(known)
    assert heading(page, "lost").get_attribute("aria-sort") == "ascending"


def test_the_keyboard_reaches_what_scrolls(opened):
    page = opened(PHONE)
    assert page.evaluate("""() => [...document.querySelectorAll(".scroll, pre")].every(
        (box) => box.tabIndex === 0 && (box.matches("pre") || box.role === "region"))""")
    assert page.get_by_role("region").count() >= 15
    assert page.evaluate(
        "() => [...document.querySelectorAll('table')].every((table) => document.getElementById("
        "table.getAttribute('aria-labelledby')).textContent.length > 10)"
    )


def sideways(page):
    """How far the page itself could be scrolled to the side, in pixels."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize("viewport", [PHONE, SMALL], ids=["375", "320"])
def test_a_phone_needs_no_sideways_scroll(opened, viewport):
    page = opened(viewport, is_mobile=True, has_touch=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert sideways(page) <= 0
    moved = page.evaluate("""() => [...document.querySelectorAll(".scroll")]
      .filter((box) => [...box.children].some((inner) => inner.scrollWidth > box.clientWidth))
      .map((box) => { box.scrollLeft = 1e6; return box.scrollLeft; })""")
    assert len(moved) >= 8  # tables and figures scroll in their own boxes
    assert min(moved) > 0
    smallest = page.evaluate(
        "() => Math.min(...[...document.querySelectorAll('p, td, th, a, dt, pre, figcaption')].map("
        "(e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 13


def test_a_phone_shows_whole_figures_with_text_of_a_size_to_read(opened):
    page = opened(PHONE, is_mobile=True, has_touch=True)
    assert page.locator("figure .broad svg").first.is_hidden()
    narrow = page.locator("figure .narrow svg")
    assert narrow.count() == 7
    for figure in narrow.all():
        box = figure.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        inches = 3.4  # as it is drawn: text of 9 points is 12 pixels high at 96 an inch
        assert box["width"] / inches > 0.9 * 96


def test_a_table_that_goes_on_to_the_right_says_so(opened):
    hint = "box => getComputedStyle(box.querySelector('.caption'), '::after').content"
    page = opened(PHONE, is_mobile=True, has_touch=True)
    wide = page.locator("#layers .box").nth(1)
    assert "scroll it sideways" in wide.evaluate(hint)
    page = opened({"width": 1600, "height": 900})
    assert page.locator("#making .box").first.evaluate(hint) == "none"


def test_means_stay_below_however_a_table_is_sorted(opened):
    page = opened()
    heading(page, "lost", 0).get_by_role("button").click()
    assert (
        page.evaluate(
            "() => document.querySelector('#layers table').tFoot.rows[0].cells[0].textContent"
        )
        == "mean"
    )


def test_a_page_that_is_too_wide_is_found(opened):
    page = opened(PHONE)
    page.evaluate("document.querySelector('main').firstElementChild.style.width = '600px'")
    assert sideways(page) > 0


def unreadable(page):
    found = page.evaluate(CONTRASTS)
    assert len(found) > 200
    return [(text, round(contrast, 2)) for text, contrast in found if contrast < LEGIBLE]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(opened, scheme):
    page = opened(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert unreadable(page) == []
    heading(page, "lost").get_by_role("button").hover()
    assert unreadable(page) == []


def test_text_that_cannot_be_read_is_found(opened):
    page = opened(color_scheme="dark")
    page.evaluate("document.documentElement.style.setProperty('--soft', '#555555')")
    assert unreadable(page)


def test_dark_mode_is_dark_and_turns_the_lightness_of_figures(opened):
    page = opened(color_scheme="dark")
    color = "element => getComputedStyle(element).backgroundColor"
    assert page.locator("body").evaluate(color) == "rgb(20, 23, 27)"
    turned = "element => getComputedStyle(element).filter"
    for card in page.locator(".card").all():
        assert card.evaluate(turned) == "invert(0.92) hue-rotate(180deg)"
    assert opened(color_scheme="light").locator(".card").first.evaluate(turned) == "none"
    assert opened(color_scheme="light").locator("body").evaluate(color) == "rgb(255, 255, 255)"


def test_a_link_to_prices_opens_them(opened):
    page = opened()
    prices = page.locator("#prices-1")
    assert prices.get_attribute("open") is None
    page.locator("#certificates td a[href='#prices-1']").first.click()
    sync_api.expect(prices).to_have_attribute("open", "")
    sync_api.expect(prices.locator("pre")).to_be_visible()


def test_print_shows_all(opened):
    page = opened({"width": 700, "height": 1000})  # A4 between its margins
    folded = page.locator("details:not([open])").count()
    assert folded >= 3
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    clipped = (
        "() => [...document.querySelectorAll('.scroll')]"
        ".filter((box) => box.clientHeight + 1 < box.scrollHeight).length"
    )
    assert page.evaluate(clipped) == 0
    assert sideways(page) <= 0
    color = page.locator("body").evaluate("body => getComputedStyle(body).color")
    assert color == "rgb(0, 0, 0)"
    page.emulate_media(media="screen")
    assert page.evaluate(clipped) == 0  # no box hides rows on a screen either
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded


def test_without_scripts_everything_is_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#layers table").count() == 2
    assert page.locator("th button").count() == 0
    assert page.get_by_text("of what is attainable on average").is_visible()


def test_the_policy_stops_scripts_and_requests(opened):
    """Were something not escaped after all, it could neither run nor call home."""
    page = opened()
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      const image = document.createElement("img");
      image.src = "http://127.0.0.1:9/a.png";
      const handler = document.createElement("p");
      handler.setAttribute("onclick", "window.ran = true");
      document.body.append(script, image, handler);
      handler.click();
    }""")
    assert page.evaluate("window.ran") is None
    page.wait_for_timeout(50)
    assert sum("Content Security Policy" in said for said in page.complaints) == 3
