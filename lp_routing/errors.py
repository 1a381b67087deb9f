"""The errors this package raises on purpose: what was received, and what to do."""


class InputError(ValueError):
    """A problem, an assignment, a file or an argument that makes no sense as given."""


OUT_OF_MEMORY = "out of memory: take fewer tokens or layers, or fewer processes (jobs)."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had; torch says so by a `RuntimeError`."""
    says = str(error).lower()
    torch_says = "out of memory" in says or "can't allocate memory" in says
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says)


class WorkerError(RuntimeError):
    """A process that computed points ended on its own, for example out of memory."""


class OptionError(InputError, TypeError):
    """A solver was given an option it does not have, or a value that option cannot take."""
