"""Which problem judges which routers: one problem for all, or for each what it seeks itself."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lp_routing.cli.named import PROBLEMS
from lp_routing.errors import InputError
from lp_routing.evaluation.compare import OPTIMUM
from lp_routing.routers import Shape, router
from lp_routing.routers.base import AnyRouter
from lp_routing.scores import BY_NAME

OWN = "own"


class Section(NamedTuple):
    """A problem, by whose scores, and the routers that it judges."""

    problem: str
    score: str
    routers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.problem} of {self.score} scores"


def sections_of(
    names: Sequence[str], problem_name: str, score: str
) -> tuple[list[Section], list[str]]:
    """The problems that judge: one for all routers, or for each what it seeks; who seeks none."""

    if problem_name != OWN:
        return [Section(problem_name, score, tuple(names))], []
    any_shape = Shape(k=1, capacity=1, T=8, E=8)  # what is sought does not depend on it
    seeking: dict[tuple[str, str], list[str]] = {}
    idle = []
    for name in names:
        if name == OPTIMUM:
            continue
        built = router(name, any_shape)
        if built.seeks in PROBLEMS:
            where = built.seeks, own_score(built) or score
            seeking.setdefault(where, []).append(name)
        else:
            idle.append(name)
    if not seeking:
        raise InputError(
            f"--problem {OWN}: none of the routers seeks a problem: {'; '.join(names)}."
        )
    first = (OPTIMUM,) if OPTIMUM in names else ()
    order = sorted(seeking, key=lambda where: PROBLEMS.index(where[0]))
    return [Section(*where, (*first, *seeking[where])) for where in order], idle


def own_score(router: AnyRouter) -> str:
    """The name of the scores that a router compares, "" where they have none (soft top-k).

    Noise that it adds to them is left out: what it seeks is the best by the plain ones.
    """

    stated = getattr(router, "score", None)
    if isinstance(stated, str):
        return stated
    probe = torch.linspace(-2.0, 2.0, 64).view(8, 8)
    compared = router.scores(probe)
    return next((name for name, score in BY_NAME.items() if score(probe, None).equal(compared)), "")
