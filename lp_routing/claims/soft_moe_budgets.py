"""SoftMoE: what a layer's budget counts, and whether the total is met and well spent (S3, S4)."""

import math
from itertools import product

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.layers import by_layer, rounding, share_above, span
from lp_routing.claims.soft_moe_rules import (
    ALPHA,
    NO_CHOICE,
    PAPER,
    TAU,
    drawn_budgets,
    in_deviations,
)
from lp_routing.frontier.layer_budgets import best_budgets, worth_of_budgets
from lp_routing.routers.soft_top_k import Masses, SoftTopK, layer_budgets, masses, soft_top_k
from lp_routing.scores import softmax


def counted(logits: Tensor, k: Tensor, alpha: float, tau: float) -> Masses:
    """Mass, active count and kept mass of every token (..., T), for budgets k (..., 1 or T)."""
    p = soft_top_k(logits, k, alpha)
    return masses(p, SoftTopK(1.0, alpha, tau).select(p))


def within_bounds(found: Masses, k: Tensor, E: int, tau: float) -> bool:
    """Whether the mass is k and the two other numbers are as far from it as they may be."""
    slack = rounding(E / tau)
    active = found.active.double()
    return bool(
        (
            ((found.mass - k).abs() <= slack)
            & (active * (1 - tau) >= k - E * tau - slack)
            & (active * tau <= k + slack)
            & (found.kept >= active * tau - slack)
            & (found.kept <= torch.minimum(active, k) + slack)
            & (found.kept >= k - (E - active) * tau - slack)
        ).all()
    )


def examine_count(subject: Subject) -> Evidence:
    """Soft mass, active experts and kept mass, layer by layer."""
    drawn = drawn_budgets(subject)
    if drawn is None:
        return NO_CHOICE
    k, _ = drawn
    E = subject.shape[2]
    found = counted(in_deviations(subject.logits), k[:, None], ALPHA, TAU)
    mass, active, kept = (
        each.double().mean(-1).tolist() for each in (found.mass, found.active, found.kept)
    )
    off = [100 * (a / budget - 1) for a, budget in zip(active, k.tolist(), strict=True)]
    sentence = (
        f"At tau = {TAU:g} and a width of {ALPHA:g} standard deviations, budgets of {span(mass)} "
        f"keep {span(active)} experts active on average ({span(off)} % off) and "
        f"{span(kept)} of mass. More than 1 % off on {sum(abs(o) > 1 for o in off)} of {len(off)} "
        f"layers; single tokens have {int(found.active.min())} to {int(found.active.max())}."
    )
    numbers = (
        by_layer("budget k_l", k.tolist())
        | by_layer("soft mass", mass)
        | by_layer("active experts", active)
        | by_layer("kept mass", kept)
    )
    return Evidence(within_bounds(found, k[:, None], E, TAU), sentence, numbers)


def breaks_count(logits: Tensor) -> str | None:
    """Logits, alpha = 1: a budget that is not the mean number of active experts."""
    for k in range(1, logits.shape[1]):
        p = soft_top_k(logits, k, 1.0)
        for tau in (0.1, 0.3):
            clear = bool(((p - tau).abs() > 1e-9).all())
            active = float((p >= tau).sum(-1).double().mean())
            if clear and active != k:
                return f"k={k}, tau={tau:g}: {active:g} experts are active on average."
    return None


def betrays_count(logits: Tensor) -> str | None:
    """A token whose active count or kept mass leaves the bounds around its budget."""
    E = logits.shape[1]
    for half, alpha in product(range(1, 2 * E), (0.1, 1.0)):
        k = torch.full((1,), half / 2, dtype=torch.float64)
        for tau in (0.05, 0.1, 0.3, 0.5):
            if not within_bounds(counted(logits, k, alpha, tau), k, E, tau):
                return f"k={half / 2:g}, alpha={alpha:g}, tau={tau:g}: out of bounds."
    return None


S3 = Claim(
    id="S3",
    rows_alone=True,
    title="k_l is the mean number of active experts",
    statement="A layer's budget k_l is the mean number of its active experts per token.",
    formula="mean_i #{j : p_ij >= tau} = k_l, where sum_j p_ij = k_l",
    conditions="",
    source=f"{PAPER}, layer budgets (paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "k_l is the soft mass of every token. The active experts have at least tau and at most 1 "
        "each, the others less than tau, so (k - n tau) / (1 - tau) <= active <= k / tau, and no "
        "more: with small tau up to all n are active, with a flat row and tau > k / n none is. "
        "Cost goes with the active count and output with the kept mass, k - (n - active) tau to k. "
        "The cap of ceil(k factor) bounds the count from above and takes more mass away."
    ),
    examine=examine_count,
    counterexample=Counterexample(
        ((0, 0, 0, 0),),
        "Logits: all alike, so p = k / 4 each. k = 1 and tau = 0.1: p = 1/4, all four are active, "
        "not one. k = 1 and tau = 0.3: none is active and no mass is kept.",
    ),
    breaks=breaks_count,
    betrays=betrays_count,
)


def met(k: Tensor, B: float, E: int) -> bool:
    """Whether budgets (L,) add up to B, and each is one that a row can have."""
    slack = rounding(B)
    in_range = bool(((k >= 1 - slack) & (k <= E + slack)).all())
    return in_range and abs(float(k.sum()) - B) <= slack


def examine_budget(subject: Subject) -> Evidence:
    """The sum of k_l, the pairs that become of it, and what the best split would be worth."""
    drawn = drawn_budgets(subject)
    if drawn is None:
        return NO_CHOICE
    k, B = drawn
    L, T, E = subject.shape
    even = layer_budgets(torch.zeros_like(k), B, E)
    found = counted(in_deviations(subject.logits), k[:, None], ALPHA, TAU)
    scores = softmax(subject.logits)
    best = best_budgets(scores, B * T)
    worth = [float(worth_of_budgets(scores, each * T).sum()) for each in (even, k)]
    slack = rounding(best.bound)
    agrees = (
        met(k, B, E)
        and met(even, B, E)
        and bool(((found.mass - k[:, None]).abs() <= rounding(E)).all())
        and abs(best.gap) <= slack
        and max(worth) <= best.value + slack
    )
    active = float(found.active.double().mean(-1).sum())
    lost = [0.0 - share_above(each, best.value) for each in worth]
    sentence = (
        f"Over {L} layers k_l adds up to B = {float(k.sum()):.6g}; after truncation at {TAU:g} "
        f"{active:.4g} experts are active per token. Of softmax mass, every token served, the "
        f"best split holds {best.value:.1f} with {span((best.budgets / T).tolist())} experts per "
        f"token and layer; equal budgets (eta = 0) hold {lost[0]:.3g} % less, drawn ones "
        f"{lost[1]:.3g} % less."
    )
    numbers = {
        "B": B,
        "sum of k_l": float(k.sum()),
        "active experts, all layers": active,
        "value of the best split": best.value,
        "bound by its price": best.bound,
        "price of a pair": best.price,
        "value of equal budgets": worth[0],
        "value of drawn budgets": worth[1],
        **by_layer("best experts per token", (best.budgets / T).tolist()),
        **by_layer("drawn budget k_l", k.tolist()),
    }
    return Evidence(agrees, sentence, numbers)


def breaks_budget(logits: Tensor) -> str | None:
    """Row l is the one token of layer l, two layers or more; eta = 0, alpha = 1, tau = 0.1."""
    L, E = logits.shape
    for B in range(L + 1, L + E if L > 1 else 0):
        p = soft_top_k(logits, B / L, 1.0)
        active = int((p >= 0.1).sum())
        if active != B and bool(((p - 0.1).abs() > 1e-9).all()):
            return f"B={B}: {active} pairs are computed."
    return None


def betrays_budget(scores: Tensor) -> str | None:
    """Row l is layer l's token and its first entry eta_l: budgets or an optimum that are wrong."""
    L, E = scores.shape
    for share in (0.25, 0.5, 1.0) if E > 1 else ():
        B = L + share * (E - 1)
        if not met(layer_budgets(scores[:, 0], B, E), B, E):
            return f"B={B:g}: the budgets do not add up, or ask for what no layer has."
    for N, most in enumerate(best_by_counts(scores), start=L):
        found = best_budgets(scores[:, None], N)
        if max(abs(found.value - most), abs(found.bound - most)) > rounding(most):
            return f"N={N}: merging gives {found.value:g} and proves {found.bound:g}, not {most:g}."
    return None


def best_by_counts(scores: Tensor) -> list[float]:
    """The most that N = L, ..., L E pairs of L rows are worth, by trying all counts of each row."""
    best = [0.0]
    for row in scores.tolist():
        ordered = sorted(row, reverse=True)
        own = [sum(ordered[: n + 1]) for n in range(len(row))]
        longer = [-math.inf] * (len(best) + len(own) - 1)
        for (a, x), (b, y) in product(enumerate(best), enumerate(own)):
            longer[a + b] = max(longer[a + b], x + y)
        best = longer
    return best


S4 = Claim(
    id="S4",
    rows_alone=True,
    title="the budget is met exactly",
    statement="The budgets learned for the layers meet the total budget B exactly.",
    formula="k_l = softmax(eta)_l (B - L) + 1, so sum_l k_l = B",
    conditions=(
        "B is counted in soft mass before truncation, not in experts computed, and "
        "L < B <= E + L - 1, so that no layer is asked for more than E"
    ),
    source=f"{PAPER}, layer budgets",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "A softmax adds up to 1, so the k_l add up to B, and each row's mass is its k_l. Pairs "
        "computed are another number (S3). Met is not best: after every token's best pair in each "
        "layer, the largest of the rest over all layers are worth most, proved by one price. That "
        "optimum needs scores in one unit, as shares of a softmax are: with raw logits, a layer "
        "whose logits are doubled is worth twice as much without choosing any better."
    ),
    examine=examine_budget,
    counterexample=Counterexample(
        ((0, 0), (0, 0)),
        "Logits of two layers with one token each, eta = 0, B = 3: k_l = 3/2, p = 3/4 everywhere, "
        "and with tau = 0.1 four pairs are computed, not three.",
    ),
    breaks=breaks_budget,
    betrays=betrays_budget,
)
