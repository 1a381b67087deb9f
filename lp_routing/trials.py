"""A router at work: it chooses once and is judged, then is timed in turns with `torch.topk`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.assignment import Assignment
from lp_routing.errors import InputError
from lp_routing.judging import GapRow, Judge
from lp_routing.routers.base import Router, StatefulRouter

PATIENCE_S = 2.0
"""A router that takes longer than this is run once: its time then needs no repeats."""


@dataclass(eq=False)
class Trial:
    """A router at work, and what is known of it so far."""

    row: GapRow
    run: Callable[[Tensor], Any] | None = None
    first_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)

    def begin(
        self,
        make: Callable[[], Any],
        judge: Judge,
        given: Tensor,
        warm_up: int,
        *,
        on_problem: bool,
    ) -> None:
        """Build the router, let it choose once, and judge what it chose."""
        try:
            router = make()
            seeks, causal = getattr(router, "seeks", ""), getattr(router, "causal", None)
            self.row = replace(
                self.row,
                seeks=seeks if isinstance(seeks, str) else "",  # any function may have either
                causal=causal if isinstance(causal, bool) else None,
            )
            self.run, words = _runner(router, given, warm_up, on_problem)
            self.row = replace(self.row, judged_on=words)
            self.first_s, result = _timed(self.run, given)
            self.row = judge.judged(self.row, _amounts(result))
        except Exception as error:
            self._failed(error)

    def take_turn(self, given: Tensor, scores: Tensor, k: int) -> None:
        """Time one `topk` and one call."""
        slow = self.first_s > PATIENCE_S
        if self.run is None or (slow and self.seconds):
            return
        try:
            unit, _ = _timed(lambda values: torch.topk(values, k), scores)
            seconds = self.first_s if slow else _timed(self.run, given)[0]
        except Exception as error:
            self._failed(error)
        else:
            self.units.append(unit)
            self.seconds.append(seconds)

    def finished(self) -> GapRow:
        """The row with its times."""
        if not self.seconds:
            return self.row
        seconds, runs = median(self.seconds), len(self.seconds)
        return replace(
            self.row, seconds=seconds, topk_units=seconds / median(self.units), runs=runs
        )

    def _failed(self, error: Exception) -> None:
        self.run = None
        self.row = replace(self.row, status=f"{type(error).__name__}: {error}")


def _runner(
    router: Any, given: Tensor, warm_up: int, on_problem: bool
) -> tuple[Callable[[Tensor], Any], str]:
    """How the router chooses, from `given` alone, and by which scores."""
    words = "problem's scores" if on_problem else "own scores"
    if isinstance(router, StatefulRouter):
        state = router.initial(given) if on_problem else None
        step: Callable[..., Any] = router.step if on_problem else router
        for _ in range(warm_up):
            _, state = step(given, state)
        age = f"after {warm_up} step(s)" if warm_up else "cold"
        return (lambda values: step(values, state)[0]), f"{words}, {age}"
    if isinstance(router, Router) and on_problem:
        return router.select, words
    return router, words


def _amounts(result: Any) -> Tensor | np.ndarray[Any, Any]:
    """The amounts in what a router gave back; a state beside them is left out."""
    if isinstance(result, tuple) and result and isinstance(result[0], Assignment):
        result = result[0]
    if isinstance(result, Assignment):
        return result.x
    if isinstance(result, Tensor | np.ndarray):
        return result
    raise InputError(
        f"it returned {type(result).__name__}; expected an Assignment or amounts (T, E)."
    )


def _timed(work: Callable[[Tensor], Any], values: Tensor) -> tuple[float, Any]:
    """Seconds of one call on a copy of its own, which it may overwrite, and what it returned."""
    copy = values.clone()
    _wait(copy)
    began = time.perf_counter()
    result = work(copy)
    _wait(copy)
    return time.perf_counter() - began, result


def _wait(values: Tensor) -> None:
    """Until the device has done what it was asked: clocks stand on the host."""
    if values.device.type == "cuda":
        torch.cuda.synchronize(values.device)
