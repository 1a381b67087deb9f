"""A router at work: it chooses once and is judged, then is timed in turns with `torch.topk`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lp_routing.evaluation.evaluate import EXACT, NOT_JUDGED, GapRow, Judge
from lp_routing.evaluation.given_logits import GivenLogits
from lp_routing.router_outputs import as_taken
from lp_routing.routers.base import StatefulRouter

PATIENCE_S = 0.25
"""A router whose timed calls took this long together is called no more; one call is enough."""


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
        given: GivenLogits,
        warm_up: int,
        before: Sequence[Tensor] = (),
    ) -> None:
        """Build the router, warm it up, let it choose once, and judge what it chose."""
        try:
            router = make()
            seeks, causal = getattr(router, "seeks", ""), getattr(router, "causal", None)
            self.row = replace(
                self.row,
                seeks=seeks if isinstance(seeks, str) else "",  # any function may have either
                causal=causal if isinstance(causal, bool) else None,
            )
            refusal = "" if seeks == EXACT else given.refusal(router)  # the optimum needs no logits
            if refusal:
                self.row = replace(self.row, status=f"{NOT_JUDGED}: {refusal}")
                return
            values = judge.problem.scores if given.values is None else given.values
            self.run, state = _runner(router, values, warm_up, before)
            self.row = replace(self.row, routed_on=given.words, state=state)
            self.first_s, result = _timed(self.run, values)
            self.row = judge.judged(self.row, as_taken(result, values))
        except Exception as error:
            self._failed(error)

    def take_turn(self, given: Tensor, scores: Tensor, k: int) -> None:
        """Time one `topk` and one call, unless enough time went into such calls."""
        slow = self.first_s > PATIENCE_S
        if self.run is None or (self.seconds and (slow or sum(self.seconds) > PATIENCE_S)):
            return
        try:
            unit, _ = _timed(lambda values: torch.topk(values, k), scores)
            seconds = self.first_s if slow else _timed(self.run, given)[0]
        except Exception as error:
            self._failed(error)
        else:
            self.units.append(unit)
            self.seconds.append(seconds)

    def finished(self, unit: float) -> GapRow:
        """The row with its times, in units of `unit` seconds."""
        if not self.seconds:
            return self.row
        seconds, runs = median(self.seconds), len(self.seconds)
        return replace(self.row, seconds=seconds, topk_units=seconds / unit, runs=runs)

    def _failed(self, error: Exception) -> None:
        self.run, self.seconds = None, []
        self.row = replace(self.row, status=f"{type(error).__name__}: {error}")


def _runner(
    router: Any, given: Tensor, warm_up: int, before: Sequence[Tensor]
) -> tuple[Callable[[Tensor], Any], str]:
    """How the router chooses from logits alone, and what it knows of earlier batches."""
    if not isinstance(router, StatefulRouter):
        return router, ""
    state = None
    for batch in [given] * warm_up + list(before):
        _, state = router(batch.clone(), state)
    age = f"after {warm_up} step(s)" if warm_up else "cold"
    if before:
        age = f"after {len(before)} other batch(es)"
    return (lambda values: router(values, state)), age


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
