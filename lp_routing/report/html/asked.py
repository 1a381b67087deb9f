"""What a report is about: the logits, the problem, the routers, and how to make it again."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        name: of the logits: of their file, without its folders, or "the sample".
        layers: the numbers of the layers examined.
        tokens: of each layer.
        all_tokens: how many there are.
        experts: E.
        k: experts per token.
        capacity_factor: of an equal share.
        capacity: C, tokens an expert may take.
        score: the name of the scores that judge.
        routers: names of the catalogue; the first is the main one.
        seed: of all that is drawn.
        timed: whether times are shown, which differ from run to run.
        command: that makes this page.
        date: as the caller says it; "" where the page has none.
        digest: sha256 of the examined logits (float64, row by row).
        versions: package -> version.
    """

    name: str
    layers: tuple[int, ...]
    tokens: int
    all_tokens: int
    experts: int
    k: int
    capacity_factor: float
    capacity: int
    score: str
    routers: tuple[str, ...]
    seed: int
    timed: bool
    command: str
    date: str
    digest: str
    versions: Mapping[str, str]

    @property
    def main(self) -> str:
        """The router that the report is about."""
        return self.routers[0]
