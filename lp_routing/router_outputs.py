"""A router's output, in any accepted form, read as amounts per pair.

Forms are named by their axes: "TE" a mask or weights per pair, "TK" the experts of each token, "EC"
the tokens of each expert, "TEC" a dispatch tensor with one entry for each slot of an expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.validation import CHUNK, as_choice, as_tensor

ACCEPTED = (
    "an Assignment, a map of booleans (or 0 and 1) or combine weights of the shape of the logits, "
    "expert indices (..., T, k), token indices (..., E, C), a dispatch tensor (..., T, E, C), or a "
    "tuple that holds one of them, such as (values, indices)"
)

LAYOUTS = ("TE", "TK", "EC", "TEC")


class NoRouterOutput(InputError):
    """A router gave no usable output: it raised, returned something else, or did not return."""


@dataclass(frozen=True, eq=False)
class RouterOutput:
    """A router's answer, read.

    Attributes:
        amounts: of the shape of the logits, on their device.
        layout: the form it came in, one of `LAYOUTS`.
        note: how the output was read, where it is ambiguous; "" elsewhere.
    """

    amounts: Tensor
    layout: str
    note: str = ""


def as_choice_mask(answer: Any, logits: Tensor) -> Tensor:
    """A router's answer as a boolean mask of the shape of the logits, on their device.

    Args:
        answer: what `read_output` reads, without fractional amounts.
        logits: what the router was given.

    Raises:
        NoRouterOutput: as `read_output`; fractional amounts, NaN.

    Example:
        >>> from lp_routing.router_outputs import as_choice_mask
        >>> indices = torch.tensor([[1], [0]])  # the expert of each token
        >>> as_choice_mask(indices, torch.randn(2, 3)).tolist()
        [[False, True, False], [True, False, False]]
    """
    return choices(read_output(answer, checked_logits(logits)).amounts)


def choices(amounts: Tensor) -> Tensor:
    """Amounts that are all 0 or 1 as booleans.

    Raises:
        NoRouterOutput: another amount.
    """
    binary = (amounts == 0) | (amounts == 1)
    if not bool(binary.all()):
        where = [int(i) for i in (~binary).nonzero()[0]]
        raise NoRouterOutput(
            f"its map holds {amounts[tuple(where)].item()} at {where}; expected 0 or 1"
        )
    return amounts == 1


def as_amounts(answer: Any, logits: Tensor) -> Tensor:
    """The amounts of `read_output`, with its arguments and errors."""
    return read_output(answer, logits).amounts


def assignment_from(answer: Any, logits: Tensor, layout: str) -> Assignment:
    """A router's answer in a given form, where its shape is ambiguous.

    Args:
        answer: an array in that form.
        logits: (..., T, E), what the router was given.
        layout: "TE" amounts of the shape of the logits, taken as they are, fractions too; "TK"
            expert indices (..., T, k); "EC" token indices (..., E, C); in both -1 means no entry;
            "TEC" a dispatch tensor (..., T, E, C).

    Returns:
        An `Assignment`, which routers may return and `certify` takes.

    Raises:
        NoRouterOutput: an array that does not have this form.

    Example:
        >>> logits = torch.randn(2, 2)
        >>> taken = lpr.routers.assignment_from(torch.tensor([[1], [0]]), logits, "TK")
        >>> taken.x.tolist()
        [[False, True], [True, False]]
    """
    layout = as_choice(layout, "layout", LAYOUTS)
    return Assignment(read_output(answer, checked_logits(logits), layout=layout).amounts)


def checked_logits(logits: Any) -> Tensor:
    """The logits, if they are a tensor (..., T, E)."""
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise InputError("logits: expected a tensor (..., T, E), what the router was given.")
    return logits


def read_output(
    answer: Any, logits: Tensor, *, layout: str = "", usual: str = "", said: str = "it returned"
) -> RouterOutput:
    """A router's answer as amounts of the shape of the logits, on their device.

    Args:
        answer: an `Assignment`, whose amounts are taken as they are; or an array: a map of booleans
            or of 0 and 1 of the shape of the logits, combine weights of that shape, expert indices
            (..., T, k), token indices (..., E, C), where -1 is nothing, or a dispatch tensor
            (..., T, E, C); or a tuple of which one entry is such a thing: the `Assignment`, else
            booleans, else indices, else weights. Whole numbers of the shape of the logits are a
            map where all are 0 or 1, else indices.
        logits: (..., T, E), what the router was given.
        layout: the form, where it is known.
        usual: the form where the shape leaves it open, as with T = E.
        said: how an error begins.

    Weights become choices, with a note: a pair is taken where its weight is above 0.

    Raises:
        NoRouterOutput: anything else, indices that are out of range or named twice, a slot with two
            tokens, a shape with several readings, or fractions that leave out no pair: these are
            amounts only in an `Assignment`, whose size is not checked.
    """
    if isinstance(answer, tuple | list) and any(_tells(entry) for entry in answer):
        answer = _the_one(answer, logits)
    if isinstance(answer, Assignment):
        answer, layout = answer.x, "TE"
    if not isinstance(answer, Tensor | np.ndarray | list | tuple):
        raise NoRouterOutput(f"{said} {type(answer).__name__}; expected {ACCEPTED}")
    try:
        values = as_tensor(answer, "its answer", ACCEPTED).to(logits.device)
    except InputError as error:
        raise NoRouterOutput(str(error)) from error
    fits = forms_of(values, logits, layout)
    if not fits:
        raise NoRouterOutput(
            f"{said} {values.dtype} of shape {tuple(values.shape)} for logits of shape "
            f"{tuple(logits.shape)}; expected {_EXPECTED.get(layout, ACCEPTED)}"
        )
    if len(fits) > 1 and usual not in fits:
        raise NoRouterOutput(_say_which(values, fits, logits.shape[-1], said))
    found = fits[0] if len(fits) == 1 else usual
    if found == layout == "TE":
        return RouterOutput(values, found)
    amounts, note = _READ[found](values, logits)
    return RouterOutput(amounts, found, note)


def _tells(entry: Any) -> bool:
    return isinstance(entry, Assignment | Tensor | np.ndarray)


def _the_one(answers: Any, logits: Tensor) -> Any:
    """The one entry of a tuple that holds the assignment."""
    *lead, T, E = logits.shape
    shape, of_tokens, of_experts = (*lead, T, E), (*lead, T), (*lead, E)
    arrays = [a for a in answers if isinstance(a, Tensor | np.ndarray)]
    known = [(a, _kind(a), tuple(a.shape)) for a in arrays]
    candidates = (
        [a for a in answers if isinstance(a, Assignment)],
        [a for a, kind, its in known if kind == "b" and shape in (its, its[:-1])],
        [
            a
            for a, kind, its in known
            if kind == "i" and len(its) > 1 and its[:-1] in (of_tokens, of_experts, shape)
        ],
        [a for a, kind, its in known if kind == "f" and its[:-1] == shape],
        [a for a, kind, its in known if kind == "f" and its == shape],
    )
    for found in candidates:
        if len(found) == 1:
            return found[0]
        if found:
            raise NoRouterOutput(
                f"{len(found)} entries of its tuple could say who goes where; return one of them"
            )
    raise NoRouterOutput(f"no entry of its tuple says who goes where; expected {ACCEPTED}")


def _kind(array: Tensor | np.ndarray[Any, Any]) -> str:
    """`b` of booleans, `i` of whole numbers, `f` of floats, "" of anything else."""
    if isinstance(array, np.ndarray):
        return {"b": "b", "i": "i", "u": "i", "f": "f"}.get(array.dtype.kind, "")
    if array.dtype == torch.bool:
        return "b"
    return "" if array.is_complex() else "f" if array.is_floating_point() else "i"


def forms_of(values: Tensor, logits: Tensor, layout: str = "") -> list[str]:
    """The forms that an array can have: the given one, or all that its shape allows.

    "ETC" stands for a dispatch tensor with its first axes swapped, which is not read.
    """
    *lead, T, E = logits.shape
    shape, whole = tuple(values.shape), _kind(values) == "i"
    fits = {
        "TE": shape == (*lead, T, E),
        "TK": whole and shape[:-1] == (*lead, T),
        "EC": whole and shape[:-1] == (*lead, E),
        "TEC": shape[:-1] == (*lead, T, E) and _kind(values) != "",
        "ETC": shape[:-1] == (*lead, E, T) and _kind(values) != "",
    }
    if layout:
        return [layout] if fits[layout] else []
    if fits["TE"] and (not whole or bool(((values == 0) | (values == 1)).all())):
        return ["TE"]
    fits["TE"], fits["ETC"] = False, fits["ETC"] and fits["TEC"]
    return [name for name, fit in fits.items() if fit]


_EXPECTED = {
    "TE": "amounts of the shape of the logits",
    "TK": "expert indices (..., T, k)",
    "EC": "token indices (..., E, C)",
    "TEC": "a dispatch tensor (..., T, E, C)",
}


def _say_which(values: Tensor, fits: list[str], T: int, said: str) -> str:
    shape = tuple(values.shape)
    if "TEC" in fits:
        return (
            f"{said} shape {shape}, and T = E = {T}, so its first axis may be tokens or experts; "
            f"say which: assignment_from(answer, logits, 'TEC') of lp_routing.routers where it is "
            f"tokens, else transpose it"
        )
    return (
        f"{said} whole numbers of shape {shape}, and T = E = {T}, so that they may be the experts "
        f"of each token or the tokens of each expert; say which: assignment_from(answer, logits, "
        f"'TK') or 'EC' of lp_routing.routers"
    )


def weights_as_choices(values: Tensor, logits: Tensor) -> tuple[Tensor, str]:
    """Arrays (..., T, E) without fractions unchanged; fractions as choices, with a note.

    Fractions are combine weights where most rows have some allowed pair at 0; a softmax over the
    allowed experts has none.

    Raises:
        NoRouterOutput: other fractions, or some beside negative numbers.
    """
    if not _has_fractions(values):
        return values, ""
    values = values.to(logits.device)
    allowed, taken = logits > float("-inf"), values > 0
    open_rows = allowed.any(-1)
    sparse = (allowed & ~taken).any(-1) & open_rows
    if bool((values >= 0).all()) and 2 * int(sparse.sum()) > int(open_rows.sum()):
        return taken, _weights_note(taken.sum(-1))
    where = [int(i) for i in _fractions(values).nonzero()[0]]
    raise NoRouterOutput(
        f"it holds {values[tuple(where)].item():.6g} at {where}, a fraction, and leaves out no "
        f"pair; expected choices (a map, indices, or weights that are 0 elsewhere), or, where "
        f"fractional amounts are meant, Assignment(amounts)"
    )


def _weights_note(taken: Tensor) -> str:
    if not taken.numel():  # an empty shard
        return ""
    least, most = int(taken.min()), int(taken.max())
    each = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"fractions with zeros were read as combine weights: a pair counts as taken where its "
        f"weight is above 0 ({each} expert(s) a token); for fractional amounts give "
        f"Assignment(amounts)"
    )


def _has_fractions(values: Tensor) -> bool:
    """Whether some entry is finite and not whole; read in chunks."""
    if not values.is_floating_point():
        return False
    parts: tuple[Tensor, ...] = torch.split(values.reshape(-1), CHUNK)
    return any(bool(_fractions(part).any()) for part in parts)


def _fractions(values: Tensor) -> Tensor:
    """Boolean: the entries that are finite and not whole."""
    return values.isfinite() & (values != values.round())


def _of_tokens(experts: Tensor, logits: Tensor) -> tuple[Tensor, str]:
    """Expert indices (..., T, k) as a mask."""
    return _named(experts.long(), logits.shape[-1], "expert", "token"), ""


def _of_experts(tokens: Tensor, logits: Tensor) -> tuple[Tensor, str]:
    """Token indices (..., E, C) as a mask."""
    return _named(tokens.long(), logits.shape[-2], "token", "expert").mT, ""


def _named(indices: Tensor, count: int, one: str, row: str) -> Tensor:
    """Indices (..., R, k) below `count` as a mask (..., R, count)."""
    bad = (indices < -1) | (indices >= count)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise NoRouterOutput(f"it names {one} {int(indices[tuple(where)])} of {count} at {where}")
    places = indices.where(indices >= 0, count)
    times = indices.new_zeros((*indices.shape[:-1], count + 1))
    times = times.scatter_add(-1, places, torch.ones_like(places))[..., :count]
    if bool((times > 1).any()):
        *place, named = (int(i) for i in (times > 1).nonzero()[0])
        raise NoRouterOutput(f"it names {one} {named} twice for {row} {place}")
    return times == 1


def _dispatched(values: Tensor, _: Tensor) -> tuple[Tensor, str]:
    """A dispatch tensor (..., T, E, C) as a mask: a pair is taken where one of its slots is."""
    if not bool((values >= 0).all()):
        raise NoRouterOutput("its dispatch tensor holds NaN or numbers below 0; expected 0 or more")
    slots = values > 0
    in_slot, of_pair = slots.sum(-3), slots.sum(-1)
    if bool((in_slot > 1).any()):
        *_lead, expert, slot = (int(i) for i in (in_slot > 1).nonzero()[0])
        raise NoRouterOutput(
            f"slot {slot} of expert {expert} holds {int(in_slot[(*_lead, expert, slot)])} tokens "
            f"in its dispatch tensor; expected one at most, axes (..., T, E, C)"
        )
    if bool((of_pair > 1).any()):
        *_lead, token, expert = (int(i) for i in (of_pair > 1).nonzero()[0])
        raise NoRouterOutput(f"token {token} fills several slots of expert {expert}")
    taken = of_pair > 0
    return taken, _weights_note(taken.sum(-1)) if _has_fractions(values) else ""


_READ: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, str]]] = {
    "TE": weights_as_choices,
    "TK": _of_tokens,
    "EC": _of_experts,
    "TEC": _dispatched,
}
