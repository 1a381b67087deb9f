"""A trace: router logits of some layers for the same tokens, and the model's settings."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lp_routing.display import as_html, as_text, data_frame
from lp_routing.errors import InputError
from lp_routing.traces.formats import store
from lp_routing.validation import (
    as_bool,
    as_float,
    as_int,
    as_list,
    as_path,
    as_tensor,
    forbid_masks,
    refuse_nan_and_inf,
)

if TYPE_CHECKING:
    import pandas

SUM = {torch.float16: 1e-2, torch.bfloat16: 1e-2, torch.float32: 1e-3, torch.float64: 1e-3}
"""If all rows sum to 1 within this, they are probabilities; by dtype.

A bfloat16 softmax over 256 experts sums to 1 within some 4e-3; larger limits may refuse logits.
"""


CHECKED = 4096
"""Tokens checked together for whether logits are logarithms of probabilities.

The first chunk settles it for most logits, so larger chunks read more; smaller ones take more calls
where all rows must be read. 131,072 x 64 float32 on one core, settled at once and read to the end:
22 and 500 ms with 256, 15 and 144 ms with 4,096, 88 and 169 ms with 65,536.
"""


@dataclass(frozen=True, eq=False)
class Trace:
    """Router logits of a model, and its routing settings.

    Attributes:
        router_logits: (L, T, E) floating point, or (T, E) for one layer; -inf where a pair was not
            recorded or not allowed. Padding may hold anything. Mask values, such as -1e9 and the
            lowest finite number of a dtype, become -inf.
        source: where it was read.
        mask: (T,), or (B, S) with B S = T: True or 1 for real tokens, False or 0 for padding;
            None where all are real. Kept as booleans (T,).
        sequence: whole numbers (T,) or (B, S), the sequence (or request) of each token; of a mask
            (B, S) the rows; None if unknown.
        up_to_a_constant: whether the logits are log-probabilities, known only up to a constant for
            each token, so that a sigmoid or a ReLU of them is meaningless. Set where every row is
            one.
        k: experts per token; None if unknown, as with all below.
        score: name of the score function in `lp_routing.scores`, such as "softmax" or "sigmoid".
        capacity_factor: slots of an expert relative to an equal share.
        layer_names: a name for each layer.
        bias: (L, E), or (E,) for one layer: the selection bias, which the model adds to scores for
            the choice (`e_score_correction_bias`, `expert_bias`). The routers of this package do
            not use it.

    Raises:
        InputError: other shapes, a mask of other values, probabilities in place of logits, NaN or
            +inf, or arguments that do not fit the logits.
    """

    router_logits: Tensor
    source: str
    mask: Tensor | None = None
    sequence: Tensor | None = None
    up_to_a_constant: bool = False
    k: int | None = None
    score: str | None = None
    capacity_factor: float | None = None
    layer_names: Sequence[str] | None = None
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        logits = as_tensor(self.router_logits, f"{self.source}: router_logits", "numbers")
        logits = logits[None] if logits.ndim == 2 else logits
        if logits.ndim != 3 or not logits.is_floating_point():
            raise InputError(
                f"{self.source}: expected floating-point router logits [layers, tokens, experts] "
                f"or [tokens, experts], got {logits.dtype} of shape {tuple(logits.shape)}."
            )
        if logits.numel() == 0:
            raise InputError(f"{self.source}: the router logits are empty, {tuple(logits.shape)}.")
        logits = logits.float() if logits.dtype.itemsize == 1 else logits  # float8 has no max
        tokens = logits.shape[1]
        mask = as_mask(self.mask, tokens, self.source)
        constant = as_bool(self.up_to_a_constant, f"{self.source}: up_to_a_constant")
        real = logits if mask is None else logits[:, mask.to(logits.device)]
        refuse_nan_and_inf(real, f"{self.source}: router_logits")
        refuse_probabilities(real, self.source)
        sequence = as_sequence(self.sequence, self.mask, tokens, self.source)
        for name, value in {
            "router_logits": forbid_masks(logits),
            "mask": mask,
            "sequence": sequence,
            "up_to_a_constant": constant or are_log_probabilities(real),
            "layer_names": _names(self.layer_names, len(logits), self.source),
            "bias": _bias(self.bias, len(logits), logits.shape[2], self.source),
        }.items():
            object.__setattr__(self, name, value)
        if self.k is not None:
            as_int(self.k, f"{self.source}: k", 1, logits.shape[2], "E, the number of experts")
        if self.capacity_factor is not None:
            name, expected = f"{self.source}: capacity_factor", "a positive number"
            as_float(self.capacity_factor, name, expected, lambda given: given > 0)

    def to_frame(self) -> "pandas.DataFrame":
        """The logits: a row for each layer and real token (the index), a column for each expert.

        Example:
            >>> trace = lpr.traces.Trace(torch.tensor([[[0.5, -1.0], [2.0, 3.0]]]), "by hand", k=1)
            >>> trace
            Trace(layers=1, tokens=2, experts=2, k=1, source=by hand)
            >>> trace.to_frame().loc[(0, 1)].tolist()
            [2.0, 3.0]
        """
        frames = data_frame("to_frame")
        names = self.layer_names or range(self.layers)
        tokens = torch.arange(self.router_logits.shape[1])
        real = (tokens if self.mask is None else tokens[self.mask.cpu()]).tolist()
        logits = torch.cat([self.layer(layer).double() for layer in range(self.layers)])
        index = {"layer": [n for n in names for _ in real], "token": real * self.layers}
        columns = {expert: logits[:, expert].cpu().numpy() for expert in range(logits.shape[1])}
        return frames(index | columns).set_index(["layer", "token"])

    def _shown(self) -> dict[str, object]:
        layers, tokens, experts = self.router_logits.shape
        padding = 0 if self.mask is None else tokens - int(self.mask.sum())
        return {
            "layers": layers,
            "tokens": tokens,
            "experts": experts,
            "padding": padding or None,
            "k": self.k,
            "score": self.score,
            "capacity_factor": self.capacity_factor,
            "source": self.source,
        }

    __repr__ = as_text
    _repr_html_ = as_html

    @property
    def layers(self) -> int:
        """L, how many MoE layers were recorded."""
        return self.router_logits.shape[0]

    def layer(self, index: int) -> Tensor:
        """Logits (T', E) of the real tokens of one layer."""
        logits = self.router_logits[index]
        return logits if self.mask is None else logits[self.mask]

    def save(self, path: str | Path) -> None:
        """Write everything but `source` as `.npz` or `.safetensors`; `read` reads it back.

        Numbers keep their precision, bfloat16 too. The file is written whole or not at all.

        Raises:
            InputError: another suffix, or it cannot be written.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "source"}
        path = as_path(path, "Trace.save: path")
        store(path, {name: value for name, value in content.items() if value is not None})

    @property
    def real_sequence(self) -> Tensor | None:
        """The sequence of each real token (T',); None if unknown."""
        known = self.sequence is not None and self.mask is not None
        return self.sequence[self.mask] if known else self.sequence  # type: ignore[index]


def as_mask(mask: Any, tokens: int, source: str) -> Tensor | None:
    """A mask (T,) or (B, S) of booleans, or of numbers 0 and 1, as booleans (T,).

    Raises:
        InputError: another number of tokens, other values, or no real token.
    """
    if mask is None:
        return None
    values = _per_token(as_tensor(mask, f"{source}: mask", "booleans"), "mask", tokens, source)
    if values.is_complex() or not bool(((values == 0) | (values == 1)).all()):
        raise InputError(
            f"{source}: mask must hold booleans, or 0 and 1 (1 for real tokens), got other "
            f"values in {values.dtype}."
        )
    if not bool(values.any()):
        raise InputError(f"{source}: mask marks every token as padding.")
    return values.bool()


def as_sequence(sequence: Any, mask: Any, tokens: int, source: str) -> Tensor | None:
    """The sequence of each token (T,); where none is given, the rows of a mask (B, S)."""
    if sequence is None:
        shape = () if mask is None else as_tensor(mask, f"{source}: mask", "booleans").shape
        return torch.arange(shape[0]).repeat_interleave(shape[1]) if len(shape) == 2 else None
    values = as_tensor(sequence, f"{source}: sequence", "whole numbers")
    values = _per_token(values, "sequence", tokens, source)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{source}: sequence must hold whole numbers, got {values.dtype}.")
    return values


def _per_token(values: Tensor, name: str, tokens: int, source: str) -> Tensor:
    """One entry for each token, flattened from (B, S) if needed."""
    if values.ndim not in (1, 2) or values.numel() != tokens:
        raise InputError(
            f"{source}: {name} has shape {tuple(values.shape)}, expected one entry for each of "
            f"the {tokens} tokens."
        )
    return values.flatten()


def _names(names: Sequence[str] | None, layers: int, source: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    found = as_list(names, f"{source}: layer_names", f"{layers} names")
    if len(found) != layers:
        raise InputError(f"{source}: layer_names: expected {layers} names, got {names!r}.")
    return tuple(map(str, found))


def _bias(bias: Any, layers: int, experts: int, source: str) -> Tensor | None:
    if bias is None:
        return None
    values = as_tensor(bias, f"{source}: bias", "numbers")
    values = values[None] if values.ndim == 1 and layers == 1 else values
    if values.shape != (layers, experts) or not bool(values.isfinite().all()):
        raise InputError(
            f"{source}: the selection bias must be finite, a number for each of {layers} layer(s) "
            f"and {experts} experts, got shape {tuple(values.shape)}."
        )
    return values


def refuse_probabilities(logits: Tensor, source: str) -> None:
    """Raise where all rows of a layer of (L, T, E) are >= 0 and add up to 1."""
    if logits.shape[2] == 1:
        return
    for number, layer in enumerate(logits):
        if bool((layer[:1] < 0).any()):
            continue  # the usual case, decided by one row
        sums = layer.double().sum(-1)
        if bool(((layer >= 0).all(-1) & ((sums - 1).abs() < SUM[layer.dtype])).all()):
            raise InputError(
                f"{source}: every row of layer {number} is >= 0 and adds up to 1: these are "
                f"probabilities, not logits. Give their logarithm (in capture: select=lambda "
                f'output: output[0].log()), or say values="probabilities" where a file is read.'
            )


def are_log_probabilities(logits: Tensor) -> bool:
    """Whether exp(row) sums to 1 in every row of (L, T, E) that has an allowed pair."""
    if logits.shape[2] == 1 or bool((logits == float("-inf")).all()):
        return False
    for layer in logits:
        for rows in layer.split(CHECKED):
            wide = rows.double()
            off = wide.exp().sum(-1) - 1
            off = off.masked_fill((wide == float("-inf")).all(-1), 0.0)
            if not bool((off.abs() < SUM[logits.dtype]).all()):
                return False
    return True
