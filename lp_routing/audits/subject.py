"""The adapter: any callable that routes logits, asked for the pairs it chooses."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.assignment import Assignment
from lp_routing.checks import as_tensor
from lp_routing.errors import InputError
from lp_routing.scores import check_logits

RouterLike = Callable[..., Any]
"""logits (T, E) or (B, T, E) -> anything that `as_map` reads."""

LIMIT_S = 30.0
ACCEPTED = (
    "an Assignment, a map of booleans (or 0 and 1) of the shape of the logits, expert indices "
    "(..., T, k), or a tuple that holds one of them, such as (values, indices)"
)


class NoAnswer(InputError):
    """Why a router gave no answer: what it raised or returned, or that it did not return."""


@dataclass(frozen=True)
class Subject:
    """A router under audit: asked cold, seeded, on a copy of the logits, with a time limit.

    Attributes:
        router: any callable; see `chosen` for what it may return. One with a state is called
            without it. A parameter named `mask` is taken to be booleans, True for real tokens.
        limit_s: seconds a call may take. One that takes longer is given up, but cannot be ended:
            its thread lives on until it returns or the process ends.
    """

    router: RouterLike
    limit_s: float = LIMIT_S

    def __post_init__(self) -> None:
        if not callable(self.router):
            raise InputError(
                f"router: expected a callable, logits (T, E) -> {ACCEPTED}; "
                f"got {type(self.router).__name__}."
            )
        number = isinstance(self.limit_s, Real) and not isinstance(self.limit_s, bool)
        if not number or not self.limit_s > 0:
            raise InputError(f"limit_s={self.limit_s!r}: expected a number of seconds > 0.")

    @property
    def takes_mask(self) -> bool:
        """Whether the router has a parameter named `mask`."""
        try:
            return "mask" in inspect.signature(self.router).parameters
        except (TypeError, ValueError):  # some callables written in C have no signature
            return False

    def __call__(self, logits: Tensor, mask: Tensor | None = None, seed: int = 0) -> Tensor:
        """The chosen pairs, boolean, of the shape of the logits.

        Raises:
            NoAnswer: the router raised, did not return in time, or returned what names no pairs.
        """
        devices = [logits.device] if logits.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            return _within(self.limit_s, lambda: chosen(self.router, logits, mask))


def as_subject(router: "RouterLike | Subject") -> Subject:
    """The subject itself, or the callable as one."""
    return router if isinstance(router, Subject) else Subject(router)


def as_logits(values: Any) -> Tensor:
    """Logits (T, E) or (B, T, E) to audit on, in their own dtype.

    Raises:
        InputError: as `lp_routing.scores.check_logits`, or another number of axes.
    """
    checked = check_logits(values)
    if checked.ndim > 3:
        raise InputError(
            f"logits: an audit takes (T, E) or (B, T, E), got shape {tuple(checked.shape)}."
        )
    return values.detach() if isinstance(values, Tensor) else checked


@torch.no_grad()
def chosen(router: RouterLike, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Ask a router once for the pairs it chooses; boolean, of the shape of the logits.

    Raises:
        NoAnswer: it returned what names no pairs; what it raises itself is passed on.
    """
    copy = logits.clone()  # a router may write to what it is given
    return as_map(router(copy) if mask is None else router(copy, mask=mask), logits)


def as_map(answer: Any, logits: Tensor) -> Tensor:
    """A router's answer as a map of booleans, of the shape of the logits and on their device.

    Args:
        answer: an `Assignment`; a map of booleans or of 0 and 1; expert indices (..., T, k), where
            -1 is no expert; or a tuple of which one entry is such a thing: the `Assignment`, else
            the map of booleans, else the indices. Whole numbers of the shape of the logits are a
            map where all are 0 or 1, else indices (k = E).
        logits: what the router was given.

    Raises:
        NoAnswer: anything else, fractions, NaN, indices that are out of range or named twice.
    """
    if isinstance(answer, tuple | list) and any(_tells(entry) for entry in answer):
        answer = _the_one(answer, logits)
    if isinstance(answer, Assignment):
        answer = answer.x
    if not isinstance(answer, Tensor | np.ndarray | list | tuple):
        raise NoAnswer(f"it returned {type(answer).__name__}; expected {ACCEPTED}")
    try:
        told = as_tensor(answer, "its answer", ACCEPTED).to(logits.device)
    except InputError as error:
        raise NoAnswer(str(error)) from error
    whole = not told.is_floating_point() and not told.is_complex()
    if told.shape == logits.shape:
        binary = (told == 0) | (told == 1)
        if bool(binary.all()):
            return told == 1
        if not whole:
            where = [int(i) for i in (~binary).nonzero()[0]]
            raise NoAnswer(f"its map holds {told[tuple(where)].item()} at {where}; expected 0 or 1")
    if not whole or told.dtype == torch.bool or told.shape[:-1] != logits.shape[:-1]:
        raise NoAnswer(
            f"it returned {told.dtype} of shape {tuple(told.shape)} for logits of shape "
            f"{tuple(logits.shape)}; expected {ACCEPTED}"
        )
    return _named(told.long(), logits.shape[-1])


def _tells(entry: Any) -> bool:
    return isinstance(entry, Assignment | Tensor | np.ndarray)


def _the_one(answers: Any, logits: Tensor) -> Any:
    """The one entry of a tuple that says who goes where."""
    shape, rows = tuple(logits.shape), tuple(logits.shape[:-1])
    arrays = [a for a in answers if isinstance(a, Tensor | np.ndarray)]
    pairs = [(a, a.dtype.kind if isinstance(a, np.ndarray) else _kind(a)) for a in arrays]
    candidates = (
        [a for a in answers if isinstance(a, Assignment)],
        [a for a, kind in pairs if kind == "b" and tuple(a.shape) == shape],
        [a for a, kind in pairs if kind in "iu" and a.ndim > 1 and tuple(a.shape[:-1]) == rows],
    )
    for found in candidates:
        if len(found) == 1:
            return found[0]
        if found:
            raise NoAnswer(
                f"{len(found)} entries of its tuple could say who goes where; return one of them"
            )
    raise NoAnswer(f"no entry of its tuple says who goes where; expected {ACCEPTED}")


def _kind(tensor: Tensor) -> str:
    """The letter numpy has for such a dtype."""
    if tensor.dtype == torch.bool:
        return "b"
    return "f" if tensor.is_floating_point() or tensor.is_complex() else "i"


def _named(experts: Tensor, E: int) -> Tensor:
    """Indices (..., T, k) as a map (..., T, E)."""
    bad = (experts < -1) | (experts >= E)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise NoAnswer(f"it names expert {int(experts[tuple(where)])} of {E} at {where}")
    places = experts.where(experts >= 0, E)
    times = experts.new_zeros((*experts.shape[:-1], E + 1))
    times = times.scatter_add(-1, places, torch.ones_like(places))[..., :E]
    if bool((times > 1).any()):
        *token, expert = (int(i) for i in (times > 1).nonzero()[0])
        raise NoAnswer(f"it names expert {expert} twice for token {token}")
    return times == 1


def _within(limit_s: float, call: Callable[[], Tensor]) -> Tensor:
    """The result of a call, unless it raises or takes longer."""
    outcome: list[Tensor | BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # whatever it is, it is the router's
            outcome.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        raise NoAnswer(f"it did not return in {limit_s:g} s")
    result = outcome[0]
    if isinstance(result, NoAnswer):
        raise result
    if isinstance(result, BaseException):
        first_line = (str(result).splitlines() or [""])[0]
        raise NoAnswer(f"it raised {type(result).__name__}: {first_line}") from result
    return result
