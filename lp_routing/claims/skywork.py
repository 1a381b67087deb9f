"""Skywork-MoE, MoE++: normalised logits and token drops; a coefficient that follows them (O13)."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import by_layer, optimum, share_below, span
from lp_routing.claims.usmoe.rules import row_choice
from lp_routing.claims.usmoe.score import percent
from lp_routing.problem.bounds import at_most, exactly
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.capacity import keep_by_score
from lp_routing.scores import softmax

PAPER = "Skywork-MoE, Wei et al. 2024, arXiv 2406.06563"
SHARPNESS = (0.5, 1.0, 2.0)
"""lambda of the normalised logits; the report trains with 1 and tries 0.5 to 2."""
FACTOR = 1.25
"""Capacity over the mean load, the usual one of training runs."""
STEPS = 200
"""Steps of the controllers, of which the second half counts.

With 100, 200 and 400 dual ascent ends at most at 3.7, 2.6 and 0.9 % of pairs dropped on the sample,
proportional prices at 34, 33 and 34 %.
"""
SMOOTHING = 0.9
"""Share of the old coefficient in the new one: 0.99 in the report, whose fixed points are the same
and reached ten times as slowly."""
XI, MOST = 0.2, 0.01
"""The report's gain on the drop rate and the largest coefficient: it binds from a rate of 5 %."""
RATE = 0.05
"""Step of dual ascent, in score for an excess of one capacity, divided by sqrt(step).

On the sample dual ascent ends at 0 to 2.6 % of pairs dropped with it, at 0.2 to 5.1 % with 0.1.
"""


def normalised(logits: Tensor, sharpness: float) -> Tensor:
    """lambda (z - mean) / standard deviation of each token's logits (T, E); 0 where all are equal.

    Logits are first divided by the largest of their token, so that no square overflows.
    """
    size = logits.abs().amax(-1, keepdim=True)
    small = logits / size.masked_fill(size == 0, 1.0)
    centred = small - small.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    equal = logits.amax(-1, keepdim=True) == logits.amin(-1, keepdim=True)
    return (sharpness * centred / spread.masked_fill(equal | (spread == 0), 1.0)).masked_fill(
        equal, 0.0
    )


def dropped(chosen: Tensor, capacity: int) -> int:
    """How many of the chosen pairs (T, E) are above their experts' capacity."""
    return int((chosen.sum(0) - capacity).clamp(min=0).sum())


def drop_rates(scores: Tensor, k: int, capacity: int, *, integral: bool) -> list[float]:
    """Shares of pairs dropped over `STEPS` steps, row top-k of scores (T, E) minus prices.

    Args:
        scores: (T, E).
        k: experts per token.
        capacity: of each expert.
        integral: prices add up the excess (dual ascent), or follow it, smoothed (proportional).
    """
    price, rates = scores.new_zeros(scores.shape[1]), []
    for step in range(1, STEPS + 1):
        chosen = row_choice(scores - price, k)
        excess = (chosen.sum(0) - capacity).to(scores) / capacity
        rates.append(dropped(chosen, capacity) / (len(scores) * k))
        if integral:
            price = (price + RATE / step**0.5 * excess).clamp(min=0)
        else:
            price = SMOOTHING * price + (1 - SMOOTHING) * excess.clamp(min=0)
    return rates


def settled(rates: list[float]) -> float:
    """The mean of the second half."""
    half = rates[len(rates) // 2 :]
    return sum(half) / len(half)


def examine_normalisation(subject: ClaimInput) -> Evidence:
    """Row top-k, loads and drops for all lambda; who is dropped by score, and the LP's value."""
    _, T, E = subject.shape
    k = subject.k
    if k == E:
        return Evidence(None, "Every token takes every expert: no choice to change.")
    capacity = CapacityFactor(FACTOR).of(T, E, k)
    rates, others, costs, agrees = [], [], [], True
    for logits in subject.logits:
        plain = row_choice(logits, k)
        kept = keep_by_score(softmax(logits), plain, capacity)
        rates.append(100 * dropped(plain, capacity) / (T * k))
        for sharpness in SHARPNESS:
            z = normalised(logits, sharpness)
            agrees &= lost(logits, z, k) == 0
            chosen = row_choice(z, k)
            scores = softmax(z)
            others.append(percent(keep_by_score(scores, chosen, capacity) != kept))
            free = float(scores.topk(k).values.sum())
            problem = RoutingProblem(scores, tokens=exactly(k), experts=at_most(capacity))
            costs.append(share_below(optimum(problem)[0], free))
    sentence = (
        f"lambda {', '.join(f'{each:g}' for each in SHARPNESS)}: row top-{k} is that of the logits "
        f"on all tokens, and at capacity factor {FACTOR:g} {span(rates)} % of the pairs are "
        f"dropped, whatever lambda. Who is dropped by score changes for {span(others)} % of the "
        f"tokens, and capacity costs {span(costs)} % of the value at the optimum."
    )
    numbers: dict[str, Number] = {
        **by_layer("% of pairs dropped", rates),
        "largest % of tokens with other drops": max(others),
        "largest % of value that capacity costs": max(costs),
    }
    return Evidence(agrees, sentence, numbers)


def lost(logits: Tensor, z: Tensor, k: int) -> int:
    """Tokens whose k best by z have smaller logits than their k best: 0 where the order is kept.

    Where rounding ties what differed, the choice among the tied may differ, and is not counted.
    """
    chosen = row_choice(z, k)
    clear = z.sort(descending=True).values
    clear_cut = clear[:, k - 1] > clear[:, k]
    least_taken = logits.masked_fill(~chosen, float("inf")).amin(-1)
    most_left = logits.masked_fill(chosen, float("-inf")).amax(-1)
    return int((clear_cut & (least_taken < most_left)).sum())


def examine_controller(subject: ClaimInput) -> Evidence:
    """Drop rates: of row top-k, at the least, and after prices that follow, or add up, excess."""
    _, T, E = subject.shape
    k = subject.k
    if k == E:
        return Evidence(None, "Every token takes every expert: no choice to change.")
    capacity = CapacityFactor(FACTOR).of(T, E, k)
    plain, follows, adds, agrees = [], [], [], True
    for logits in subject.logits:
        scores = softmax(logits)
        best = optimum(RoutingProblem(scores, tokens=exactly(k), experts=at_most(capacity)))[1]
        agrees &= dropped(best, capacity) == 0 and int(best.sum()) == T * k
        rates = drop_rates(scores, k, capacity, integral=False)
        agrees &= rates[0] == dropped(row_choice(scores, k), capacity) / (T * k)
        plain.append(100 * rates[0])
        follows.append(100 * settled(rates))
        adds.append(100 * settled(drop_rates(scores, k, capacity, integral=True)))
    binding = sum(XI * rate / 100 >= MOST for rate in plain)
    sentence = (
        f"At capacity factor {FACTOR:g} row top-{k} drops {span(plain)} % of the pairs, the "
        f"optimum none; the coefficient would be at its largest on {binding} of {len(plain)} "
        f"layers. Prices that follow the excess end at {span(follows)} %, prices that add it up "
        f"(dual ascent) at {span(adds)} %."
    )
    numbers: dict[str, Number] = {
        **by_layer("% dropped by row top-k", plain),
        **by_layer("% dropped, proportional", follows),
        **by_layer("% dropped, dual ascent", adds),
        "layers at the largest coefficient": binding,
    }
    return Evidence(agrees, sentence, numbers)


def refutes_fewer_drops(logits: Tensor) -> str | None:
    """k = 1, places for the mean load: drops that no lambda lowers."""
    T, E = logits.shape
    capacity = -(-T // E)
    before = dropped(row_choice(logits, 1), capacity)
    after = [dropped(row_choice(normalised(logits, each), 1), capacity) for each in SHARPNESS]
    if before and all(count >= before for count in after):
        return f"{before} pair(s) dropped without normalisation, {after[0]} with it."
    return None


def refutes_normalisation_verdict(logits: Tensor) -> str | None:
    """A lambda by which row top-k takes smaller logits, or other loads without ties."""
    for sharpness in SHARPNESS:
        z = normalised(logits, sharpness)
        for k in range(1, logits.shape[1]):
            if lost(logits, z, k):
                return f"lambda {sharpness:g}, k={k}: smaller logits are taken."
            if not torch.equal(row_choice(z, k), row_choice(logits, k)):
                return f"lambda {sharpness:g}, k={k}: other experts are taken."
    return None


def refutes_zero_drops(scores: Tensor) -> str | None:
    """k = 1, places for the mean load: proportional prices go on dropping, dual ascent does not."""
    T, E = scores.shape
    capacity = -(-T // E)
    if dropped(row_choice(scores, 1), capacity) == 0:
        return None
    follows, adds = (
        settled(drop_rates(scores, 1, capacity, integral=integral)) for integral in (False, True)
    )
    if follows > 0 and adds == 0:
        return f"Prices that follow the excess go on dropping {follows:.1%}, dual ascent none."
    return None


O13A = Claim(
    id="O13a",
    title="normalised logits drop fewer tokens",
    statement="Normalising a token's logits lowers the number of tokens that are dropped.",
    formula=(
        "z~ = lambda (z - mu) / sigma, g = softmax(z~): sum_j max(load_j(z~) - C, 0) "
        "< sum_j max(load_j(z) - C, 0)"
    ),
    conditions="",
    source=(
        f"{PAPER}, gating logit normalisation (its training runs drop fewer tokens); MoE++, Jin et "
        "al. 2024, code option moe_use_logits_norm (the same without mu)"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Within a token z~ rises with z, so row top-k is the same for every lambda, and with it "
        "the loads and how many pairs are above a capacity. What changes is the weights, who is "
        "dropped where the best scores stay, a pool's choice, and what an optimum is worth: a "
        "sharper softmax makes second choices worth less. Fewer drops must come from training."
    ),
    examine=examine_normalisation,
    counterexample=Counterexample(
        ((1, 0), (2, 0)),
        "k = 1, one place an expert. Both tokens want expert 1, so one of them is dropped: token "
        "1, whose softmax is 0.73 against 0.88. Normalised, both rows are (1, -1): again both "
        "want expert 1 and one is dropped, now the second, since they are equal.",
    ),
    refutes_statement=refutes_fewer_drops,
    refutes_verdict=refutes_normalisation_verdict,
)

O13B = Claim(
    id="O13b",
    title="following the drop rate ends the drops",
    statement=(
        "A balance coefficient that follows the drop rate adapts until tokens are no longer "
        "dropped."
    ),
    formula="alpha <- beta alpha + (1 - beta) min(xi d, alpha_max): d -> 0",
    conditions="",
    source=(
        f"{PAPER}, adaptive auxiliary loss coefficients (xi = 1/5, alpha_max = 0.01, beta = 0.99)"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Its fixed points are alpha = min(xi d, alpha_max): proportional control. Pressure above 0 "
        "needs a drop rate above 0, and where drops end so does the pressure that ended them. Dual "
        "ascent adds the excess up instead, so that prices stay where the excess is 0. The least "
        "drop rate at a capacity factor of 1 or more is 0 for all logits (a flow), so that d "
        "measures the rule, not the router. This is checked on prices of experts, not in training."
    ),
    examine=examine_controller,
    counterexample=Counterexample(
        ((1, 0), (0.5, 0)),
        "k = 1, one place an expert. Both tokens want expert 1: its excess is 1. A price that "
        "follows the excess rises towards 1 until it passes 0.5, the lead of token 2, which moves "
        "away; then the excess is 0, the price falls below 0.5, token 2 is back and one is dropped "
        "again. Dual ascent stops at the first price above 0.5.",
    ),
    refutes_statement=refutes_zero_drops,
)

CLAIMS: tuple[Claim, ...] = (O13A, O13B)
