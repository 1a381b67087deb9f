"""What is verified: the named problems of a layer, and the quick rules held against each."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing.problem import named as problems
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, ExpertChoice, Router, TopK, Unified
from lp_routing.validation import whole


@dataclass(frozen=True)
class Rule:
    """A quick rule, and whether theory says it is exact for the problem it stands beside."""

    name: str
    router: Router
    exact: bool


@dataclass(frozen=True)
class Case:
    """A named problem of one layer and the quick rules that are held against it."""

    layer: int
    name: str
    problem: RoutingProblem
    rules: tuple[Rule, ...]


def cases(layer: int, scores: Tensor, k: int, capacity_factor: float) -> list[Case]:
    """The seven named problems on scores (T, E), with their quick rules."""
    T, E = scores.shape
    k = whole(k, "k", 1, E, "E, the number of experts")
    share = T * k // E
    capacity = CapacityFactor(capacity_factor).of(T, E, k)
    cap = min(2 * k, E)
    stated: list[tuple[str, RoutingProblem, list[Rule]]] = [
        ("token_choice", problems.token_choice(scores, k), [Rule("TopK", TopK(k), True)]),
        (
            "expert_choice",
            problems.expert_choice(scores, share),
            [Rule("ExpertChoice", ExpertChoice(share), True)],
        ),
        ("unified", problems.unified(scores, T * k), [Rule("Unified", Unified(k), True)]),
        (
            "served_unified",
            problems.served_unified(scores, T * k),
            [Rule("Unified, serve_all", Unified(k, serve_all=True), True)],
        ),
        (
            "capacity",
            problems.capacity(scores, k, capacity),
            [
                Rule("TopK, best scores", TopK(k, capacity), False),
                Rule("TopK, first choices", TopK(k, capacity, "position"), False),
                Rule("TopK, first tokens", TopK(k, capacity, "position", "token"), False),
            ],
        ),
        (
            "balanced",
            problems.balanced(scores, k),
            [
                Rule("TopK", TopK(k), False),
                Rule("TopK, best scores", TopK(k, -(-T * k // E)), False),
            ],
        ),
        (
            "capped_expert_choice",
            problems.capped_expert_choice(scores, share, cap),
            [Rule("ExpertChoice", ExpertChoice(share), False)],
        ),
    ]
    return [Case(layer, name, problem, tuple(rules)) for name, problem, rules in stated]
