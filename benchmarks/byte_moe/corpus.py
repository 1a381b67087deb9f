"""The text: CPython's own standard library sources and its documentation topics."""

import hashlib
import importlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Not read: third-party code, tests, generated tables and files of one build.
SKIPPED_DIRECTORIES = frozenset(
    {"site-packages", "test", "tests", "__pycache__", "idlelib", "encodings", "pydoc_data"}
)
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
HELD_OUT_ONE_IN = 12  # one file in twelve, by the hash of its name, is held out
END_OF_FILE = b"\x00"


@dataclass(frozen=True)
class Corpus:
    """Train and held-out text as bytes, and the SHA-256 of all files with their names."""

    train: bytes
    held_out: bytes
    train_files: int
    held_out_files: int
    sha256: str

    def describe(self) -> dict[str, int | str]:
        """Return the sizes in bytes and files, and the SHA-256."""
        return {
            "train_bytes": len(self.train),
            "held_out_bytes": len(self.held_out),
            "train_files": self.train_files,
            "held_out_files": self.held_out_files,
            "sha256": self.sha256,
        }


def is_read(relative: Path) -> bool:
    """Say whether the file at this path below the standard library is part of the text."""
    return not any(
        part in SKIPPED_DIRECTORIES or part.startswith(SKIPPED_PREFIXES) for part in relative.parts
    )


def is_held_out(name: str) -> bool:
    """Say whether a file is held out: the SHA-256 of its name, modulo `HELD_OUT_ONE_IN`, is 0."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def read_files() -> dict[str, bytes]:
    """Read every file, keyed and sorted by its name; a topic counts as one file."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path for path in root.rglob("*.py") if is_read(path.relative_to(root)))
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for topic, text in topics.items():
        files[f"pydoc_data/topics/{topic}.txt"] = text.encode()
    return dict(sorted(files.items()))


def load_corpus() -> Corpus:
    """Join the files of each side in order of name, each ended by one zero byte."""
    digest = hashlib.sha256()
    sides: dict[bool, list[bytes]] = {False: [], True: []}
    for name, content in read_files().items():
        digest.update(name.encode() + END_OF_FILE + content + END_OF_FILE)
        sides[is_held_out(name)].append(content + END_OF_FILE)
    return Corpus(
        train=b"".join(sides[False]),
        held_out=b"".join(sides[True]),
        train_files=len(sides[False]),
        held_out_files=len(sides[True]),
        sha256=digest.hexdigest(),
    )
