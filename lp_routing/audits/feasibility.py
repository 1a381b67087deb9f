"""Does a router meet the bounds it was given?"""

from torch import Tensor

from lp_routing.audits.probe import (
    AuditedRouter,
    Finding,
    RouterLike,
    as_audited_router,
    as_logits,
    asking,
    unasked,
)
from lp_routing.certificate.violations import violations_of
from lp_routing.errors import InputError
from lp_routing.problem.problem import RoutingProblem

NAME = "feasibility"
QUESTION = "Does the router meet every bound of the problem?"


@asking(NAME, QUESTION)
def feasibility(
    router: RouterLike | AuditedRouter, logits: Tensor, problem: RoutingProblem | None
) -> Finding:
    """Count the bounds of a problem that the router's choice breaks.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E).
        problem: the bounds to meet, such as `RoutingProblem(logits, experts=at_most(C))`; None
            where there are none.

    Returns:
        A `Finding` that counts broken bounds among all bounds of the problem and its forbidden
        pairs; the sentence names the worst. `numbers["worst"]` is by how many pairs it is broken.

    Raises:
        InputError: bad logits, logits of another shape than the problem's scores, or a router that
            is not callable.

    Cost: one call and a pass over the chosen pairs.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
        >>> problem = lpr.problems.capacity(logits, k=1, capacity=1)
        >>> lpr.audits.feasibility(lpr.routers.TopK(k=1), logits, problem).sentence
        '1 of 4 bounds is broken; by most: expert_0 counts 2, at most 1.'
    """
    ask, logits = as_audited_router(router), as_logits(logits)
    if problem is None:
        return unasked(NAME, QUESTION, "no problem was given")
    if not isinstance(problem, RoutingProblem):
        raise InputError(f"problem: expected a RoutingProblem, got {type(problem).__name__}.")
    if problem.scores.shape != logits.shape:
        raise InputError(
            f"problem: its scores have shape {tuple(problem.scores.shape)} and the logits "
            f"{tuple(logits.shape)}; both must be (tokens, experts) of one batch."
        )
    broken, count = violations_of(problem, ask(logits).to(problem.scores.device))
    forbidden = problem.T * problem.E - int(problem.allowed_per_token.sum())
    of = sum(len(family) for family in problem.families) + forbidden
    if not count:
        return Finding(
            NAME,
            QUESTION,
            "holds",
            f"None of {of} bounds is broken.",
            0,
            of,
            numbers={"worst": 0.0},
            note=ask.note,
        )
    worst = broken[0]
    sentence = (
        f"{count} of {of} bounds {'is' if count == 1 else 'are'} broken; by most: {worst.says}."
    )
    numbers = {"worst": worst.amount}
    return Finding(NAME, QUESTION, "fails", sentence, count, of, numbers=numbers, note=ask.note)
