"""The theory of loss-free balancing: how near its prices come to the optimum on average (O18)."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Evidence, Number, Verdict
from lp_routing.claims.helpers import (
    balanced_dual,
    by_layer,
    equal_shares,
    equally_shared,
    optimum,
    rounding,
    span,
    too_few,
)
from lp_routing.claims.loss_free import dual_slope
from lp_routing.problem.named import balanced
from lp_routing.scores import sigmoid

TOKENS = 1024
"""Tokens of each layer: the check takes 0.7 s on the sample."""
STEPS = 30
"""Steps on one batch: more lower the average and what is allowed, in proportion to 1 / sqrt(steps).
"""


def proportional_steps(scores: Tensor, k: int, rate: float) -> tuple[list[float], list[float]]:
    """Dual values and squared slopes of `STEPS` prices: += rate * (load - T k / E), from 0."""
    price, values, squares = scores.new_zeros(scores.shape[1]), [], []
    for _ in range(STEPS):
        slope = dual_slope(scores, price, k)
        values.append(balanced_dual(scores, price, k))
        squares.append(float(slope.square().sum()))
        price = price - rate * slope
    return values, squares


def regret(values: list[float], best: float) -> float:
    """By how much the values are above the best on average."""
    return sum(values) / len(values) - best


def allowed(prices: Tensor, squares: list[float], rate: float) -> float:
    """|p*|^2 / (2 rate n) + rate / 2 times the mean squared slope, for n steps from 0 to p*."""
    n = len(squares)
    return float(prices.square().sum()) / (2 * rate * n) + rate / 2 * sum(squares) / n


def examine(subject: ClaimInput) -> Evidence:
    """Steps on one batch of each layer, at about the best rate: regret, and what is allowed."""
    k = subject.k
    logits = equally_shared(subject, k, TOKENS)
    if logits is None:
        return too_few(k)
    found, most, agrees = [], [], True
    for scores in sigmoid(logits):
        value, _, prices = optimum(balanced(scores, k))
        prices = prices - prices.mean()  # a constant changes neither dual nor choice
        first = float(torch.linalg.vector_norm(dual_slope(scores, torch.zeros_like(prices), k)))
        rate = float(torch.linalg.vector_norm(prices)) / (first * STEPS**0.5) if first else 0.0
        rate = rate or 1 / len(scores)
        values, squares = proportional_steps(scores, k, rate)
        off, limit = regret(values, value), allowed(prices, squares, rate)
        agrees &= -rounding(value) <= off <= limit + rounding(value)
        found.append(100 * off / (abs(value) or 1.0))
        most.append(100 * limit / (abs(value) or 1.0))
    sentence = (
        f"Over {STEPS} steps in proportion to the excess the bound is {span(found)} % of the "
        f"optimum above it on average, where {span(most)} % is allowed."
    )
    numbers: dict[str, Number] = {
        **by_layer("mean % above the optimum", found),
        **by_layer("% allowed", most),
    }
    return Evidence(agrees, sentence, numbers)


def refutes_verdict(scores: Tensor) -> str | None:
    """A regret below 0 or above what is allowed, at several rates."""
    for k, _ in equal_shares(*scores.shape):
        value, _, prices = optimum(balanced(scores, k))
        for rate in (0.0625, 0.25, 1.0):
            values, squares = proportional_steps(scores, k, rate)
            off, limit = regret(values, value), allowed(prices, squares, rate)
            if not -rounding(value) <= off <= limit + rounding(value):
                return f"k={k}, rate {rate:g}: regret {off:g}, allowed {limit:g}."
    return None


O18 = Claim(
    id="O18",
    title="loss-free balancing has little regret",
    statement=(
        "Prices that move with the excess load come near the optimum on average over the steps, "
        "with a bound that falls in their number."
    ),
    formula=(
        "p <- p + eta (load - T k / E): mean_t D(p_t) - D* <= |p*|^2 / (2 eta n) "
        "+ (eta / 2) mean_t |load_t - T k / E|^2"
    ),
    conditions="",
    source=(
        "Han, Zhong 2025, arXiv 2512.03915, regret of auxiliary-loss-free load balancing (read in "
        "its abstract; the bound here is that of the subgradient method, without the strong "
        "convexity from which the paper gets a logarithmic one)"
    ),
    verdict=Verdict.HOLDS,
    reason=(
        "T k / E - load is a subgradient of the dual D, which is convex (O2). Each step changes "
        "|p - p*|^2 by -2 eta <g, p - p*> + eta^2 |g|^2, and <g, p - p*> is at least D(p) - D*. "
        "Added up over the steps, what is left of |p - p*|^2 is not negative. No step need lower "
        "D, but the average nears D*: with eta ~ 1 / sqrt(n) it falls like 1 / sqrt(n). The sign "
        "steps of the released rule are another method."
    ),
    examine=examine,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O18,)
