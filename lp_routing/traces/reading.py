"""From a file's named arrays to a `Trace`: every key that matters is used or refused."""

import warnings
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.traces.formats import BARE, load
from lp_routing.traces.trace import SUM, Trace, as_mask, as_sequence
from lp_routing.validation import as_choice, as_int, as_path, as_tensor

LOGITS = "router_logits"
MEANS = {
    LOGITS: LOGITS,
    "expert_ids": "expert_ids",
    "probs": "probs",
    "num_experts": "num_experts",
    "mask": "mask",
    "attention_mask": "mask",
    "attn_mask": "mask",
    "token_mask": "mask",
    "padding_mask": "padding_mask",
    "sequence": "sequence",
    "request": "sequence",
    "token_counts": "token_counts",
    "multiplicity": "token_counts",
    "bias": "bias",
    "expert_bias": "bias",
    "e_score_correction_bias": "bias",
    "correction_bias": "bias",
    "router_bias": "router_bias",
    "k": "k",
    "top_k": "k",
    "num_experts_per_tok": "k",
    "score": "score",
    "score_function": "score",
    "scoring_func": "score",
    "capacity_factor": "capacity_factor",
    "layer_names": "layer_names",
    "up_to_a_constant": "up_to_a_constant",
    "axes": "axes",
    "values": "values",
}
"""Key of a file -> its meaning; several keys may mean the same."""
SCORE_NAMES = {"sqrtsoftplus": "sqrt_softplus"}
"""Names of score functions in the configurations of models -> in `lp_routing.scores`."""
VALUES = ("logits", "probabilities")
LIKE_A_MASK = -1e4
"""Logits from here down earn a warning: models write -1e4, -1e6 and the like for forbidden pairs.

Real logits stay far above: the lowest of the sample is -7.6, a float32 softmax is 0 below -104.
"""
MOST_EXPERTS = 1 << 16
"""Most experts: a file with more is damaged, and its dense matrix would not fit into memory."""
MOST_ENTRIES = 1 << 30
"""Most entries of the logits after repeating rows by their counts: 4 GiB of float32."""


def sample() -> Trace:
    """Router logits [4 layers, 4096 tokens, 32 experts] in reading order; see `sample.md`.

    Example:
        >>> lpr.traces.sample().router_logits.shape
        torch.Size([4, 4096, 32])
    """
    with as_file(files("lp_routing.traces") / "sample.npz") as path:
        trace = read(path)
    return Trace(
        trace.router_logits, "the sample trace", sequence=trace.sequence, k=2, score="softmax"
    )


def read(path: str | Path, *, axes: str | None = None, values: str | None = None) -> Trace:
    """Read `.npz`, `.npy`, `.safetensors` or `.pt` (tensors, lists of tensors, dicts of them).

    A file without names holds the logits; a list holds one tensor a layer. Names that a file may
    have: `router_logits` (L, T, E) or (T, E), before softmax, sigmoid or top-k; or, in its place,
    `expert_ids` and `probs` (L, T, K'), the experts recorded for a token and their shares of a
    softmax over all E (`num_experts`, else the largest id plus one), every other pair being
    forbidden. Beside them `mask` or `attention_mask`, `sequence` or `request`, each (T,) or (B, S);
    `token_counts` or `multiplicity` (T,), how many identical tokens a row stands for, which repeat
    it; `k`, `score`, `capacity_factor`, `layer_names` and `expert_bias` or
    `e_score_correction_bias`, as in `Trace`; `axes` and `values`, as the arguments.

    Args:
        path: the file.
        axes: the order of the axes of `router_logits`, a letter each: L layers, T tokens (or B
            sequences of S tokens), E experts, such as "TLE" or "LBSE". Left out, "LTE" or "TE",
            unless a mask or sequence shows another order; required where the shape is ambiguous.
        values: "logits", or "probabilities", whose logarithm is taken.

    Raises:
        InputError: no such file, another format, damaged, a missing key, keys that contradict each
            other, axes in doubt, or what `Trace` refuses.

    Warns:
        UserWarning: keys that are not used, and logits that look like something else.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/logits.npz"
        >>> lpr.traces.Trace(torch.randn(2, 8, 4), "mine", k=1).save(path)
        >>> trace = lpr.traces.read(path)
        >>> trace.layers, trace.k, trace.layer(0).shape
        (2, 1, torch.Size([8, 4]))
    """
    path = as_path(path, "traces.read: path")
    content = _by_meaning(load(path, MEANS), str(path))
    for name, said in {"axes": axes, "values": values}.items():
        if said is not None:
            content[name] = said
    trace = _trace(content, str(path))
    for doubt in doubts(trace.router_logits if trace.mask is None else _real(trace)):
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return trace


def doubts(logits: Tensor) -> list[str]:
    """Reasons why (L, T, E) of real tokens may not be logits, in words."""
    _, T, E = logits.shape
    found = []
    if E > T:
        found.append(f"more experts ({E}) than tokens ({T}): are the axes the right way round?")
    low, high = float(logits.min()), float(logits.max())
    least = float(logits.where(logits > float("-inf"), float("inf")).min())
    if least <= LIKE_A_MASK:
        found.append(f"some are as low as {least:g}: do they forbid the pair? Then write -inf.")
    if low == high > float("-inf"):
        found.append(f"every logit is {low:g}.")
    elif low >= 0 and high <= 1:
        found.append("all numbers lie from 0 to 1: are these scores after a sigmoid, not logits?")
    elif low >= -1 and high <= 0:
        found.append("all numbers lie from -1 to 0: are these negated scores, not logits?")
    return found


def _real(trace: Trace) -> Tensor:
    return trace.router_logits[:, trace.mask]


def _by_meaning(found: dict[str, Any], source: str) -> dict[str, Any]:
    """The content of a file by the meaning of its keys; one warning lists unknown keys.

    Raises:
        InputError: no logits, an ambiguous key, two keys that contradict each other.
    """
    names = ", ".join(found) or "nothing"
    unknown = [name for name in found if name != BARE and name not in MEANS]
    content: dict[str, Any] = {}
    for name, value in found.items():
        meaning = LOGITS if name == BARE else MEANS.get(name)
        if meaning is None or value is None:
            continue
        if meaning in content and not _same(content[meaning], value):
            raise InputError(f"{source}: two keys mean {meaning} and differ; keep one of {names}.")
        content[meaning] = value
    sparse = "expert_ids" in content and "probs" in content
    if LOGITS not in content and not sparse:
        raise InputError(
            f"{source}: expected the key {LOGITS!r} (or 'expert_ids' and 'probs'), found {names}."
        )
    if LOGITS in content and ("expert_ids" in content or "probs" in content):
        raise InputError(
            f"{source}: holds {LOGITS!r} and the sparse form beside it ({names}); keep one."
        )
    if "padding_mask" in content:
        raise InputError(
            f"{source}: padding_mask marks padding in some libraries and real tokens in others; "
            f"save it as attention_mask, 1 for real tokens."
        )
    if "router_bias" in content:
        raise InputError(
            f"{source}: router_bias may be part of the logits or a bias of the choice; save it as "
            f"expert_bias if it is added to the scores for the choice only, else leave it out."
        )
    if unknown:
        warnings.warn(f"{source}: not used: {', '.join(unknown)}.", stacklevel=3)
    return content


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    return type(one) is type(other) and bool(one == other)


def _trace(content: dict[str, Any], source: str) -> Trace:
    values = as_choice(_text(content, "values", source) or VALUES[0], f"{source}: values", VALUES)
    per_token: dict[str, Tensor] = {
        name: as_tensor(content[name], f"{source}: {name}", "numbers")
        for name in ("mask", "sequence", "token_counts")
        if name in content
    }
    logits, mask, rows = _logits(content, values == "probabilities", per_token, source)
    given = per_token.get("sequence"), per_token.get("mask")
    sequence = as_sequence(*given, logits.shape[1], source)
    if sequence is None and rows is not None:
        sequence = torch.arange(rows[0]).repeat_interleave(rows[1])
    counts = per_token.get("token_counts")
    if counts is not None:
        logits, mask, sequence = _repeated(logits, mask, sequence, counts, source)
    score = _text(content, "score", source)
    return Trace(
        router_logits=logits,
        source=source,
        mask=mask,
        sequence=sequence,
        up_to_a_constant=LOGITS not in content
        or values == "probabilities"
        or _flag(content, "up_to_a_constant", source),
        k=_whole(content, "k", source) if "k" in content else None,
        score=SCORE_NAMES.get(score, score) if score else None,
        capacity_factor=_number(content, "capacity_factor", source),
        layer_names=_words(content.get("layer_names")),
        bias=content.get("bias"),
    )


def _logits(
    content: dict[str, Any], are_shares: bool, per_token: dict[str, Tensor], source: str
) -> tuple[Tensor, Tensor | None, tuple[int, int] | None]:
    """Logits (L, T, E), the mask (T,), and B and S where the tokens came as (B, S)."""
    tokens = next((tuple(each.shape) for each in per_token.values()), None)
    axes = _text(content, "axes", source)
    stated = "num_experts" in content
    experts = _whole(content, "num_experts", source, MOST_EXPERTS) if stated else None
    if LOGITS not in content:
        (ids, rows), (probs, _) = (
            _arranged(content[name], axes, tokens, source) for name in ("expert_ids", "probs")
        )
        mask = as_mask(per_token.get("mask"), ids.shape[1], source)
        return _dense(ids, probs, mask, experts, source), mask, rows
    logits, rows = _arranged(content[LOGITS], axes, tokens, source)
    mask = as_mask(per_token.get("mask"), logits.shape[1], source)
    if experts not in (None, logits.shape[2]):
        raise InputError(
            f"{source}: num_experts is {experts}, the logits are of {logits.shape[2]}."
        )
    return _logarithms(logits, mask, source) if are_shares else logits, mask, rows


def _arranged(
    given: Any, axes: str | None, tokens: tuple[int, ...] | None, source: str
) -> tuple[Tensor, tuple[int, int] | None]:
    """As (L, T, E), with B and S where the tokens came as (B, S).

    Args:
        given: a tensor, or a list of one tensor a layer.
        axes: their order, if given.
        tokens: the shape of the mask, the sequence or the counts, if there is one.
        source: for messages.
    """
    listed = isinstance(given, list) and any(isinstance(part, Tensor) for part in given)
    what = f"{source}: {LOGITS}"
    values = _stacked(given, source) if listed else as_tensor(given, what, "an array of numbers")
    shape = tuple(values.shape)
    if len(shape) < 2 or not values.numel():
        raise InputError(
            f"{source}: expected router logits [layers, tokens, experts] or [tokens, experts] "
            f"with at least one of each, got {values.dtype} of shape {shape}."
        )
    order = _order(shape, listed, tokens) if axes is None else axes
    if order is None:
        raise InputError(
            f"{source}: router logits of shape {shape} can be read in more than one order. Say "
            f'which, as key axes or read(path, axes="TLE"): L layers, T tokens (or B sequences of '
            f"S tokens), E experts; or reshape them to [layers, tokens, experts]."
        )
    if "".join(sorted(order)) not in ("ET", "ELT", "BES", "BELS") or len(order) != len(shape):
        raise InputError(
            f'{source}: axes={order!r}: expected an order such as "LTE", "TLE" or "LBSE" for '
            f"router logits of shape {shape}."
        )
    target = [letter for letter in "LBSTE" if letter in order]
    values = values.permute([order.index(letter) for letter in target])
    values = values if "L" in order else values[None]
    if "B" not in order:
        return values, None
    return values.flatten(1, 2), (values.shape[1], values.shape[2])


def _order(shape: tuple[int, ...], listed: bool, tokens: tuple[int, ...] | None) -> str | None:
    """The order of the axes, if shape, mask and sequence determine it; else None."""
    if len(shape) < 3:
        return "TE"
    if listed and len(shape) == 3:
        return "LTE"
    orders = {3: ("LTE", "TLE", "BSE"), 4: ("LBSE", "BSLE", "BLSE", "LSBE")}.get(len(shape), ())
    if listed:
        orders = ("LBSE", "LSBE")
    sizes = [dict(zip(order, shape, strict=True)) for order in orders]
    fit = [order for order, size in zip(orders, sizes, strict=True) if _fits(size, tokens)]
    if tokens is not None and fit:
        different = {_layout(order, shape) for order in fit}
        return fit[0] if len(different) == 1 else None
    if len(shape) == 3:  # layers are few and tokens many
        return "LTE" if shape[0] == 1 or shape[0] < shape[1] or tokens is not None else None
    return "LBSE" if listed and (shape[1] == 1 or shape[1] < shape[2]) else None


def _fits(size: dict[str, int], tokens: tuple[int, ...] | None) -> bool:
    """Whether axes of these sizes agree with a mask of shape (T,) or (B, S)."""
    if tokens is None:
        return False
    if "B" in size and len(tokens) == 2:
        return tokens == (size["B"], size["S"])
    count = size["B"] * size["S"] if "B" in size else size["T"]
    return len(tokens) in (1, 2) and torch.Size(tokens).numel() == count


def _layout(order: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes longer than 1 in reading order: orders with equal results read the same."""
    order_read = [letter for letter in "LBSTE" if letter in order]
    places = [order.index(letter) for letter in order_read]
    return tuple(place for place in places if shape[place] > 1)


def _stacked(layers: list[Tensor], source: str) -> Tensor:
    shapes = [tuple(layer.shape) for layer in layers]
    if len(set(shapes)) > 1:
        other = next(place for place, shape in enumerate(shapes) if shape != shapes[0])
        raise InputError(
            f"{source}: layer 0 has shape {shapes[0]} and layer {other} {shapes[other]}: a trace "
            f"has one shape; save the layers of each shape in a file of their own."
        )
    return torch.stack(layers)


def _logarithms(probabilities: Tensor, mask: Tensor | None, source: str) -> Tensor:
    """The logarithm of probabilities (L, T, E); zeros count as the smallest positive number."""
    real = probabilities if mask is None else probabilities[:, mask]
    _refuse_no_shares(real, "probabilities", source)
    wide = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    return wide.clamp(min=torch.finfo(wide.dtype).tiny).log()


def _refuse_no_shares(shares: Tensor, name: str, source: str) -> None:
    """Raise unless numbers >= 0 add up to at most 1 for every token."""
    if not shares.is_floating_point():
        raise InputError(f"{source}: {name} must be floating-point, got {shares.dtype}.")
    sums = shares.double().sum(-1)
    most = SUM.get(shares.dtype, 1e-2)
    if not bool((shares >= 0).all()):
        raise InputError(f"{source}: {name} must be positive; found {shares.double().min():g}.")
    if bool((sums > 1 + most).any()):
        raise InputError(
            f"{source}: {name} add up to {float(sums.max()):g} for a token: these are no shares "
            f"of a softmax."
        )


def _dense(
    ids: Tensor, probs: Tensor, mask: Tensor | None, experts: int | None, source: str
) -> Tensor:
    """Log-probabilities [L, T, E] of the recorded experts, -inf for all others."""
    if ids.shape != probs.shape or ids.is_floating_point():
        raise InputError(
            f"{source}: expected whole expert_ids and probs of one shape [layers, tokens, kept], "
            f"got {ids.dtype} {tuple(ids.shape)} and {probs.dtype} {tuple(probs.shape)}."
        )
    if not ids.numel():
        raise InputError(f"{source}: expert_ids are empty, {tuple(ids.shape)}.")
    real = torch.ones(ids.shape[1], dtype=torch.bool) if mask is None else mask
    kept, shares = ids[:, real], probs[:, real]
    E = _expert_count(experts, kept, source)
    if not bool((shares > 0).all()):
        raise InputError(f"{source}: probs must be positive; found {shares.double().min():g}.")
    _refuse_no_shares(shares, "probs", source)
    kept, shares = kept.long(), shares.float()
    repeated = kept.sort(-1).values.diff(dim=-1) == 0
    if bool(repeated.any()):
        where = tuple(int(i) for i in repeated.nonzero()[0][:2])
        token = int(real.nonzero()[where[1]])
        raise InputError(f"{source}: layer {where[0]}, token {token} names an expert twice.")
    dense = torch.full((*kept.shape[:2], E), float("-inf")).scatter_(-1, kept, shares.log())
    if mask is None:
        return dense
    padded = torch.zeros(*ids.shape[:2], E)
    padded[:, real] = dense
    return padded


def _expert_count(stated: int | None, ids: Tensor, source: str) -> int:
    """E as the file states it, else the largest id of a real token plus one."""
    lowest, highest = int(ids.min()), int(ids.max())
    if stated is None and highest == torch.iinfo(ids.dtype).max:
        raise InputError(
            f"{source}: expert_ids hold {highest}, the largest {ids.dtype}, which looks like a "
            f"sentinel; mask those tokens, or say num_experts."
        )
    experts = highest + 1 if stated is None else stated
    if not 1 <= experts <= MOST_EXPERTS:
        raise InputError(
            f"{source}: num_experts must be one whole number from 1 to {MOST_EXPERTS}, "
            f"got {experts}."
        )
    if lowest < 0 or highest >= experts:
        raise InputError(
            f"{source}: expert_ids run from {lowest} to {highest}, outside 0..{experts - 1}."
        )
    return experts


def _repeated(
    logits: Tensor, mask: Tensor | None, sequence: Tensor | None, counts: Tensor, source: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows repeated by their counts: a row that stands for three tokens becomes three."""
    counts = counts.flatten()
    plain = counts.double() if not counts.is_complex() else counts.abs() + 0.5
    whole = plain.isfinite() & (plain >= 0) & (plain == plain.round())
    if len(counts) != logits.shape[1] or not bool(whole.all()):
        raise InputError(
            f"{source}: token_counts must be {logits.shape[1]} whole numbers >= 0, one a token, "
            f"got {len(counts)} of {counts.dtype}."
        )
    if float(plain.sum()) * logits.shape[0] * logits.shape[2] > MOST_ENTRIES:
        raise InputError(
            f"{source}: token_counts add up to {float(plain.sum()):.4g} tokens, too many to repeat "
            f"their rows; state RoutingProblem(scores, multiplicity=token_counts) in Python."
        )
    rows = torch.arange(len(counts)).repeat_interleave(plain.long())
    return (
        logits[:, rows],
        None if mask is None else mask[rows],
        None if sequence is None else sequence[rows],
    )


def _whole(content: dict[str, Any], name: str, source: str, most: int | None = None) -> int:
    value = _number(content, name, source)
    return as_int(value, f"{source}: {name}", 1, most, "the most there can be")  # type: ignore[arg-type]


def _number(content: dict[str, Any], name: str, source: str) -> float | None:
    """One number, in any saved form; None where there is none."""
    if name not in content:
        return None
    value = content[name]
    value = value.flatten().tolist() if isinstance(value, Tensor) else value
    value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{source}: {name} must be one number, got {value!r}.")
    return value


def _flag(content: dict[str, Any], name: str, source: str) -> bool:
    value = content.get(name, False)
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if value not in (True, False):
        raise InputError(f"{source}: {name} must be True or False, got {value!r}.")
    return bool(value)


def _text(content: dict[str, Any], name: str, source: str) -> str | None:
    """One text, in any saved form; None where there is none."""
    words = _words(content.get(name))
    if words is None:
        return None
    if len(words) != 1 or not isinstance(words[0], str):
        raise InputError(f"{source}: {name} must be one text, got {content[name]!r}.")
    return words[0]


def _words(value: Any) -> Sequence[Any] | None:
    """One or several texts as a list; None where there are none."""
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, Sequence | Tensor) and len(value) else None
