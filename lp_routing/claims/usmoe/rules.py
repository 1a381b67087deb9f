"""What the claims about USMoE share: their source, the quick rules, sums, and the budget's dual."""

from fractions import Fraction

from torch import Tensor

from lp_routing.routers.expert_choice import ExpertChoice
from lp_routing.routers.token_choice import TopK
from lp_routing.routers.unified import Unified

PAPER = "USMoE, Do et al., ICML 2026, arXiv 2503.22996 (paraphrased)"
CODE = (
    "code: giangdip2410/USMoE, forward of OlmoeSparseMoeBlock in "
    "USMoE/Training_Free/models/modeling_olmoe.py"
)
"""Three more files there have the same lines: `modeling_qwen2_moe.py`, `modeling_deepseek.py` and
`USMoE/Training_scratch/custom_transformer.py`. They differ in the weights: the forward of
`modeling_deepseek.py` ignores `norm_topk_prob` and keeps the unified scores as they are.
"""


def worth(scores: Tensor, chosen: Tensor) -> float:
    """The sum of the chosen scores (T, E)."""
    return float(scores[chosen].sum())


def row_choice(scores: Tensor, k: int) -> Tensor:
    """Token choice on any scores: row top-k, boolean (T, E)."""
    return TopK(k, score="logits").select(scores)


def column_choice(scores: Tensor, capacity: int) -> Tensor:
    """Expert choice on any scores: column top-C, boolean (T, E)."""
    return ExpertChoice(capacity, score="logits").select(scores)


def pooled_choice(scores: Tensor, k: int, *, serve_all: bool = False) -> Tensor:
    """Unified routing on any scores: the N = k T largest of all, boolean (T, E)."""
    return Unified(k, serve_all=serve_all).select(scores)


def cut_of(scores: Tensor, count: int) -> float:
    """The `count`-th largest of all scores, 1 <= count <= T E."""
    return float(scores.flatten().topk(count).values[-1])


def budget_optimum(scores: Tensor, total: Fraction | int, *, used_up: bool) -> Fraction:
    """The LP's value with sum x = N, or sum x <= N, without rounding, by its dual.

    min over the price p of p N + sum_ij max(s_ij - p, 0), which changes its slope at scores only;
    p >= 0 where the budget need not be used up. For 0 <= N <= T E and few pairs.

    Args:
        scores: (T, E).
        total: N.
        used_up: whether all of N must be taken.
    """
    entries = [Fraction(s) for s in scores.flatten().tolist()]
    prices = set(entries) if used_up else {p for p in entries if p > 0} | {Fraction(0)}
    return min(p * total + sum(max(s - p, Fraction(0)) for s in entries) for p in prices)
