"""What the name of a problem means for the logits of a layer."""

from torch import Tensor

from lp_routing import scores
from lp_routing.problem import named as problems
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor, Shape
from lp_routing.validation import as_int

PROBLEMS = (
    "capacity",
    "balanced",
    "unified",
    "token_choice",
    "expert_choice",
    "served_unified",
    "capped_expert_choice",
)


def stated(
    logits: Tensor, name: str, k: int, capacity_factor: float, score: str
) -> tuple[RoutingProblem, Shape]:
    """The problem of the given name on logits (T, E), and what its routers are built for."""
    worth = scores.named(score)(logits, None)
    T, E = worth.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    capacity, share = CapacityFactor(capacity_factor).of(T, E, k), T * k // E
    state = {
        "capacity": lambda: problems.capacity(worth, k, capacity),
        "balanced": lambda: problems.balanced(worth, k),
        "unified": lambda: problems.unified(worth, T * k),
        "token_choice": lambda: problems.token_choice(worth, k),
        "expert_choice": lambda: problems.expert_choice(worth, share),
        "served_unified": lambda: problems.served_unified(worth, T * k),
        "capped_expert_choice": lambda: problems.capped_expert_choice(worth, share, min(2 * k, E)),
    }
    problem = state[name]()
    experts = problem.family("expert")
    room = capacity if experts is None else int(experts.upper.max())  # routers drop beyond this
    return problem, Shape(k=k, capacity=room, T=T, E=E)
