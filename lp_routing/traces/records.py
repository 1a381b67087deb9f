"""Recorded choices as records: Megatron's router trace, and tables with one expert a row.

A router trace of Megatron-LM (`--moe-routing-trace-path`) has one line a (step, layer, rank),

    {"step": 0, "block": "decoder", "layer": 3, "rank": 0, "top_indices": [[12, 45], ...]}

with `logit_offset`, `logit_bytes` and `logit_shape` where the logits were dumped, as bfloat16, to
`logits_rank{rank}.bin`. Tokens are put in the order of step, rank and line. Other traces with
such batches, under the keys `topk_experts`, `topk_ids` or `expert_ids`, are read the same way.

Records of one token may list its experts under the same keys. Tables have a column for the layer,
the token and the expert, under the names of `COLUMNS`; each may hold numbers, or names that end in
one ("layers.3", "experts.12").
"""

import csv
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError

BATCHES = ("top_indices", "topk_experts", "topk_ids", "expert_ids")
"""Keys of a list of lists: experts of every token of a batch."""
COLUMNS = {
    "layer": ("layer", "layer_id", "layer_idx", "layer_key"),
    "token": ("token", "token_idx", "token_pos", "token_position", "token_key", "pos"),
    "expert": ("expert", "expert_id", "expert_idx", "expert_key"),
}
"""What a row must say -> names of columns that say it."""
SEQUENCES = ("run_key", "sequence_id", "seq_id", "request_id", "sample_id", "phase")
"""Columns that tell tokens of the same position apart."""
PARQUET = b"PAR1"
"""First bytes of a Parquet file."""

Row = Mapping[str, Any]


class Recorded(NamedTuple):
    """Choices as read: expert numbers (L, T, K), names of layers, logits (L, T, E) or None."""

    expert_ids: Tensor
    layer_names: tuple[str, ...]
    logits: Tensor | None


class Batch(NamedTuple):
    """Experts (n, K) of the tokens of a batch in a layer, and where its logits are, if anywhere."""

    experts: np.ndarray[Any, np.dtype[np.int32]]
    logits: tuple[Path, int, int, tuple[int, ...]] | None


def read_records(path: Path) -> Recorded:
    """Records of a file, or of the `router_trace_rank*.jsonl` of a folder.

    Raises:
        InputError: no such file, nothing that can be read, records that do not fit together.

    Warns:
        UserWarning: lines or steps that are left out.
    """
    files = _files(path)
    try:
        with files[0].open("rb") as file:
            start = file.read(1 << 16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if start.startswith(PARQUET):
        return _from_rows(_parquet(files[0]), path)
    if not start.lstrip().startswith(b"{"):
        return _from_rows(_csv(files[0]), path)
    first = next(_lines(files, path, quiet=True), None)
    if first is None:
        raise InputError(f"{path}: holds no record that can be read.")
    listed = first[1].get(_lists(first[1]) or "", [])
    if listed and isinstance(listed[0], list):
        return _from_batches(_lines(files, path), path)
    return _from_rows(_one_a_row(_lines(files, path)), path)


def _files(path: Path) -> list[Path]:
    """The file, or the traces of all ranks in the order of their numbers."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: no such file.")
        return [path]
    found = sorted(path.glob("router_trace_rank*.jsonl"), key=lambda each: _number(each.stem))
    if not found:
        raise InputError(f"{path}: is a folder without router_trace_rank*.jsonl; give one file.")
    return found


def _lines(files: Iterable[Path], source: Path, quiet: bool = False) -> Iterator[tuple[Path, Row]]:
    """Every record with its file; broken lines are counted and left out."""
    broken = good = 0
    for path in files:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    broken += 1
                    continue
                if not isinstance(record, dict):
                    broken += 1
                    continue
                good += 1
                yield path, record
    if broken and not quiet:
        warnings.warn(f"{source}: {broken} broken line(s) left out, {good} kept.", stacklevel=2)


def _from_batches(lines: Iterable[tuple[Path, Row]], source: Path) -> Recorded:
    """Batches of every (layer, step, rank) to one array, tokens in the order of step and rank."""
    batches: dict[str, dict[tuple[int, int], list[Batch]]] = {}
    order: dict[str, tuple[Any, ...]] = {}
    for path, record in lines:
        name, place = _layer(record, source)
        order[name] = place
        when = (_whole(record, ("step", "batch_id"), source), _whole(record, ("rank",), source))
        batches.setdefault(name, {}).setdefault(when, []).append(_batch(record, path, source))
    _leave_out_incomplete(batches, source)
    names = sorted(batches, key=order.__getitem__)
    parts = {
        name: [b for when in sorted(batches[name]) for b in batches[name][when]] for name in names
    }
    _check_tokens({name: sum(len(b.experts) for b in parts[name]) for name in names}, source)
    widths = {b.experts.shape[1] for name in names for b in parts[name]}
    if len(widths) != 1:
        raise InputError(f"{source}: tokens take {sorted(widths)} experts; expected one number.")
    ids = np.stack([np.concatenate([b.experts for b in parts[name]]) for name in names])
    logits = None
    if all(b.logits is not None and b.logits[0].exists() for name in names for b in parts[name]):
        logits = torch.stack([torch.cat([_logits(b, source) for b in parts[n]]) for n in names])
    return Recorded(torch.from_numpy(ids), tuple(names), logits)


def _layer(record: Row, source: Path) -> tuple[str, tuple[Any, ...]]:
    """Name of a record's layer, and its place among the others: decoder first, then by number."""
    number = _whole(record, COLUMNS["layer"], source, needed=True)
    block, inner = str(record.get("block", "decoder")), record.get("mtp_idx")
    if block == "decoder":
        return str(number), (0, 0, number)
    head = block if inner is None else f"{block}{inner}"
    return f"{head}.{number}", (1, head, number)


def _batch(record: Row, path: Path, source: Path) -> Batch:
    key = _lists(record)
    try:
        experts = np.asarray(record[key], dtype=np.int32) if key else np.zeros(0, np.int32)
    except (ValueError, TypeError, OverflowError):
        experts = np.zeros(0, np.int32)
    if experts.ndim != 2 or not experts.shape[1]:
        raise InputError(
            f"{source}: a record of layer {record.get('layer')!r} has no list of experts for each "
            f"token under {', '.join(BATCHES)}."
        )
    if "logit_offset" not in record:
        return Batch(experts, None)
    shape = tuple(int(n) for n in record["logit_shape"])
    beside = path.with_name(f"logits_rank{int(record.get('rank', 0))}.bin")
    return Batch(experts, (beside, int(record["logit_offset"]), int(record["logit_bytes"]), shape))


def _lists(record: Row) -> str | None:
    """The key under which a record lists experts, if it does."""
    return next((key for key in BATCHES if isinstance(record.get(key), list)), None)


def _one_a_row(records: Iterable[tuple[Path, Row]]) -> Iterator[Row]:
    """Records of a token with a list of its experts, as a row for each expert."""
    for _, record in records:
        key = _lists(record)
        if key is None:
            yield record
        else:
            for expert in record[key]:
                yield {**record, "expert": expert}


def _leave_out_incomplete(
    batches: dict[str, dict[tuple[int, int], list[Batch]]], source: Path
) -> None:
    """Take away steps in which a rank lost some of its layers, as at the end of a cut file."""
    counts: dict[tuple[int, int], list[int]] = {}
    layers_of: dict[int, set[str]] = {}
    for name, parts in batches.items():
        for when in parts:
            layers_of.setdefault(when[1], set()).add(name)
    for when in {when for parts in batches.values() for when in parts}:
        counts[when] = [len(batches[name].get(when, ())) for name in layers_of[when[1]]]
    lost = {when[0] for when, found in counts.items() if min(found) < max(found)}
    if not lost:
        return
    warnings.warn(f"{source}: {len(lost)} step(s) without all layers left out.", stacklevel=2)
    for name, parts in batches.items():
        batches[name] = {when: part for when, part in parts.items() if when[0] not in lost}
    if not any(batches.values()):
        raise InputError(f"{source}: no step holds all layers.")


def _logits(batch: Batch, source: Path) -> Tensor:
    """bfloat16 logits (n, E) of a batch from the file beside the trace."""
    assert batch.logits is not None
    path, offset, size, shape = batch.logits
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(size)
    right = len(shape) == 2 and shape[0] == len(batch.experts) and size == 2 * shape[0] * shape[1]
    if len(raw) != size or not right:
        raise InputError(
            f"{source}: logits of shape {shape} at byte {offset} of {path.name}: expected "
            f"{len(batch.experts)} tokens in {size} bytes, found {len(raw)}; the file is cut or of "
            f"another run."
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.int16).view(torch.bfloat16).reshape(shape)


def _csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow.") from error
    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _from_rows(rows: Iterable[Row], source: Path) -> Recorded:
    """One chosen expert a row; tokens in the order in which they first appear."""
    layers: dict[str, int] = {}
    tokens: dict[tuple[Any, ...], int] = {}
    found: list[tuple[int, int, int]] = []
    columns: dict[str, str] | None = None
    for row in rows:
        if str(row.get("event_type", "routing")) != "routing" or row.get("selected") in (
            False,
            "false",
        ):
            continue
        columns = columns or _columns(row, source)
        token = (*(row[name] for name in SEQUENCES if name in row), row[columns["token"]])
        found.append(
            (
                layers.setdefault(str(row[columns["layer"]]), len(layers)),
                tokens.setdefault(token, len(tokens)),
                _end(row[columns["expert"]], columns["expert"], source),
            )
        )
    if not found:
        raise InputError(f"{source}: holds no record of a chosen expert.")
    return _packed(np.asarray(found, dtype=np.int64), list(layers), len(tokens), source)


def _columns(row: Row, source: Path) -> dict[str, str]:
    chosen = {}
    for what, names in COLUMNS.items():
        there = [name for name in names if name in row]
        if not there:
            raise InputError(
                f"{source}: no column says the {what}: expected one of {', '.join(names)}, found "
                f"{', '.join(map(str, row))}."
            )
        chosen[what] = there[0]
    return chosen


def _packed(found: np.ndarray[Any, Any], layers: list[str], T: int, source: Path) -> Recorded:
    """Rows of (layer, token, expert) as (L, T, K), filled up with -1."""
    counts = np.zeros((len(layers), T), dtype=np.int64)
    np.add.at(counts, (found[:, 0], found[:, 1]), 1)
    _check_tokens(dict(zip(layers, (counts > 0).sum(1).tolist(), strict=True)), source)
    order = np.lexsort((found[:, 1], found[:, 0]))  # stable: experts stay in the order of rows
    layer, token, expert = found[order].T
    first = np.concatenate([[0], np.cumsum(counts.ravel())[:-1]])
    ids = np.full((len(layers), T, int(counts.max())), -1, dtype=np.int64)
    ids[layer, token, np.arange(len(found)) - first[layer * T + token]] = expert
    ranked = sorted(range(len(layers)), key=lambda i: (_number(layers[i]), i))
    return Recorded(torch.from_numpy(ids[ranked]), tuple(layers[i] for i in ranked), None)


def _check_tokens(tokens: Mapping[str, int], source: Path) -> None:
    if len(set(tokens.values())) > 1:
        (one, few), (other, many) = (
            min(tokens.items(), key=_second),
            max(tokens.items(), key=_second),
        )
        raise InputError(
            f"{source}: layer {one} has {few} tokens, layer {other} {many}; expected the same "
            f"tokens in every layer."
        )


def _second(pair: tuple[str, int]) -> int:
    return pair[1]


def _number(name: str) -> int:
    """The last number in a name, such as 3 of "layers.3"; 0 where there is none."""
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else 0


def _end(value: Any, column: str, source: Path) -> int:
    """An expert's number, also from a name such as "experts.12"."""
    text = str(value)
    if not re.search(r"\d+$", text):
        raise InputError(
            f"{source}: {column} {value!r}: expected a number, or a name ending in one."
        )
    return int(text) if re.fullmatch(r"-?\d+", text) else _number(text)


def _whole(record: Row, names: Iterable[str], source: Path, needed: bool = False) -> int:
    """A whole number under one of these names; 0 where there is none and none is needed."""
    for name in names:
        if name in record:
            value = record[name]
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            raise InputError(f"{source}: {name} {value!r}: expected a whole number.")
    if needed:
        raise InputError(f"{source}: a record says none of {', '.join(names)}.")
    return 0
