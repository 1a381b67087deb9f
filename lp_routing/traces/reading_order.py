"""The reading order of captured rows: sequence by sequence, also where a batch was decoded.

A pass of a model gives the rows of its batch sequence by sequence. Decoding makes a pass for every
new token of each sequence, so that rows come step by step. The cache links the passes: its length
before a pass is the position where the pass begins. Tokens whose cache was cropped (rejected
drafts) are replaced by the later ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from math import prod
from typing import Any

import torch
from torch import Tensor

from lp_routing.errors import InputError

STREAMS = (
    ("input_ids", "attention_mask"),
    ("inputs_embeds", "attention_mask"),
    ("decoder_input_ids", "decoder_attention_mask"),
    ("decoder_inputs_embeds", "decoder_attention_mask"),
)
"""Arguments of transformers' models that hold tokens, and the masks that belong to them."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Tokens of one pass: whole numbers (B, S) or None, and boolean (B, S), True for real ones."""

    shape: tuple[int, int]
    ids: Tensor | None
    real: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass of a model.

    Attributes:
        streams: its inputs; two for an encoder and a decoder.
        start: tokens in the cache before it; None if unknown.
        cache: identity of the cache, 0 without.
        ends: token ids that end a sequence.
        padding: the padding token id after the end of a sequence; None if unknown.
    """

    streams: list[Stream]
    start: int | None = 0
    cache: int = 0
    ends: frozenset[int] = frozenset()
    padding: int | None = None


@dataclass(frozen=True, eq=False)
class Order:
    """The order of the captured rows.

    Attributes:
        index: (T,) the rows, in reading order.
        real: boolean (T,), False for padding; None if unknown.
        sequence: (T,) number of each row's sequence; None where some rows' sequences are unknown.
        prompts: (B, S, S + generated) of each batch; empty where some rows' sequences are unknown.
    """

    index: Tensor
    real: Tensor | None
    sequence: Tensor | None
    prompts: list[tuple[int, int, int]]

    def mask(self, given: Any) -> Any:
        """A mask of the tokens: (T,), (B, S), one (B, S) for each batch, or those of the prompts.

        A mask of prompts is extended by that of the generated tokens.

        Raises:
            InputError: a mask (B, S) of as many tokens in other sequences.
        """
        if given is None:
            return self.real
        several = isinstance(given, Sequence) and len(given) and isinstance(given[0], Tensor)
        parts = [torch.as_tensor(part) for part in (given if several else [given])]
        if [tuple(part.shape) for part in parts] == [(B, S) for B, S, _ in self.prompts]:
            return self._with_generated(parts)
        lengths = {L for _, _, L in self.prompts}
        if not several and parts[0].ndim == 2 and lengths and lengths != {parts[0].shape[1]}:
            shapes = ", ".join(f"{B} x {L}" for B, _, L in self.prompts)
            raise InputError(
                f"mask has shape {tuple(parts[0].shape)}, but the model read {shapes} tokens "
                f"(sequences x length)."
            )
        return torch.cat([part.flatten() for part in parts]) if several else given

    def _with_generated(self, masks: Sequence[Tensor]) -> Tensor:
        """Masks of the prompts (B, S), extended by the generated tokens, flattened."""
        real = torch.ones(len(self.index), dtype=torch.bool) if self.real is None else self.real
        pieces = torch.split(real, [B * L for B, _, L in self.prompts])
        grown = [
            torch.cat([mask, piece.view(B, L)[:, S:].to(mask)], 1).flatten()
            for mask, piece, (B, S, L) in zip(masks, pieces, self.prompts, strict=True)
        ]
        return torch.cat(grown)


@dataclass
class _Batch:
    """Growing sequences of L tokens so far.

    Attributes:
        rows: (B, L) the rows.
        real: boolean (B, L).
        alone: boolean (L,), True for tokens that came one per sequence, as in decoding.
        ends: boolean (B, L), True for tokens that end a sequence.
        fills: boolean (B, L), True for padding after the end of a sequence.
        cache: identity of the cache of the last pass, 0 without.
        base: tokens in the cache before the first pass that was recorded.
    """

    rows: Tensor
    real: Tensor
    alone: Tensor
    ends: Tensor
    fills: Tensor
    ids: Tensor | None = None
    cache: int = 0
    base: int = 0
    known: bool = True


def read_pass(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Pass:
    """The inputs of a forward pass, before it runs."""
    given = by_name(model, args, kwargs)
    if args and isinstance(args[0], Tensor):
        given.setdefault(
            "input_ids" if not args[0].is_floating_point() else "inputs_embeds", args[0]
        )
    streams = [
        _stream(given[tokens], given.get(mask))
        for tokens, mask in STREAMS
        if isinstance(given.get(tokens), Tensor)
        and given[tokens].ndim == (3 if given[tokens].is_floating_point() else 2)
    ]
    cache = given.get("past_key_values")
    configs = [getattr(model, name, None) for name in ("generation_config", "config")]
    ends, padding = (
        next((v for c in configs if (v := getattr(c, name, None)) is not None), None)
        for name in ("eos_token_id", "pad_token_id")
    )
    return Pass(
        streams,
        start=_length(cache),
        cache=0 if cache is None else id(cache),
        ends=frozenset([ends] if isinstance(ends, int) else ends or []),
        padding=padding if isinstance(padding, int) else None,
    )


def by_name(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, those given by position too."""
    if not args:
        return dict(kwargs)
    names = [
        name
        for name, parameter in signature(module.forward).parameters.items()
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    ]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _stream(tokens: Tensor, mask: Any) -> Stream:
    B, S = tokens.shape[:2]
    real = torch.ones(B, S, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == B and mask.shape[1] >= S:
        real = mask[:, -S:].detach().bool().cpu()
    ids = None if tokens.is_floating_point() else tokens.detach().to("cpu", copy=True)
    return Stream((B, S), ids, real)


def _length(cache: Any) -> int | None:
    """Tokens in a cache of transformers; None if unknown (no attention layer)."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def reading_order(calls: Sequence[tuple[Pass | None, tuple[int, ...]]]) -> Order:
    """The order of the rows of one router.

    Args:
        calls: for each call, its pass and the shape of its tokens, (n,) or (B, S).
    """
    batches: list[_Batch] = []
    offset = 0
    for pass_, shape in _by_pass(calls):
        rows = torch.arange(offset, offset + prod(shape))
        offset += len(rows)
        stream = _stream_of(pass_, shape)
        if pass_ is None or stream is None:
            batches.append(_unknown(rows))
            continue
        before = _continued(batches, pass_, stream)
        now = _begun(rows.view(stream.shape), pass_, stream, decoded=before is not None)
        if before is not None:
            _append(before, now)
        elif batches and _one_longer(batches[-1], now):
            now.alone = torch.cat([batches[-1].alone, torch.tensor([True])])
            batches[-1] = now
        else:
            batches.append(now)
    return _order(batches)


def _by_pass(
    calls: Sequence[tuple[Pass | None, tuple[int, ...]]],
) -> Iterator[tuple[Pass | None, tuple[int, ...]]]:
    """The calls of each pass joined: some blocks pass their tokens in pieces."""
    merged: list[tuple[Pass | None, tuple[int, ...]]] = []
    for pass_, shape in calls:
        if merged and pass_ is not None and merged[-1][0] is pass_:
            merged[-1] = (pass_, (prod(merged[-1][1]) + prod(shape),))
        else:
            merged.append((pass_, shape))
    return iter(merged)


def _stream_of(pass_: Pass | None, shape: tuple[int, ...]) -> Stream | None:
    """The stream of a call: with the same number of tokens, along the same axes."""
    for stream in pass_.streams if pass_ else []:
        if prod(stream.shape) == prod(shape) and (len(shape) < 2 or shape == stream.shape):
            return stream
    return None


def _unknown(rows: Tensor) -> _Batch:
    """Rows in the order in which they came, where nothing else is known."""
    no = torch.zeros(1, len(rows), dtype=torch.bool)
    return _Batch(rows[None], ~no, no[0], no, no, known=False)


def _begun(rows: Tensor, pass_: Pass, stream: Stream, decoded: bool) -> _Batch:
    """A batch from one pass; with `decoded`, its tokens came one per sequence."""
    B, S = rows.shape
    alone = torch.full((S,), decoded and S == 1)
    ends = fills = torch.zeros(B, S, dtype=torch.bool)
    if stream.ids is not None:
        ends = torch.isin(stream.ids, torch.tensor(sorted(pass_.ends), dtype=stream.ids.dtype))
        if pass_.padding is not None and pass_.padding not in pass_.ends:
            fills = stream.ids == pass_.padding
    return _Batch(rows, stream.real, alone, ends, fills, stream.ids, pass_.cache, pass_.start or 0)


def _continued(batches: Sequence[_Batch], pass_: Pass, stream: Stream) -> _Batch | None:
    """The batch that a pass continues; None where it begins a new one."""
    if not pass_.cache or pass_.start == 0 or (pass_.start is None and stream.shape[1] > 1):
        return None
    for batch in reversed(batches):
        length = batch.base + batch.rows.shape[1]
        start = length if pass_.start is None else pass_.start
        same = batch.cache == pass_.cache and batch.base <= start <= length
        # the first pass returns a cache that only the second one is given
        first = batch.cache == 0 and pass_.start == length
        if batch.known and len(batch.rows) == stream.shape[0] and (same or first):
            return batch
    return None


def _one_longer(before: _Batch, now: _Batch) -> bool:
    """Whether a pass repeats the one before plus a token: decoding without a cache."""
    if before.cache or now.cache or before.ids is None or now.ids is None:
        return False
    B, L = before.ids.shape
    return now.ids.shape == (B, L + 1) and torch.equal(now.ids[:, :-1], before.ids)


def _append(batch: _Batch, now: _Batch) -> None:
    """Append a pass after the tokens that were still in the cache."""
    kept = now.base - batch.base if now.base else batch.rows.shape[1]
    batch.rows = torch.cat([batch.rows[:, :kept], now.rows], 1)
    batch.real = torch.cat([batch.real[:, :kept], now.real], 1)
    batch.alone = torch.cat([batch.alone[:kept], now.alone])
    batch.ends = torch.cat([batch.ends[:, :kept], now.ends], 1)
    batch.fills = torch.cat([batch.fills[:, :kept], now.fills], 1)
    if batch.ids is not None:
        batch.ids = None if now.ids is None else torch.cat([batch.ids[:, :kept], now.ids], 1)
    batch.cache = now.cache


def _after_the_end(batch: _Batch) -> Tensor:
    """Boolean (B, L): padding of sequences that have ended while others continue.

    End tokens in prompts and chat turns, which come many at a time, end nothing; nor does one after
    which other tokens follow, as where `generate` was told another end. A single sequence is not
    decoded past its end.
    """
    after = torch.zeros_like(batch.real)
    stopped = _holds_one_number(batch)
    if len(after) == 1 or not bool(batch.alone.any()):
        return after
    ended = torch.zeros(len(after), dtype=torch.bool)
    for column in range(after.shape[1]):
        if bool(batch.alone[column]):
            ended = ended & stopped[:, column]
            after[:, column] = ended
            ended = ended | batch.ends[:, column]
        else:
            ended = torch.zeros_like(ended)
    last = batch.fills.flip(1).long().cumprod(1).flip(1).bool()  # padding up to the end
    return after | (last & batch.alone)


def _holds_one_number(batch: _Batch) -> Tensor:
    """Boolean (B, L): from here on all decoded tokens are the same, or ends and padding."""
    B, L = batch.real.shape
    same = torch.ones(B, L, dtype=torch.bool)
    if batch.ids is None or batch.ids.shape != same.shape:
        return same
    filler = batch.fills | batch.ends
    filled = filler.clone()
    for column in range(L - 2, -1, -1):
        if bool(batch.alone[column + 1]):
            alike = batch.ids[:, column] == batch.ids[:, column + 1]
            same[:, column] = same[:, column + 1] & alike
            filled[:, column] &= filled[:, column + 1]
    return same | filled


def _order(batches: Sequence[_Batch]) -> Order:
    known = all(batch.known for batch in batches)
    sequences, count = [], 0
    for batch in batches:
        B, L = batch.rows.shape
        sequences.append((count + torch.arange(B)).repeat_interleave(L))
        count += B
    real = torch.cat([(batch.real & ~_after_the_end(batch)).flatten() for batch in batches])
    return Order(
        index=torch.cat([batch.rows.flatten() for batch in batches]),
        real=None if bool(real.all()) else real,
        sequence=torch.cat(sequences) if known else None,
        prompts=[
            (len(batch.rows), _prompt(batch.alone), batch.rows.shape[1])
            for batch in batches
            if known
        ],
    )


def _prompt(alone: Tensor) -> int:
    """Tokens before the first decoded one."""
    return int(alone.long().argmax()) if bool(alone.any()) else len(alone)
