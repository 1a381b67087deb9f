"""LapSum soft top-k: a differentiable assignment of a mass of k to each token's experts."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lp_routing.errors import InputError
from lp_routing.routers.base import Normalise, Router, check_normalise, normalised
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.scores import check_logits, masked
from lp_routing.validation import as_float, as_int, refuse_nan_and_inf

INF = float("inf")
FAR = 1e6
"""Largest distance from the edge, in widths: beyond some 745, exp(-distance) is 0 in float64."""


def soft_top_k(r: Tensor, k: float | Tensor, alpha: float | Tensor) -> Tensor:
    """p_i = F((r_i - theta) / alpha), F the Laplace CDF, theta such that sum_i p_i = k.

    p maximises <r, p> - alpha sum_i phi(p_i) over sum_i p_i = k, with phi(p) = m log(2m) - m and
    m = min(p, 1 - p) (Struski et al., ICML 2025, arXiv 2503.06242): a soft top-k. Smaller alpha is
    harder (the released code's docstring says the opposite).

    Args:
        r: (..., n) logits in any unit, -inf for forbidden entries, which get 0. In a line with at
            most k allowed entries each of them gets 1.
        k: mass of a line, 0 < k < n; a number, or a tensor that broadcasts to (...).
        alpha: width of the edge in the unit of r, above 0; likewise.

    Returns:
        p (..., n) in the dtype of r; differentiable once in r, k and alpha.

    Raises:
        InputError: NaN or +inf, k or alpha out of range, shapes that do not fit.

    Cost: one sort and two scans along the line, in float64.
    """
    if not isinstance(r, Tensor) or r.ndim == 0 or r.numel() == 0 or not r.is_floating_point():
        raise InputError("soft_top_k: expected a tensor of floating-point numbers (..., n) first.")
    refuse_nan_and_inf(r.detach(), "soft_top_k: r")
    n = r.shape[-1]
    masses_asked, widths = _per_line(k, "k", r), _per_line(alpha, "alpha", r)
    if not bool(((masses_asked > 0) & (masses_asked < n)).all()):
        raise InputError(f"soft_top_k: k={k!r}: expected 0 < k < n, the number of entries ({n}).")
    if not bool(((widths > 0) & widths.isfinite()).all()):
        raise InputError(f"soft_top_k: alpha={alpha!r}: expected a finite number above 0.")
    p: Tensor = _LapSum.apply(r.double(), masses_asked, widths)  # type: ignore[no-untyped-call]
    return p.to(r.dtype)


def soft_gap(r: Tensor, k: float | Tensor, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the soft choice against the best one, and a bound on it.

    Returns:
        Two float64 tensors (...) with 0 <= gap <= bound, up to rounding, and bound <= alpha n / 2.
        gap: max <r, x> over 0 <= x <= 1, sum x = k, minus <r, p>, in the unit of r.
        bound: -alpha sum_i phi(p_i), from the optimality of p (see `soft_top_k`).
    """
    p = soft_top_k(r.double(), k, alpha)
    ordered = torch.sort(r.double(), descending=True).values
    places = torch.arange(r.shape[-1], device=r.device)
    taken = (_per_line(k, "k", r)[..., None] - places).clamp(0, 1)
    hard = (taken * ordered).masked_fill(ordered == -INF, 0.0).sum(-1)
    soft = (p * r).masked_fill(r == -INF, 0.0).sum(-1)
    m = torch.minimum(p, 1 - p)
    phi = torch.special.xlogy(m, 2 * m) - m
    return hard - soft, -_per_line(alpha, "alpha", r) * phi.sum(-1)


class _LapSum(torch.autograd.Function):
    """The closed form and its gradients, all float64: r (..., n), k and alpha (...)."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, k: Tensor, alpha: Tensor) -> Tensor:
        z = _in_widths(r, k, alpha)
        x = (z - _threshold(z, k)[..., None]).masked_fill(r == -INF, -INF)
        ctx.save_for_backward(x, alpha)
        tail = 0.5 * torch.exp(-x.abs())
        return torch.where(x >= 0, 1 - tail, tail)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (g,) = grads
        x, alpha = ctx.saved_tensors
        # With s = min(p, 1-p) / alpha and q = s / sum(s): dp/dr = diag(s) - s q', dp/dk = q,
        # dp/dalpha = -(s / alpha) (r - <q, r>). As s falls with exp(-|x|), q is a softmax and
        # needs no division by a sum that may be 0. Where all entries are forced, q is 0.
        s = 0.5 * torch.exp(-x.abs()) / alpha[..., None]
        q = torch.softmax(-x.abs(), -1).nan_to_num(0.0)
        along_q = (g * q).sum(-1)
        on_r = s * (g - along_q[..., None])
        on_alpha = -(on_r * x.masked_fill(x.isinf(), 0.0)).sum(-1)
        return on_r, along_q, on_alpha


def _in_widths(r: Tensor, k: Tensor, alpha: Tensor) -> Tensor:
    """r (..., n) in widths alpha (...) from its ceil(k)-th largest entry, which is near the edge.

    Entries near the edge become small and so precise, also with a constant added to the line.
    """
    ordered = torch.sort(r, descending=True).values
    at = (k.ceil().long() - 1)[..., None]
    pivot = ordered.gather(-1, at)
    z = (r - pivot.masked_fill(pivot == -INF, 0.0)) / alpha[..., None]
    return z.clamp(-FAR, FAR).masked_fill(r == -INF, -INF)


def _threshold(z: Tensor, k: Tensor) -> Tensor:
    """t (...) with sum_i F(z_i - t) = k for z (..., n); -inf where no more than k are allowed.

    With m entries above t, A = sum_{i<=m} e^-z_i and B = sum_{i>m} e^z_i over descending z,
    u = e^t solves A u^2 + 2 (k - m) u - B = 0. All terms are logarithms, and the root is computed
    in the form that adds two numbers of the same sign.
    """
    n = z.shape[-1]
    ordered = torch.sort(z, descending=True).values
    log_above = torch.logcumsumexp(-ordered, -1)
    log_below = torch.logcumsumexp(ordered.flip(-1), -1).flip(-1)
    log_a = torch.nn.functional.pad(log_above, (1, 0), value=-INF)
    log_b = torch.nn.functional.pad(log_below, (0, 1), value=-INF)
    rank = torch.arange(1, n + 1, device=z.device)
    mass = rank + 0.5 * (torch.exp(log_b[..., 1:] - ordered) - torch.exp(ordered + log_above))
    m = ((mass <= k[..., None]) & (ordered > -INF)).sum(-1)
    log_a = log_a.gather(-1, m[..., None])[..., 0]
    log_b = log_b.gather(-1, m[..., None])[..., 0]
    c = k - m
    root = torch.hypot(c, torch.exp(0.5 * (log_a + log_b)))
    t = torch.where(c > 0, log_b - torch.log(c + root), torch.log(root - c) - log_a)
    return torch.where(c == 0, 0.5 * (log_b - log_a), t)


def _per_line(value: float | Tensor, name: str, r: Tensor) -> Tensor:
    """A number or a tensor as float64 (...), one for each line of r (..., n)."""
    try:
        values = torch.as_tensor(value, dtype=torch.float64, device=r.device)
        return values.expand(r.shape[:-1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}={value!r}: expected a number, or a tensor that broadcasts to shape "
            f"{tuple(r.shape[:-1])} (one for each line)."
        ) from error


@register(
    "Variable number of experts", {"soft-top-k": lambda s: SoftTopK(s.k, alpha=0.1, truncate=0.05)}
)
@dataclass(frozen=True)
class SoftTopK(Router):
    """Every token takes the experts to which `soft_top_k` gives more than `truncate` of its mass k.

    As in SoftMoE (Zasada et al., ICML 2026, arXiv 2606.17952): p from the raw logits, 0 up to
    `truncate`, at most `most` experts. k is the mass before truncation, not the number of
    active experts nor the mass kept: see `masses`. Without `most`, (k - E truncate) / (1 -
    truncate) <= active <= k / truncate. Weights are p, differentiable but where truncation jumps.
    It relaxes `token_choice` without keeping exactly k experts: before truncation a token loses at
    most alpha E / 2 (`soft_gap`). Causal. Cost: one sort and two scans over the experts.

    Attributes:
        k: mass of a token, 0 < k < E, whole or not (one of `layer_budgets`).
        alpha: width of the edge, in units of the logits; smaller is harder.
        truncate: tau; only p above this is kept, as in the paper's T(p) = p [p > tau]; from 0 to 1.
        most: most experts of a token; None for no limit. SoftMoE's is ceil(k * factor).
        normalise: divide the weights of a token by the sum of its kept p, or of all.
    """

    source = "Zasada et al. 2026, arXiv 2606.17952; Struski et al. 2025, arXiv 2503.06242"
    seeks = ""  # p is the optimum of the soft problem, not of a named one
    cost = "one sort and two scans over the experts, in float64"
    causal = True

    k: float
    alpha: float
    truncate: float = 0.0
    most: int | None = None
    normalise: Normalise = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        as_float(self.k, "k", "a number above 0", lambda given: given > 0)
        as_float(self.alpha, "alpha", "a number above 0", lambda given: given > 0)
        as_float(self.truncate, "truncate", "a number from 0 to below 1", lambda g: 0 <= g < 1)
        if self.most is not None:
            as_int(self.most, "most", 1)
        check_normalise(self.normalise)

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """p, (..., T, E); -inf for forbidden pairs and padding."""
        values = masked(check_logits(logits), mask)
        return soft_top_k(values, self.k, self.alpha).masked_fill(values == -INF, -INF)

    def select(self, scores: Tensor) -> Tensor:
        """Where p is above `truncate`, the `most` largest; boolean (..., T, E)."""
        active = scores > self.truncate
        if self.most is None:
            return active
        return active & largest(scores, as_int(self.most, "most", 1))

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """p of the active pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)


@dataclass(frozen=True, eq=False)
class Masses:
    """Three numbers that may be confused with a soft budget k, each (..., T).

    Attributes:
        mass: sum of p before truncation; k, or the number of allowed experts where that is less.
        active: experts taken.
        kept: sum of p over the experts taken.
    """

    mass: Tensor
    active: Tensor
    kept: Tensor


def masses(p: Tensor, chosen: Tensor) -> Masses:
    """Mass, active count and kept mass of every token.

    Args:
        p: (..., T, E), such as `SoftTopK.scores` gives; -inf for forbidden pairs.
        chosen: boolean (..., T, E).

    Raises:
        InputError: other types, or shapes that differ.

    Example:
        >>> p = torch.tensor([[0.75, 0.25]])
        >>> lpr.routers.masses(p, torch.tensor([[True, False]]))
        Masses(mass=tensor([1.]), active=tensor([1]), kept=tensor([0.7500]))
    """
    fits = isinstance(p, Tensor) and isinstance(chosen, Tensor) and p.shape == chosen.shape
    if not fits or not p.is_floating_point() or chosen.dtype != torch.bool:
        raise InputError(
            f"masses: expected floating-point p and boolean chosen of one shape (..., T, E), got "
            f"{_described(p)} and {_described(chosen)}."
        )
    finite = p.masked_fill(p == -INF, 0.0)
    return Masses(finite.sum(-1), chosen.sum(-1), finite.masked_fill(~chosen, 0.0).sum(-1))


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def layer_budgets(eta: Tensor, total: float, experts: int | None = None) -> Tensor:
    """k_l = softmax(eta)_l (total - L) + 1: budgets of L layers that add up to `total`, each >= 1.

    Above 1, except for layers whose softmax share is rounded to 0.

    Args:
        eta: (L,), learned; differentiable.
        total: experts per token over all layers, B > L.
        experts: E; where given, a total that could ask one layer for more than E is refused
            (B - L + 1 <= E is what SoftMoE's map needs).

    Raises:
        InputError: eta no vector of finite numbers, B <= L, or B - L + 1 > E.

    Example:
        >>> lpr.routers.layer_budgets(torch.zeros(2), total=6).tolist()
        [3.0, 3.0]
    """
    given = isinstance(eta, Tensor) and eta.ndim == 1 and eta.numel() > 0
    if not given or not eta.is_floating_point() or not bool(eta.isfinite().all()):
        raise InputError(
            f"layer_budgets: expected eta, a floating-point tensor of one finite number for each "
            f"layer (L,), got {eta!r}."
        )
    L = len(eta)
    if not isinstance(total, int | float) or not L < total < math.inf:
        raise InputError(f"total={total!r}: expected more than L, the number of layers ({L}).")
    if experts is not None and total - L + 1 > as_int(experts, "experts", 1):
        raise InputError(
            f"total={total!r} could ask one of {L} layers for {total - L + 1:g} of {experts} "
            f"experts; it must be at most {experts + L - 1}."
        )
    return torch.softmax(eta, 0) * (total - L) + 1
