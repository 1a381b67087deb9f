"""The errors this package raises on purpose: what was received, and what to do."""


class InputError(ValueError):
    """A problem, an assignment, a file or an argument that makes no sense as given."""


class OptionError(InputError, TypeError):
    """A solver was given an option it does not have, or a value that option cannot take."""
