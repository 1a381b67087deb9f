"""What commands have in common: options, reading them, finding out versions, writing files."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.traces import Trace

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
    """Write a file, or leave what was there: a reader never sees a part of it.

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
    """Find out before the work, not after it, that the result cannot be written."""
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
