"""How evenly experts are loaded and how many tokens go without, each as one number a batch.

All measure a load (..., E), tokens per expert, and give one float64 number for each of its leading
dimensions. A load of zero everywhere is even: nobody has more than anybody else.
"""

import math

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.validation import as_tensor


def max_over_mean(load: Tensor) -> Tensor:
    """Largest load over mean load, (...); 1 where even, E where one expert has it all.

    Where a step waits for its slowest expert it takes this many times as long as an even one.

    Raises:
        InputError: not numbers (..., E) with E >= 1, negative, NaN or infinite.
    """
    load = _checked(load)
    mean = load.mean(-1)
    return (load.amax(-1) / mean).where(mean > 0, 1.0)


def max_violation(load: Tensor) -> Tensor:
    """MaxVio, (max - mean) / mean, (...); 0 where even (Wang et al. 2024, arXiv 2408.15664).

    Raises:
        InputError: as `max_over_mean`.
    """
    return max_over_mean(load) - 1.0


def variation(load: Tensor) -> Tensor:
    """Coefficient of variation, standard deviation over mean, (...); 0 where even.

    The E experts are all there are, so the deviation divides by E (Shazeer et al. 2017, eq. 7, has
    the square of this number).

    Raises:
        InputError: as `max_over_mean`.
    """
    load = _checked(load)
    mean = load.mean(-1)
    return (load.std(-1, correction=0) / mean).where(mean > 0, 0.0)


def normalised_entropy(load: Tensor) -> Tensor:
    """Entropy of load / sum over log E, (...); 1 where even, 0 where one expert has it all.

    A single expert is even.

    Raises:
        InputError: as `max_over_mean`.
    """
    load = _checked(load)
    total = load.sum(-1, keepdim=True)
    if load.shape[-1] == 1:
        return torch.ones_like(total).squeeze(-1)
    entropy: Tensor = torch.special.entr(load / total).sum(-1) / math.log(load.shape[-1])
    return entropy.where(total.squeeze(-1) > 0, 1.0)


def dropped_fraction(assignment: Assignment) -> Tensor:
    """Real tokens that reach no expert, as a share of the real tokens, (...); 0 without any."""
    dropped = assignment.dropped
    if assignment.mask is None:
        return dropped.double().mean(-1)
    real = assignment.mask.expand_as(dropped).sum(-1)
    return dropped.sum(-1) / real.double().clamp(min=1)


def real_load(assignment: Assignment) -> Tensor:
    """Tokens per expert, float64 (..., E), without what padding takes where a router lets it."""
    if assignment.mask is None:
        return assignment.load
    return Assignment(assignment.x.masked_fill(~assignment.mask[..., None], 0)).load


def _checked(load: Tensor) -> Tensor:
    values = as_tensor(load, "load", "tokens per expert (..., E)")
    if values.ndim == 0 or values.shape[-1] == 0 or values.is_complex():
        raise InputError(
            f"load: expected tokens per expert (..., E) with at least one expert, got "
            f"{values.dtype} of shape {tuple(values.shape)}."
        )
    values = values.double()
    bad = ~((values >= 0) & values.isfinite())
    if bool(bad.any()):
        raise InputError(
            f"load: a count of tokens cannot be {float(values[bad][0])}; give numbers >= 0."
        )
    return values
