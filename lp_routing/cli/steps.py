"""Work in a few unequal steps, each on its own account, with an estimate of what is left."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
from rich.console import Console

from lp_routing.cli.long_work import INTERRUPTED as INTERRUPTED
from lp_routing.report.document import Outcome, outcome


class Step(NamedTuple):
    """A step.

    Attributes:
        name: what is done.
        weight: how long it takes, relative to the other steps.
        work: does it.
    """

    name: str
    weight: float
    work: Callable[[], Any]


def run(steps: Sequence[Step], done: dict[str, Outcome[Any]]) -> bool:
    """Do the steps in turn, and tell on stderr how far they are.

    Args:
        steps: which.
        done: name -> outcome, filled step by step, so that later ones can ask it; where a step
            fails, or Ctrl-C ends the work before it, the outcome says so.

    Returns:
        Whether Ctrl-C came.
    """
    began, total = time.monotonic(), sum(step.weight for step in steps)
    spent, interrupted = 0.0, False
    with Console(stderr=True).status("") as status:
        for number, step in enumerate(steps):
            says = f"{number} of {len(steps)} done"
            if spent:
                left = (time.monotonic() - began) * (total - spent) / spent
                says += f", about {left:.0f} s left"
            status.update(f"{says}: {step.name} ...")
            if not sys.stderr.isatty():
                click.echo(f"{says}: {step.name}", err=True)
            try:
                done[step.name] = outcome(step.work)
            except KeyboardInterrupt:
                interrupted = True
                break
            spent += step.weight
    for step in steps:
        done.setdefault(step.name, Outcome(None, "Interrupted before it was computed."))
    return interrupted
