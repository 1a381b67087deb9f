"""CONTRIBUTING's recipes, followed to the letter in a copy: one new file, one edited line each."""

import filecmp
import json
import re
import shutil
import subprocess
import sys
from difflib import ndiff
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"^```python\n# (.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEW = re.compile(r"new file: (\S+)")
LINE = re.compile(r'one line in (\S+), (above|below) "(.*)"')


def recipe(title, text=TEXT):
    """The steps of a section: (what its first comment says, the code below it)."""
    _, _, section = text.partition(f"\n## {title}\n")
    assert section, f"CONTRIBUTING has no section {title!r}"
    return BLOCK.findall(section.partition("\n## ")[0])


def follow(steps, copy):
    """Do what the steps say in a copy of the repository."""
    for says, code in steps:
        if new := NEW.fullmatch(says):
            assert not (copy / new[1]).exists(), f"{new[1]} is there already"
            (copy / new[1]).write_text(code)
        elif line := LINE.fullmatch(says):
            path, where, anchor = copy / line[1], line[2], line[3] + "\n"
            before, found, after = path.read_text().partition(anchor)
            assert found, f"{line[1]} has no line {line[3]!r}"
            path.write_text(before + (code + found if where == "above" else found + code) + after)
        else:
            pytest.fail(f"no step of a recipe: {says!r}")


def python_files(root):
    return {path.relative_to(root) for path in (root / "lp_routing").rglob("*.py")}


def edits(original, copy):
    """Files that are new in the copy, and how many lines others have lost or gained."""
    new = python_files(copy) - python_files(original)
    common = sorted(python_files(copy) & python_files(original))
    _, differ, _ = filecmp.cmpfiles(original, copy, common, shallow=False)
    lines = 0
    for name in differ:
        before, after = ((root / name).read_text().splitlines() for root in (original, copy))
        lines += sum(line[0] in "+-" for line in ndiff(before, after))
    return len(new), len(differ), lines


def copied(target):
    for name in ("lp_routing", "docs", "tests", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "_build", "notebooks", "*.png")
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, target / name)
    return target


def run(copy, *command):
    """A command of Python with the copy in place of the package."""
    environment = {"PYTHONPATH": str(copy), "PATH": "", "HOME": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=copy,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def page(copy, name):
    """A page of the API, built in the copy by the project's own configuration."""
    source = copy / "pages" / name
    source.mkdir(parents=True)
    shutil.copy(copy / "docs" / "api" / name, source / "index.md")
    run(copy, "-m", "sphinx", "-Q", "--conf-dir", copy / "docs", source, source / "out")
    return (source / "out" / "index.html").read_text()


TITLES = ("Add a router", "Add an audit", "Add a claim")


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_is_one_new_file_and_one_line(title, tmp_path):
    copy = copied(tmp_path)
    follow(recipe(title), copy)
    assert edits(ROOT, copy) == (1, 1, 1)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy in which all recipes were followed."""
    copy = copied(tmp_path_factory.mktemp("followed"))
    for title in TITLES:
        follow(recipe(title), copy)
    return copy


def test_what_the_recipes_write_passes_the_checks(followed):
    changed = [f"lp_routing/{folder}/__init__.py" for folder in ("routers", "audits", "claims")]
    new = [str(name) for name in python_files(followed) - python_files(ROOT)]
    assert len(new) == 3
    run(followed, "-m", "ruff", "check", *new, *changed)
    run(followed, "-m", "ruff", "format", "--check", *new, *changed)
    (followed / "user.py").write_text(
        "from lp_routing.audits import everyone_served\n"
        "from lp_routing.routers import Router, TopK, TwoBest\n"
        "routers: list[Router] = [TopK(2), TwoBest()]\n"
    )
    types = ("-m", "mypy", "--cache-dir", followed / ".mypy_cache")
    run(followed, *types, *new, *changed, "user.py")


def test_a_new_router_is_in_catalogue_documentation_and_tests(followed):
    code = """
import json, sys
sys.path.insert(0, "docs/extensions")
from lp_routing.routers import CATALOGUE, TwoBest, __all__
from live import router_rows
rows = {row[0]: list(row[1:]) for row in router_rows()}
print(json.dumps(["TwoBest" in __all__, "two-best" in CATALOGUE, rows["two-best"]]))
"""
    exported, named, row = json.loads(run(followed, "-c", code))
    assert exported
    assert named
    assert row == [":py:class:`TwoBest`", "token_choice", "yes", "no"]
    html = page(followed, "routers.md")
    assert 'id="lp_routing.routers.TwoBest"' in html
    assert "<p>two-best</p>" in html
    tests = ("tests/routers/test_router_options.py", "tests/routers/test_router_ties.py")
    passed = run(followed, "-m", "pytest", "-q", *tests, "-k", "TwoBest or (two and best)")
    assert int(re.search(r"(\d+) passed", passed)[1]) > 30


A_ROUTER_THAT_DRAWS = '''"""An example: one expert of every token, by a draw of its own."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import check_seed, largest, uniform


@register("Random", {"one-by-lot": lambda _: OneByLot()})
@dataclass(frozen=True)
class OneByLot(WeightedRule, Router):
    """One expert by lot (an example). Causal. Cost: a `topk`."""

    source = "tests/test_contributing.py"
    seeks = ""
    cost = "a topk"
    causal = True

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """Boolean (..., T, E)."""
        lots = uniform(SEED, scores.shape, scores.device, "OneByLot")
        return largest(lots.masked_fill(scores == float("-inf"), float("-inf")), 1)
'''


@pytest.mark.parametrize(("seed", "fault"), [("self.seed", False), ("0", True)])
def test_a_new_router_that_draws_is_in_the_tests_of_chance(tmp_path, seed, fault):
    copy = copied(tmp_path)
    code = A_ROUTER_THAT_DRAWS.replace("SEED", seed)
    line = "from lp_routing.routers.one_by_lot import OneByLot as OneByLot\n"
    where = 'one line in lp_routing/routers/__init__.py, above "# isort: on"'
    follow([("new file: lp_routing/routers/one_by_lot.py", code), (where, line)], copy)
    chance = ("-m", "pytest", "-q", "tests/routers/test_router_chance.py", "-k", "lot")
    if fault:
        with pytest.raises(AssertionError, match=r"a_seed_decides.*one-by-lot"):
            run(copy, *chance)
    else:
        assert int(re.search(r"(\d+) passed", run(copy, *chance))[1]) > 5


def test_a_new_audit_is_in_suite_documentation_and_command(followed):
    code = """
import json, torch
from lp_routing.audits import __all__, audit
from lp_routing.routers import ExpertChoice, TopK
logits = torch.tensor([[2.0, 2.0], [1.0, 1.0]])
found = {kind: {f.audit: f.verdict for f in audit(rule, logits)}
         for kind, rule in (("served", TopK(1)), ("dropping", ExpertChoice(1)))}
print(json.dumps(["everyone_served" in __all__, found]))
"""
    exported, found = json.loads(run(followed, "-c", code))
    assert exported
    assert found["served"]["everyone served"] == "holds"
    assert found["dropping"]["everyone served"] == "fails"
    assert 'id="lp_routing.audits.everyone_served"' in page(followed, "audits.md")
    told = run(followed, "-m", "lp_routing", "audit", "--routers", "token-choice", "--tokens", "32")
    assert "everyone served" in told


def test_a_new_claim_is_in_the_list_and_in_the_documentation(followed):
    code = """
import json, torch
from lp_routing.claims import CLAIMS
(claim,) = [claim for claim in CLAIMS if claim.id == "X1"]
print(json.dumps([len(CLAIMS), claim.check(torch.eye(3)).agrees]))
"""
    count, agrees = json.loads(run(followed, "-c", code))
    assert agrees
    assert count > 20
    told = run(followed, "-m", "lp_routing", "claims", "--only", "X1")
    assert "X1" in told


def test_tests_of_the_whole_list_pass_with_the_new_ones(followed):
    tests = (
        "tests/routers/test_catalogue.py",
        "tests/audits/test_audit_measures.py::test_all_audits_of_token_choice",
        "tests/claims/test_claims.py::test_all_claims_are_there_once",
        "tests/report/test_papers.py::test_every_claim_has_a_paper_and_every_paper_a_claim_or_a_reason",
        "tests/test_docstrings.py::test_every_public_function_has_an_example",
        "tests/test_docstrings.py::test_examples_print_what_they_say",
    )
    passed = run(followed, "-m", "pytest", "-q", *tests)
    assert int(re.search(r"(\d+) passed", passed)[1]) >= 5


# Two lines in one file, a line each in two, and two new files.
@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ('one line in lp_routing/routers/__init__.py, above "# isort: on"', (1, 1, 2)),
        ('one line in lp_routing/audits/__init__.py, above "# isort: on"', (1, 2, 2)),
        ("new file: lp_routing/routers/another.py", (2, 1, 1)),
    ],
)
def test_a_recipe_that_needs_more_is_found(tmp_path, more, counts):
    copy = copied(tmp_path)
    follow([*recipe("Add a router"), (more, "# more\n")], copy)
    assert edits(ROOT, copy) == counts


def test_a_recipe_that_cannot_be_followed_is_found(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(AssertionError, match="has no line"):
        follow([('one line in a.py, above "y = 2"', "z = 3\n")], tmp_path)
    with pytest.raises(AssertionError, match="is there already"):
        follow([("new file: a.py", "")], tmp_path)
    with pytest.raises(pytest.fail.Exception, match="no step"):
        follow([("some words", "")], tmp_path)
    with pytest.raises(AssertionError, match="no section"):
        recipe("Add a planet")
