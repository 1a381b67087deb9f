"""Files of named arrays: `.npz`, `.npy`, `.safetensors` and `.pt` to one dict, and back.

Nothing in a file is ever executed. Where a format keeps checksums (`.npz`, `.pt`), they are
compared before anything is used.
"""

import json
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.errors import InputError, is_out_of_memory
from lp_routing.files import whole_file
from lp_routing.validation import as_tensor, from_bfloat16

BARE = ""
"""The key of an unnamed array, tensor or list of tensors."""


def kind_of(path: Path) -> str | None:
    """`.npz`, `.npy`, `.safetensors` or `.pt`, by the first bytes of a file; None for others."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return None
    if start.startswith(b"\x93NUMPY"):
        return ".npy"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return ".pt" if any(name.endswith("data.pkl") for name in names) else ".npz"
    length = int.from_bytes(start[:8], "little")
    return ".safetensors" if start[8:] == b"{" and length < path.stat().st_size else None


def load(path: Path, known: Collection[str], kind: str | None = None) -> dict[str, Any]:
    """The content of a file: name -> tensor, list of tensors, text, list of texts, or number.

    Unknown names have the value None: their content is not read.

    Args:
        path: the file.
        known: the names that are read.
        kind: its format, as a suffix; left out, the suffix of `path`.

    Raises:
        InputError: no such file, another format, damaged, or it holds objects.
    """
    try:
        there = "folder" if path.is_dir() else "file" if path.exists() else None
    except OSError as error:
        raise InputError(f"{path}: cannot be looked up ({error.strerror}).") from error
    if there != "file":
        raise InputError(f"{path}: {'is a folder; give one file' if there else 'no such file'}.")
    reader = _READERS.get(kind or path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: expected a file ending in {', '.join(_READERS)}, got {path.suffix!r}."
        )
    try:
        return reader(path, known)
    except InputError:
        raise
    except Exception as error:  # every library has its own errors for broken files
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{path}: cannot be read as {path.suffix} ({type(error).__name__}). It may be "
            f"truncated, of another format, or hold objects, which are never loaded; "
            f"save the logits again as plain arrays."
        ) from error


def _npz(path: Path, known: Collection[str]) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is not an .npz archive, or is truncated; save it again.")
    _check_sums(path)
    with np.load(path, allow_pickle=False) as archive:
        return {
            name: _from_array(archive[name], f"{path}: {name}") if name in known else None
            for name in archive.files
        }


def _npy(path: Path, _known: Collection[str]) -> dict[str, Any]:
    with path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise InputError(
                f"{path}: has bytes after its array: it is damaged; save the logits again."
            )
    return {BARE: _from_array(array, str(path))}


def _safetensors(path: Path, known: Collection[str]) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        written = {name: _from_json(text) for name, text in (file.metadata() or {}).items()}
        written.pop("format", None)  # "pt", as transformers writes it
        names = [*file.keys(), *written]
        return {name: None for name in names if name not in known} | {
            name: written[name] if name in written else file.get_tensor(name)
            for name in names
            if name in known
        }


def _pt(path: Path, known: Collection[str]) -> dict[str, Any]:
    if zipfile.is_zipfile(path):
        _check_sums(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not zipfile.is_zipfile(path):  # the format of torch before 1.6
        warnings.warn(
            f"{path}: is a .pt file without checksums, so that damage would go unnoticed; save it "
            f"again with a current torch.",
            stacklevel=2,
        )
    if isinstance(content, Tensor | list | tuple):
        content = {BARE: content}
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path}: expected a tensor, a list of tensors or a dict of tensors, got "
            f"{type(content).__name__}."
        )
    return {
        str(name): _from_pt(value, f"{path}: {name}" if name else str(path))
        if name == BARE or name in known
        else None
        for name, value in content.items()
    }


_READERS: dict[str, Callable[[Path, Collection[str]], dict[str, Any]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".pt": _pt,
}


def _check_sums(path: Path) -> None:
    """Compare the checksum of every member of a zip archive with what it holds."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        damaged = archive.testzip()
        listed = len(archive.infolist())
        file.seek(archive.start_dir)
        _, _, end = file.read().rpartition(b"PK\x05\x06")  # starts the end record of a zip archive
    counted = int.from_bytes(end[6:8], "little")  # 65535 where the count is stored elsewhere
    if counted not in (listed, 65535):
        raise InputError(
            f"{path}: lists {listed} of {counted} parts: the file is damaged; save it again."
        )
    if damaged is not None:
        raise InputError(
            f"{path}: {damaged} does not have its checksum: the file is damaged (or torch.save "
            f"was told not to compute checksums); save the logits again."
        )


def _from_array(array: np.ndarray[Any, Any], what: str) -> Any:
    """Numbers as a tensor, text as str or list; two raw bytes an entry are bfloat16."""
    if array.dtype.kind in "US":
        return np.char.decode(array).tolist() if array.dtype.kind == "S" else array.tolist()
    if array.dtype == np.dtype("V2"):  # how numpy writes the bfloat16 of `ml_dtypes`
        return from_bfloat16(array)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} must be an array of numbers, got dtype {array.dtype}.")
    return as_tensor(array, what, "numbers")


def _from_pt(value: Any, what: str) -> Any:
    """Tensors, lists of tensors, text and numbers, unchanged."""
    if isinstance(value, Tensor):
        return as_tensor(value, what, "numbers")
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        for place, part in enumerate(value):
            if not isinstance(part, Tensor):
                raise InputError(
                    f"{what}: entry {place} is {type(part).__name__}, others are tensors; save "
                    f"one tensor a layer."
                )
        return [as_tensor(part, f"{what}[{i}]", "numbers") for i, part in enumerate(value)]
    return value


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def store(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, texts and numbers as `.npz` or `.safetensors`, whole or not at all.

    bfloat16 is written bit by bit: into `.npz` as `ml_dtypes` writes it.

    Raises:
        InputError: another suffix, or it cannot be written.
    """
    write = {".npz": _write_npz, ".safetensors": _write_safetensors}.get(path.suffix.lower())
    if write is None:
        raise InputError(f"{path}: expected a file ending in .npz or .safetensors.")
    with whole_file(path) as part:
        write(part, content)


def _write_npz(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        arrays: dict[str, Any] = {name: _as_array(value) for name, value in content.items()}
        np.savez(file, **arrays)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    plain = value.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view("V2")
    return plain.numpy()


def _write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {n: v.detach().cpu().contiguous() for n, v in content.items() if _is_tensor(v)}
    written = {n: json.dumps(v) for n, v in content.items() if not _is_tensor(v)}
    try:
        save_file(tensors, path, metadata=written)
    except SafetensorError as error:  # a full disk, too
        raise OSError(str(error)) from error


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
