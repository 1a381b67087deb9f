"""A trace: the router logits of some layers for the same tokens, read from a file.

Nothing in a file is ever executed. `sample` is the trace that ships: held-out router logits of the
byte-level MoE that this project trained.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import as_tensor, refuse_nan_and_inf

KEY = "router_logits"
SPARSE_KEYS = ("expert_ids", "probs")
KEYS = {KEY, *SPARSE_KEYS, "num_experts", "mask", "sequence", "request"}
MOST_EXPERTS = 1 << 16
"""Experts: a file that names more is damaged, and its dense matrix would fill the memory."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Router logits as a model produced them.

    Attributes:
        router_logits: (L, T, E) floating point; -inf where a pair was not recorded or not allowed.
            Padding may hold anything.
        source: where it was read.
        mask: boolean (T,), True for real tokens; None where all are.
        sequence: whole numbers (T,), the sequence (or request) of each token; None if unknown.
        up_to_a_constant: whether only probabilities were recorded, so that each token's logits are
            known up to one constant: a sigmoid or a ReLU of them says nothing.
        k: experts per token; None if unknown, as with all below.
        score: name of the score function in `lp_routing.scores`, such as "softmax" or "sigmoid".
        capacity_factor: slots of an expert relative to an equal share.
        layer_names: a name a layer.
        bias: (L, E), or (E,) for one layer: what the model adds to scores where it chooses
            (`e_score_correction_bias`, `expert_bias`). The routers of this package do not use it.
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
        logits = self.router_logits
        if logits.ndim != 3 or not logits.is_floating_point():
            raise InputError(
                f"{self.source}: expected floating-point router logits [layers, tokens, experts] "
                f"or [tokens, experts], got {logits.dtype} of shape {tuple(logits.shape)}."
            )
        if logits.numel() == 0:
            raise InputError(f"{self.source}: the router logits are empty, {tuple(logits.shape)}.")
        for name in ("mask", "sequence"):
            values = getattr(self, name)
            if values is not None and values.shape != logits.shape[1:2]:
                raise InputError(
                    f"{self.source}: {name} has shape {tuple(values.shape)}, expected one entry "
                    f"for each of the {logits.shape[1]} tokens."
                )
        if self.sequence is not None and self.sequence.is_floating_point():
            raise InputError(f"{self.source}: sequence must hold whole numbers.")
        real = logits if self.mask is None else logits[:, self.mask]
        refuse_nan_and_inf(real, f"{self.source}: router_logits")

    @property
    def layers(self) -> int:
        """L, how many MoE layers were recorded."""
        return self.router_logits.shape[0]

    def layer(self, index: int) -> Tensor:
        """Logits (T', E) of the real tokens of one layer."""
        logits = self.router_logits[index]
        return logits if self.mask is None else logits[self.mask]


def sample() -> Trace:
    """Router logits [4 layers, 4096 tokens, 32 experts] in reading order; see `sample.md`."""
    with as_file(files("lp_routing.traces") / "sample.npz") as path:
        trace = read(path)
    return Trace(trace.router_logits, "the sample trace", trace.mask, trace.sequence)


def read(path: str | Path) -> Trace:
    """Read `.npz`, `.npy`, `.safetensors` or `.pt` (tensors only).

    A file with names holds `router_logits` [L, T, E] or [T, E], optionally `mask` [T] (True for
    real tokens) and `sequence` or `request` [T]; or the sparse form `expert_ids` and `probs`,
    both [L, T, K']: the softmax over the K' experts recorded for a token. Their logits are
    log(probs), up to one constant a token, and every other pair is forbidden; `num_experts` says
    E, else it is the largest id plus one. A file without names (`.npy`, a bare tensor) holds the
    logits.

    Raises:
        InputError: no such file, another format, unreadable, a missing key, wrong shapes, NaN.
    """
    path = Path(path)
    try:
        kind = "folder" if path.is_dir() else "file" if path.exists() else None
    except OSError as error:
        raise InputError(f"{path}: cannot be looked up ({error.strerror}).") from error
    if kind != "file":
        raise InputError(f"{path}: {'is a folder; give one file' if kind else 'no such file'}.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: expected a file ending in {', '.join(_READERS)}, got {path.suffix!r}."
        )
    try:
        content = reader(path)
    except InputError:
        raise
    except Exception as error:  # every library has its own errors for broken files
        raise InputError(
            f"{path}: cannot be read as {path.suffix} ({type(error).__name__}). It may be "
            f"truncated, of another format, or hold objects, which are never loaded; "
            f"save the logits again as plain arrays."
        ) from error
    return _trace(content, str(path))


def _npz(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is not an .npz archive, or is truncated; save it again.")
    with np.load(path, allow_pickle=False) as archive:
        known = {
            name: _numbers(archive[name], path, name) for name in archive.files if name in KEYS
        }
        return known | dict.fromkeys(set(archive.files) - KEYS, torch.empty(0))


def _npy(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        return {KEY: _numbers(np.lib.format.read_array(file, allow_pickle=False), path, KEY)}


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _pt(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Tensor):
        content = {KEY: content}
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path}: expected a tensor or a dict of tensors, got {type(content).__name__}."
        )
    return {
        str(name): as_tensor(value, f"{path}: {name}", "numbers") if name in KEYS else value
        for name, value in content.items()
    }


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".pt": _pt,
}


def _trace(content: dict[str, Tensor], source: str) -> Trace:
    if KEY in content:
        logits = content[KEY]
        logits = logits[None] if logits.ndim == 2 else logits
    elif all(key in content for key in SPARSE_KEYS):
        logits = _dense(content, source)
    else:
        found = ", ".join(content) or "nothing"
        raise InputError(
            f"{source}: expected the key {KEY!r} (or {SPARSE_KEYS[0]!r} and {SPARSE_KEYS[1]!r}), "
            f"found {found}."
        )
    return Trace(
        router_logits=logits,
        source=source,
        mask=_mask(content.get("mask"), source),
        sequence=content.get("sequence", content.get("request")),
        up_to_a_constant=KEY not in content,
    )


def _mask(mask: Tensor | None, source: str) -> Tensor | None:
    if mask is None:
        return None
    if mask.is_floating_point() or not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"{source}: mask must hold booleans (True for real tokens), got {mask.dtype}."
        )
    if not bool(mask.any()):
        raise InputError(f"{source}: mask marks every token as padding.")
    return mask.bool()


def _dense(content: dict[str, Tensor], source: str) -> Tensor:
    """Log-probabilities [L, T, E] of the recorded experts, -inf for all others."""
    ids, probs = (content[key] for key in SPARSE_KEYS)
    if ids.shape != probs.shape or ids.ndim not in (2, 3) or ids.is_floating_point():
        raise InputError(
            f"{source}: expected whole expert_ids and probs of one shape [layers, tokens, kept], "
            f"got {ids.dtype} {tuple(ids.shape)} and {probs.dtype} {tuple(probs.shape)}."
        )
    if not ids.numel():
        raise InputError(f"{source}: expert_ids are empty, {tuple(ids.shape)}.")
    ids, probs = ids.long(), probs.float()
    if ids.ndim == 2:
        ids, probs = ids[None], probs[None]
    experts = _expert_count(content.get("num_experts"), ids, source)
    if not bool((probs > 0).all()):
        raise InputError(f"{source}: probs must be positive; found {probs.min():g}.")
    repeated = ids.sort(-1).values.diff(dim=-1) == 0
    if bool(repeated.any()):
        where = tuple(int(i) for i in repeated.nonzero()[0][:2])
        raise InputError(f"{source}: layer {where[0]}, token {where[1]} names an expert twice.")
    dense = torch.full((*ids.shape[:2], experts), float("-inf"))
    return dense.scatter_(-1, ids, probs.log())


def _expert_count(stated: Tensor | None, ids: Tensor, source: str) -> int:
    """E as the file states it, else the largest id plus one."""
    lowest, highest = int(ids.min()), int(ids.max())
    experts = highest + 1 if stated is None else -1
    if stated is not None and stated.numel() == 1 and not stated.is_floating_point():
        experts = int(stated)
    if not 1 <= experts <= MOST_EXPERTS:
        raise InputError(
            f"{source}: num_experts must be one whole number from 1 to {MOST_EXPERTS}, "
            f"got {experts if stated is None else stated.tolist()}."
        )
    if lowest < 0 or highest >= experts:
        raise InputError(
            f"{source}: expert_ids run from {lowest} to {highest}, outside 0..{experts - 1}."
        )
    return experts


def _numbers(array: np.ndarray[Any, Any], path: Path, name: str) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: {name} must be an array of numbers, got dtype {array.dtype}.")
    return as_tensor(array, f"{path}: {name}", "numbers")
