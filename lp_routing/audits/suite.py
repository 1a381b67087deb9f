"""All audits of one router on one batch."""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from torch import Tensor

from lp_routing.audits.batch_invariance import batch_invariance
from lp_routing.audits.causality import causality
from lp_routing.audits.feasibility import feasibility
from lp_routing.audits.finding import Finding
from lp_routing.audits.precision import FORMATS, precision
from lp_routing.audits.prefill import prefill
from lp_routing.audits.repeatable import SAME, repeatable
from lp_routing.audits.scale import WAYS, scale
from lp_routing.audits.subject import LIMIT_S, RouterLike, Subject, as_logits
from lp_routing.audits.ties import ties
from lp_routing.problem.problem import RoutingProblem
from lp_routing.router_outputs import NoAnswer

Audit = Callable[[Subject, Tensor], Finding]
AUDITS: tuple[Audit, ...] = (
    causality,
    batch_invariance,
    prefill,
    ties,
    *(partial(precision, rounded_to=name) for name in FORMATS),
    *(partial(scale, way=way) for way in WAYS),
)
"""What is asked of a router that gives the same answer twice."""


def audit(
    router: RouterLike,
    logits: Tensor,
    *,
    problem: RoutingProblem | None = None,
    limit_s: float = LIMIT_S,
) -> list[Finding]:
    """Ask every audit's question of a router, each on its own account.

    Args:
        router: logits -> an `Assignment`, a map, indices, or a tuple that holds one of them; see
            `lp_routing.audits.chosen`. A router with a state is called without it.
        logits: (T, E), one batch in reading order, or (B, T, E), B sequences.
        problem: the bounds it is to meet, for logits (T, E); without it feasibility is not asked.
        limit_s: seconds a single call may take.

    Returns:
        One `Finding` a question, "repeatable" first. Where the router gives no answer on the logits
        as they are, or another one each time, the other questions are not asked: the fault would
        be blamed on what they vary.

    Raises:
        InputError: bad logits, a problem of another shape, or a router that is not callable. What
            the router raises becomes a finding.

    Cost: some fifty calls, and one for each of up to 256 single tokens.
    """
    subject, logits = Subject(router, limit_s), as_logits(logits)
    findings = [repeatable(subject, logits)]
    obstacle = _obstacle(findings[0])
    if obstacle is not None:
        subject = Subject(partial(_decline, obstacle), limit_s)
    findings += [ask(subject, logits) for ask in AUDITS]
    return [*findings, feasibility(subject, logits, problem)]


def _obstacle(first: Finding) -> str | None:
    """Why the other audits would blame chance, or have no answer to judge by."""
    if first.count is None:
        return "the router gives no answer on the logits as they are"
    if first.numbers.get(SAME):
        return "the same input gives other experts each time"
    return None


def _decline(reason: str, _logits: Tensor) -> NoReturn:
    raise NoAnswer(reason)
