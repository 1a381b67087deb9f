"""A trace: the router logits of some layers for the same tokens."""

from dataclasses import dataclass

from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.validation import refuse_nan_and_inf


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
    """

    router_logits: Tensor
    source: str
    mask: Tensor | None = None
    sequence: Tensor | None = None
    up_to_a_constant: bool = False

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
