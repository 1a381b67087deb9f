"""What loss-free balancing does to the dual (Wang et al. 2024): claim O2."""

from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Evidence, Verdict
from lp_routing.claims.helpers import (
    balanced_dual,
    balanced_optimum,
    by_layer,
    equal_shares,
    equally_shared,
    exactly_balanced,
    rounding,
    share_above,
    span,
    too_few,
)
from lp_routing.routers.dual_updates import LossFree
from lp_routing.scores import sigmoid

STEPS = 20
"""Batches after which the bound is reported: more lower it, in proportionally more time.

On 1,024 tokens of each layer of the sample it starts 1.6 to 3.5 % above the optimum and ends 0.7 to
2.7 % above it after 10, 0.3 to 2.0 % after 20 and 0.01 to 1.0 % after 40; no step of 20 raises it.
"""
RATE = 2.0**-10
"""Change of a bias per step, in units of the scores: about the paper's 1e-3, and a power of two, so
that biases are exact multiples of it.
"""
TINY_STEPS, TINY_RATE = 8, 0.25
"""Steps on a small matrix, and their rate in units of the scores: a power of two keeps sums exact.

Of the matrices up to 3 x 3 over 0, 1, 2 those that ever reach equal loads do so within 3 steps;
twice the steps take twice the time (0.4 ms a matrix).
"""


def biases(scores: Tensor, k: int, rate: float, steps: int) -> list[Tensor]:
    """The router's biases (E,) on one batch (T, E): the first ones, and those after each step."""
    router = LossFree(k, rate, score="logits")
    course = [router.initial(scores)]
    for _ in range(steps):
        course.append(router.step(scores, course[-1])[1])
    return course


def dual_slope(scores: Tensor, prices: Tensor, k: int) -> Tensor:
    """A subgradient (E,) of the dual at prices (E,): T k / E less what tokens take, by definition.

    Among equal offers the lower expert is taken; any other choice is a subgradient as well.
    """
    T, E = scores.shape
    order = (scores - prices).sort(dim=1, descending=True, stable=True).indices[:, :k]
    return T * k / E - torch.bincount(order.flatten(), minlength=E).double()


def sign_steps(
    scores: Tensor, k: int, rate: float, steps: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Prices (E,) by sign steps down the dual from 0, price -= rate * sign(slope); the slopes."""
    course, slopes = [scores.new_zeros(scores.shape[1])], []
    for _ in range(steps):
        slopes.append(dual_slope(scores, course[-1], k))
        course.append(course[-1] - rate * slopes[-1].sign())
    return course, slopes


def examine(subject: ClaimInput) -> Evidence:
    """The router's biases against sign steps on the dual, and what these do to its value."""
    k = subject.k
    logits = equally_shared(subject, k)
    if logits is None:
        return too_few(k)
    apart, rises, starts, ends, agrees = [], 0, [], [], True
    for scores in sigmoid(logits):
        prices, slopes = sign_steps(scores, k, RATE, STEPS)
        mine = zip(biases(scores, k, RATE, STEPS), prices, strict=True)
        apart.append(max(float((bias + price).abs().max()) for bias, price in mine))
        values = [balanced_dual(scores, price, k) for price in prices]
        optimum, slack = float(balanced_optimum(scores, k).value), rounding(values[0])
        rises += sum(late > early + slack for early, late in pairwise(values))
        agrees &= apart[-1] == 0 and min(values) >= optimum - slack
        agrees &= _supported(prices, values, slopes, slack)
        starts.append(share_above(values[0], optimum))
        ends.append(share_above(values[-1], optimum))
    L, T, _ = logits.shape
    sentence = (
        f"On {T} tokens, bias and -price differ by {span(apart)} over {STEPS} steps of {RATE:g}. "
        f"The bound goes from {span(starts)} % above the optimum to {span(ends)} %; it rose in "
        f"{rises} of {L * STEPS} steps."
    )
    numbers = (
        by_layer("largest |bias + price|", apart)
        | by_layer("bound above the optimum at first, %", starts)
        | by_layer("bound above the optimum at last, %", ends)
    )
    return Evidence(agrees, sentence, {"steps that raise the bound": rises} | numbers)


def _supported(
    prices: list[Tensor], values: list[float], slopes: list[Tensor], slack: float
) -> bool:
    """Whether the value at all prices lies on or above the plane that each slope spans."""
    for here, level, slope in zip(prices, values, slopes, strict=False):
        planes = [level + float(slope @ (there - here)) for there in prices]
        if any(value < plane - slack for value, plane in zip(values, planes, strict=True)):
            return False
    return True


def refutes_verdict(scores: Tensor) -> str | None:
    """A bias that is not minus the price plus a constant, a wrong slope, or a false bound.

    Scores are multiples of 1/4, and so are biases: all sums are exact.
    """
    for k, _ in equal_shares(*scores.shape):
        best, constant = exactly_balanced(scores, k), 0.75
        for bias, after in pairwise(biases(scores, k, TINY_RATE, TINY_STEPS)):
            price = constant - bias
            slope = dual_slope(scores, price, k)
            if bool((constant - after != price - TINY_RATE * slope.sign()).any()):
                return f"k={k}: at bias {bias.tolist()} the step is not that of the dual."
            here = balanced_dual(scores, price, k)
            if here < best:
                return f"k={k}: the bound {here:g} is below the optimum, {best:g}."
            for there in (constant - after, price * 0, price + slope.sign()):
                if balanced_dual(scores, there, k) < here + float(slope @ (there - price)):
                    return f"k={k}: no subgradient at prices {price.tolist()}."
    return None


O2 = Claim(
    id="O2",
    title="Loss-free bias is a dual step",
    statement=(
        "Loss-free balancing is a subgradient method on the dual of the balanced problem: the bias "
        "of an expert is minus its price plus a constant, and each update is a sign step."
    ),
    formula=(
        "beta = -b + c;  D(beta) = sum_i (top-k sum of s_i - beta) + (T k / E) sum_j beta_j;  "
        "g_j = T k / E - load_j is in dD(beta);  b += u sign(g)  is  beta -= u sign(g)"
    ),
    conditions="",
    source="Wang et al. 2024, arXiv 2408.15664, Algorithm 1; the dual is this library's reading",
    verdict=Verdict.HOLDS,
    reason=(
        "D is a sum of maxima of linear functions of beta, and the loads of a maximising choice "
        "give a subgradient, T k / E - load. The top-k of s + b is that of s - beta, and "
        "adding c to all prices changes neither the choice nor D, because each token takes exactly "
        "k. So the updates are the same, step by step. It does not follow that D falls: a "
        "subgradient is not always a way down, its signs less so, and a fixed step overshoots. "
        "Scores (1, 0), (1, 0) with k = 1 and u = 1/4: D is 2, 1.5, 1 (the optimum), then 1.5. "
        "Where loads are equal the step is 0, the choice is optimal and the bound is its value."
    ),
    examine=examine,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O2,)
