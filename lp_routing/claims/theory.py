"""Theory of mixtures, as far as it is about routing: patterns (O17a), product experts (O17b)."""

import math

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, equally_shared, optimum, span, too_few
from lp_routing.claims.usmoe.rules import pooled_choice, row_choice
from lp_routing.problem.named import balanced
from lp_routing.scores import softmax

TOKENS = 512
"""Tokens of each layer with product experts: three balanced optima take 0.4 s on the sample."""


def log_choose(n: int, m: int) -> float:
    """log of the number of ways to choose m of n, in nats."""
    return math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)


def patterns(T: int, E: int, k: int) -> tuple[float, float]:
    """Nats a token: log of the number of routings of T tokens, by token choice and by a pool."""
    return log_choose(E, k), log_choose(T * E, T * k) / T


def examine_patterns(subject: ClaimInput) -> Evidence:
    """Both counts, and how many different sets of experts tokens have under both rules."""
    _, T, E = subject.shape
    k = subject.k
    by_token, by_pool = patterns(T, E, k)
    sets: tuple[list[int], list[int]] = ([], [])
    for logits in subject.logits:
        scores = softmax(logits)
        for found, x in zip(sets, (row_choice(scores, k), pooled_choice(scores, k)), strict=True):
            found.append(len(torch.unique(x, dim=0)))
    ratio = by_pool / by_token if by_token else math.inf
    sentence = (
        f"Of {T} tokens with {k} of {E} experts each, token choice has {by_token:.4g} nats of "
        f"routings a token, a pool {by_pool:.4g} ({ratio:.3g} times as many); tokens have "
        f"{span(sets[0])} different sets under the one and {span(sets[1])} under the other."
    )
    numbers: dict[str, Number] = {
        "nats a token, token choice": by_token,
        "nats a token, pool": by_pool,
        **by_layer("different sets, token choice", sets[0]),
        **by_layer("different sets, pool", sets[1]),
    }
    return Evidence(by_pool >= by_token - SLACK, sentence, numbers)


def refutes_patterns(scores: Tensor) -> str | None:
    """The shape alone: a pool with more routings than token choice, K = 1."""
    T, E = scores.shape
    each, pooled = E**T, math.comb(T * E, T)
    return f"Token choice has {each} routings, the pool {pooled}." if pooled > each else None


def refutes_patterns_verdict(scores: Tensor) -> str | None:
    """Counts that are not those of all subsets, or a pool with fewer."""
    T, E = scores.shape
    for k in range(1, E + 1):
        by_token, by_pool = patterns(T, E, k)
        exact = math.log(math.comb(E, k)), math.log(math.comb(T * E, T * k)) / T
        if max(abs(by_token - exact[0]), abs(by_pool - exact[1])) > SLACK:
            return f"k={k}: {by_token:g} and {by_pool:g} nats, not {exact[0]:g} and {exact[1]:g}."
        if by_pool < by_token - SLACK:
            return f"k={k}: the pool has fewer routings."
    return None


def factors(E: int) -> tuple[int, int]:
    """E = a b with a <= b, as close as can be."""
    a = max(d for d in range(1, math.isqrt(E) + 1) if E % d == 0)
    return a, E // a


def products(first: Tensor, second: Tensor) -> Tensor:
    """Scores (T, a b) of product experts: z1_j + z2_k at place j b + k, from (T, a) and (T, b)."""
    return (first[:, :, None] + second[:, None]).flatten(1)


def of_factors(x: Tensor, y: Tensor) -> Tensor:
    """The product experts (T, a b) of one expert of each factor, boolean (T, a) and (T, b)."""
    return (x[:, :, None] & y[:, None]).flatten(1)


def split(logits: Tensor, a: int, b: int) -> tuple[Tensor, Tensor]:
    """The nearest z1 + z2 to logits (T, a b): means over the other factor, (T, a) and (T, b)."""
    table = logits.reshape(-1, a, b)
    return table.mean(2), table.mean(1) - table.mean((1, 2))[:, None]


def interaction(prices: Tensor, a: int, b: int) -> float:
    """Share of the variance of prices (a b,) that no sum of prices of the factors explains."""
    table = prices.reshape(1, -1)
    rest = table - products(*split(table, a, b))
    variance = float(table.var(correction=0))
    return float(rest.square().mean()) / variance if variance > 0 else 0.0


def examine_products(subject: ClaimInput) -> Evidence:
    """Product experts from the logits' additive part: top-1, balance by factor, and of products."""
    E = subject.shape[2]
    a, b = factors(E)
    if a == 1:
        return Evidence(None, f"Does not apply here: E={E} is no product of two factors.")
    shared = equally_shared(subject, 1, TOKENS)
    if shared is None:
        return too_few(1)
    same, fullest, lost, mixed = True, [], [], []
    for logits in shared:
        size = float(logits.abs().max()) or 1.0
        first, second = split(logits / size, a, b)
        scores = products(first, second)
        by_factor = of_factors(row_choice(first, 1), row_choice(second, 1))
        short = scores.amax(1) - scores[by_factor]
        same &= bool((short.abs() <= SLACK).all())
        value, _, prices = optimum(balanced(scores, 1))
        x = of_factors(optimum(balanced(first, 1))[1], optimum(balanced(second, 1))[1])
        fullest.append(int(x.sum(0).max()))
        lost.append(100 * (float(scores[x].sum()) - value) / (abs(value) or 1.0))
        mixed.append(100 * interaction(prices, a, b))
    share = shared.shape[1] // E
    sentence = (
        f"{a} x {b} product experts scored by the sum of their factors, {shared.shape[1]} tokens: "
        f"the best product is that of the best factors for all. With both factors balanced the "
        f"fullest product has {span(fullest)} tokens where its share is {share}; that is worth "
        f"{span(lost)} % more than balanced products can be, and {span(mixed)} % of the variance "
        f"of their optimal prices is interaction, which no prices of factors express."
    )
    numbers: dict[str, Number] = {
        **by_layer("fullest product", fullest),
        **by_layer("% worth more than balanced products", lost),
        **by_layer("% of price variance in interaction", mixed),
    }
    return Evidence(same, sentence, numbers)


def refutes_products(scores: Tensor) -> str | None:
    """The same scores for both factors: factors with equal loads whose products have not."""
    T, E = scores.shape
    if E < 2 or T % (E * E):
        return None
    if any(sorted(row)[-1] == sorted(row)[-2] for row in scores.tolist()):
        return None  # tied: the choice says nothing
    x = row_choice(scores, 1)
    loads, of_pairs = x.sum(0), of_factors(x, x).sum(0)
    if bool((loads == T // E).all()) and int(of_pairs.max()) > T // (E * E):
        return f"Factors have {T // E} tokens each, a product {int(of_pairs.max())}."
    return None


def refutes_products_verdict(scores: Tensor) -> str | None:
    """A row whose best product is not that of its best factors; rows in another order as z2."""
    first, second = scores, scores.flip(0)
    together = products(first, second)
    chosen = of_factors(row_choice(first, 1), row_choice(second, 1))
    if bool((together[chosen] < together.amax(1)).any()):
        return "The best product is worth more than that of the best factors."
    return None


O17A = Claim(
    id="O17a",
    title="a pool has as few routing patterns",
    statement=(
        "A generalisation bound that counts routing patterns is as tight for a pool as for token "
        "choice at the same budget."
    ),
    formula="log C(T E, T k) / T = log C(E, k) nats a token",
    conditions="",
    source=(
        "generalisation error of sparse mixtures, Zhao et al. 2024, arXiv 2403.17404: a term that "
        "grows with k log(E / k) (from memory); the count for a pool is ours"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Token choice picks k of E for each of T tokens, C(E, k)^T routings; a pool picks T k of "
        "T E pairs, among which these all are, so it has more. The rest of such a bound (capacity "
        "of experts, losses) is not about routing. Identifiability is: a softmax does not feel a "
        "constant added to a token's logits, so no statement about softmax gating fixes it (B10)."
    ),
    examine=examine_patterns,
    counterexample=Counterexample(
        ((0, 0), (0, 0)),
        "Two tokens, two experts, K = 1. Token choice has 2 * 2 = 4 routings, a pool of two pairs "
        "of four C(4, 2) = 6: also both pairs of one token.",
    ),
    refutes_statement=refutes_patterns,
    refutes_verdict=refutes_patterns_verdict,
)

O17B = Claim(
    id="O17b",
    title="product experts are routed by factors",
    statement=(
        "With experts that are products of factors, routing each factor on its own routes the "
        "products: the best ones, and with balanced factors balanced ones."
    ),
    formula=(
        "s_i(j, k) = z1_ij + z2_ik: argmax s_i = (argmax z1_i, argmax z2_i); "
        "loads of j and of k equal implies loads of (j, k) equal"
    ),
    conditions="each token takes its best product; balance is not carried over",
    source="muMoE, Oldfield et al. 2024, arXiv 2402.12550, factorised experts (paraphrased; ours)",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "The maximum of a sum of two functions of different variables is the sum of their maxima. "
        "Loads of products are a joint distribution, loads of factors its margins, and equal "
        "margins do not make an equal joint. The optimal prices of balanced products have a part "
        "that is no sum of prices of factors, so no factor-wise prices reach it."
    ),
    examine=examine_products,
    counterexample=Counterexample(
        ((1, 0), (1, 0), (0, 1), (0, 1)),
        "Both factors have these scores, so there are four products. Two tokens take expert 1 of "
        "both factors, two take expert 2 of both: each factor is balanced with 2 and 2, and the "
        "products have 2, 0, 0, 2 tokens where 1 each would be balanced.",
    ),
    refutes_statement=refutes_products,
    refutes_verdict=refutes_products_verdict,
)

CLAIMS: tuple[Claim, ...] = (O17A, O17B)
