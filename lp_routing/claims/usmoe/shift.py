"""USMoE: whether a softmax-trained router determines the unified score (B10)."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, span
from lp_routing.claims.usmoe.rules import CODE, PAPER, pooled_choice
from lp_routing.claims.usmoe.score import lost_logits, percent, surely, untied
from lp_routing.scores import softmax, unified

SPREAD = 2.0
"""Standard deviation of the constants added to tokens, in logits.

On the sample they give 33 to 47 % of the tokens other experts; with 0.5, 13 to 15 %.
"""


def examine(subject: ClaimInput) -> Evidence:
    """A drawn constant for each token: who changes experts, by unified, softmax and row top-k."""
    k, logits = subject.k, subject.logits
    L, T, E = subject.shape
    if k == E or T < 2:
        return Evidence(None, "One token, or every token takes every expert: nothing can move.")
    draw = torch.Generator().manual_seed(subject.seed)
    shift = SPREAD * torch.randn((L, T, 1), generator=draw, dtype=torch.float64).to(logits)
    moved = logits + shift
    room = SLACK * (1 + logits.abs().amax((-2, -1), keepdim=True))
    same = bool(((softmax(moved) - softmax(logits)).abs() <= room).all())
    rows = unified(moved)
    kept = not bool(((lost_logits(logits, rows, k) > room[..., 0]) & untied(rows, k)).any())
    centred = logits - logits.mean(-1, keepdim=True)
    chosen = pooled_choice(unified(logits), k)
    by_shift = [percent(x != y) for x, y in zip(chosen, pooled_choice(rows, k), strict=True)]
    by_mean = [
        percent(x != y) for x, y in zip(chosen, pooled_choice(unified(centred), k), strict=True)
    ]
    sentence = (
        f"A constant for each token, drawn with standard deviation {SPREAD:g}, leaves every "
        f"softmax and every row top-{k} as it is; unified with k={k} gives {span(by_shift)} % of "
        f"the tokens other experts, and {span(by_mean)} % where each token's mean logit is "
        f"subtracted."
    )
    numbers = by_layer("% of tokens changed by a drawn constant", by_shift) | by_layer(
        "% of tokens changed by subtracting the mean", by_mean
    )
    return Evidence(same and kept, sentence, numbers)


def refutes_statement(logits: Tensor) -> str | None:
    """K = 1: a constant of -4 or 4 on one token by which a pair is surely taken or surely not."""
    T, E = logits.shape
    if E == 1:
        return None
    before = surely(unified(logits), 1)
    for i in range(T):
        for constant in (-4.0, 4.0):
            moved = logits.clone()
            moved[i] += constant
            after = surely(unified(moved), 1)
            pushed = (before[0] & after[1]) | (before[1] & after[0])
            if bool(pushed.any()):
                j, e = pushed.nonzero()[0].tolist()
                return f"{constant:+g} on token {i} decides whether token {j} gets expert {e}."
    return None


def refutes_verdict(logits: Tensor) -> str | None:
    """A constant that changes a softmax, or a token's order of experts by the unified score."""
    E = logits.shape[1]
    for constant in (-4.0, 1.0, 4.0):
        moved = logits + constant
        if bool(((softmax(moved) - softmax(logits)).abs() > SLACK).any()):
            return f"{constant:+g} changes a softmax."
        rows = unified(moved)
        for k in range(1, E):
            if bool(((lost_logits(logits, rows, k) > 0) & untied(rows, k)).any()):
                return f"{constant:+g}, k={k}: smaller logits are taken."
    return None


B10 = Claim(
    id="B10",
    title="the router determines the unified score",
    statement=(
        "Put on a router that was trained with a softmax, the unified score follows from what the "
        "router has learned."
    ),
    formula="softmax(z_i + c_i) = softmax(z_i) implies top-N of U(z + c) = top-N of U(z)",
    conditions="",
    source=f"{PAPER}, use without training; {CODE}",
    verdict=Verdict.FAILS,
    reason=(
        "A softmax over experts is the same for z_i + c_i, so training with one never fixes c_i: "
        "two routers with the same outputs on all inputs may differ by it. The sigmoid of the "
        "unified score does feel it, and so does who is served, though not the order of a token's "
        "experts. A convention, such as logits of mean 0, would define the score; the released "
        "code has none, and each gives another routing. The softmax score (rate 0) and token "
        "choice are free of it. The audit `scale: shifted per token` asks any router."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((0, 0.2), (0, 0)),
        "Logits, K = 1, N = 2. Softmax rows are (.45, .55) and (.5, .5), sigmoids (.5, .55) and "
        "(.5, .5), scores, half of both, (.475, .55) and (.5, .5): the pool takes .55 and a .5, an "
        "expert each. With -4 on token 1 its softmax is the same, its sigmoids are (.018, .022) "
        "and its scores (.234, .286): both places go to token 2.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)
