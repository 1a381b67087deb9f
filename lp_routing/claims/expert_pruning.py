"""Expert dropping: whether keeping the most used experts keeps the most score (O10c)."""

import math
from itertools import combinations

from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK
from lp_routing.extensions.expert_pruning import (
    best_kept,
    bound_on_kept,
    greedy,
    heavy_hitters,
)
from lp_routing.scores import softmax

SEARCHED = 64
"""Tokens of each layer for HiGHS: the check takes 0.4 s, and 0.7 s with 256 on the sample."""
TIME_LIMIT_S = 2.0
"""Seconds for each search; one that is stopped still gives a bound. On the sample none is."""
PROMISED = 1 - 1 / math.e
"""Share of the best choice that the greedy one keeps at least (Nemhauser, Wolsey, Fisher 1978)."""


def examine(subject: ClaimInput) -> Evidence:
    """Half of the experts kept: both heavy-hitter rules and greedy, against a proved bound."""
    L, _, E = subject.shape
    k, keep = subject.k, max(subject.k, E // 2)
    if keep == E:
        return Evidence(None, f"k={k} of {E} experts leaves none to drop.")
    names = ("by tokens", "by score", "greedy", "bound", "all experts")
    sums = dict.fromkeys(names, 0.0)
    agrees, missed = True, 0
    for layer in range(L):
        scores = softmax(subject.logits[layer])
        found = {
            "by tokens": heavy_hitters(scores, keep, k),
            "by score": heavy_hitters(scores, keep, k, by="score"),
            "greedy": greedy(scores, keep, k),
        }
        bound = bound_on_kept(scores, keep, k)
        everything = float(scores.topk(k).values.sum())
        agrees &= all(choice.value <= bound * (1 + SLACK) for choice in found.values())
        agrees &= bound <= everything * (1 + SLACK) and _as_searched(scores, keep, k)
        counted = max(found["by tokens"].value, found["by score"].value)
        missed += counted < found["greedy"].value * (1 - SLACK)
        for name, choice in found.items():
            sums[name] += choice.value
        sums["bound"] += bound
        sums["all experts"] += everything
    shares = {name: 100 * value / sums["all experts"] for name, value in sums.items()}
    sentence = (
        f"Keeping {keep} of {E} experts, k={k}: of the score with all, counting tokens keeps "
        f"{shares['by tokens']:.2f} %, counting score {shares['by score']:.2f} %, the greedy "
        f"choice {shares['greedy']:.2f} %, and none more than {shares['bound']:.2f} %; both "
        f"countings are beaten on {missed} of {L} layers."
    )
    numbers: dict[str, Number] = {"kept": keep, "layers where both are beaten": missed, **sums}
    return Evidence(bool(agrees), sentence, numbers)


def _as_searched(scores: Tensor, keep: int, k: int) -> bool:
    """On some tokens: the best choice within the bound, and greedy within its promise."""
    few = scores[:SEARCHED]
    best = best_kept(few, keep, k, time_limit_s=TIME_LIMIT_S)
    near = greedy(few, keep, k).value
    within = best.value <= bound_on_kept(few, keep, k) * (1 + SLACK)
    return within and PROMISED * best.value <= near <= best.bound * (1 + SLACK)


def refutes_statement(scores: Tensor) -> str | None:
    """k = 1: both heavy-hitter rules keep less than the best choice does. Scores >= 0."""
    if bool((scores < 0).any()):
        return None
    for keep in range(2, scores.shape[1]):  # the largest sum is the best single expert
        tokens = heavy_hitters(scores, keep, 1).value
        score = heavy_hitters(scores, keep, 1, by="score").value
        best = _best(scores, keep, 1)
        if max(tokens, score) < best:
            return f"M={keep}: counting keeps {tokens:g} or {score:g}, the best choice {best:g}."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """Greedy below 1 - 1/e of the best, a bound below it, or a choice above it. Scores >= 0."""
    scores = scores.clamp(min=0)
    E = scores.shape[1]
    for keep in range(1, E + 1):
        for k in range(1, keep + 1):
            best, where = _best(scores, keep, k), f"M={keep}, k={k}"
            near = greedy(scores, keep, k)
            counted = [heavy_hitters(scores, keep, k, by=by) for by in ("tokens", "score")]
            if any(choice.value > best for choice in (near, *counted)):
                return f"{where}: a choice is worth more than the best, {best:g}."
            if near.value < PROMISED * best - SLACK:
                return f"{where}: greedy keeps {near.value:g}, the best choice {best:g}."
            bounds = [choice.bound for choice in (near, *counted)]
            if min(*bounds, bound_on_kept(scores, keep, k, steps=20)) < best - SLACK:
                return f"{where}: a bound is below the best choice, {best:g}."
            if keep == 1 and counted[1].value < best:
                return f"{where}: counting score misses the best single expert."
    return None


def _best(scores: Tensor, keep: int, k: int) -> float:
    """By trying all choices."""
    rows = scores.tolist()
    return max(
        sum(sum(sorted(row[j] for j in some)[-k:]) for row in rows)
        for some in combinations(range(scores.shape[1]), keep)
    )


O10C = Claim(
    id="O10c",
    title="keeping the most used experts is best",
    statement=(
        "When M of E experts are to be kept, keeping those that most tokens use, or that have the "
        "largest summed score, keeps the most of the tokens' score."
    ),
    formula=(
        "the M largest of sum_i [j in top-k of s_i], or of sum_i s_ij = argmax over S, |S| = M, of "
        "sum_i (sum of the k largest s_ij, j in S), s >= 0"
    ),
    conditions="",
    source=(
        "SEER-MoE, Muzio et al. 2024, arXiv 2404.05089, heavy-hitters counting (paraphrased; a "
        "guide, not proved); EASY-EP, Dong et al. 2025, arXiv 2504.06792, and MC-Suite, Jaiswal et "
        "al. 2025, arXiv 2504.05586, rank experts one by one, too, by what logits do not show"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Counting ranks experts one by one, but what an expert is worth depends on who else stays: "
        "of two that serve the same tokens one is enough. That holds of every such ranking; "
        "EASY-EP's importance is the sum of other scores, gate weight times size of the output, "
        "times a token's weight. The choice is a facility-location problem. What "
        "is true: counting score is best for M = k = 1; the kept score is monotone "
        "and submodular in S, so the greedy choice has at least 1 - 1/e of the best, for any k; "
        "and the LP's dual bounds the best at any size."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((3, 2, 0), (3, 2, 0), (2, 3, 0), (2, 3, 0), (0, 0, 3)),
        "k = 1, M = 2. Experts A and B are twins: two tokens prefer A, two B, each with 3 against "
        "2. One token wants C alone. Counts are 2, 2, 1 and sums 10, 10, 3, so both keep A and B, "
        "worth 4 * 3 + 0 = 12. A and C are worth 3 + 3 + 2 + 2 + 3 = 13.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
    forbidden_too=True,
)

CLAIMS: tuple[Claim, ...] = (O10C,)
