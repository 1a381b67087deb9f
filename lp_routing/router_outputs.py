"""What a router returned, in any of the forms that are accepted, read as amounts per pair."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.validation import as_tensor

ACCEPTED = (
    "an Assignment, a map of booleans (or 0 and 1) of the shape of the logits, expert indices "
    "(..., T, k), or a tuple that holds one of them, such as (values, indices)"
)


class NoRouterOutput(InputError):
    """A router gave no usable output: what it raised or returned, or that it did not return."""


def as_choice_mask(answer: Any, logits: Tensor) -> Tensor:
    """A router's answer as a map of booleans, of the shape of the logits and on their device.

    Args:
        answer: what `as_amounts` reads, without fractions.
        logits: what the router was given.

    Raises:
        NoRouterOutput: as `as_amounts`; fractions, NaN.
    """
    taken = as_amounts(answer, logits)
    binary = (taken == 0) | (taken == 1)
    if not bool(binary.all()):
        where = [int(i) for i in (~binary).nonzero()[0]]
        raise NoRouterOutput(
            f"its map holds {taken[tuple(where)].item()} at {where}; expected 0 or 1"
        )
    return taken == 1


def as_amounts(answer: Any, logits: Tensor) -> Tensor:
    """A router's answer as amounts of the shape of the logits, on their device.

    Args:
        answer: an `Assignment`; a map of booleans or of 0 and 1, or real amounts, of the shape of
            the logits; expert indices (..., T, k), where -1 is no expert; or a tuple of which one
            entry is such a thing: the `Assignment`, else the map of booleans, else the indices.
            Whole numbers of the shape of the logits are a map where all are 0 or 1, else indices
            (k = E).
        logits: what the router was given.

    Raises:
        NoRouterOutput: anything else, indices that are out of range or named twice. The size of
            amounts is not checked.
    """
    if isinstance(answer, tuple | list) and any(_tells(entry) for entry in answer):
        answer = _the_one(answer, logits)
    if isinstance(answer, Assignment):
        answer = answer.x
    if not isinstance(answer, Tensor | np.ndarray | list | tuple):
        raise NoRouterOutput(f"it returned {type(answer).__name__}; expected {ACCEPTED}")
    try:
        told = as_tensor(answer, "its answer", ACCEPTED).to(logits.device)
    except InputError as error:
        raise NoRouterOutput(str(error)) from error
    whole = not told.is_floating_point() and not told.is_complex()
    if told.shape == logits.shape and (not whole or bool(((told == 0) | (told == 1)).all())):
        return told
    if not whole or told.dtype == torch.bool or told.shape[:-1] != logits.shape[:-1]:
        raise NoRouterOutput(
            f"it returned {told.dtype} of shape {tuple(told.shape)} for logits of shape "
            f"{tuple(logits.shape)}; expected {ACCEPTED}"
        )
    return _named(told.long(), logits.shape[-1])


def _tells(entry: Any) -> bool:
    return isinstance(entry, Assignment | Tensor | np.ndarray)


def _the_one(answers: Any, logits: Tensor) -> Any:
    """The one entry of a tuple that says who goes where."""
    shape, rows = tuple(logits.shape), tuple(logits.shape[:-1])
    arrays = [a for a in answers if isinstance(a, Tensor | np.ndarray)]
    pairs = [(a, a.dtype.kind if isinstance(a, np.ndarray) else _kind(a)) for a in arrays]
    candidates = (
        [a for a in answers if isinstance(a, Assignment)],
        [a for a, kind in pairs if kind == "b" and tuple(a.shape) == shape],
        [a for a, kind in pairs if kind in "iu" and a.ndim > 1 and tuple(a.shape[:-1]) == rows],
    )
    for found in candidates:
        if len(found) == 1:
            return found[0]
        if found:
            raise NoRouterOutput(
                f"{len(found)} entries of its tuple could say who goes where; return one of them"
            )
    raise NoRouterOutput(f"no entry of its tuple says who goes where; expected {ACCEPTED}")


def _kind(tensor: Tensor) -> str:
    """The letter numpy has for such a dtype."""
    if tensor.dtype == torch.bool:
        return "b"
    return "f" if tensor.is_floating_point() or tensor.is_complex() else "i"


def _named(experts: Tensor, E: int) -> Tensor:
    """Indices (..., T, k) as a map (..., T, E)."""
    bad = (experts < -1) | (experts >= E)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise NoRouterOutput(f"it names expert {int(experts[tuple(where)])} of {E} at {where}")
    places = experts.where(experts >= 0, E)
    times = experts.new_zeros((*experts.shape[:-1], E + 1))
    times = times.scatter_add(-1, places, torch.ones_like(places))[..., :E]
    if bool((times > 1).any()):
        *token, expert = (int(i) for i in (times > 1).nonzero()[0])
        raise NoRouterOutput(f"it names expert {expert} twice for token {token}")
    return times == 1
