"""SoftMoE: whether a token's routing looks ahead, and where it has gradients (S5, S6)."""

import math
from itertools import product

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.layers import by_layer, rounding
from lp_routing.claims.soft_moe_rules import (
    ALPHA,
    NO_CHOICE,
    PAPER,
    TAU,
    drawn_budgets,
    in_deviations,
)
from lp_routing.routers.soft_top_k import SoftTopK, soft_top_k

FACTOR = 1.5
"""At most ceil(k_l FACTOR) experts of a token."""
STEP = 1e-5
"""Of finite differences, in widths."""
JACOBIANS = 1 << 18
"""Entries of the Jacobians that are looked at, so that the check stays quick."""


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


def examine_causality(subject: Subject) -> Evidence:
    """The first half of the tokens, with other tokens after them and with none."""
    T, drawn = subject.shape[1], drawn_budgets(subject)
    if drawn is None or T < 2:
        return NO_CHOICE if drawn is None else Evidence(None, "There is one token, none later.")
    half = T // 2
    found = [
        moved_by_later(logits, half, budget, ALPHA)
        for logits, budget in zip(in_deviations(subject.logits), drawn[0].tolist(), strict=True)
    ]
    changed, apart = [count for count, _ in found], max(off for _, off in found)
    sentence = (
        f"Other tokens after the first {half} change the weights or experts of "
        f"{sum(changed)} of these {half * len(found)}, bit for bit, with budget, width and tau "
        f"fixed; without any later tokens their weights differ by at most {apart:.1g}."
    )
    numbers = by_layer("tokens changed", changed) | {"largest difference without later": apart}
    return Evidence(sum(changed) == 0 and apart <= rounding(1.0), sentence, numbers)


def betrays_causality(logits: Tensor) -> str | None:
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
    betrays=betrays_causality,
)


def truncated(r: Tensor, k: Tensor, alpha: float, tau: float) -> tuple[Tensor, Tensor]:
    """p and the weights that are left of it, (R, E), for budgets k (R,)."""
    router, p = SoftTopK(1.0, alpha, tau), soft_top_k(r, k, alpha)
    return p, router.weigh(p, router.select(p))


def gradient_error(r: Tensor, k: Tensor, alpha: float, tau: float) -> tuple[float, int]:
    """Autograd against central differences in r, and the derivative of the mass in k against 1.

    Pairs (R, E) that a step may carry across tau are left out.

    Returns:
        The largest difference in units of what curvature and rounding may cause, and how many
        derivatives were compared. Second derivatives are at most 2 / alpha^2, and p moves by at
        most STEP / 2.
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
    return max(error / (2 * h / alpha**2 + 1e-8 / alpha), of_mass), int(smooth.sum())


def examine_gradients(subject: Subject) -> Evidence:
    """Gradients away from jumps on some tokens of all layers; pairs close to a jump."""
    drawn = drawn_budgets(subject)
    if drawn is None:
        return NO_CHOICE
    L, T, E = subject.shape
    z, k = in_deviations(subject.logits), drawn[0]
    rows = torch.linspace(0, L * T - 1, max(1, min(L * T, JACOBIANS // E**2))).long().to(k.device)
    budgets = k.repeat_interleave(T)
    error, compared = gradient_error(z.flatten(0, 1)[rows], budgets[rows], ALPHA, TAU)
    p = soft_top_k(z, k[:, None], ALPHA)
    close = int(((p - TAU).abs() < 1e-3).sum())
    sentence = (
        f"Away from tau all {compared} derivatives by logits on {len(rows)} tokens are those of "
        f"finite differences within {error:.2g} times what the step allows, and the mass grows one "
        f"for one with k. Within 0.001 of tau = {TAU:g}, where a weight jumps by {TAU:g}, lie "
        f"{close} of {p.numel()} pairs."
    )
    numbers = {
        "tokens": len(rows),
        "derivatives compared": compared,
        "largest error over what is allowed": error,
        "pairs within 0.001 of tau": close,
    }
    return Evidence(error <= 1, sentence, numbers)


def breaks_gradients(logits: Tensor) -> str | None:
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


def betrays_gradients(logits: Tensor) -> str | None:
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
    formula="w_ij = p_ij if p_ij >= tau else 0; d w / d r and d w / d k exist",
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
        "Logits, k = 1, alpha = 1, tau = 1/2: p = (1/2, 1/2) and both are kept. The least rise of "
        "the first logit takes the second below tau: the weights go from (1/2, 1/2) to (1/2, 0).",
    ),
    breaks=breaks_gradients,
    betrays=betrays_gradients,
)
