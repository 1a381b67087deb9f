"""The examples of docstrings run and print what they say; every public function has one."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pytest
import torch

import lp_routing as lpr

MODULES = sorted(
    module.name
    for module in walk_packages(lpr.__path__, "lp_routing.")
    if not module.name.endswith("__main__")
)


def examples(name):
    """The docstrings of a module that hold examples; they know `lpr` and `torch`."""
    names = {"lpr": lpr, "torch": torch}
    found = doctest.DocTestFinder().find(import_module(name), extraglobs=names)
    return [test for test in found if test.examples]


WITH_EXAMPLES = [
    name for name in MODULES if ">>> " in Path(import_module(name).__file__).read_text()
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name):
    tests = examples(name)
    assert tests
    runner = doctest.DocTestRunner()
    for test in tests:
        torch.manual_seed(0)
        said: list[str] = []
        runner.run(test, out=said.append)
        assert not said, "".join(said)


def test_an_example_that_prints_something_else_is_found():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None).failed == 1


def public_functions(module: ModuleType) -> dict[str, object]:
    """The functions that a module and its public modules hand on, by name."""
    found: dict[str, object] = {}
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            found |= public_functions(value) if hasattr(value, "__all__") else {}
        elif inspect.isfunction(value):
            found[f"{module.__name__}.{name}"] = value
    return found


def without_example(functions):
    return [name for name, each in functions.items() if ">>> " not in (inspect.getdoc(each) or "")]


def test_every_public_function_has_an_example():
    functions = public_functions(lpr)
    assert len(functions) > 60
    assert without_example(functions) == []
    assert without_example({"mine": examples}) == ["mine"]
