"""The errors this package raises on purpose: what was received, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A problem, an assignment, a file or an argument that makes no sense as given."""


OUT_OF_MEMORY = "out of memory: take fewer tokens or layers, or fewer processes (jobs)."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation; torch raises a `RuntimeError` for one."""
    says = str(error).lower()
    torch_says = "out of memory" in says or "can't allocate memory" in says
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says)


def did_you_mean(name: str, known: Iterable[str], else_says: str) -> str:
    """A hint for an unknown name: the most similar known one, or all known ones."""
    known = list(known)
    close = get_close_matches(name.lower(), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{else_says}{'; '.join(known)}."


class WorkerError(RuntimeError):
    """A process that computed points ended on its own, for example out of memory."""


class OptionError(InputError, TypeError):
    """A solver was given an option it does not have, or a value that option cannot take."""
