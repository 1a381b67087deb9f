"""USMoE: what the unified score changes (B4, B6).

Whether it changes what a token prefers (B4); whether a token's routing depends on later tokens, in
its score and in its choice (B6).
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, span
from lp_routing.claims.usmoe.rules import CODE, PAPER, cut_of, pooled_choice, row_choice
from lp_routing.problem.named import unified as unified_problem
from lp_routing.routers.sparse import Threshold
from lp_routing.scores import unified, unified_v1

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the sigmoid in the unified score at which the choices are compared."""


def lost_logits(logits: Tensor, scores: Tensor, k: int) -> Tensor:
    """By how much the sum of a token's k logits falls short when chosen by scores; (..., T)."""
    chosen = row_choice(scores, k)
    return logits.topk(k).values.sum(-1) - torch.where(chosen, logits, 0.0).sum(-1)


def untied(scores: Tensor, k: int) -> Tensor:
    """Whether a token's k-th and next score differ, boolean (..., T); k < E."""
    ordered = scores.sort(descending=True).values
    return ordered[..., k - 1] > ordered[..., k]


def examine_preference(subject: ClaimInput) -> Evidence:
    """Row top-k by every rate against row top-k of the logits; then the pool's, and v1's."""
    L, T, E = subject.shape
    k, logits = subject.k, subject.logits
    if k == E:
        return Evidence(None, "Every token takes every expert: no choice to change.")
    slack = SLACK * (1 + logits.abs().amax(-1))
    changed, tied = 0, 0
    for rate in RATES:
        scores = unified(logits, rate=rate)
        lost, clear = lost_logits(logits, scores, k) > slack, untied(scores, k)
        changed += int((lost & clear).sum())
        tied += int((~clear & untied(logits, k)).sum())
    pooled = pooled_choice(unified(logits), k) != pooled_choice(unified(logits, rate=0), k)
    moved = float(pooled.sum()) / (2 * L * T * k)
    v1, shared = (
        int((lost_logits(logits, unified_v1(logits, per_token=each), k) > slack).sum())
        for each in (False, True)
    )
    sentence = (
        f"Rates {', '.join(f'{rate:g}' for rate in RATES)}: row top-{k} is that of the logits on "
        f"all but {changed} of {len(RATES) * L * T} choices ({tied} are tied by rounding). What "
        f"the rate does change is the pool's choice: rate 0.5 moves {moved:.1%} of the pairs. The "
        f"score of v1, with a softmax over tokens, changes row top-{k} on {v1} tokens, and on "
        f"{shared} where that softmax is divided by its sum over experts."
    )
    numbers = {
        "tokens": L * T,
        "tokens with other experts, over all rates": changed,
        "tokens tied by rounding, over all rates": tied,
        "share of the pool's pairs moved by rate 0.5": moved,
        "tokens with other experts by v1": v1,
        "tokens with other experts by v1, normalised": shared,
    }
    return Evidence(changed == 0, sentence, numbers)


def refutes_statement_on_preference(logits: Tensor) -> str | None:
    """Logits without ties, where there is a choice, and on which no rate changes it."""
    E = logits.shape[1]
    if E == 1 or any(len(set(row)) < E for row in logits.tolist()):
        return None
    for k in range(1, E):
        plain = row_choice(logits, k)
        if any(bool((row_choice(unified(logits, rate=r), k) != plain).any()) for r in RATES):
            return None
    return f"Row top-k is the same for the rates {RATES} and every k."


def refutes_verdict_on_preference(logits: Tensor) -> str | None:
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
        "the score mixes in a softmax over tokens, which does change the order within a row: "
        "hardly as it stands, as its entries add up to E against T, and much where it is divided "
        "by its row sum, as older lines do that the released files keep as comments."
    ),
    examine=examine_preference,
    counterexample=Counterexample(
        ((2, 1, 0), (-3, 5, 0)),
        "Logits. Softmax rows are (.67, .24, .09) and (.00, .99, .01), sigmoids (.88, .73, .50) "
        "and (.05, .99, .50): either way token 1 ranks experts 1, 2, 3 and token 2 ranks 2, 3, 1, "
        "and so does every mixture.",
    ),
    refutes_statement=refutes_statement_on_preference,
    refutes_verdict=refutes_verdict_on_preference,
    forbidden_too=True,
)


class Layer(NamedTuple):
    """What later tokens change in the first half, in per cent; and what is true instead."""

    changed: float
    alone: float
    leak: float
    budget: float
    agrees: bool


def threshold_choice(scores: Tensor, value: float) -> Tensor:
    """Every pair from a value on, boolean (T, E)."""
    return Threshold(value, score="logits").select(scores)


def percent(differs: Tensor) -> float:
    """How many tokens of boolean (T, E) have a pair marked, in per cent."""
    return 100 * float(differs.any(-1).double().mean())


def examined(logits: Tensor, k: int) -> Layer:
    """One layer: its first half alone and with the rest; every token alone; a fixed threshold."""
    T = logits.shape[0]
    half, scores, rows = T // 2, unified(logits), row_choice(unified(logits), k)
    prefix = unified(logits[:half])
    whole, first = pooled_choice(scores, k), pooled_choice(prefix, k)
    alone = pooled_choice(unified(logits[:, None]), k)[:, 0]
    leak = float((unified_v1(logits)[:half] - unified_v1(logits[:half])).abs().max())
    # the cut of the first half, known when the second begins
    value = cut_of(prefix, k * half)
    fixed = threshold_choice(scores, value)
    N = int(fixed.sum())
    proof = certify(unified_problem(scores, N), fixed, Prices(total=value))
    agrees = (
        torch.equal(scores[:half], prefix)
        and torch.equal(rows[:half], row_choice(prefix, k))
        and torch.equal(fixed[:half], threshold_choice(prefix, value))
        and torch.equal(alone, rows)
        and proof.proves_optimal()
    )
    return Layer(percent(whole[:half] != first), percent(whole != alone), leak, N / (k * T), agrees)


def examine_causality(subject: ClaimInput) -> Evidence:
    """What the second half of the tokens changes in the first; decoding; a fixed threshold."""
    L, T, _ = subject.shape
    if T < 2:
        return Evidence(None, "There is one token, and none later.")
    layers = [examined(logits, subject.k) for logits in subject.logits]
    changed, alone, leak, budget = (
        [float(layer[field]) for layer in layers] for field in range(len(Layer._fields) - 1)
    )
    sentence = (
        f"The score of the first {T // 2} tokens is the same with and without the rest (v1's "
        f"differs by up to {max(leak):.1g}), but their experts under unified are not for "
        f"{span(changed)} % of them: breaks here on {sum(c > 0 for c in changed)} of {L} layers; "
        f"token choice changes none. Decoded one by one all tokens get token choice, other experts "
        f"than in the pool for {span(alone)} %. The first half's cut as a fixed threshold is "
        f"causal, takes {span(budget)} times the budget, and is proved optimal for what it takes."
    )
    numbers = (
        by_layer("% of tokens that later ones change", changed)
        | by_layer("% of tokens with other experts decoded alone", alone)
        | by_layer("largest change of v1's score", leak)
        | by_layer("budget of the threshold over k T", budget)
    )
    return Evidence(all(layer.agrees for layer in layers), sentence, numbers)


def refutes_statement_on_causality(scores: Tensor) -> str | None:
    """A pair that is taken or not, however ties are broken, and otherwise with later tokens."""
    T, E = scores.shape
    for k in range(1, E):
        taken, left = surely(scores, k)
        for n in range(1, T):
            taken_before, left_before = surely(scores[:n], k)
            pushed = (taken_before & left[:n]) | (left_before & taken[:n])
            if bool(pushed.any()):
                i, j = pushed.nonzero()[0].tolist()
                return f"k={k}: whether token {i} gets expert {j} depends on token {n} and later."
    return None


def surely(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Pairs that the pool takes, and pairs that it leaves, however ties are broken.

    A pair is surely taken where no more than N are as large, surely left where N are larger.
    """
    N, pool, chosen = k * scores.shape[0], scores.flatten(), pooled_choice(scores, k)
    as_large = (pool >= scores[..., None]).sum(-1)
    larger = (pool > scores[..., None]).sum(-1)
    return (as_large <= N) & chosen, (larger >= N) & ~chosen


def refutes_verdict_on_causality(scores: Tensor) -> str | None:
    """A score, token choice or threshold that later tokens change; a threshold that is not best.

    The scores serve as logits, too.
    """
    T, E = scores.shape
    both = unified(scores)
    for n in range(1, T + 1):
        if not torch.equal(both[:n], unified(scores[:n])):
            return f"the score of the first {n} tokens changes with later ones."
        for k in range(1, E + 1):
            if not torch.equal(row_choice(scores, k)[:n], row_choice(scores[:n], k)):
                return f"k={k}: token choice of the first {n} tokens changes with later ones."
    for k in range(1, E + 1):
        if not torch.equal(pooled_choice(scores[:, None], k)[:, 0], row_choice(scores, k)):
            return f"k={k}: one token alone does not get token choice."
    for value in sorted(set(scores.flatten().tolist())):
        fixed = threshold_choice(scores, value)
        for n in range(1, T):
            if not torch.equal(fixed[:n], threshold_choice(scores[:n], value)):
                return f"the threshold {value:g} is not causal."
        budget = unified_problem(scores, int(fixed.sum()))
        proof = certify(budget, fixed, Prices(total=value), exact=True)
        if proof.gap != 0 or proof.violation_count:
            return f"the threshold {value:g} is not optimal for what it takes."
    return None


B6 = Claim(
    id="B6",
    title="a sigmoid stops information leakage",
    statement=(
        "With a sigmoid in place of the softmax over tokens no information leaks from later tokens."
    ),
    formula="s_ij depends on the logits of token i alone, therefore x = top-N of s is causal",
    conditions="",
    source=f"{PAPER}, v2 and v3 (sigmoid) against v1 (softmax over tokens); {CODE}",
    verdict=Verdict.FAILS,
    reason=(
        "True of the score, which becomes a function of its own row; false of the router, whose "
        "cut is the N-th largest of all scores, later tokens included. Expert choice leaks in the "
        "same way; token choice is causal. In cached decoding the pool is one token and top-K of a "
        "pool of one is token choice: another rule than in training. A threshold fixed in advance "
        "is causal, and as the price of a pair it proves its own choice optimal for whatever "
        "budget it comes to use."
    ),
    examine=examine_causality,
    counterexample=Counterexample(
        ((2, 1), (4, 3)),
        "Scores, K = 1. Token 1 alone: N = 1, it takes expert 1 (score 2). With token 2, N = 2 and "
        "the two largest are 4 and 3: token 1 loses its expert to a token that comes later.",
    ),
    refutes_statement=refutes_statement_on_causality,
    refutes_verdict=refutes_verdict_on_causality,
    forbidden_too=True,
)
