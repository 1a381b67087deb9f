"""LapSum's threshold: that there is one, and what it takes to find it (S1, S2)."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.lapsum_rules import PAPER, SLACK, WIDTHS, lines, nothing_to_ask
from lp_routing.routers.soft_top_k import layer_budgets, soft_top_k

HALVINGS = 80
COARSE = 1e6
"""From here on float64 cannot place a threshold to within 1e-7 of the smallest width."""


def masses_of(E: int) -> list[float]:
    """Some masses k with 0 < k < E, whole and not."""
    return sorted({0.5, *map(float, range(1, E)), E - 0.5})


def few_masses(E: int, k: int) -> list[float]:
    """The smallest, the user's, and the largest of them."""
    every = masses_of(E)
    return sorted({every[0], float(min(k, E - 1)), every[-1]})


def by_halving(r: Tensor, k: float, alpha: float) -> Tensor:
    """p (..., n) from a threshold found by halving an interval, in n steps each: nothing is sorted.

    sum_i F((r_i - theta) / alpha) falls strictly in theta from n to 0, so there is one such theta.
    """
    wide = 40 * alpha
    low, high = r.amin(-1, keepdim=True) - wide, r.amax(-1, keepdim=True) + wide
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_low = laplace((r - middle) / alpha).sum(-1, keepdim=True) > k
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return laplace((r - (low + high) / 2) / alpha)


def too_large(r: Tensor) -> bool:
    """Whether halving cannot tell thresholds apart that give different p."""
    return float(r.abs().max()) > COARSE


def too_large_to_ask(r: Tensor) -> Evidence:
    """A threshold among huge numbers has rounding as wide as the edge itself."""
    return Evidence(
        None,
        f"Does not apply here: logits up to {float(r.abs().max()):.1g} in size are too coarse in "
        f"float64 for a threshold by halving; give them in smaller units.",
    )


def laplace(x: Tensor) -> Tensor:
    """F, the Laplace distribution function."""
    tail = 0.5 * torch.exp(-x.abs())
    return torch.where(x >= 0, 1 - tail, tail)


def examine_threshold(subject: Subject) -> Evidence:
    """The mass of p, p by halving, and what SoftMoE's map asks for."""
    r = lines(subject)
    if r is None:
        return nothing_to_ask()
    if too_large(r):
        return too_large_to_ask(r)
    off_mass, off_p = [0.0], [0.0]
    for k in few_masses(r.shape[-1], subject.k):
        for alpha in WIDTHS:
            p = soft_top_k(r, k, alpha)
            off_mass.append(float((p.sum(-1) - k).abs().max()))
            off_p.append(float((p - by_halving(r, k, alpha)).abs().max()))
    mass, apart = max(off_mass), max(off_p)
    agrees = mass <= SLACK * r.shape[-1] and apart <= 1e-6
    return Evidence(
        agrees,
        f"On {r.shape[0] * r.shape[1]} tokens, {len(off_p) - 1} settings of k and alpha: the mass "
        f"{'is k' if mass <= SLACK * r.shape[-1] else f'is off by {mass:.2g}'} up to rounding, and "
        f"a threshold found by halving gives the same p "
        f"{'within 1e-6' if apart <= 1e-6 else f'only within {apart:.2g}'}.",
        {"largest error of the mass": mass, "largest difference of p": apart},
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
            if not bool(((p - by_halving(scores, k, alpha)).abs() <= 1e-6).all()):
                return f"k={k:g}, alpha={alpha:g}: halving gives another p."
    return None


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of torch's operations while it is open."""

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


def examine_sort(subject: Subject) -> Evidence:
    """Whether the closed form sorts, and whether p can be had without."""
    r = lines(subject)
    if r is None:
        return nothing_to_ask()
    if too_large(r):
        return too_large_to_ask(r)
    k, alpha = float(min(subject.k, r.shape[-1] - 1)), 0.5
    sorts = "sort" in operations(r, k, alpha)
    apart = float((soft_top_k(r, k, alpha) - by_halving(r, k, alpha)).abs().max())
    same = apart <= 1e-6
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
    breaks=asks_too_much,
    betrays=another_threshold,
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
    breaks=it_sorts,
)
