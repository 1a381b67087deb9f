"""Record the router logits of a model while it runs, by forward hooks on its routers.

Routers of transformers are known by class (`families`): the place of their logits, their score
function and selection bias. Recorded logits are compared with the router's own weight, hidden @
weight.T (+ bias), and refused if they differ. `reading_order` puts the rows of several passes in
order.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lp_routing.errors import InputError
from lp_routing.traces.families import ROUND_NAMES, ROUTERS, SCORES, Router
from lp_routing.traces.reading_order import Order, Pass, read_pass, reading_order
from lp_routing.traces.trace import Trace
from lp_routing.validation import as_instance, as_list

MOST_NAMED = 8
"""Most module names in a message."""
ROUNDING, SUMS = 4.0, 64.0
"""Largest difference between logits and hidden @ weight.T by rounding, in units of eps.

`ROUNDING`: of the coarsest type involved, times |logit| and the root of the sum of the squared
products; `SUMS`: of the accumulation type, times the sum of the absolute products.

Larger misses small errors (in bfloat16, 4 is some 3 % of the spread of the logits); smaller refuses
sums in another order. Found on a CPU, 4 to 16,384 terms, also with outliers: at most 1.3 (autocast
to bfloat16) and 11 (float32).
"""
FACTORS = ("capacity_factor", "moe_capacity_factor", "expert_capacity_factor")
"""Config attributes with the capacity factor; models of transformers have none."""
PER_TOKEN = ("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")
"""Config attributes with k."""


@dataclass
class _Layer:
    """What was recorded of one router.

    Attributes:
        rows: (T', E) for each call.
        calls: for each call, its pass and the shape (n,) or (B, S) of its tokens.
        constant: whether rows are logits only up to a constant for each token.
        facts: k, score and bias, where known.
    """

    rows: list[Tensor]
    calls: list[tuple[Pass | None, tuple[int, ...]]] = field(default_factory=list)
    constant: bool = False
    k: int | None = None
    score: str | None = None
    bias: Tensor | None = None


@dataclass(eq=False)
class Captured:
    """What the hooks of `capture` recorded.

    Attributes:
        model: the name of the model's class.
        rows: dotted name of each router, in the order of the model -> one tensor (T', E) for each
            call, detached, on the CPU, in the router's dtype.
        capacity_factor: as the model's config says, None where it does not.
        found: whether the routers were found by class; then routers that were not called (another
            modality, an unused head) are left out.
        reordered: whether beam search exchanged sequences between passes.
    """

    model: str
    rows: Mapping[str, list[Tensor]]
    capacity_factor: float | None = None
    found: bool = False
    reordered: bool = False
    _layers: dict[str, _Layer] = field(default_factory=dict)

    def trace(self, *, mask: Any = None, sequence: Tensor | None = None) -> Trace:
        """A layer for each router; tokens in reading order, sequence by sequence.

        Sequences that were decoded step by step, as by `generate`, are joined. Left out, the mask
        comes from the model's attention masks, without the padding after the end of generated
        sequences.

        Args:
            mask: True for real tokens: (T,), the batch's (B, S), or one (B, S) for each of several
                batches. For generated tokens, the mask of the prompts is enough.
            sequence: whole numbers (T,), the sequence of each token; left out, derived from the
                shapes of the model's inputs where possible.

        Raises:
            InputError: a router that was never called, routers with different numbers of experts
                or tokens, probabilities in place of logits, beam search, what `Trace` refuses.
        """
        if self.reordered:
            raise InputError(
                f"{self.model}: beam search exchanged sequences between steps, so that there is no "
                f"reading order. Generate with num_beams=1."
            )
        called = [name for name in self.rows if self.rows[name] or not self.found]
        if not called:
            raise InputError(self._never_called(next(iter(self.rows))))
        joined = {name: self._joined(name) for name in called}
        self._refuse_other_shapes(joined)
        layers = [self._layers[name] for name in called]
        order = _common([layer.calls for layer in layers], self.model)
        return Trace(
            torch.stack([rows[order.index] for rows in joined.values()]),
            f"captured from {self.model}",
            order.mask(mask),
            order.sequence if sequence is None else sequence,
            up_to_a_constant=any(layer.constant for layer in layers),
            k=_shared([layer.k for layer in layers]),
            score=_shared([layer.score for layer in layers]),
            capacity_factor=self.capacity_factor,
            layer_names=tuple(called),
            bias=_biases([layer.bias for layer in layers], next(iter(joined.values())).shape[1]),
        )

    def _never_called(self, name: str) -> str:
        return (
            f"{self.model}: {name} was never called. Run the model inside the with block; a "
            f"compiled model may pass hooks by, so capture from the one that is not compiled."
        )

    def _refuse_other_shapes(self, layers: Mapping[str, Tensor]) -> None:
        first, shape = next((name, tuple(layer.shape)) for name, layer in layers.items())
        for name, layer in layers.items():
            if tuple(layer.shape) != shape:
                raise InputError(
                    f"{self.model}: {first} gave {shape[0]} tokens x {shape[1]} experts in "
                    f"{len(self.rows[first])} call(s), {name} {layer.shape[0]} x {layer.shape[1]} "
                    f"in {len(self.rows[name])}. A trace has one shape: capture them apart, by "
                    f"patterns such as {_pattern(first)!r} and {_pattern(name)!r}."
                )

    def _joined(self, name: str) -> Tensor:
        if not self.rows[name]:
            raise InputError(self._never_called(name))
        widths = {rows.shape[1] for rows in self.rows[name]}
        if len(widths) > 1:
            raise InputError(
                f"{self.model}: {name} gave rows of {sorted(widths)} experts in different calls."
            )
        return torch.cat(self.rows[name])


def logits_of(output: Any) -> Any:
    """A router's output, or its first entry if it is a tuple: where most models have the logits."""
    return output[0] if isinstance(output, tuple | list) and output else output


@contextmanager
def capture(
    model: nn.Module,
    names: str | Sequence[str] | None = None,
    *,
    select: Callable[[Any], Any] | None = None,
    check: bool = True,
) -> Iterator[Captured]:
    """Record the router logits of every pass of the model inside a `with` block.

    Passes that are recomputed by gradient checkpointing are not recorded twice.

    Args:
        model: any module; its outputs are not changed.
        names: the routers among `model.named_modules()`, one or several patterns with wildcards,
            such as "*.mlp.gate". Left out, the routers of transformers, by class.
        select: from a router's output to its logits (..., E), before softmax, sigmoid or top-k;
            left out, by the router's class, else the output or its first entry.
        check: whether to compare with the router's own weight. A custom router that scales, caps or
            normalises needs False, or is captured at its inner Linear.

    Yields:
        `Captured`, call its `trace()` after the last pass.

    Raises:
        InputError: not a module, a pattern that matches no module or one within another, no router
            found; during a pass, a router whose selected output is no floating-point tensor
            (..., E), or not the product of hidden states and weight.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))  # one router of four experts
        >>> with lpr.traces.capture(model, "0") as captured:
        ...     hidden = model(torch.randn(5, 8))
        >>> captured.trace().layer(0).shape
        torch.Size([5, 4])
    """
    routers = _routers(model, _patterns(names))
    captured = Captured(
        type(model).__name__,
        {name: [] for name in routers},
        capacity_factor=_capacity_factor(model),
        found=names is None,
    )
    with ExitStack() as stack:
        passes = _follow_passes(model, stack)
        stack.callback(_watch_beams(captured))
        for name, router in routers.items():
            layer = captured._layers[name] = _Layer(captured.rows[name])
            recorder = _Recorder(name, model, router, layer, passes, select, check)
            stack.callback(recorder.hooked.register_forward_hook(recorder, with_kwargs=True).remove)
        yield captured


@contextmanager
def on_router_calls(
    model: nn.Module,
    names: str | Sequence[str] | None,
    select: Callable[[Any], Any] | None,
    do: Callable[[str, Tensor], object],
) -> Iterator[tuple[str, ...]]:
    """Inside a `with` block, call `do(name, logits)` after each call of a router.

    Calls that gradient checkpointing repeats are left out.

    Args:
        model, names, select: as in `capture`.
        do: what to do with the logits (..., E), which are not copied.

    Yields:
        The names of the routers.

    Raises:
        InputError: as `capture`.
    """
    routers = _routers(model, _patterns(names))
    with ExitStack() as stack:
        for name, router in routers.items():
            reader = _Reader(name, router, select)

            def hook(_module: Any, _args: Any, output: Any, reader: _Reader = reader) -> None:
                if not _is_recomputed():
                    do(reader.name, reader.logits(output))

            stack.callback(reader.hooked.register_forward_hook(hook).remove)
        yield tuple(routers)


def _patterns(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    several = [names] if isinstance(names, str) else as_list(names, "names", "patterns")
    return [as_instance(each, str, "names", "text") for each in several]


def _is_recomputed() -> bool:
    """Whether this pass runs within a backward pass, where gradient checkpointing repeats it."""
    return torch._C._current_graph_task_id() != -1


class _Reader:
    """Where a router has its logits: the module that is hooked, and the place in its output."""

    def __init__(self, name: str, router: nn.Module, select: Callable[[Any], Any] | None) -> None:
        self.name, self.select = name, select
        self.known = _known(router)
        self.router = self.hooked = router
        if self.known and self.known.linear and select is None:
            self.hooked = router.get_submodule(self.known.linear)

    def logits(self, output: Any) -> Tensor:
        """The logits (..., E) in what the hooked module returned."""
        logits = output
        if self.select is not None:
            logits = self.select(output)
        elif self.known is None:
            logits = logits_of(output)
        elif not self.known.linear and self.known.place is not None:
            fits = isinstance(output, tuple | list) and len(output) > self.known.place
            logits = output[self.known.place] if fits else output
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim < 2:
            found = (
                f"{logits.dtype} of shape {tuple(logits.shape)}"
                if isinstance(logits, Tensor)
                else type(logits).__name__
            )
            raise InputError(
                f"{self.name}: expected floating-point logits (..., experts), got {found}. Say "
                f"where in its output they are, such as select=lambda output: output[1]."
            )
        return logits


class _Recorder(_Reader):
    """The forward hook of one router."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        router: nn.Module,
        layer: _Layer,
        passes: list[Pass],
        select: Callable[[Any], Any] | None,
        check: bool,
    ) -> None:
        super().__init__(name, router, select)
        self.layer, self.passes, self.check = layer, passes, check
        self.places = (router, *_parents(model, name), *_configs(model))

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if _is_recomputed():
            return
        logits = self.logits(output)
        hidden = _hidden(args, kwargs)
        if self.check and hidden is not None:
            self._compare(module, logits, hidden)
        self._read_facts(logits.shape[-1])
        shape = tuple(logits.shape[:-1]) if hidden is None else tuple(hidden.shape[:-1])
        copy = logits.detach().to("cpu", copy=True)  # later operations may be in place
        copy = copy.flatten(0, -2)
        self.layer.rows.append(copy)
        shape = shape if len(shape) == 2 and shape[0] * shape[1] == len(copy) else (len(copy),)
        self.layer.calls.append((self.passes[-1] if self.passes else None, shape))

    def _compare(self, module: nn.Module, logits: Tensor, hidden: Tensor) -> None:
        E, H = logits.shape[-1], hidden.shape[-1]
        known = self.known if self.hooked is self.router else None
        weight, bias = _weight(module, known, E, H)
        rows, states = logits.detach().reshape(-1, E), hidden.detach().reshape(-1, H)
        if weight is None or len(rows) != len(states):
            return
        expected, rounding = _product(states, weight[:E], bias, logits)
        if known and known.scale:
            factor = float(_attribute(known.scale, self.places))
            expected, rounding = expected * factor, rounding * abs(factor)
        if known and known.softcap and (cap := float(_attribute(known.softcap, self.places))) > 0:
            expected = torch.tanh(expected / cap) * cap
        gone = ~rows.isfinite()  # logarithms of 0, or entries that the trace refuses
        off = (rows - expected).masked_fill(gone, 0.0)
        if bool((off.abs() <= rounding).all()):
            return
        rounding = rounding + ROUNDING * torch.finfo(logits.dtype).eps * (1 + rows.abs())
        shift = off.sum(-1, keepdim=True) / (~gone).sum(-1, keepdim=True)
        if E > 1 and bool(((off - shift).abs() <= rounding)[~gone].all()):
            self.layer.constant = True
            return
        token, expert = divmod(int(off.abs().argmax()), E)
        product = "hidden @ weight.T" if bias is None else "hidden @ weight.T + bias"
        raise InputError(
            f"{self.name}: what was recorded is not {product} of "
            f"{type(self.router).__name__}: token {token}, expert {expert} is "
            f"{float(rows[token, expert]):g}, expected {float(expected[token, expert]):g}. It may "
            f"be probabilities, scores or noisy: say where the logits are (select=lambda output: "
            f"output[1]), name the Linear within the router, or, if it scales or normalises its "
            f"logits itself, pass check=False."
        )

    def _read_facts(self, experts: int) -> None:
        """The router's current k, score and bias."""
        layer, known = self.layer, self.known
        if known is None:
            layer.k = next((k for k in map(self._config, PER_TOKEN) if isinstance(k, int)), None)
            return
        k = known.k if isinstance(known.k, int) else _attribute(known.k, self.places)
        layer.k = k if isinstance(k, int) else None
        score = known.score
        if score not in SCORES:
            score = str(_attribute(score, self.places))
        layer.score = ROUND_NAMES.get(score, score)
        bias = _attribute(known.bias, self.places) if known.bias else None
        if bias is not None:
            if bias.is_meta or bias.numel() != experts:
                raise InputError(
                    f"{self.name}: its selection bias {known.bias} is not there to be read "
                    f"({bias.device}, shape {tuple(bias.shape)}, {experts} experts). Capture from "
                    f"a model whose parts are not offloaded."
                )
            layer.bias = bias.detach().to("cpu", copy=True).flatten().float()

    def _config(self, name: str) -> Any:
        return _attribute(name, self.places[2:])


def _product(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """hidden @ weight.T (+ bias), and the tolerance for rounding, both (T, E)."""
    wide = torch.promote_types(torch.float32, logits.dtype)
    h, w = hidden.to(wide), weight.detach().to(hidden.device, wide)
    expected, size, squares = h @ w.T, h.abs() @ w.abs().T, h.square() @ w.square().T
    if bias is not None:
        b = bias.detach().to(hidden.device, wide)
        expected, size = expected + b, size + b.abs()
    types = [hidden.dtype, weight.dtype, logits.dtype]
    if torch.is_autocast_enabled(hidden.device.type):
        types.append(torch.get_autocast_dtype(hidden.device.type))
    if hidden.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        types.append(torch.float16)  # TF32 has the same precision
    coarse = ROUNDING * max(torch.finfo(dtype).eps for dtype in types)
    return expected, coarse * (expected.abs() + squares.sqrt()) + SUMS * torch.finfo(
        wide
    ).eps * size


def _weight(
    module: nn.Module, known: Router | None, experts: int, width: int
) -> tuple[Tensor | None, Tensor | None]:
    """The router's weight (>= E, H) and its bias (E,).

    None where they cannot be used: no parameter of that shape or several, a weight that is
    quantised or not in memory.
    """
    parameters = dict(module.named_parameters())
    path = known.weight if known else "weight"
    if known is None and path not in parameters:
        fit = [name for name, p in parameters.items() if p.shape == (experts, width)]
        path = fit[0] if len(fit) == 1 else path
    weight = parameters.get(path)
    if weight is None or weight.ndim != 2 or weight.is_meta:
        return None, None
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        return None, None
    if weight.shape[0] < experts or weight.shape[1] != width:
        return None, None
    bias = parameters.get(f"{path.removesuffix('weight')}bias")
    adds = (known is None or known.adds_bias) and bias is not None and bias.shape == (experts,)
    return weight, bias if adds else None


def _hidden(args: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first floating-point tensor among a router's arguments."""
    given = (*args, *kwargs.values())
    fit = (v for v in given if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 1)
    return next(fit, None)


def _attribute(path: str, places: Sequence[Any]) -> Any:
    """A dotted attribute of the first place that has it, None where none has."""
    for place in places:
        value = place
        for part in path.split("."):
            value = getattr(value, part, None)
        if value is not None:
            return value
    return None


def _parents(model: nn.Module, name: str) -> tuple[nn.Module, ...]:
    """The block that contains a module."""
    return (model.get_submodule(name.rpartition(".")[0]),)


def _configs(model: nn.Module) -> list[Any]:
    """The model's configs, that of its text part first."""
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", None)
    return [part for part in (text() if callable(text) else None, config) if part is not None]


def _capacity_factor(model: nn.Module) -> float | None:
    values = (_attribute(name, _configs(model)) for name in FACTORS)
    return next((float(v) for v in values if isinstance(v, int | float) and v > 0), None)


def _shared(values: Sequence[Any]) -> Any:
    """The common value of all layers; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _biases(biases: Sequence[Tensor | None], experts: int) -> Tensor | None:
    """(L, E), zeros for layers without; None where no layer has one."""
    if all(bias is None for bias in biases):
        return None
    return torch.stack([torch.zeros(experts) if bias is None else bias for bias in biases])


def _common(calls: Sequence[list[tuple[Pass | None, tuple[int, ...]]]], model: str) -> Order:
    """The order of the rows, which must be the same in all layers."""
    first = reading_order(calls[0])
    for others in calls[1:]:
        if others != calls[0] and not torch.equal(reading_order(others).index, first.index):
            raise InputError(
                f"{model}: its routers were called in different orders, so that their tokens do "
                f"not correspond: capture them apart."
            )
    return first


def _follow_passes(model: nn.Module, stack: ExitStack) -> list[Pass]:
    """The passes of the model, or of a submodel that is called alone; the list grows."""
    passes: list[Pass] = []
    open_passes: list[nn.Module] = []

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not open_passes:
            passes.append(read_pass(module, args, kwargs))
        open_passes.append(module)

    def end(*_: Any) -> None:
        open_passes.pop()

    for module in model.modules():
        if module is model or hasattr(module, "main_input_name"):  # a model of transformers
            stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(end, always_call=True).remove)
    return passes


def _watch_beams(captured: Captured) -> Callable[[], None]:
    """Record where transformers reorders the sequences of a cache; returns how to stop."""
    caches = getattr(sys.modules.get("transformers.cache_utils"), "__dict__", {})
    kinds = [caches[name] for name in ("Cache", "EncoderDecoderCache") if name in caches]
    before = [kind.__dict__.get("reorder_cache") for kind in kinds]

    def watched(reorder: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Any, beam_idx: Tensor) -> Any:
            order = torch.arange(len(beam_idx), device=beam_idx.device)
            captured.reordered |= not torch.equal(beam_idx.to(order), order)
            return reorder(self, beam_idx)

        return noted

    for kind, reorder in zip(kinds, before, strict=True):
        if reorder is not None:
            kind.reorder_cache = watched(reorder)

    def restore() -> None:
        for kind, reorder in zip(kinds, before, strict=True):
            if reorder is not None:
                kind.reorder_cache = reorder

    return restore


def _known(module: nn.Module) -> Router | None:
    """The known router of a module's class or of a base class."""
    return next((ROUTERS[c.__name__] for c in type(module).__mro__ if c.__name__ in ROUTERS), None)


def _routers(model: nn.Module, patterns: Sequence[str] | None) -> dict[str, nn.Module]:
    """The modules that match, or those of a known class, by name, in the order of the model."""
    if not isinstance(model, nn.Module):
        raise InputError(f"capture: expected a torch.nn.Module, got {type(model).__name__}.")
    modules = dict(model.named_modules())
    if patterns is None:
        found = {name: module for name, module in modules.items() if _known(module)}
        if not found:
            raise InputError(
                f"capture: {type(model).__name__} has no router of a class that is known from "
                f"transformers. Say their names, such as capture(model, '*.gate'). "
                f"{_there_are(modules)}"
            )
        return found
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise InputError(
                f"capture: no module of {type(model).__name__} is called {pattern!r}. "
                f"{_there_are(modules)}"
            )
    if not patterns:
        raise InputError(f"capture: names is empty. {_there_are(modules)}")
    matched = {
        name: module
        for name, module in modules.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return _without_parts(matched)


def _without_parts(matched: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Without modules inside a router of a known class; other nested matches are refused."""
    kept: dict[str, nn.Module] = {}
    for name, module in matched.items():
        inner = [part for part, within in module.named_modules() if part and _known(within)]
        if inner and not _known(module):
            raise InputError(
                f"capture: {name or 'the model'} is no router but holds {name}.{inner[0]}, which "
                f"is one: name that, or leave the names out."
            )
        holders = [o for o in matched if o != name and (not o or name.startswith(f"{o}."))]
        if any(_known(matched[outer]) for outer in holders):
            continue
        if holders:
            raise InputError(
                f"capture: {holders[-1] or 'the model'} and {name} within it both match, and would "
                f"be one router twice. Name one of them."
            )
        kept[name] = module
    return kept


def _pattern(name: str) -> str:
    """A name with its numbers replaced."""
    return re.sub(r"\b\d+\b", "*", name)


def _there_are(modules: Mapping[str, nn.Module]) -> str:
    """Patterns of the existing names, those that look like routers first."""
    patterns = dict.fromkeys(_pattern(name) for name in modules if name)
    sounds = [name for name in patterns if re.search(r"(gate|router|wg)$", name)]
    shown = (sounds or list(patterns))[:MOST_NAMED]
    return f"There are {', '.join(shown)}." if shown else "It has no parts."
