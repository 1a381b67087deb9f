"""How specialised a routing is: what experts tell of tokens, and how alike a token's experts are.

Advancing Expert Specialization (overlap of outputs), D-MoE (correlation of experts), OMoE
(cosines), HSDL (activations). None of them is linear in x: they are computed from it.
"""

import torch
from torch import Tensor

from lp_routing.errors import InputError


def mutual_information(x: Tensor, labels: Tensor) -> float:
    """I(expert; label) in nats, over the pairs of a routing: how much the expert tells of a token.

    0 where experts are independent of labels; log(experts in equal use) at the most, and the
    entropy of the labels. Estimated from counts, it is above 0 by chance: about (E - 1)(labels - 1)
    / 2 pairs.

    Args:
        x: (T, E), pairs or amounts of them, >= 0, some above 0.
        labels: whole numbers (T,), such as the kind of a token.

    Raises:
        InputError: not one label a token.

    Example:
        >>> from lp_routing.evaluation.specialisation import mutual_information
        >>> x = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]])
        >>> round(mutual_information(x, torch.tensor([7, 7, 8, 8])), 3)
        0.693
    """
    if labels.shape != x.shape[:1]:
        raise InputError(
            f"labels: expected {len(x)}, one a token, got shape {tuple(labels.shape)}."
        )
    kinds = torch.unique(labels, return_inverse=True)[1].to(x.device)
    table = x.new_zeros(int(kinds.max()) + 1, x.shape[1], dtype=torch.float64)
    table.index_add_(0, kinds, x.double())
    joint = table / table.sum()
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return float(torch.special.xlogy(joint, joint / apart.masked_fill(apart == 0, 1.0)).sum())


def co_activation(x: Tensor) -> Tensor:
    """x^T x without its diagonal: how many tokens each two experts share; (E, E)."""
    shared = x.double().mT @ x.double()
    return shared - shared.diag().diag()


def overlap(x: Tensor, likeness: Tensor) -> float:
    """The mean likeness of two experts of a token, over all pairs of experts that share a token.

    Args:
        x: (T, E).
        likeness: (E, E), or (T, E, E) where it differs by token, such as cosines of outputs.

    Returns:
        0 where no token has two experts.
    """
    if likeness.ndim == 2:
        shared = co_activation(x)
        return float((shared * likeness).sum() / shared.sum().clamp(min=1))
    pairs = x.double()[:, :, None] * x.double()[:, None]
    pairs -= torch.diag_embed(pairs.diagonal(dim1=1, dim2=2))
    return float((pairs * likeness).sum() / pairs.sum().clamp(min=1))
