"""What a piece of work gave, or why it failed: one failure loses nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lp_routing.report.html.content import Block, Failure, in_words

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Outcome(Generic[Result]):
    """A result, or in words why there is none.

    Attributes:
        result: None where it failed.
        error: "" where it did not.
    """

    result: Result | None
    error: str = ""


def outcome(work: Callable[[], Result]) -> Outcome[Result]:
    """The result of the work, or what it raised."""
    try:
        return Outcome(work())
    except Exception as error:
        return Outcome(None, in_words(error))


def attempted(what: str, make: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    """The blocks, or one that says why they could not be made.

    Args:
        what: is made, such as "Load per expert".
        make: makes them.
    """
    made = outcome(make)
    return [Failure(f"{what}: {made.error}")] if made.result is None else made.result
