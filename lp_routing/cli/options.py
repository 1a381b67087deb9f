"""What commands share: parsed options, the problem, versions."""

import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar

import click
from torch import Tensor

from lp_routing import scores, traces
from lp_routing.errors import InputError
from lp_routing.routers.catalogue import check_name
from lp_routing.traces import Trace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PROBABILITIES = "probabilities"
"""The score function of traces that hold logarithms of probabilities."""

PACKAGES = ("lp-routing", "torch", "numpy", "scipy", "highspy", "cvxpy", "clarabel")

Options = TypeVar("Options", bound="DataclassInstance")


def opened(kind: type[Options], typed: Mapping[str, Any]) -> tuple[Options, Trace]:
    """The trace of a command's FILE, and its options, with defaults from the trace.

    Doubts about the file are printed on stderr.

    Args:
        kind: the dataclass of the command's options.
        typed: every option of the command by name; None where it was left out.

    Raises:
        InputError: a file that cannot be read, that does not say k, or that holds probabilities
            where logits are asked for.
    """
    trace = traces.sample() if typed["file"] is None else _told(typed)
    usual = {
        "k": trace.k,
        "capacity_factor": trace.capacity_factor or 1.25,
        "score": trace.score or "softmax",
    }
    names = [field.name for field in fields(kind)]
    values: dict[str, Any] = {
        name: usual.get(name) if typed[name] is None else typed[name] for name in names
    }
    if values["k"] is None:
        raise InputError(f"{trace.source}: does not say how many experts a token takes; give --k.")
    if "score" in values:
        values["score"] = _score(trace, values["score"])
    return kind(**values), trace


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print what a reader of files warns of as lines on stderr."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in told:
        click.echo(f"Warning: {warning.message}", err=True)


def _told(typed: Mapping[str, Any]) -> Trace:
    """Read a file; warnings go to stderr."""
    with warnings_on_stderr():
        trace = traces.read(typed["file"], axes=typed["axes"], values=typed["values"])
    if trace.bias is not None:
        click.echo(
            f"Warning: {trace.source}: its selection bias is read, but no router of this command "
            f"uses it yet: they choose by the logits alone.",
            err=True,
        )
    if trace.up_to_a_constant:
        click.echo(
            f"Warning: {trace.source}: holds probabilities, which give the logits only up to one "
            f"constant a token: routers with sigmoid or ReLU scores choose other experts on them "
            f"than in the model.",
            err=True,
        )
    return trace


def _score(trace: Trace, name: str) -> str:
    """The name of the score function; refused where the trace does not hold what it needs.

    Where the trace holds logarithms of probabilities, "softmax" means these probabilities, also
    where a token's do not add up to 1 because some were not recorded.
    """
    scores.named(name)
    if trace.up_to_a_constant and name == "softmax":
        return PROBABILITIES
    if trace.up_to_a_constant != (name == PROBABILITIES):
        raise InputError(
            f"--score {name}: {trace.source} holds "
            + (
                "probabilities, which give the logits only up to one constant a token; give "
                "--score softmax."
                if trace.up_to_a_constant
                else "logits, not logarithms of probabilities; give --score softmax."
            )
        )
    return name


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


def parse_factors(text: str, option: str = "--factors") -> tuple[float, ...]:
    """`1,1.25,2` as positive numbers, rising, each once."""
    try:
        factors = sorted({float(part) for part in text.split(",")})
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < float("inf") for factor in factors):
        raise InputError(f'{option} {text}: expected positive numbers, such as "1,1.25,1.5,2".')
    return tuple(factors)


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


def parse_routers(text: str, known: Sequence[str]) -> list[str]:
    """`all`, or names separated by commas; each once."""
    names: list[str] = []
    for part in (" ".join(part.split()) for part in text.split(",")):
        if part.lower() == "all":
            names += known
        else:
            check_name(part, known, "--routers:", 'expected "all", or some of: ')
            names.append(part)
    return list(dict.fromkeys(names))
