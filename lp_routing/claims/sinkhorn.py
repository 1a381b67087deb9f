"""What Sinkhorn routing balances (S-BASE, Clark et al. 2022): claim O5."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import (
    balanced_optimum,
    by_layer,
    equal_shares,
    equally_shared,
    exactly_balanced,
    rounding,
    span,
    too_few,
)
from lp_routing.evaluation.evaluate import max_over_mean
from lp_routing.routers.balance import EntropicPlan
from lp_routing.routers.selection import largest
from lp_routing.routers.sinkhorn import sinkhorn

TEMPERATURE = 1.0
"""Temperature of the plan, in units of the logits: the source uses the logits unscaled."""
TOLERANCE, TINY_TOLERANCE = 1e-6, 1e-9
"""Relative error of the sums of a converged plan, on layers and on small matrices.

Smaller needs more iterations and proves a tighter bound. On the sample half and twice give the same
(`python -m benchmarks.claim_constants O5`): its plans end with errors of 1e-15.
"""
OF_A_PLAN = 1e-6
"""What numbers of a small plan may be off by: sums relative to their target, values in units of
score. With `TINY_TOLERANCE` bounds of 400 small matrices miss the promise by at most 6e-9."""
CLEAR = 1e-3
"""Entries of a plan whose ratio is within this of 1 count as tied: a plan is no more precise."""


def promised(scores: Tensor, found: EntropicPlan, k: int) -> tuple[float, float, float]:
    """Value of a plan, that plus temperature * entropy, and a bound without rounding errors.

    Any plan with log P = (s_ij - u_i - v_j) / temperature - 1 bounds all that keep the sums from
    above by temperature * sum P + sum_i k u_i + sum_j (T k / E) v_j (Lagrange: P maximises value
    plus entropy less u and v for the sums). The last two are k / E times the sum of u_i + v_j over
    all pairs. Where the plan keeps its sums the bound is the second number.
    """
    plan = found.plan
    value = float((scores * plan).sum())
    paid = scores - TEMPERATURE * (1 + found.log_plan)
    bound = TEMPERATURE * float(plan.sum()) + k / scores.shape[1] * float(paid.sum())
    return value, value + TEMPERATURE * float(torch.special.entr(plan).sum()), bound


def examine(subject: ClaimInput) -> Evidence:
    """The plan's sums, the loads of its row top-k, and the certificate, by the optimum."""
    k = subject.k
    logits = equally_shared(subject, k)
    if logits is None:
        return too_few(k)
    errors, fullest, allowed, gap, above, agrees = [], [], [], [], [], True
    for scores in logits:
        found = sinkhorn(scores, k, TEMPERATURE, TOLERANCE)
        best = float(balanced_optimum(scores, k).value)
        value, promise, bound = promised(scores, found, k)
        T, E = scores.shape
        sums = found.plan.sum(0) * E / (T * k) - 1
        errors.append(float(sums.abs().max()))
        fullest.append(float(max_over_mean(largest(found.log_plan, k).sum(0))))
        allowed.append(bound - value)
        gap.append(best - value)
        above.append(bound - best)
        slack = rounding(float(scores.abs().sum()))
        agrees &= bound >= best - slack
        if bool(found.converged):
            agrees &= errors[-1] <= 2 * TOLERANCE and promise >= best - abs(bound - promise) - slack
    sentence = (
        f"On {logits.shape[1]} tokens the plan's column sums are off by at most "
        f"{max(errors):.1g} of their share, while its row top-{k} fills an expert to "
        f"{span(fullest)} times the mean. {_proved(k, gap, allowed, above)}"
    )
    numbers = (
        by_layer("largest error of a column sum, share", errors)
        | by_layer("fullest load of the row top-k over the mean", fullest)
        | by_layer("plan below the optimum", gap)
        | by_layer("proved bound above the plan", allowed)
        | by_layer("proved bound above the optimum", above)
    )
    return Evidence(agrees, sentence, numbers)


def _proved(k: int, gap: list[float], allowed: list[float], above: list[float]) -> str:
    """What the certificate says; a plan for k > 1 may take more than the whole of a pair."""
    if k == 1:
        return (
            f"The plan is worth {span(gap)} less than the optimum (logits added up), of the "
            f"{span(allowed)} that its entropy allows."
        )
    return (
        f"For k={k} a plan may take more than the whole of a pair, so that only its bound compares "
        f"with assignments: it proves the optimum within {span(above)} (logits added up)."
    )


def refutes_statement(scores: Tensor) -> str | None:
    """A plan whose row top-k is not balanced, though no row has two entries that tie at its cut."""
    for k, share in equal_shares(*scores.shape):
        found = sinkhorn(scores, k, TEMPERATURE, TINY_TOLERANCE)
        order = found.plan.sort(dim=1, descending=True).values
        clear = bool((order[:, k - 1] > order[:, k] * (1 + CLEAR)).all())
        load = largest(found.log_plan, k).sum(0)
        if bool(found.converged) and clear and bool((load != share).any()):
            return f"k={k}: the row top-{k} of the plan loads experts by {load.tolist()}."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """A plan that is not balanced, or that promises less than the optimum; whole scores."""
    T, E = scores.shape
    for k, share in equal_shares(T, E):
        found = sinkhorn(scores, k, TEMPERATURE, TINY_TOLERANCE, 100_000)
        if not bool(found.converged):
            return f"k={k}: no balanced plan within 100,000 iterations."
        sums = found.plan.sum(0)
        if bool(((sums - share).abs() > OF_A_PLAN * share).any()):
            return f"k={k}: the plan's column sums are {sums.tolist()}."
        value, promise, bound = promised(scores, found, k)
        best = exactly_balanced(scores, k)
        if best > bound + rounding(best) or abs(bound - promise) > OF_A_PLAN:
            return f"k={k}: the plan promises {promise:g} and proves {bound:g}; best is {best:g}."
        if k == 1 and value > best + OF_A_PLAN:
            return f"a plan worth {value:g} beats the optimum, {best:g}."
    return None


O5 = Claim(
    id="O5",
    title="Sinkhorn routing is balanced",
    statement="Routing by Sinkhorn's algorithm gives every expert the same load.",
    formula=(
        "P = argmax <s, P> + epsilon H(P) subject to sum_j P_ij = k, sum_i P_ij = T k / E; "
        "x_i = top-k of P_i: sum_i x_ij = T k / E. (Scores are logits, epsilon = 1.)"
    ),
    conditions="",
    source="Clark et al. 2022, arXiv 2202.01169, S-BASE; Cuturi 2013, algorithm 1 (paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "The plan is balanced where it converged: it spreads tokens over experts in fractions. A "
        "token's largest entry says nothing about the rest of them, so the row top-k is not. Rows "
        "that are equal have equal plans, and go to the same expert however many they are. What "
        "the plan does give is a certificate: it maximises <s, P> + epsilon H(P) over a "
        "set that holds every balanced assignment, whose own entropy is 0. So no balanced "
        "assignment is worth more than <s, P> + epsilon H(P); for k = 1 none of the best is worth "
        "less than <s, P> either, and the plan lies within epsilon H(P) of the optimum."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((0, 0), (0, 0), (0, 0), (0, 1)),
        "k = 1, two tokens for each expert. The first three rows are equal, so are their plans, "
        "(a, 1 - a). The last row likes expert 2 better, so its plan (b, 1 - b) has b < a. "
        "Column sums are 3 a + b = 2, so b < 1/2 < a: the row maximum sends three tokens to expert "
        "1. (By odds a = z / (1 + z) and b = z / (e + z): z = 1.27, a = 0.56, b = 0.32.)",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O5,)
