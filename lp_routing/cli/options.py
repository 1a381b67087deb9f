"""What commands share: options, reading them, stating the problem, versions, writing files."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from lp_routing import scores
from lp_routing.errors import InputError
from lp_routing.problem import named as problems
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, Shape
from lp_routing.traces import Trace
from lp_routing.validation import as_int

PACKAGES = ("lp-routing", "torch", "numpy", "scipy", "highspy", "cvxpy", "clarabel")

file_argument = click.argument("file", required=False, type=click.Path(path_type=Path))
k_option = click.option("--k", default=2, show_default=True, help="Experts per token.")
capacity_factor_option = click.option(
    "--capacity-factor",
    default=1.25,
    show_default=True,
    help="Capacity of an expert, relative to an equal share.",
)
layers_option = click.option(
    "--layers", default="all", show_default=True, help='Which layers, e.g. "0,2" or "0-3".'
)
tokens_option = click.option(
    "--tokens",
    default="1024",
    show_default=True,
    help='How many tokens of each layer, from the first, or "all".',
)
score_option = click.option(
    "--score",
    type=click.Choice(["softmax", "sigmoid", "unified", "logits"]),
    default="softmax",
    show_default=True,
    help="How logits become what a pair is worth; routers choose by scores of their own.",
)


def parse_layers(text: str, count: int) -> list[int]:
    """`all`, `0,2` or `0-3` as layer numbers below `count`."""
    if text.strip().lower() == "all":
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last.isdecimal() or not last):
            raise InputError(f'--layers {text}: expected "all", "0,2" or "0-3".')
        if int(last or first) >= count or int(first) > int(last or first):
            raise InputError(f"--layers {text}: this file has the layers 0 to {count - 1}.")
        chosen += range(int(first), int(last or first) + 1)
    if not chosen:
        raise InputError(f"--layers {text}: this file has the layers 0 to {count - 1}.")
    return sorted(set(chosen))


def parse_tokens(text: str) -> int | None:
    """`all` as None, else a number of tokens >= 1."""
    if text.strip().lower() == "all":
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f'--tokens {text}: expected "all" or a whole number >= 1.')
    return int(text)


def first_tokens(trace: Trace, tokens: int | None) -> Tensor:
    """Logits (L, T, E) of the first real tokens of every layer, of all where None."""
    logits = trace.router_logits
    real = logits if trace.mask is None else logits[:, trace.mask]
    return real[:, :tokens].contiguous()


def versions() -> dict[str, str]:
    """Versions of this package and of everything a number depends on."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_whole(path: Path, text: str, option: str = "--json") -> None:
    """Write a file whole or not at all: a reader never sees a part of it.

    What is no file, such as a pipe, is written to as it is.

    Raises:
        InputError: it cannot be written, as on a full disk.
    """
    whole = path.resolve()
    part = whole.with_name(f".lp-routing-{os.getpid()}.part")
    into = whole if whole.exists() and not whole.is_file() else part
    try:
        with into.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            if into is part:
                os.fsync(file.fileno())
        if into is part:
            part.replace(whole)
    except OSError as error:
        raise InputError(f"{option} {path}: could not be written ({error.strerror}).") from error
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path | None, read_from: Path | None, option: str = "--json") -> None:
    """Raise before the work, not after it, where the result cannot be written."""
    if path is None:
        return
    try:
        existed = path.exists()
        if existed and read_from is not None and read_from.exists() and path.samefile(read_from):
            raise InputError(f"{option} {path}: this is the file to read; give another name.")
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written ({error.strerror}).") from error


PROBLEMS = (
    "capacity",
    "balanced",
    "unified",
    "token_choice",
    "expert_choice",
    "served_unified",
    "capped_expert_choice",
)


def stated_problem(
    logits: Tensor, name: str, k: int, capacity_factor: float, score: str
) -> tuple[RoutingProblem, Shape]:
    """The problem of the given name on logits (T, E), and what its routers are built for."""
    worth = scores.named(score)(logits, None)
    T, E = worth.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    capacity, share = CapacityFactor(capacity_factor).of(T, E, k), T * k // E
    state = {
        "capacity": lambda: problems.capacity(worth, k, capacity),
        "balanced": lambda: problems.balanced(worth, k),
        "unified": lambda: problems.unified(worth, T * k),
        "token_choice": lambda: problems.token_choice(worth, k),
        "expert_choice": lambda: problems.expert_choice(worth, share),
        "served_unified": lambda: problems.served_unified(worth, T * k),
        "capped_expert_choice": lambda: problems.capped_expert_choice(worth, share, min(2 * k, E)),
    }
    problem = state[name]()
    experts = problem.family("expert")
    room = capacity if experts is None else int(experts.upper.max())  # routers drop beyond this
    return problem, Shape(k=k, capacity=room, T=T, E=E)
