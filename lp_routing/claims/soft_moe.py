"""SoftMoE (Zasada et al. 2026): claims S3 to S6.

What a layer's budget counts, and whether the total is met and well spent (S3, S4); whether a
token's routing depends on later tokens, and where it has gradients (S5, S6).
"""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, rounding, share_above, span
from lp_routing.frontier.layers import best_budgets, worth_of_budgets
from lp_routing.routers.soft_top_k import Masses, SoftTopK, layer_budgets, masses, soft_top_k
from lp_routing.scores import softmax

PAPER = "SoftMoE, Zasada et al., ICML 2026, arXiv 2606.17952"
ALPHA = 0.1
"""Width of the soft edge, in standard deviations of a layer's logits; smaller is harder.

A setting of the claim, not of its proof. On the sample (`python -m benchmarks.claim_constants S3`)
budgets of 1.06 to 3.56 keep 1.49 to 5.25 experts active, with half the width 1.27 to 4.59, with
twice 1.85 to 6.38.
"""
TAU = 0.1
"""Weights p below this are set to 0, a share of an expert: larger keeps fewer experts active.

Likewise: 2.03 to 6.14 with half of it, 1.24 to 4.39 with twice.
"""
NEAR = 1e-3
"""Pairs whose p is this close to `TAU` are counted: a part of 100 of it, few of all pairs."""


def in_deviations(logits: Tensor) -> Tensor:
    """Logits (L, T, E) minus their token's mean, over the standard deviation of their layer."""
    centred = logits - logits.mean(-1, keepdim=True)
    spread = centred.std((-2, -1), correction=0, keepdim=True)
    return centred / spread.masked_fill(spread == 0, 1.0)


def total_budget(subject: ClaimInput) -> float:
    """B: k L, or the most of which SoftMoE's map asks no layer for E or more."""
    L, _, E = subject.shape
    return min(max(subject.k, 1.5) * L, E + L - 1.5)


def with_budgets(
    check: Callable[[ClaimInput, Tensor], Evidence],
) -> Callable[[ClaimInput], Evidence]:
    """A check at layer budgets k_l (L,), by SoftMoE's map of a drawn eta."""

    def examine(subject: ClaimInput) -> Evidence:
        L, _, E = subject.shape
        B = total_budget(subject)
        if B <= L:
            return Evidence(None, "With one expert there is no budget to choose.")
        draws = torch.Generator().manual_seed(subject.seed)
        eta = torch.randn(L, generator=draws, dtype=torch.float64).to(subject.logits.device)
        return check(subject, layer_budgets(eta, B, E))

    return examine


def counted(logits: Tensor, k: Tensor, alpha: float, tau: float) -> Masses:
    """Mass, active count and kept mass of every token (..., T), for budgets k (..., 1 or T)."""
    p = soft_top_k(logits, k, alpha)
    return masses(p, SoftTopK(1.0, alpha, tau).select(p))


def calibrated(p: Tensor, k: float) -> float:
    """SoftMoE's tau: round(k T) entries of a first batch's p (T, E) are above it (ties less).

    That is the cut of the k T largest, so that truncation at tau is unified routing by p there, and
    a threshold fixed in advance on what follows (B6).
    """
    count = min(max(round(k * len(p)), 0), p.numel() - 1)
    return max(float(p.flatten().topk(count + 1).values[-1]), 0.0)


def active_later(logits: Tensor, k: Tensor, alpha: float) -> Tensor:
    """Mean active experts (L,) of the second half of the tokens, tau calibrated on the first."""
    half = logits.shape[1] // 2
    p = soft_top_k(logits, k[:, None], alpha)
    taus = [
        calibrated(layer[: max(half, 1)], float(each)) for layer, each in zip(p, k, strict=True)
    ]
    later = [(layer[half:] > tau).sum(-1) for layer, tau in zip(p, taus, strict=True)]
    return torch.stack([count.double().mean() for count in later])


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


@with_budgets
def examine_count(subject: ClaimInput, k: Tensor) -> Evidence:
    """Soft mass, active experts and kept mass, layer by layer."""
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
    later = (active_later(in_deviations(subject.logits), k, ALPHA) / k - 1) * 100
    if subject.shape[1] > 1:
        sentence += (
            f" With tau calibrated on the first half of the tokens the second half is "
            f"{span(later.tolist())} % off."
        )
    numbers = (
        by_layer("budget k_l", k.tolist())
        | by_layer("% off with calibrated tau", later.tolist())
        | by_layer("soft mass", mass)
        | by_layer("active experts", active)
        | by_layer("kept mass", kept)
    )
    return Evidence(within_bounds(found, k[:, None], E, TAU), sentence, numbers)


def refutes_statement_on_count(logits: Tensor) -> str | None:
    """Logits, alpha = 1: a budget that is not the mean number of active experts."""
    for k in range(1, logits.shape[1]):
        p = soft_top_k(logits, k, 1.0)
        for tau in (0.1, 0.3):
            clear = bool(((p - tau).abs() > SLACK).all())
            active = float((p > tau).sum(-1).double().mean())
            if clear and active != k:
                return f"k={k}, tau={tau:g}: {active:g} experts are active on average."
    return None


def refutes_verdict_on_count(logits: Tensor) -> str | None:
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
    formula="mean_i #{j : p_ij > tau} = k_l, where sum_j p_ij = k_l",
    conditions="",
    source=f"{PAPER}, layer budgets (paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "k_l is the soft mass of every token. The active experts have at least tau and at most 1 "
        "each, the others less than tau, so (k - n tau) / (1 - tau) <= active <= k / tau, and no "
        "more: with small tau up to all n are active, with a flat row and tau > k / n none is. "
        "Cost goes with the active count and output with the kept mass, k - (n - active) tau to k. "
        "With tau calibrated on a first batch so that k_l are active on average, as the paper "
        "does, it holds there by construction, and on what follows as far as it is alike. "
        "The cap of ceil(k factor) bounds the count from above and takes more mass away."
    ),
    examine=examine_count,
    counterexample=Counterexample(
        ((0, 0, 0, 0),),
        "Logits: all alike, so p = k / 4 each. k = 1 and tau = 0.1: p = 1/4, all four are active, "
        "not one. k = 1 and tau = 0.3: none is active and no mass is kept.",
    ),
    refutes_statement=refutes_statement_on_count,
    refutes_verdict=refutes_verdict_on_count,
)


def met(k: Tensor, B: float, E: int) -> bool:
    """Whether budgets (L,) add up to B, and each is one that a row can have."""
    slack = rounding(B)
    in_range = bool(((k >= 1 - slack) & (k <= E + slack)).all())
    return in_range and abs(float(k.sum()) - B) <= slack


@with_budgets
def examine_budget(subject: ClaimInput, k: Tensor) -> Evidence:
    """The sum of k_l, how many pairs it makes active, and what the best split would be worth."""
    B = total_budget(subject)
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
    later = float(active_later(in_deviations(subject.logits), k, ALPHA).sum())
    lost = [0.0 - share_above(each, best.value) for each in worth]
    sentence = (
        f"Over {L} layers k_l adds up to B = {float(k.sum()):.6g}; after truncation at {TAU:g} "
        f"{active:.4g} experts are active per token, {later:.4g} with tau calibrated on the first "
        f"half, counted on the second. Of softmax mass, every token served, the "
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


def refutes_statement_on_budget(logits: Tensor) -> str | None:
    """Row l is the one token of layer l, two layers or more; eta = 0, alpha = 1, tau = `TAU`."""
    L, E = logits.shape
    for B in range(L + 1, L + E if L > 1 else 0):
        p = soft_top_k(logits, B / L, 1.0)
        active = int((p >= TAU).sum())
        if active != B and bool(((p - TAU).abs() > SLACK).all()):
            return f"B={B}: {active} pairs are computed."
    return None


def refutes_verdict_on_budget(scores: Tensor) -> str | None:
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
    refutes_statement=refutes_statement_on_budget,
    refutes_verdict=refutes_verdict_on_budget,
)


FACTOR = 1.5
"""A token takes at most ceil(k_l FACTOR) experts; whether its experts depend on later tokens (S5)
does not depend on it: half and twice give the same."""
STEP = 1e-5
"""Step of finite differences, relative to the width: smaller ones lose digits to rounding, larger
ones to curvature.

On the sample errors are 1e-6 to 2e-6 of what is allowed at 1e-4 and 1e-5, 1e-5 at 1e-3 and 2e-4 at
1e-6.
"""
JACOBIANS = 1 << 18
"""Entries of all Jacobians: S6 takes 0.24 s on the sample, and 0.35 s with twice as many
(`python -m benchmarks.claim_constants S6`)."""


def routed(logits: Tensor, k: float, alpha: float) -> tuple[Tensor, Tensor]:
    """p and the experts taken, (T, E), with truncation and cap."""
    router = SoftTopK(k, alpha, TAU, math.ceil(k * FACTOR))
    p = router.scores(logits)
    return p, router.select(p)


def moved_by_later(logits: Tensor, n: int, k: float, alpha: float) -> tuple[int, float]:
    """How many of n tokens change when the rest is replaced; the change of p when it is absent."""
    other = torch.cat([logits[:n], -2 * logits[n:].flip(0) + 1])
    (p, x), (q, y) = (routed(values, k, alpha) for values in (logits, other))
    changed = (p != q).any(-1) | (x != y).any(-1)
    alone, _ = routed(logits[:n], k, alpha)
    return int(changed[:n].sum()), float((alone - p[:n]).abs().max())


@with_budgets
def examine_causality(subject: ClaimInput, k: Tensor) -> Evidence:
    """The first half of the tokens, with other tokens after them and with none."""
    half = subject.shape[1] // 2
    if not half:
        return Evidence(None, "There is one token, none later.")
    found = [
        moved_by_later(logits, half, budget, ALPHA)
        for logits, budget in zip(in_deviations(subject.logits), k.tolist(), strict=True)
    ]
    changed, apart = [count for count, _ in found], max(off for _, off in found)
    sentence = (
        f"Other tokens after the first {half} change the weights or experts of "
        f"{sum(changed)} of these {half * len(found)}, bit for bit, with budget, width and tau "
        f"fixed; without any later tokens their weights differ by at most {apart:.1g}."
    )
    numbers = by_layer("tokens changed", changed) | {"largest difference without later": apart}
    return Evidence(sum(changed) == 0 and apart <= rounding(1.0), sentence, numbers)


def refutes_verdict_on_causality(logits: Tensor) -> str | None:
    """Tokens whose routing depends on later ones."""
    T, E = logits.shape
    for n, k, alpha in product(range(1, T), range(1, E), (0.1, 1.0)):
        changed, apart = moved_by_later(logits, n, float(k), alpha)
        if changed or apart > rounding(1.0):
            return f"k={k}: {changed} of the first {n} tokens change with later ones."
    return None


S5 = Claim(
    id="S5",
    rows_alone=True,
    title="soft top-k is causal",
    statement="How a token is routed does not depend on later tokens.",
    formula="p_i is a function of r_i alone, for fixed k_l, alpha and tau",
    conditions="k_l, alpha and tau are fixed before the sequence is seen",
    source=f"{PAPER}, autoregressive use (paraphrased)",
    verdict=Verdict.HOLDS,
    reason=(
        "The threshold theta solves sum_j F((r_ij - theta) / alpha) = k_l in the token's own row; "
        "truncation and cap look at that row, too. A budget, a width or a tau computed from the "
        "batch would leak, as any pooled number does."
    ),
    examine=examine_causality,
    refutes_verdict=refutes_verdict_on_causality,
)


def truncated(r: Tensor, k: Tensor, alpha: float, tau: float) -> tuple[Tensor, Tensor]:
    """p and the weights that are left of it, (R, E), for budgets k (R,)."""
    router, p = SoftTopK(1.0, alpha, tau), soft_top_k(r, k, alpha)
    return p, router.weigh(p, router.select(p))


def gradient_error(r: Tensor, k: Tensor, alpha: float, tau: float) -> tuple[float, int]:
    """Autograd against central differences in r, and the derivative of the mass in k against 1.

    Pairs (R, E) that a step may carry across tau are left out.

    Returns:
        The largest difference in units of what curvature may cause, and how many derivatives were
        compared. Second derivatives are at most 2 / alpha^2, and p moves by at most STEP / 2.
    """
    R, E = r.shape
    r, k = r.detach().requires_grad_(), k.detach().requires_grad_()
    p, weights = truncated(r, k, alpha, tau)
    by_k = torch.autograd.grad(p.sum(), k, retain_graph=True)[0]
    columns = [torch.autograd.grad(weights[:, j].sum(), r, retain_graph=True)[0] for j in range(E)]
    with torch.no_grad():
        h = STEP * alpha
        moves = h * torch.eye(E, dtype=r.dtype, device=r.device)
        up, down = (truncated(r[:, None] + m, k[:, None], alpha, tau)[1] for m in (moves, -moves))
        apart = ((up - down) / (2 * h) - torch.stack(columns, -1)).abs()
        smooth = ((p - tau).abs() > STEP)[:, None].expand(R, E, E)
        error = float(apart[smooth].max()) if bool(smooth.any()) else 0.0
        of_mass = float((by_k - 1).abs().max()) / rounding(E)
    return max(error / (2 * h / alpha**2), of_mass), int(smooth.sum())


@with_budgets
def examine_gradients(subject: ClaimInput, k: Tensor) -> Evidence:
    """Gradients away from jumps on some tokens of all layers; pairs close to a jump."""
    L, T, E = subject.shape
    z = in_deviations(subject.logits)
    rows = torch.linspace(0, L * T - 1, max(1, min(L * T, JACOBIANS // E**2))).long().to(k.device)
    budgets = k.repeat_interleave(T)
    error, compared = gradient_error(z.flatten(0, 1)[rows], budgets[rows], ALPHA, TAU)
    p = soft_top_k(z, k[:, None], ALPHA)
    close = int(((p - TAU).abs() < NEAR).sum())
    sentence = (
        f"Away from tau all {compared} derivatives by logits on {len(rows)} tokens are those of "
        f"finite differences within {error:.2g} times what the step allows, and the mass grows one "
        f"for one with k. Within {NEAR:g} of tau = {TAU:g}, where a weight jumps by {TAU:g}, lie "
        f"{close} of {p.numel()} pairs."
    )
    numbers = {
        "tokens": len(rows),
        "derivatives compared": compared,
        "largest error over what is allowed": error,
        f"pairs within {NEAR:g} of tau": close,
    }
    return Evidence(error <= 1, sentence, numbers)


def refutes_statement_on_gradients(logits: Tensor) -> str | None:
    """Logits, alpha = 1: weights that move further than any p can when one logit moves by 2^-20.

    p moves by at most 1 / alpha times the step, all entries together.
    """
    T, E = logits.shape
    step = 2.0**-20
    moved = logits[:, None] + step * torch.eye(E, dtype=logits.dtype)
    for k, tau in product(range(1, E), (0.25, 0.5)):
        budget = torch.full((T, 1), float(k), dtype=logits.dtype)
        before = truncated(logits[:, None], budget, 1.0, tau)[1]
        far = (truncated(moved, budget, 1.0, tau)[1] - before).abs().sum(-1)
        if bool((far > 2 * step).any()):
            return f"k={k}, tau={tau:g}: a step of 2^-20 moves weights by {float(far.max()):.3g}."
    return None


def refutes_verdict_on_gradients(logits: Tensor) -> str | None:
    """A derivative that is wrong away from the jumps."""
    T, E = logits.shape
    for k, tau in product(range(1, E), (0.1, 0.25)):
        budget = torch.full((T,), float(k), dtype=torch.float64)
        error, _ = gradient_error(logits, budget, 1.0, tau)
        if error > 1:
            return f"k={k}, tau={tau:g}: a derivative is off by {error:.3g} times what it may."
    return None


S6 = Claim(
    id="S6",
    rows_alone=True,
    title="fully differentiable",
    statement="The routing weights are differentiable functions of logits and budgets.",
    formula="w_ij = p_ij if p_ij > tau else 0; d w / d r and d w / d k exist",
    conditions="almost everywhere: no p_ij equals tau (nor do two at the cap)",
    source=f"{PAPER}, end-to-end training (paraphrased)",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "p has continuous first derivatives, since the Laplace density is continuous. Where p_ij "
        "crosses tau, w_ij jumps by tau, and nobody's gradient says so; a dropped expert gets "
        "gradient 0 by its own weight. As p_ij rises strictly with r_ij, the jumps are a null set "
        "of logits, but each row has some: whatever the other logits, one value of r_ij is there "
        "(for 1 <= k <= n - 1)."
    ),
    examine=examine_gradients,
    counterexample=Counterexample(
        ((0, 0),),
        "Logits, k = 1, alpha = 1, tau = 1/2: p = (1/2, 1/2) and none is above tau. The least rise "
        "of the first logit takes it above: the weights go from (0, 0) to (1/2, 0).",
    ),
    refutes_statement=refutes_statement_on_gradients,
    refutes_verdict=refutes_verdict_on_gradients,
)


CLAIMS: tuple[Claim, ...] = (S3, S4, S5, S6)
