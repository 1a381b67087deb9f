"""Recorded choices: which experts every token took, without the scores that led there.

Engines and trainers write them in many forms; `read_choices` tells them apart by content:

* arrays of expert numbers in `.npz`, `.npy`, `.safetensors` or `.pt`: `routed_experts` [tokens,
  layers, k] (vLLM, SGLang), or `expert_ids`, `topk_ids` [layers, tokens, k];
* a router trace of Megatron-LM: a folder of `router_trace_rank*.jsonl`, one line a step and layer
  with `top_indices`, and the logits in `logits_rank*.bin` beside it;
* rows of a table, JSONL, CSV or Parquet, one chosen expert a row (moe-atlas and others).

See `lp_routing.traces.records` for the last two.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.traces import formats
from lp_routing.traces.records import Recorded, read_records
from lp_routing.validation import as_int, as_path

ORDERS = {"routed_experts": "TLK", "expert_ids": "LTK", "topk_ids": "LTK", "topk_indices": "LTK"}
"""Key of a file -> the order of its axes where nothing else is said."""
OTHER_KEYS = ("num_experts", "layer_names", "axes")
NONE = -1
"""In `expert_ids`: no expert in this place."""
UNSET = 255
"""Value with which SGLang fills places that were not recorded."""


@dataclass(frozen=True, eq=False)
class RecordedChoices:
    """Experts that tokens took, in reading order.

    Attributes:
        expert_ids: int64 (L, T, K) on the CPU; -1 where a token took fewer than K.
        experts: E, the number of experts.
        source: where they come from.
        layer_names: L names.
        logits: (L, T, E), where they were recorded beside the choices.
    """

    expert_ids: Tensor
    experts: int
    source: str
    layer_names: tuple[str, ...]
    logits: Tensor | None = None

    @property
    def k(self) -> int:
        """K, the most experts of a token."""
        return int(self.expert_ids.shape[2])

    def chosen(self, layer: int) -> Tensor:
        """Which experts each token took, boolean (T, E).

        Raises:
            InputError: no such layer.

        Example:
            >>> ids = torch.tensor([[[0, 2], [1, -1]]])
            >>> found = lpr.traces.RecordedChoices(ids, 3, source="mine", layer_names=("0",))
            >>> found.chosen(0).tolist()
            [[True, False, True], [False, True, False]]
        """
        L, T, _ = self.expert_ids.shape
        ids = self.expert_ids[as_int(layer, "layer", 0, L - 1, "the last layer")]
        x = torch.zeros(T, self.experts + 1, dtype=torch.bool)
        x.scatter_(1, ids.where(ids != NONE, self.experts), True)
        return x[:, : self.experts].contiguous()

    def loads(self) -> Tensor:
        """Tokens of each expert in each layer, int64 (L, E).

        Example:
            >>> ids = torch.tensor([[[0, 2], [1, -1], [2, 0]]])
            >>> found = lpr.traces.RecordedChoices(ids, 3, source="mine", layer_names=("0",))
            >>> found.loads().tolist()
            [[2, 1, 2]]
        """
        counts = [
            torch.bincount(ids[ids != NONE].flatten(), minlength=self.experts)
            for ids in self.expert_ids
        ]
        return torch.stack(counts)


def read_choices(
    path: str | Path, *, axes: str | None = None, experts: int | None = None
) -> RecordedChoices:
    """Read recorded choices from a file, or from the folder of a Megatron-LM router trace.

    Negative numbers mean no expert; so does 255 where `experts` is at most 255 or a token has it
    twice, and the largest number of an unsigned type. Broken lines of JSONL are left out, with a
    warning that counts them; so is every step of which a layer is missing then.

    Args:
        path: the file or folder.
        axes: the order of the axes of an array, "LTK" or "TLK"; needed where no key says it.
        experts: E; left out, the file's `num_experts`, the width of its logits, or the largest
            number plus one.

    Raises:
        InputError: nothing readable, axes in doubt, an expert outside 0 to E - 1, an expert twice
            for one token, layers with different numbers of tokens.

    Warns:
        UserWarning: lines or steps that are left out.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/choices.pt"
        >>> torch.save({"routed_experts": torch.tensor([[[0, 1]], [[2, 1]]])}, path)
        >>> lpr.traces.read_choices(path).expert_ids.tolist()  # two tokens of one layer
        [[[0, 1], [2, 1]]]
    """
    path = as_path(path, "read_choices: path")
    source = str(path)
    if path.is_dir() or formats.kind_of(path) is None:
        found = read_records(path)
    else:
        found, experts = _from_arrays(path, axes, experts)
    if experts is None and found.logits is not None:
        experts = found.logits.shape[2]
    ids, experts = _checked(found.expert_ids, experts, source)
    return RecordedChoices(ids, experts, source, found.layer_names, found.logits)


def _from_arrays(path: Path, axes: str | None, experts: int | None) -> tuple[Recorded, int | None]:
    content = formats.load(path, {*ORDERS, *OTHER_KEYS}, kind=formats.kind_of(path))
    names = [name for name in content if name in ORDERS or name == formats.BARE]
    if len(names) != 1:
        raise InputError(
            f"{path}: expected one of the keys {', '.join(ORDERS)}, found "
            f"{', '.join(content) or 'nothing'}."
        )
    ids = content[names[0]]
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"{path}: expected whole numbers of experts, got {_kind(ids)}.")
    order = axes or content.get("axes") or ORDERS.get(names[0])
    if ids.ndim == 2:
        ids, order = ids[None], "LTK"
    if ids.ndim != 3 or not ids.numel() or order not in ("LTK", "TLK"):
        raise InputError(
            f"{path}: choices of shape {tuple(ids.shape)}: expected [layers, tokens, k], "
            f'axes="LTK", or [tokens, layers, k], axes="TLK"; say which, as key axes or '
            f'read_choices(path, axes="TLK").'
        )
    ids = ids.transpose(0, 1) if order == "TLK" else ids
    said = content.get("num_experts")
    if said is not None and experts is None:
        experts = as_int(int(said), f"{path}: num_experts", 1)
    named = content.get("layer_names")
    layers = tuple(named) if isinstance(named, list) else tuple(map(str, range(len(ids))))
    if len(layers) != len(ids):
        raise InputError(f"{path}: {len(layers)} layer_names for {len(ids)} layers.")
    return Recorded(ids, layers, None), experts


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _checked(given: Tensor, experts: int | None, source: str) -> tuple[Tensor, int]:
    """Expert numbers int64 (L, T, K) with -1 for no expert, and E."""
    top = None if given.dtype.is_signed else torch.iinfo(given.dtype).max
    ids = given.to(torch.int64, copy=True)
    ids[ids < 0] = NONE
    unset = ids == UNSET
    if top not in (None, UNSET) or (experts is not None and experts <= UNSET):
        ids[(ids == top) | (unset if experts is not None and experts <= UNSET else False)] = NONE
    if experts is None and (top == UNSET or bool((unset.sum(-1) > 1).any())):
        ids[unset] = NONE
    if experts is None:
        experts = int(ids.max()) + 1
        if experts < 1:
            raise InputError(f"{source}: no token took any expert.")
    experts = as_int(experts, f"{source}: experts", 1)
    if bool((beyond := ids >= experts).any()):
        layer, token, place = beyond.nonzero()[0].tolist()
        raise InputError(
            f"{source}: layer {layer}, token {token} took expert {int(ids[layer, token, place])}, "
            f"beyond the last of {experts}; give the right number of experts."
        )
    ordered = ids.sort(-1).values
    twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != NONE)
    if bool(twice.any()):
        layer, token, _ = twice.nonzero()[0].tolist()
        raise InputError(f"{source}: layer {layer}, token {token} names an expert twice.")
    return ids, experts
