"""Does a router choose the same one token at a time (decode) as for the whole (prefill)?"""

import torch
from torch import Tensor

from lp_routing.audits.probe import (
    AuditedRouter,
    Finding,
    RouterLike,
    as_audited_router,
    as_logits,
    asking,
    compare,
    found,
    register,
    sequence_places,
    spread_out,
    unanswered,
)
from lp_routing.router_outputs import NoRouterOutput
from lp_routing.validation import as_int

NAME = "prefill against decode"
QUESTION = "Does a token go to the same experts when it comes alone, as in cached decoding?"


@register(by_sequence=True)
@asking(NAME, QUESTION)
def prefill(
    router: RouterLike | AuditedRouter,
    logits: Tensor,
    *,
    most: int = 256,
    sequence: Tensor | None = None,
) -> Finding:
    """Route all tokens at once, then single tokens, each in a call of its own.

    Cached decoding gives a layer one new token per sequence, so a rule that compares the tokens of
    a sequence, such as unified or expert choice, is another rule there than in training. Each call
    starts without a state.

    Args:
        router: any callable that `lp_routing.audits.chosen` can ask.
        logits: (T, E), one sequence, or (B, T, E): then one token of each sequence comes at a time.
        most: single tokens to ask about, evenly spaced.
        sequence: whole numbers (T,), the sequence of each token of logits (T, E): a token is then
            compared with its routing in its own sequence.

    Returns:
        A `Finding` over the tokens asked about; it fails where the router gives no answer for a
        single token, such as with a capacity that one token cannot fill.

    Raises:
        InputError: bad logits or `most`, or a router that is not callable.

    Cost: one call, or one a sequence, and one for each token asked about.

    Example:
        >>> lpr.audits.prefill(lpr.routers.TopK(k=1), torch.randn(16, 4)).verdict
        'holds'
    """
    ask, logits, most = as_audited_router(router), as_logits(logits), as_int(most, "most", 1)
    parts = None if sequence is None else sequence_places(sequence, logits)
    T = logits.shape[-2]
    if parts is None:
        full, whole = ask(logits), f"when all {T} tokens come at once"
    else:
        full, whole = torch.zeros_like(logits, dtype=torch.bool), "when its sequence comes at once"
        for part in parts:
            full[part] = ask(logits[part])
    alone, asked = full.clone(), torch.zeros(T, dtype=torch.bool, device=full.device)
    for t in spread_out(T, most):
        asked[t] = True
        try:
            alone[..., t : t + 1, :] = ask(logits[..., t : t + 1, :])
        except NoRouterOutput as reason:
            return unanswered(NAME, QUESTION, f"when token {t} comes alone", reason)
    ways = (whole, "when it comes alone")
    probe = compare("alone", full, alone, ways, asked)
    return found(NAME, QUESTION, "when they come one at a time", [probe])
