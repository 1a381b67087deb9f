"""USMoE: whether the unified score changes what a token prefers (B4)."""

from functools import partial

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.usmoe_rules import CODE, PAPER, pooled_choice, row_choice
from lp_routing.scores import unified, unified_v1

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def lost_logits(logits: Tensor, scores: Tensor, k: int) -> Tensor:
    """By how much the sum of a token's k logits falls short when chosen by scores; (..., T)."""
    chosen = row_choice(scores, k)
    return logits.topk(k).values.sum(-1) - torch.where(chosen, logits, 0.0).sum(-1)


def untied(scores: Tensor, k: int) -> Tensor:
    """Whether a token's k-th and next score differ, boolean (..., T); k < E."""
    ordered = scores.sort(descending=True).values
    return ordered[..., k - 1] > ordered[..., k]


def examine(subject: Subject) -> Evidence:
    """Row top-k by every rate against row top-k of the logits; then the pool's, and v1's."""
    L, T, E = subject.shape
    k, logits = subject.k, subject.logits
    if k == E:
        return Evidence(None, "Every token takes every expert: no choice to change.")
    slack = 1e-9 * (1 + logits.abs().amax(-1))
    changed, tied = 0, 0
    for rate in RATES:
        scores = unified(logits, rate=rate)
        lost, clear = lost_logits(logits, scores, k) > slack, untied(scores, k)
        changed += int((lost & clear).sum())
        tied += int((~clear & untied(logits, k)).sum())
    pooled = pooled_choice(unified(logits), k) != pooled_choice(unified(logits, rate=0), k)
    moved = float(pooled.sum()) / (2 * L * T * k)
    v1 = lost_logits(logits, unified_v1(logits), k) > slack
    sentence = (
        f"Rates {', '.join(f'{rate:g}' for rate in RATES)}: row top-{k} is that of the logits on "
        f"all but {changed} of {len(RATES) * L * T} choices ({tied} are tied by rounding). What "
        f"the rate does change is the pool's choice: rate 0.5 moves {moved:.1%} of the pairs. The "
        f"score of v1, with a softmax over tokens, changes row top-{k} on {int(v1.sum())} tokens."
    )
    numbers = {
        "tokens": L * T,
        "tokens with other experts, over all rates": changed,
        "tokens tied by rounding, over all rates": tied,
        "share of the pool's pairs moved by rate 0.5": moved,
        "tokens with other experts by v1": int(v1.sum()),
    }
    return Evidence(changed == 0, sentence, numbers)


def breaks(logits: Tensor) -> str | None:
    """Logits without ties, where there is a choice, and on which no rate changes it."""
    E = logits.shape[1]
    if E == 1 or any(len(set(row)) < E for row in logits.tolist()):
        return None
    for k in range(1, E):
        plain = row_choice(logits, k)
        if any(bool((row_choice(unified(logits, rate=r), k) != plain).any()) for r in RATES):
            return None
    return f"Row top-k is the same for the rates {RATES} and every k."


def betrays(logits: Tensor) -> str | None:
    """A rate by which token choice takes smaller logits, or that reverses two experts."""
    E = logits.shape[1]
    for score in (partial(unified, rate=rate) for rate in RATES):
        scores = score(logits)
        for a in range(E):
            for b in range(E):
                if bool(((logits[:, a] > logits[:, b]) & (scores[:, a] < scores[:, b])).any()):
                    return f"{score.keywords}: experts {a} and {b} change places."
        for k in range(1, E):
            short = (lost_logits(logits, scores, k) > 0) & untied(scores, k)
            if bool(short.any()):
                return f"{score.keywords}, k={k}: smaller logits are taken."
    return None


B4 = Claim(
    id="B4",
    title="unified score changes token choice",
    statement="Mixing the sigmoid into the softmax changes which experts token choice selects.",
    formula="row top-K of (1 - r) softmax(z) + r 2 sigmoid(z) / E differs from row top-K of z",
    conditions="",
    source=f"{PAPER}, the unified score; {CODE}",
    verdict=Verdict.FAILS,
    reason=(
        "Within a row both the softmax and the sigmoid rise strictly with the logit, so does every "
        "mixture of them, and the order of a token's experts is that of its logits for every rate. "
        "Rounding can tie logits that differ (a sigmoid of 40 is 1), never reverse them. The rate "
        "changes weights, and who wins between tokens: top-N of the pool. The first version of "
        "the score mixes in a softmax over tokens, which does change the order within a row."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((2, 1, 0), (-3, 5, 0)),
        "Logits. Softmax rows are (.67, .24, .09) and (.00, .99, .01), sigmoids (.88, .73, .50) "
        "and (.05, .99, .50): either way token 1 ranks experts 1, 2, 3 and token 2 ranks 2, 3, 1, "
        "and so does every mixture.",
    ),
    breaks=breaks,
    betrays=betrays,
    forbidden_too=True,
)
