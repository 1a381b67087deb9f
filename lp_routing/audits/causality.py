"""Does the routing of a prefix change when later tokens are appended or changed?"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lp_routing.audits.finding import Finding, unasked
from lp_routing.audits.probes import Probe, compare, found, negated, redrawn, try_all
from lp_routing.audits.subject import RouterLike, Subject, as_logits, as_subject
from lp_routing.router_outputs import NoAnswer
from lp_routing.validation import whole

NAME = "causality"
QUESTION = "Do the experts of a token stay the same whatever tokens come later?"


def causality(router: RouterLike | Subject, logits: Tensor, *, cuts: int = 8) -> Finding:
    """Cut the sequence at several places; route the prefix alone, and before other tokens.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E), one sequence in reading order, or (B, T, E).
        cuts: prefixes to try, evenly spaced; those of 1 and of T - 1 tokens always are. A rule that
            looks only a few tokens ahead shows just before a cut: give T to see it everywhere.

    Returns:
        A `Finding` over all tokens but the last: one counts that changes experts at any cut. Its
        `numbers` are the shares for later tokens "appended" and "changed" (their logits negated,
        or drawn anew). "holds" says that no cut and no change showed a dependence, not that there
        is none; "not asked", that none showed but some prefix had no answer.

    Raises:
        InputError: bad logits or cuts, or a router that is not callable.

    Cost: three calls a cut.
    """
    ask, logits, cuts = as_subject(router), as_logits(logits), whole(cuts, "cuts", 1)
    try:
        return _causality(ask, logits, cuts)
    except NoAnswer as reason:
        return unasked(NAME, QUESTION, reason)


def _causality(ask: Subject, logits: Tensor, cuts: int) -> Finding:
    T = logits.shape[-2]
    if T == 1:
        raise NoAnswer("there is one token, and none later")
    full = ask(logits)
    others = (negated(logits), redrawn(logits))
    asked = []
    places = sorted({1, T - 1, *(max(1, T * i // cuts) for i in range(1, cuts))})
    for n in places:
        asked.append(("appended", partial(_appended, ask, logits, full, n)))
        asked += [("changed", partial(_changed, ask, logits, other, full, n)) for other in others]
    probes, refused = try_all(asked)
    more = []
    if len(places) < T - 1:
        more.append(
            f"Asked at {len(places)} of {T - 1} places: a look at the next few tokens alone shows "
            f"just before one of them, so the count is the least there are."
        )
    if getattr(ask.router, "causal", None) is True and any(p.example for p in probes):
        more.append("The router calls itself causal.")
    when = "when later tokens are appended or changed"
    finding = found(NAME, QUESTION, when, probes, more, refused)
    return replace(finding, at_least=len(places) < T - 1)


def _appended(ask: Subject, logits: Tensor, full: Tensor, n: int) -> Probe:
    T = logits.shape[-2]
    alone = torch.cat([ask(logits[..., :n, :]), full[..., n:, :]], -2)
    ways = (f"in a prefix of {n}", f"once all {T} tokens have come")
    return compare("appended", alone, full, ways, _before(n, logits))


def _changed(ask: Subject, logits: Tensor, other: Tensor, full: Tensor, n: int) -> Probe:
    replaced = torch.cat([logits[..., :n, :], other[..., n:, :]], -2)
    ways = ("before the tokens that come", f"before others from token {n} on")
    return compare("changed", full, ask(replaced), ways, _before(n, logits))


def _before(n: int, logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[-2], device=logits.device) < n
