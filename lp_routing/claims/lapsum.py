"""LapSum (Struski et al. 2025), the soft top-k that SoftMoE uses: claims S1, S2, S7 and S8.

The threshold: that there is one, and what it takes to find it (S1, S2). The penalty: what the soft
choice maximises, and what its width does (S7, S8).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import SLACK, span
from lp_routing.routers.soft_top_k import layer_budgets, soft_gap, soft_top_k

PAPER = "LapSum, Struski et al., ICML 2025, arXiv 2503.06242"
WIDTHS = (0.1, 0.5, 2.0)
"""Widths alpha at which the operator is checked, in units of the logits."""
FIRST = 256
"""Tokens of each layer: S1 takes 0.2 s, and 0.7 s with 1,024 on the sample."""


Check = Callable[[Tensor, int], Evidence]


def on_lines(check: Check) -> Callable[[ClaimInput], Evidence]:
    """A check of logits r (L, T', E), the first tokens of each layer, at k below E."""

    def examine(subject: ClaimInput) -> Evidence:
        E = subject.shape[2]
        if E == 1:
            return Evidence(None, "With one expert there is no k between 0 and E: nothing to ask.")
        return check(subject.logits[:, :FIRST], min(subject.k, E - 1))

    return examine


HALVINGS = 80
"""Bisection steps for a threshold: they end below the resolution of float64."""
COARSE = 1e6
"""Size of logits up to which p by halving is right to `SAME`: float64 steps are 1e-10 there, a part
in 1e9 of the smallest width. Larger ones are not asked about."""
SAME = 1e-6
"""Shares of an expert: p and p by halving are the same up to this. They differ by at most 6e-15 on
normal logits of size 1, by 2e-9 on those of size `COARSE` (64 tokens, 32 experts, alpha 0.1)."""


def masses_of(E: int) -> list[float]:
    """Some masses k with 0 < k < E, whole and fractional."""
    return sorted({0.5, *map(float, range(1, E)), E - 0.5})


def few_masses(E: int, k: int) -> list[float]:
    """The smallest, the user's, and the largest of them."""
    every = masses_of(E)
    return sorted({every[0], float(k), every[-1]})


def by_halving(r: Tensor, k: float, alpha: float) -> Tensor:
    """p (..., n) from a threshold found by bisection, n operations a step: nothing is sorted.

    sum_i F((r_i - theta) / alpha) falls strictly in theta from n to 0, so there is one such theta.
    """
    wide = 40 * alpha  # e^-40 = 4e-18: F is 0 or 1 in float64 there
    low, high = r.amin(-1, keepdim=True) - wide, r.amax(-1, keepdim=True) + wide
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_low = laplace((r - middle) / alpha).sum(-1, keepdim=True) > k
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return laplace((r - (low + high) / 2) / alpha)


def by_thresholds(check: Check) -> Check:
    """The check, unless logits are too large for bisection in float64."""

    def examine(r: Tensor, k: int) -> Evidence:
        largest = float(r.abs().max())
        if largest <= COARSE:
            return check(r, k)
        return Evidence(
            None,
            f"Does not apply here: logits up to {largest:.1g} in size are too coarse in float64 "
            f"for a threshold by halving; give them in smaller units.",
        )

    return examine


def laplace(x: Tensor) -> Tensor:
    """F, the Laplace distribution function."""
    tail = 0.5 * torch.exp(-x.abs())
    return torch.where(x >= 0, 1 - tail, tail)


@on_lines
@by_thresholds
def examine_threshold(r: Tensor, k: int) -> Evidence:
    """The mass of p, p by halving, and what SoftMoE's map asks for."""
    off_mass, off_p = [0.0], [0.0]
    for mass in few_masses(r.shape[-1], k):
        for alpha in WIDTHS:
            p = soft_top_k(r, mass, alpha)
            off_mass.append(float((p.sum(-1) - mass).abs().max()))
            off_p.append(float((p - by_halving(r, mass, alpha)).abs().max()))
    off, apart = max(off_mass), max(off_p)
    agrees = off <= SLACK * r.shape[-1] and apart <= SAME
    return Evidence(
        agrees,
        f"On {r.shape[0] * r.shape[1]} tokens, {len(off_p) - 1} settings of k and alpha: the mass "
        f"{'is k' if off <= SLACK * r.shape[-1] else f'is off by {off:.2g}'} up to rounding, and "
        f"a threshold found by halving gives the same p "
        f"{'within 1e-6' if apart <= SAME else f'only within {apart:.2g}'}.",
        {"largest error of the mass": off, "largest difference of p": apart},
    )


def asks_too_much(scores: Tensor) -> str | None:
    """Rows as layers, the first column as eta: a budget below L E that asks one layer for more."""
    L, E = scores.shape
    total = L * E - 0.5
    if not total > L:
        return None
    budgets = layer_budgets(scores[:, 0], total)
    if float(budgets.max()) < E:
        return None
    return f"B={total:g} over {L} layers asks one for {float(budgets.max()):.3f} of {E} experts."


def another_threshold(scores: Tensor) -> str | None:
    """A mass other than k, or another p by halving, with 0 < k < n."""
    E = scores.shape[1]
    for k in masses_of(E) if E > 1 else []:
        for alpha in WIDTHS:
            p = soft_top_k(scores, k, alpha)
            if not bool(((p.sum(-1) - k).abs() <= SLACK * E).all()):
                return f"k={k:g}, alpha={alpha:g}: the mass is {p.sum(-1).tolist()}."
            if not bool(((p - by_halving(scores, k, alpha)).abs() <= SAME).all()):
                return f"k={k:g}, alpha={alpha:g}: halving gives another p."
    return None


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the names of the torch operations that run inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def operations(r: Tensor, k: float, alpha: float) -> set[str]:
    """The torch operations that `soft_top_k` calls."""
    seen = Operations()
    with seen:
        soft_top_k(r, k, alpha)
    return seen.names


@on_lines
@by_thresholds
def examine_sort(r: Tensor, k: int) -> Evidence:
    """Whether the closed form sorts, and whether bisection gives the same p without."""
    alpha = 0.5
    sorts = "sort" in operations(r, k, alpha)
    apart = float((soft_top_k(r, k, alpha) - by_halving(r, k, alpha)).abs().max())
    same = apart <= SAME
    return Evidence(
        sorts and same,
        f"The closed form {'sorts' if sorts else 'does not sort'} each line of {r.shape[-1]}; "
        f"{HALVINGS} halvings of an interval, {'which sort nothing, give' if same else 'give not'} "
        f"the same p within 1e-6 on {r.shape[0] * r.shape[1]} tokens.",
        {"sorts": sorts, "largest difference of p": apart},
    )


def it_sorts(scores: Tensor) -> str | None:
    """The operator sorts these lines."""
    if scores.shape[1] < 2 or "sort" not in operations(scores, 1.0, 1.0):
        return None
    return f"Each line of {scores.shape[1]} entries is sorted."


S1 = Claim(
    id="S1",
    rows_alone=True,
    title="one threshold, mass exactly k",
    statement="For every budget there is exactly one threshold where the soft choice has mass k.",
    formula="exists one theta with sum_i F((r_i - theta) / alpha) = k, F the Laplace CDF",
    conditions="0 < k < n and alpha > 0; of SoftMoE's layer budgets: B - L + 1 <= E.",
    source=f"{PAPER}, soft top-k (paraphrased); used by SoftMoE, arXiv 2606.17952",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "The sum is continuous and falls strictly in theta, from n to 0, so each mass between has "
        "one threshold, and masses of 0, n or more have none. SoftMoE's map k_l = softmax(eta)_l "
        "(B - L) + 1 can ask a layer for E or more although B < L E, unless B - L + 1 <= E."
    ),
    examine=examine_threshold,
    counterexample=Counterexample(
        ((3, 0), (0, 0)),
        "Two layers of E = 2 experts, B = 3.5 of 4, eta = (3, 0) (the first column). softmax(eta) "
        "= (0.953, 0.047), so k_1 = 0.953 * 1.5 + 1 = 2.43: more than both experts can hold.",
    ),
    refutes_statement=asks_too_much,
    refutes_verdict=another_threshold,
)
S2 = Claim(
    id="S2",
    rows_alone=True,
    title="linear time, no sort",
    statement="The soft top-k takes linear time and needs no sort.",
    formula="p from r (n numbers) in O(n)",
    conditions="",
    source=(
        f"{PAPER} (paraphrased); code: gmum/LapSum, at::sort in "
        "lapsum/lapsum/topk/cpu/soft_topk.cpp and in cuda/soft_topk_cuda.cpp beside it"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "The closed form needs the sums over all entries above and below the threshold, and takes "
        "them from a sort: O(n log n). Ours does so, too. The claim could be made true: halving an "
        "interval around the threshold needs no order, n operations a step, and finds the same p. "
        "What is counted is calls of sort, not time."
    ),
    examine=examine_sort,
    counterexample=Counterexample(
        ((0, 1),),
        "k = 1, alpha = 1: the two entries are put in order, (1, 0), before anything else. Then m "
        "= 1 lies above, A = e^-1, B = 1, and A u^2 - B = 0 gives theta = log u = 1/2, p = (0.303, "
        "0.697). Halving [0, 1] at 1/2 finds mass 0.303 + 0.697 = 1 at once, in any order.",
    ),
    refutes_statement=it_sorts,
)


def objective(r: Tensor, p: Tensor, alpha: float) -> Tensor:
    """<r, p> - alpha sum_i phi(p_i), phi(p) = m log(2m) - m with m = min(p, 1 - p); (...)."""
    m = torch.minimum(p, 1 - p).clamp(min=0)
    penalty: Tensor = torch.special.xlogy(m, 2 * m) - m
    return (r * p - alpha * penalty).sum(-1)


def worse(r: Tensor, k: int, alpha: float) -> float:
    """The most by which the hard choice, equal shares or points between beat p; 0 if none does."""
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


@on_lines
def examine_smoothed(r: Tensor, k: int) -> Evidence:
    """The certificate of every token, and other feasible points against p."""
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
    """A feasible point that beats p, or a certificate that is broken."""
    for k in range(1, scores.shape[1]):
        for alpha in WIDTHS:
            if worse(scores, k, alpha) > SLACK:
                return f"k={k}, alpha={alpha:g}: another point is worth more than p."
            says = out_of_order(scores, k, alpha)
            if says is not None:
                return says
    return None


@on_lines
def examine_width(r: Tensor, k: int) -> Evidence:
    """What tokens lose against the hard choice, from narrow to wide."""
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
    refutes_verdict=not_smoothed,
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
    refutes_statement=wider_is_softer,
    refutes_verdict=wider_is_harder,
)


CLAIMS: tuple[Claim, ...] = (S1, S2, S7, S8)
