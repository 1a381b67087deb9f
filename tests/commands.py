"""What the tests of commands share."""

from pathlib import Path


def with_k(arguments):
    """The words of a command, with k = 2 where a file is named and k is not."""
    words = [str(word) for word in arguments]
    named = any(Path(word).is_file() for word in words if len(word) < 200)
    return [*words, "--k", "2"] if named and "--k" not in words else words
