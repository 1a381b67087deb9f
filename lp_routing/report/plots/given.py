"""What is asked of numbers before they are drawn, and numbers as numpy has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.solvers.solve import Solution
from lp_routing.validation import as_tensor

Numbers = NDArray[np.float64]


def vector(values: Any, what: str, length: int | None = None) -> Numbers:
    """One or more finite numbers, float64.

    Raises:
        InputError: no vector of real numbers, another length, empty, NaN or infinite.
    """
    expected = f"{'a vector of' if length is None else length} numbers"
    tensor = as_tensor(values, what, expected)
    if tensor.ndim != 1 or tensor.is_complex() or len(tensor) != (length or len(tensor)):
        raise InputError(
            f"{what}: expected {expected}, got {tensor.dtype} of shape {tuple(tensor.shape)}."
        )
    if not len(tensor):
        raise InputError(f"{what}: there is nothing to draw.")
    if not bool(tensor.isfinite().all()):
        at = int((~tensor.isfinite()).nonzero()[0])
        raise InputError(f"{what}[{at}] is {float(tensor[at])}: give finite numbers.")
    drawn: Numbers = tensor.double().cpu().numpy()
    return drawn


def taken(source: Any, what: str) -> Tensor:
    """The amounts (T, E) that an assignment or a solution holds, without those of padding.

    Raises:
        InputError: a solution without an assignment; amounts that are no matrix, NaN or negative.
    """
    if isinstance(source, Solution):
        if source.assignment is None:
            raise InputError(f"{what}: this solution holds no assignment ({source.status.name}).")
        source = source.assignment
    x = source.x if isinstance(source, Assignment) else source
    x = as_tensor(x, what, "an Assignment, a Solution or amounts (T, E)")
    if x.ndim != 2 or x.is_complex() or not x.numel():
        raise InputError(
            f"{what}: expected amounts (T, E), got {x.dtype} of shape {tuple(x.shape)}; "
            f"take one layer or batch."
        )
    good = (x >= 0) & x.isfinite()
    if not bool(good.all()):
        i, j = (int(place) for place in (~good).nonzero()[0])
        raise InputError(
            f"{what}: the amount of token {i} at expert {j} is {float(x[i, j])}; expected >= 0."
        )
    if isinstance(source, Assignment) and source.mask is not None:
        x = x.masked_fill(~source.mask[:, None], 0)
    return x.cpu()


def load_of(x: Tensor) -> Numbers:
    """Tokens per expert, float64 (E,)."""
    load: Numbers = x.sum(0, dtype=torch.float64).numpy()
    return load


def loads_of(sources: Mapping[str, Any]) -> dict[str, Numbers]:
    """Name -> tokens per expert (E,), the same E for all.

    Raises:
        InputError: no mapping, an empty one, bad amounts, or different numbers of experts.
    """
    if not isinstance(sources, Mapping) or not sources:
        raise InputError(
            'loads: expected a mapping such as {"top-k": assignment, "optimum": solution}, got '
            + (f"{type(sources).__name__}." if not isinstance(sources, Mapping) else "none.")
        )
    found: dict[str, Numbers] = {}
    for name, source in sources.items():
        what = f"loads[{name!r}]"
        whole = isinstance(source, Assignment | Solution)
        values = load_of(taken(source, what)) if whole else source
        found[name] = vector(values, what)
        if (found[name] < 0).any():
            raise InputError(f"{what}: a count of tokens cannot be {found[name].min():g}.")
    sizes = {name: len(values) for name, values in found.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"loads: expected the same number of experts everywhere, got {sizes}.")
    return found
