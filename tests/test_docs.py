"""The documentation: it builds without a warning, leaves no public name out, and its code runs."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import click
import pytest

import lp_routing as lpr
from lp_routing.cli import main
from lp_routing.traces.families import ROUTERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = [
    DOCS / "index.md",
    *sorted((DOCS / "how_to").glob("*.md")),
    *sorted((DOCS / "guide").glob("*.md")),
]
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def built(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`make docs`, but that notebooks are not executed."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--conf-dir", DOCS]
    return subprocess.run(
        [*command, *options, source, target], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    run = built(DOCS, target)
    assert run.returncode == 0, run.stderr
    return target


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "extensions")
    return import_module


class Links(HTMLParser):
    """What a page points to and what on it can be pointed to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if "src" in given or tag == "link":
            self.loaded.add(given.get("src") or given.get("href", ""))
        self.targets |= {given[key] for key in ("href", "src") if key in given}


def broken_links(site: Path) -> list[str]:
    """Links within the site whose file, or place in it, is not there."""
    pages = {page: Links(page) for page in site.rglob("*.html")}
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = unquote(parts.fragment)
            there = file.exists() and not (
                place and file in pages and place not in pages[file].anchors
            )
            if not there:
                broken.append(f"{page.relative_to(site)}: {target}")
    return broken


def inventory(site: Path) -> set[str]:
    """Names that the site describes, from Sphinx's own list of them."""
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split(" ", 1)[0] for line in zlib.decompress(packed).decode().splitlines()}


def public_names(module: ModuleType) -> set[str]:
    """All names in `__all__`, and those of public modules among them, each where users find it."""
    names = set()
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            names |= {value.__name__, *(public_names(value) if hasattr(value, "__all__") else ())}
        else:
            on_top = getattr(lpr, name, None) is value
            names.add(f"lp_routing.{name}" if on_top else f"{module.__name__}.{name}")
    return names


def test_every_public_name_has_its_place(site):
    missing = public_names(lpr) - inventory(site)
    assert not missing, f"add these to a page below docs/api: {sorted(missing)}"


def test_a_name_that_no_page_describes_would_be_missed(site):
    assert "lp_routing.routers.TopK" in inventory(site)
    assert "lp_routing.routers.Forgotten" not in inventory(site)


def test_links_lead_somewhere_and_pages_load_nothing_from_elsewhere(site):
    assert not broken_links(site)
    for page in site.rglob("*.html"):
        assert not [one for one in Links(page).loaded if urlsplit(one).netloc], page


def test_a_link_into_the_void_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">1</a><a href="c.html">2</a>')
    (tmp_path / "b.html").write_text(
        '<p id="there"><a href="https://c.html">3</a><a href="#there">'
    )
    assert sorted(broken_links(tmp_path)) == ["a.html: b.html#here", "a.html: c.html"]


def test_a_reference_to_nothing_fails_the_build(tmp_path):
    (tmp_path / "index.md").write_text("# A\n\n[b](b.md) {py:class}`lp_routing.Forgotten`\n")
    run = built(tmp_path, tmp_path / "out")
    assert run.returncode != 0
    assert "lp_routing.Forgotten" in run.stderr
    assert "b.md" in run.stderr


def test_notebooks_and_claims_are_pages_of_the_site(site):
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert (site / "notebooks" / f"{notebook.stem}.html").is_file()
    assert all(f"{claim.id}: " in (site / "claims.html").read_text() for claim in lpr.claims.CLAIMS)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_the_code_of_a_page_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    monkeypatch.setitem(sys.modules, page.stem, ModuleType(page.stem))  # dataclasses look there
    printed = ""
    for language, block in BLOCKS.findall(page.read_text()):
        if language == "python":
            assert not printed, f"the page does not show {printed!r}"
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(block, names)
            printed = output.getvalue()
        elif language == "text" and printed:
            assert block == printed
            printed = ""
    assert page.stem == "pick_a_router" or not printed


@pytest.mark.parametrize("page", [*WRITTEN, ROOT / "README.md"], ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_understood(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("logits.npz").touch()
    for language, block in BLOCKS.findall(page.read_text()):
        for line in block.splitlines() if language == "sh" else []:
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "lp-routing":
                name, *rest = arguments
                main.commands[name].make_context(name, rest)


def test_the_readme_points_to_files_that_are_there():
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    assert targets
    assert not [one for one in targets if "://" not in one and not (ROOT / one).exists()]


def test_a_command_that_does_not_exist_is_not_understood():
    with pytest.raises(click.UsageError, match="no-such-option"):
        main.commands["gap"].make_context("gap", ["--no-such-option"])


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        # a name may become a link, other code stays as it is, also across lines
        ("`Prices` and `T k / E`", "`Prices` and ``T k / E``"),
        ("the first\n`lengths[r +\n1]` s", "the first\n``lengths[r + 1]`` s"),
        ("many `Sinkhorn`s", "many `Sinkhorn`\\ s"),
        ("|`gap`| is small", "\\|\\ `gap`\\ \\| is small"),
        # plain formulas hold no markup
        ("sum of |s_ij| x_ij * 2", "sum of \\|s_ij\\| x_ij \\* 2"),
        ("the token t_ of *any* prices", "the token t\\_ of *any* prices"),
        ("x\n\nArgs:\n    most: M.\n\n1. one", "x\n\nArgs:\n    most: \\M.\n\n1. one"),
        # what is indented after a blank line is a formula, up to where it ends
        ("so\n\n    a * b\n    c\n\nend*", "so\n\n::\n\n    a * b\n    c\n\nend\\*"),
        # sections of Google style are not
        ("x\n\nArgs:\n    k: a*b", "x\n\nArgs:\n    k: a\\*b"),
        ("x\n\nAttributes:\n    a, b: c", "x\n\nAttributes:\n    a,b: c"),
    ],
)
def test_docstrings_become_what_they_mean(extension, written, shown):
    assert extension("docstrings").as_restructured_text(written) == shown


def test_the_gap_table_leaves_out_routers_that_break_a_bound(extension):
    live = extension("live")
    shown = {row[0]: row for row in live.gap_rows("2", "1.25")}
    assert "token-choice" in live.measured("2", "1.25")
    assert "token-choice" not in shown
    assert shown["optimum"][1] == "0.000 %"


def test_what_pick_a_router_says_of_the_table_is_so(extension):
    rows = {row[0]: row for row in extension("live").gap_rows("2", "1.25")}
    gap = {name: float(row[1].removesuffix(" %")) for name, row in rows.items()}
    dropped = {name: float(row[3].removesuffix(" %")) for name, row in rows.items()}
    dropping = [name for name in gap if name.startswith("drop-")]
    assert min(dropping, key=gap.get) == "drop-by-score"
    assert max(dropping, key=dropped.get) == "drop-token-major"
    assert rows["drop-token-major"][5] == "yes"
    assert gap["prices"] < 0.1 * min(gap[name] for name in dropping)
    assert rows["fixed-prices, warm"][5] == "yes"
    assert gap["fixed-prices, warm"] < gap["drop-by-score"] < gap["fixed-prices"]


def test_the_router_table_holds_the_catalogue(extension):
    names = [row[0] for row in extension("live").router_rows()]
    assert names == list(lpr.routers.CATALOGUE)


def test_the_family_table_holds_every_router_class_that_capture_knows(extension, site):
    rows = extension("live").family_rows()
    assert [row[1].strip("`") for row in rows] == list(ROUTERS)
    by_class = {row[1].strip("`"): row for row in rows}
    assert by_class["Llama4Router"][2:] == ("output[1]", "sigmoid", "none")
    assert by_class["Gemma4TextRouter"][2] == "output of ``proj``"
    assert by_class["DeepseekV3TopkRouter"][3:] == ("sigmoid", "``e_score_correction_bias``")
    assert by_class["DeepseekV4TopKRouter"][3] == "config: ``scoring_func``"
    page = (site / "guide" / "model_families.html").read_text()
    assert all(f">{name}<" in page for name in ROUTERS)
