"""Does a router answer at all, and twice the same?"""

from functools import partial

from torch import Tensor

from lp_routing.audits.finding import Finding, unanswered
from lp_routing.audits.probes import Probe, compare, found, try_all
from lp_routing.audits.subject import RouterLike, Subject, as_logits, as_subject
from lp_routing.router_outputs import NoAnswer

NAME = "repeatable"
QUESTION = "Does the same input give the same experts every time?"
SAME, OTHER = "same seed", "other seed"


def repeatable(router: RouterLike | Subject, logits: Tensor) -> Finding:
    """Ask twice with torch seeded alike, and once with another seed.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E) or (B, T, E).

    Returns:
        A `Finding` that fails where a token changes experts, or where there is no answer. Its
        `numbers` tell chance that a seed governs ("other seed") from any other ("same seed"): a
        state that is carried along, a clock, an order of summation.

    Raises:
        InputError: bad logits, or a router that is not callable.

    Cost: three calls.
    """
    ask, logits = as_subject(router), as_logits(logits)
    try:
        plain = ask(logits)
        probes, refused = try_all(
            [
                (SAME, partial(_again, SAME, ask, logits, plain, 0)),
                (OTHER, partial(_again, OTHER, ask, logits, plain, 1)),
            ]
        )
    except NoAnswer as reason:
        return unanswered(NAME, QUESTION, "on the logits as they are", reason)
    more = []
    if any(p.name == OTHER and p.example for p in probes):
        seeded = not any(p.name == SAME and p.example for p in probes)
        more = [
            "The router is random; torch.manual_seed governs it, and every other audit seeds it."
            if seeded
            else "torch.manual_seed does not make it repeatable."
        ]
    return found(NAME, QUESTION, "when asked again", probes, more, refused)


def _again(name: str, ask: Subject, logits: Tensor, plain: Tensor, seed: int) -> Probe:
    ways = ("when asked first", "when asked again" + (" with another seed" if seed else ""))
    return compare(name, plain, ask(logits, seed=seed), ways)
