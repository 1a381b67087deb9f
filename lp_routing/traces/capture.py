"""Record the router logits of a model while it runs, by forward hooks on its routers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lp_routing.errors import InputError
from lp_routing.traces.trace import Trace

SUM = 1e-2
"""Rows without negative entries that all sum to 1 up to this are a softmax, which is refused.

bfloat16 shares of 256 experts sum to 1 within some 4e-3; logits do so only by chance.
"""
MOST_NAMED = 8
"""Module names listed in a message."""


@dataclass(frozen=True, eq=False)
class Captured:
    """What the hooks of `capture` recorded.

    Attributes:
        model: the name of the model's class.
        rows: dotted name of each router, in the order of the model -> one tensor (T', E) a call,
            detached, in main memory, in the type that the router gave it.
    """

    model: str
    rows: Mapping[str, list[Tensor]]

    def trace(self, *, mask: Tensor | None = None, sequence: Tensor | None = None) -> Trace:
        """A layer for each router, the tokens of its calls one after the other.

        Args:
            mask: boolean (T,), True for real tokens, such as `attention_mask.bool().flatten()`.
            sequence: whole numbers (T,), the sequence of each token.

        Raises:
            InputError: a router that was never called, routers with different numbers of experts
                or tokens, probabilities in place of logits, or what `Trace` refuses.
        """
        layers = {name: self._layer(name) for name in self.rows}
        first, shape = next((name, tuple(layer.shape)) for name, layer in layers.items())
        for name, layer in layers.items():
            if tuple(layer.shape) != shape:
                raise InputError(
                    f"{self.model}: {first} gave {shape[0]} tokens x {shape[1]} experts in "
                    f"{len(self.rows[first])} call(s), {name} {layer.shape[0]} x {layer.shape[1]} "
                    f"in {len(self.rows[name])}. A trace has one shape: capture them apart."
                )
        return Trace(
            torch.stack(list(layers.values())), f"captured from {self.model}", mask, sequence
        )

    def _layer(self, name: str) -> Tensor:
        if not self.rows[name]:
            raise InputError(
                f"{self.model}: {name} was never called. Run the model inside the with block; a "
                f"compiled model may pass hooks by, so capture from the one that is not compiled."
            )
        widths = {rows.shape[1] for rows in self.rows[name]}
        if len(widths) > 1:
            raise InputError(
                f"{self.model}: {name} gave rows of {sorted(widths)} experts in different calls."
            )
        layer = torch.cat(self.rows[name])
        sums = layer.double().sum(-1)
        if layer.shape[1] > 1 and bool(((layer >= 0).all(-1) & ((sums - 1).abs() < SUM)).all()):
            raise InputError(
                f"{self.model}: every row of {name} is >= 0 and adds up to 1: these are "
                f"probabilities, not logits. Capture their logarithm, whose softmax they are: "
                f"select=lambda output: output[0].log()."
            )
        return layer


def logits_of(output: Any) -> Any:
    """A router's output, or the first part of a tuple: there most models have the logits."""
    return output[0] if isinstance(output, tuple | list) and output else output


@contextmanager
def capture(
    model: nn.Module, names: str | Sequence[str], *, select: Callable[[Any], Any] = logits_of
) -> Iterator[Captured]:
    """Record the router logits of every pass of the model inside a `with` block.

    Args:
        model: any module; its outputs stay what they are. Run it without gradients: passes that are
            computed again for a backward pass are recorded again.
        names: which of `model.named_modules()` are routers, with wildcards, such as "*.mlp.gate";
            one pattern or several.
        select: from a router's output to its logits (..., E), before softmax, sigmoid or top-k;
            left out, the output, or the first part of a tuple.

    Yields:
        `Captured`, whose `trace()` is asked for after the last pass. Tokens come call by call, and
        within a call in the order in which they lie in the tensor: sequence by sequence where
        whole sequences are given, but step by step where a batch is decoded.

    Raises:
        InputError: not a module, a pattern that matches no module; during a pass, a router whose
            selected output is no floating-point tensor (..., E).
    """
    routers = _routers(model, [names] if isinstance(names, str) else list(names))
    captured = Captured(type(model).__name__, {name: [] for name in routers})
    with ExitStack() as hooks:
        for name, router in routers.items():
            hook = router.register_forward_hook(_recorder(name, captured.rows[name], select))
            hooks.callback(hook.remove)
        yield captured


def _recorder(
    name: str, rows: list[Tensor], select: Callable[[Any], Any]
) -> Callable[[nn.Module, Any, Any], None]:
    def record(_router: nn.Module, _inputs: Any, output: Any) -> None:
        logits = select(output)
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim < 2:
            found = (
                f"{logits.dtype} of shape {tuple(logits.shape)}"
                if isinstance(logits, Tensor)
                else type(logits).__name__
            )
            raise InputError(
                f"{name}: expected floating-point logits (..., experts), got {found}. Say where in "
                f"its output they are, such as select=lambda output: output[1]."
            )
        copy = logits.detach().to("cpu", copy=True)  # what comes after may work in place
        rows.append(copy.flatten(0, -2))

    return record


def _routers(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that match, by name, in the order of the model."""
    if not isinstance(model, nn.Module):
        raise InputError(f"capture: expected a torch.nn.Module, got {type(model).__name__}.")
    modules = dict(model.named_modules())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise InputError(
                f"capture: no module of {type(model).__name__} is called {pattern!r}. "
                f"{_there_are(modules)}"
            )
    if not patterns:
        raise InputError(f"capture: names is empty. {_there_are(modules)}")
    return {
        name: module
        for name, module in modules.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _there_are(modules: Mapping[str, nn.Module]) -> str:
    """Patterns of the names that there are, those that sound like routers first."""
    patterns = dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in modules if name)
    sounds = [name for name in patterns if re.search(r"(gate|router|wg)$", name)]
    shown = (sounds or list(patterns))[:MOST_NAMED]
    return f"There are {', '.join(shown)}." if shown else "It has no parts."
