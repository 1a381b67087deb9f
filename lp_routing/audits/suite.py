"""All audits of one router on one batch, after a check that it answers the same twice."""

from dataclasses import replace
from functools import partial
from typing import NoReturn

from torch import Tensor

from lp_routing.audits.feasibility import feasibility
from lp_routing.audits.probe import (
    AUDITS,
    LIMIT_S,
    AuditedRouter,
    Finding,
    Probe,
    RouterLike,
    as_audited_router,
    as_logits,
    compare,
    found,
    sequence_places,
    try_all,
    unanswered,
)
from lp_routing.problem.problem import RoutingProblem
from lp_routing.router_outputs import NoRouterOutput

NAME = "repeatable"
QUESTION = "Does the same input give the same experts every time?"
SAME, OTHER = "same seed", "other seed"


def repeatable(router: RouterLike | AuditedRouter, logits: Tensor) -> Finding:
    """Ask twice with torch seeded the same, and once with another seed.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E).

    Returns:
        A `Finding` that fails where a token changes experts, or where there is no answer. Its
        `numbers` tell randomness that follows the seed ("other seed") from any other change ("same
        seed"): hidden state, a clock, an order of summation.

    Raises:
        InputError: bad logits, or a router that is not callable.

    Cost: three calls.

    Example:
        >>> lpr.audits.repeatable(lpr.routers.TopK(k=1), torch.randn(16, 4)).verdict
        'holds'
    """
    ask, logits = as_audited_router(router), as_logits(logits)
    try:
        plain = ask(logits)
        probes, refused = try_all(
            [
                (SAME, partial(_again, SAME, ask, logits, plain, 0)),
                (OTHER, partial(_again, OTHER, ask, logits, plain, 1)),
            ]
        )
    except NoRouterOutput as reason:
        return unanswered(NAME, QUESTION, "on the logits as they are", reason)
    more = []
    if any(p.name == OTHER and p.example for p in probes):
        seeded = not any(p.name == SAME and p.example for p in probes)
        more = [
            "The router is random; torch.manual_seed governs it, and every other audit seeds it."
            if seeded
            else "torch.manual_seed does not make it repeatable."
        ]
    return replace(found(NAME, QUESTION, "when asked again", probes, more, refused), note=ask.note)


def _again(name: str, ask: AuditedRouter, logits: Tensor, plain: Tensor, seed: int) -> Probe:
    ways = ("when asked first", "when asked again" + (" with another seed" if seed else ""))
    return compare(name, plain, ask(logits, seed=seed), ways)


def audit(
    router: RouterLike,
    logits: Tensor,
    *,
    problem: RoutingProblem | None = None,
    sequence: Tensor | None = None,
    limit_s: float = LIMIT_S,
) -> list[Finding]:
    """Run every audit on a router, independently of each other.

    Args:
        router: logits -> an `Assignment`, a mask, combine weights, indices, a dispatch tensor, or a
            tuple that holds one of them; see `lp_routing.router_outputs.read_output`. A router with
            a state is called without one.
        logits: (T, E), one batch in reading order, or (B, T, E), B sequences.
        problem: the bounds to meet, for logits (T, E); without it feasibility is not checked.
        sequence: whole numbers (T,), the sequence of each token of logits (T, E): audits of order,
            decoding and batch then work sequence by sequence.
        limit_s: seconds a single call may take.

    Returns:
        One `Finding` for each audit, "repeatable" first, which has the `note` on how answers were
        read; where an exception of the router prevented an answer, its `traceback`. Where the
        router gives no answer on the given logits, or another one each time, the other audits are
        "not asked": they would blame what they vary.

    Raises:
        InputError: bad logits, a problem of another shape, or a router that is not callable. What
            the router raises becomes a finding.

    Cost: some fifty calls, and one for each of up to 256 single tokens.

    Example:
        >>> found = lpr.audits.audit(lpr.routers.ExpertChoice(2), torch.randn(16, 4))
        >>> [finding.audit for finding in found if finding.verdict == "fails"][:2]
        ['causality', 'batch invariance']
    """
    asked, logits = AuditedRouter(router, limit_s), as_logits(logits)
    if sequence is not None:
        sequence_places(sequence, logits)  # raises before any work is done
    findings = [repeatable(asked, logits)]
    obstacle = _obstacle(findings[0])
    if obstacle is not None:
        asked = AuditedRouter(partial(_decline, obstacle), limit_s)
    findings += [ask(asked, logits, sequence=sequence) for ask in AUDITS]
    return [*findings, feasibility(asked, logits, problem)]


def _obstacle(first: Finding) -> str | None:
    """Why the other audits cannot be run; None where they can."""
    if first.count is None:
        return "the router gives no answer on the logits as they are"
    if first.numbers.get(SAME):
        return "the same input gives other experts each time"
    return None


def _decline(reason: str, _logits: Tensor) -> NoReturn:
    raise NoRouterOutput(reason)
