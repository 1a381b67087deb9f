"""LapSum's penalty: what the soft choice maximises, and what its width does (S7, S8)."""

from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.lapsum_rules import PAPER, SLACK, WIDTHS, lines, nothing_to_ask
from lp_routing.claims.layers import span
from lp_routing.routers.soft_top_k import soft_gap, soft_top_k


def objective(r: Tensor, p: Tensor, alpha: float) -> Tensor:
    """<r, p> - alpha sum_i phi(p_i), phi(p) = m log(2m) - m with m = min(p, 1 - p); (...)."""
    m = torch.minimum(p, 1 - p).clamp(min=0)
    penalty: Tensor = torch.special.xlogy(m, 2 * m) - m
    return (r * p - alpha * penalty).sum(-1)


def worse(r: Tensor, k: int, alpha: float) -> float:
    """By how much a feasible point beats p in what p should maximise, at most; 0 where none does.

    Tried are the hard choice, the even one, and points between them and p.
    """
    n = r.shape[-1]
    p = soft_top_k(r, float(k), alpha)
    hard = torch.zeros_like(r).scatter(-1, r.topk(k).indices, 1.0)
    best = objective(r, p, alpha)
    rivals = (hard, torch.full_like(r, k / n))
    tried = [p + step * (other - p) for other in rivals for step in (1e-3, 0.1, 0.5, 1.0)]
    gains = [float((objective(r, x, alpha) - best).max()) for x in tried]
    return max(0.0, *gains)


def out_of_order(r: Tensor, k: int, alpha: float) -> str | None:
    """A breach of 0 <= gap <= bound <= alpha n / 2, in words."""
    gap, bound = soft_gap(r, float(k), alpha)
    slack = SLACK * (1 + float(r.abs().max()) * r.shape[-1])
    if bool((gap < -slack).any()):
        return f"k={k}, alpha={alpha:g}: p is worth more than the best choice."
    if bool((gap > bound + slack).any()):
        return f"k={k}, alpha={alpha:g}: p loses {float(gap.max()):g}, more than its certificate."
    if bool((bound > alpha * r.shape[-1] / 2 + slack).any()):
        return f"k={k}, alpha={alpha:g}: the certificate exceeds alpha n / 2."
    return None


def examine_smoothed(subject: Subject) -> Evidence:
    """The certificate of every token, and rivals of p."""
    r = lines(subject)
    if r is None:
        return nothing_to_ask()
    k = min(subject.k, r.shape[-1] - 1)
    gaps, bounds, agrees, beaten = [], [], True, 0.0
    for alpha in WIDTHS:
        gap, bound = soft_gap(r, float(k), alpha)
        gaps.append(float(gap.mean()))
        bounds.append(float(bound.mean()))
        beaten = max(beaten, worse(r, k, alpha))
        agrees &= out_of_order(r, k, alpha) is None
    agrees &= beaten <= SLACK * (1 + float(r.abs().max()) * r.shape[-1])
    in_words = ", ".join(f"{alpha:g}" for alpha in WIDTHS)
    return Evidence(
        agrees,
        f"With alpha = {in_words} a token loses {', '.join(f'{gap:.3g}' for gap in gaps)} on "
        f"average, certified {', '.join(f'{bound:.3g}' for bound in bounds)} at most; the hard and "
        f"the even choice, and points on the way to them, "
        f"{'never beat p' if agrees else f'beat p by {beaten:.2g}, or a certificate is broken'}.",
        {"beaten by": beaten}
        | {f"loss, alpha {alpha:g}": gap for alpha, gap in zip(WIDTHS, gaps, strict=True)},
    )


def not_smoothed(scores: Tensor) -> str | None:
    """A rival that beats p, or a certificate that is broken."""
    for k in range(1, scores.shape[1]):
        for alpha in WIDTHS:
            if worse(scores, k, alpha) > SLACK:
                return f"k={k}, alpha={alpha:g}: another point is worth more than p."
            says = out_of_order(scores, k, alpha)
            if says is not None:
                return says
    return None


def examine_width(subject: Subject) -> Evidence:
    """What tokens lose against the hard choice, from narrow to wide."""
    r = lines(subject)
    if r is None:
        return nothing_to_ask()
    k = min(subject.k, r.shape[-1] - 1)
    losses = [soft_gap(r, float(k), alpha)[0] for alpha in WIDTHS]
    slack = SLACK * (1 + float(r.abs().max()) * r.shape[-1])
    falls = sum(int((b < a - slack).sum()) for a, b in pairwise(losses))
    means = [float(loss.mean()) for loss in losses]
    return Evidence(
        falls == 0,
        f"As alpha goes from {WIDTHS[0]:g} to {WIDTHS[-1]:g} a token's loss against the hard "
        f"choice goes from {means[0]:.3g} to {means[-1]:.3g} on average, and falls for {falls} of "
        f"{losses[0].numel()} tokens ({span(means)} in all).",
        {"tokens whose loss falls": falls},
    )


def wider_is_softer(scores: Tensor) -> str | None:
    """A line that loses more at twice the width."""
    for k in range(1, scores.shape[1]):
        near, far = (soft_gap(scores, float(k), alpha)[0].sum() for alpha in (1.0, 2.0))
        if far > near + SLACK:
            return f"k={k}: p loses {float(near):.3f} at alpha = 1 and {float(far):.3f} at 2."
    return None


def wider_is_harder(scores: Tensor) -> str | None:
    """A line that loses less at a larger width."""
    for k in range(1, scores.shape[1]):
        losses = [soft_gap(scores, float(k), alpha)[0] for alpha in WIDTHS]
        for a, b in pairwise(losses):
            if bool((b < a - SLACK).any()):
                return f"k={k}: a larger alpha loses less."
    return None


S7 = Claim(
    id="S7",
    rows_alone=True,
    title="LapSum is a smoothed top-k LP",
    statement="The soft choice maximises the score less a penalty, over all choices of mass k.",
    formula=(
        "p = argmax { <r, p> - alpha sum_i phi(p_i) : sum p = k }, phi(p) = m log(2m) - m, "
        "m = min(p, 1-p); so 0 <= hard value - <r, p> <= -alpha sum phi(p_i) <= alpha n / 2"
    ),
    conditions="",
    source=f"{PAPER}: F is the derivative of phi's conjugate (derived here)",
    verdict=Verdict.HOLDS,
    reason=(
        "phi is convex with phi'(p) = F^-1(p), so p_i = F((r_i - theta) / alpha) is where the "
        "gradient of the objective is the same theta for all i: the optimum. phi(0) = phi(1) = 0 "
        "and phi >= -1/2, so comparing with the hard choice gives a certificate for each token."
    ),
    examine=examine_smoothed,
    betrays=not_smoothed,
)
S8 = Claim(
    id="S8",
    rows_alone=True,
    title="a larger alpha is harder",
    statement="A larger alpha brings the soft choice closer to the hard one.",
    formula="alpha -> infinity: p -> top-k",
    conditions="",
    source=(
        "code: gmum/LapSum, docstring of soft_topk in lapsum/lapsum/topk/extension/soft_topk.py "
        "(paraphrased)"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "alpha is the width of the edge: as it grows all p tend to k / n, as it falls to 0 they "
        "tend to the hard choice. What a token loses never falls as alpha grows, since p maximises "
        "the score less alpha times a fixed penalty."
    ),
    examine=examine_width,
    counterexample=Counterexample(
        ((1, 0),),
        "k = 1: theta = 1/2, p_1 = 1 - e^(-1 / (2 alpha)) / 2. alpha = 1 gives 0.697, a loss of "
        "0.303 against the hard choice; alpha = 2 gives 0.611, a loss of 0.389.",
    ),
    breaks=wider_is_softer,
    betrays=wider_is_harder,
)
