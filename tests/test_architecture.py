"""The house plan: imports run one way, everything public is documented, heavy imports are lazy."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

import lp_routing as lpr

ROOT = Path(lpr.__file__).parent
# from the ground up; a module may import from floors below its own, and from its own package
FLOORS = [
    ["errors"],
    ["validation", "process_group", "files", "display"],
    ["problem", "scores", "sweep", "traces"],
    ["router_outputs"],
    ["certificate"],
    ["solvers"],
    ["routers"],
    ["audits", "evaluation", "extensions"],
    ["frontier", "monitor"],
    ["claims"],
    ["report"],
    ["cli"],
    ["__main__"],
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(module):
    """`lp_routing.solvers.highs` -> `solvers`."""
    return module.split(".")[1]


def imports(source):
    """Modules of this package that a source text imports, whole names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lp_routing"):
            inner = node.module == "lp_routing"
            found |= {f"lp_routing.{a.name}" for a in node.names} if inner else {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("lp_routing.")}
    return found


def arrows_back(part_name, source):
    """Imports that do not go down."""
    return [
        module
        for module in imports(source)
        if part(module) != part_name and FLOOR[part(module)] >= FLOOR[part_name]
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part_name = part(f"lp_routing.{path.relative_to(ROOT).parts[0].removesuffix('.py')}")
    assert part_name in FLOOR, f"give {part_name} a floor"
    assert arrows_back(part_name, path.read_text()) == []


def test_an_arrow_that_runs_back_is_found():
    back = "from lp_routing.solvers.solve import solve"
    assert arrows_back("problem", back) == ["lp_routing.solvers.solve"]
    assert arrows_back("problem", "from lp_routing import solvers") == ["lp_routing.solvers"]
    assert arrows_back("problem", "def f():\n  import lp_routing.cli") == ["lp_routing.cli"]
    assert arrows_back("solvers", "from lp_routing.problem.problem import RoutingProblem") == []


def test_users_meet_few_names():
    modules = [name for name in lpr.__all__ if inspect.ismodule(getattr(lpr, name))]
    assert len(lpr.__all__) - len(modules) <= 26
    assert len(modules) <= 12


@pytest.mark.parametrize("name", lpr.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(lpr, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"


def longer_than(limit, paths):
    """Files of more lines."""
    return [str(path) for path in paths if path.read_text().count("\n") > limit]


def test_files_stay_small_enough_to_be_one_thing(tmp_path):
    folders = [ROOT, ROOT.parent / "tests", ROOT.parent / "benchmarks"]
    assert longer_than(600, (path for folder in folders for path in folder.rglob("*.py"))) == []
    long = tmp_path / "long.py"
    long.write_text("\n" * 601)
    assert longer_than(600, [long]) == [str(long)]


USED_ONCE = {
    "lp_routing.evaluation.specialisation": "measures of any routing, of which a claim is one user",
    "lp_routing.report.comparison": "a page like that of one file, apart from the options",
    "lp_routing.report.papers": "a page, apart from the options of the command that writes it",
    "lp_routing.report.verify": "the text of a finding, apart from the options that lead to it",
}
"""Modules whose one user sits in another folder: why they stand apart."""


def module_of(path):
    """`.../lp_routing/solvers/__init__.py` -> `lp_routing.solvers`."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def importers(sources):
    """For each module of {module: source text}, the modules that import it or names from it."""
    found = {module: set() for module in sources}
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                used = {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            else:
                used = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            for name in used & set(sources) - {module}:
                found[name].add(module)
    return found


def away_from_their_only_user(sources):
    """Modules with one importer, in another folder; what the package itself hands on is public."""
    return {
        module: next(iter(users))
        for module, users in importers(sources).items()
        if len(users) == 1
        and "lp_routing" not in users
        and not any(other.startswith(f"{module}.") for other in sources)
        and next(iter(users)).rpartition(".")[0] != module.rpartition(".")[0]
        and next(iter(users)) != module.rpartition(".")[0]
    }


def test_a_module_with_one_user_stands_beside_it_or_has_a_reason():
    sources = {module_of(path): path.read_text() for path in [*FILES, ROOT / "__init__.py"]}
    away = away_from_their_only_user(sources)
    assert set(away) == set(USED_ONCE)
    assert all(USED_ONCE.values())


def test_a_module_away_from_its_only_user_is_found():
    sources = {
        "lp_routing.a": "",
        "lp_routing.a.helper": "",
        "lp_routing.a.main": "from lp_routing.a.helper import f",
        "lp_routing.b": "",
        "lp_routing.b.main": "from lp_routing.a.main import f",
    }
    assert away_from_their_only_user(sources) == {"lp_routing.a.main": "lp_routing.b.main"}
    sources["lp_routing.a"] = "from lp_routing.a.main import f"
    assert away_from_their_only_user(sources) == {}
    sources["lp_routing.a"], sources["lp_routing.b.main"] = "", "from lp_routing.a import main"
    assert away_from_their_only_user(sources) == {"lp_routing.a.main": "lp_routing.b.main"}


def test_importing_the_package_imports_nothing_that_takes_time():
    code = "import lp_routing, sys; dir(lp_routing); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "lp_routing" in loaded
    assert [name for name in loaded if name.startswith("lp_routing.")] == []
    for heavy in ("torch", "numpy", "cvxpy", "highspy", "rich", "click", "matplotlib", "pandas"):
        assert heavy not in loaded


def test_solving_imports_no_other_solver_and_no_command_line():
    code = "import lp_routing, sys; lp_routing.solve, lp_routing.routers; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" in loaded
    for heavy in ("cvxpy", "highspy", "clarabel", "rich", "click", "matplotlib", "pandas"):
        assert heavy not in loaded


def test_the_names_that_are_imported_late_are_those_that_type_checkers_see():
    seen = {}
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lp_routing"):
            for alias in node.names:
                seen[alias.asname or alias.name] = f"{node.module}:{alias.name}"
    assert sorted(seen) == sorted(lpr.__all__)
    assert set(lpr.__all__) <= set(dir(lpr))
    for name, where in seen.items():
        module, _, inner = where.partition(":")
        parent = importlib.import_module(module)
        there = (
            importlib.import_module(f"{module}.{inner}")
            if inspect.ismodule(getattr(lpr, name))
            else getattr(parent, inner)
        )
        assert getattr(lpr, name) is there, name


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lpr.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from lp_routing import nothing  # noqa: F401


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert lpr.__version__ == version("lp-routing")


PAGE = ROOT.parent / "docs" / "guide" / "architecture.md"


def files_drawn(page):
    """Files and folders of the page's picture, relative to the package."""
    picture = page.split("```text\n", 1)[1].split("```", 1)[0].splitlines()[1:]
    drawn, folder = [], ""
    for line in picture:
        if line.startswith("    "):
            drawn += [folder + name for name in line.split()]
        else:
            folder = line.split()[0]
            drawn.append(folder)
    return drawn


def names_of(page):
    """Dotted names in the page's text, such as `lp_routing.solvers.solve.solve`."""
    return re.findall(r"`(lp_routing(?:\.\w+)+)`", page)


def missing(page):
    """What the page names that is not there."""

    def found(name):
        try:
            return bool(resolve_name(name))
        except (ImportError, AttributeError):
            return False

    absent = [name for name in files_drawn(page) if not (ROOT / name).exists()]
    return absent + [name for name in names_of(page) if not found(name)]


def test_the_page_on_architecture_names_what_exists_and_every_folder():
    page = PAGE.read_text()
    assert missing(page) == []
    on_top = {path.name for path in ROOT.iterdir() if path.suffix == ".py"}
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    assert {"__init__.py", "__main__.py", *files_drawn(page)} >= on_top | folders
    assert len(names_of(page)) > 15


def test_a_page_that_names_what_is_not_there_is_found():
    page = PAGE.read_text()
    wrong = page.replace("    trace.py ", "    traces.py ").replace("solve.solve`", "solve.answer`")
    assert missing(wrong) == ["traces/traces.py", "lp_routing.solvers.solve.answer"]
