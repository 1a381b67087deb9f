"""The adapter: any callable that routes logits, asked for the pairs it chooses."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.router_outputs import ACCEPTED, NoAnswer, as_map
from lp_routing.scores import check_logits

RouterLike = Callable[..., Any]
"""logits (T, E) or (B, T, E) -> anything that `as_map` reads."""

LIMIT_S = 30.0


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
