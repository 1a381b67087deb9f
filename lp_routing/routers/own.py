"""Routers of users: `package.module:name`, `file.py:name`, and entry points of installed packages.

A package registers routers under the group `lp_routing.routers` of its entry points; their names
then work like those of the catalogue.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache, partial, update_wrapper
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from lp_routing.errors import InputError, did_you_mean

GROUP = "lp_routing.routers"
"""The group of entry points."""


def is_own(name: str) -> bool:
    """Whether a name says where a router of a user is: `package.module:name`, `file.py:name`."""
    return ":" in name


def registered() -> dict[str, EntryPoint]:
    """Name -> entry point of an installed package."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def loaded(name: str) -> Any:
    """What a name stands for; errors that the user's own code raises are raised as they are.

    Args:
        name: `package.module:name`, `file.py:name`, or that of an entry point.

    Raises:
        InputError: no such file, module or object, or one that cannot be called.
    """
    if is_own(name):
        where, _, attribute = name.rpartition(":")
        module = _of_file(where) if where.endswith(".py") else _of_module(where, name)
        known = [one for one in vars(module) if not one.startswith("_")]
        if attribute not in vars(module):
            hint = did_you_mean(attribute, known, "it has: ")
            raise InputError(f"router {name!r}: {where} has no {attribute!r}; {hint}")
        found = vars(module)[attribute]
    else:
        found = registered()[name].load()
    if not callable(found):
        raise InputError(
            f"router {name!r}: expected a function of logits, a router or its class, got "
            f"{type(found).__name__}."
        )
    return found


def own_router(name: str, k: int, capacity: int) -> Callable[..., Any]:
    """The router of that name, built for k experts a token and a capacity.

    A function is called with logits (T, E), and with `k` and `capacity` where it has parameters of
    these names. A class is called with those of the two that it has parameters for, and gives the
    router; a router is taken as it is.
    """
    found = loaded(name)
    sizes = {"k": k, "capacity": capacity}
    if isinstance(found, type):
        built: Callable[..., Any] = found(**_asked(found, sizes))
        return built
    if not inspect.isroutine(found):
        ready: Callable[..., Any] = found
        return ready
    return update_wrapper(partial(found, **_asked(found, sizes)), found)


def _asked(called: Callable[..., Any], sizes: dict[str, int]) -> dict[str, int]:
    """The sizes that a function or class has parameters for."""
    parameters = inspect.signature(called).parameters
    return {name: value for name, value in sizes.items() if name in parameters}


def _of_file(where: str) -> ModuleType:
    path = Path(where).resolve()
    if not path.is_file():
        raise InputError(f"router in {where}: there is no such file.")
    return _executed(path)


@cache
def _executed(path: Path) -> ModuleType:
    """The module of a file, run once in a process."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # a name that ends in .py has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _of_module(where: str, name: str) -> ModuleType:
    """The module of that name, also one in the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise  # the user's module imports one that is missing
        raise InputError(
            f"router {name!r}: there is no module {error.name!r} here or installed; name a file "
            f"as file.py:function."
        ) from error
    except ValueError as error:
        raise InputError(f"router {name!r}: {where!r} is no module ({error}).") from error
