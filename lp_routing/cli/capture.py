"""`lp-routing capture`: the router logits of a model of transformers, as a file."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from lp_routing import traces
from lp_routing.cli.options import parse_tokens
from lp_routing.cli.output import check_writable
from lp_routing.errors import InputError, is_out_of_memory
from lp_routing.traces import Trace

SUFFIXES = (".npz", ".safetensors")


def run(options: dict[str, Any]) -> int:
    """Run the command with the options as typed; returns the exit status."""
    output: Path = options["output"]
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"-o {output}: expected a file ending in {' or '.join(SUFFIXES)}.")
    check_writable(output, options["text"], "-o")
    most = parse_tokens(options["tokens"])
    reader, tokenizer = _load(options["model"], options["device"])
    ids = _token_ids(tokenizer, reader, _read(options["text"]))[:most]
    trace = _captured(reader, ids, options["length"], list(options["names"]) or None)
    trace.save(output)
    L, T, E = trace.router_logits.shape
    k = "unknown" if trace.k is None else trace.k
    click.echo(
        f"{output}: {L} layer(s), {T} tokens, {E} experts; k: {k}, score: "
        f"{trace.score or 'unknown'}, selection bias: {'no' if trace.bias is None else 'yes'}."
    )
    return 0


def _load(folder: Path, device: str) -> tuple[Any, Any]:
    """The model in evaluation, without a head, and its tokenizer."""
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: expected a local folder with a model of transformers, there is no "
            f"config.json. Download the model first."
        )
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise InputError("capture needs transformers: pip install transformers.") from error
    transformers.logging.set_verbosity_error()  # missing weights are checked below
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, info = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, dtype="auto", output_loading_info=True
        )
        model = model.to(device).eval()
    except Exception as error:  # every model has its own errors
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{folder}: could not be loaded by transformers ({type(error).__name__}: {first})."
        ) from error
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacking:
        raise InputError(
            f"{folder}: has no weights, or of another shape, for {lacking[0]} ({len(lacking)} in "
            f"all), which would be random. Save the model again."
        )
    return model, tokenizer


def _read(text: Path) -> str:
    name = "standard input" if str(text) == "-" else str(text)
    try:
        with click.open_file(str(text), encoding="utf-8") as file:
            found: str = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read as text ({error}).") from error
    if not found.strip():
        raise InputError(f"{name}: there is no text in it. Say a file: capture MODEL TEXT.")
    return found


def _token_ids(tokenizer: Any, model: Any, text: str) -> Tensor:
    """Token ids (T,) of the whole text."""
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    known = model.get_input_embeddings().weight.shape[0]
    if not ids.numel() or int(ids.max()) >= known:
        raise InputError(
            f"the tokenizer gives {ids.numel()} tokens, up to {int(ids.max()) if len(ids) else 0}, "
            f"of which the model knows 0..{known - 1}: it belongs to another model."
        )
    return ids


def _captured(model: Any, ids: Tensor, length: int, names: list[str] | None) -> Trace:
    """One pass for each sequence; of a model with an encoder, the encoder's."""
    run = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    with torch.inference_mode(), traces.capture(run, names) as captured:
        for sequence in _sequences(ids, length):
            run(input_ids=sequence[None].to(next(model.parameters()).device))
    return captured.trace()


def _sequences(ids: Tensor, length: int) -> Iterator[Tensor]:
    """The ids in pieces, with progress on a terminal."""
    pieces = torch.split(ids, length)
    hidden = not sys.stderr.isatty()
    with click.progressbar(pieces, label="reading", file=sys.stderr, hidden=hidden) as bar:
        yield from bar
