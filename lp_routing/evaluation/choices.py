"""What recorded choices say without scores; with scores, how far they are from the best.

Loads, drops, experts that work together, and devices need only the choices. Where the logits are
there, each token's recorded experts are compared with its k best, and the value with the optimum
of token choice on the same scores. Two recordings of the same tokens are compared by token.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lp_routing import scores as scoring
from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import max_over_mean
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.capacity import keep_first_tokens
from lp_routing.routers.selection import largest
from lp_routing.traces.choices import RecordedChoices
from lp_routing.validation import as_int

QUARTERS = 4
"""Parts of equal size into which tokens are sorted by margin."""


@dataclass(frozen=True)
class ChoiceFacts:
    """A layer of recorded choices in numbers.

    Attributes:
        layer: its name.
        tokens: T.
        pairs: chosen pairs of token and expert.
        max_over_mean: load of the busiest expert over the mean load.
        idle: experts that no token took.
        dropped: share of the pairs beyond the capacity, the first tokens first.
        together: the two experts that share most tokens.
        together_share: tokens that took both, of those that took the rarer of them.
        devices_max_over_mean: as `max_over_mean`, of devices; None without devices.
        differ: share of tokens whose experts are not the k best of the logits; None without.
        gap: 1 - value / value of the k best, in scores; None without logits.
    """

    layer: str
    tokens: int
    pairs: int
    max_over_mean: float
    idle: int
    dropped: float
    together: tuple[int, int] | None
    together_share: float
    devices_max_over_mean: float | None = None
    differ: float | None = None
    gap: float | None = None


@dataclass(frozen=True)
class Difference:
    """Two recordings of a layer.

    Attributes:
        layer: its name in the first.
        differ: share of tokens whose sets of experts differ.
        overlap: share of the first one's pairs that the second has, too.
        by_margin: `differ` in each quarter of the tokens by margin, smallest margins first: the
            distance of the last chosen logit to the next one; empty without logits.
    """

    layer: str
    differ: float
    overlap: float
    by_margin: tuple[float, ...] = ()


def choice_facts(
    choices: RecordedChoices,
    layer: int,
    *,
    capacity_factor: float = 1.25,
    devices: int | None = None,
    score: str = "softmax",
) -> ChoiceFacts:
    """A layer in numbers.

    Args:
        choices: the recording.
        layer: its place.
        capacity_factor: slots of an expert over an equal share of the pairs.
        devices: D, each with E / D experts in their order.
        score: how logits become values, if there are logits.

    Raises:
        InputError: no such layer, E not divisible by the devices.

    Example:
        >>> ids = torch.tensor([[[0], [0], [0], [1]]])
        >>> found = lpr.traces.RecordedChoices(ids, 2, source="mine", layer_names=("0",))
        >>> facts = lpr.evaluation.choice_facts(found, 0, capacity_factor=1.0)
        >>> facts.max_over_mean, facts.dropped  # 3 tokens of one expert over a mean of 2
        (1.5, 0.25)
    """
    _check_recorded("choice_facts", choices)
    x = choices.chosen(layer)
    T, E = x.shape
    load, pairs = x.sum(0), int(x.sum())
    capacity = CapacityFactor(capacity_factor).of(T, E, choices.k)
    both = x.double().T @ x.double()
    both.fill_diagonal_(0.0)
    a, b = divmod(int(both.argmax()), E)
    common = int(both[a, b])
    facts = ChoiceFacts(
        layer=choices.layer_names[layer],
        tokens=T,
        pairs=pairs,
        max_over_mean=float(max_over_mean(load)),
        idle=int((load == 0).sum()),
        dropped=1 - int(keep_first_tokens(x, capacity).sum()) / max(pairs, 1),
        together=(a, b) if common else None,
        together_share=common / int(load[[a, b]].min()) if common else 0.0,
        devices_max_over_mean=None if devices is None else _over_devices(load, devices),
    )
    if choices.logits is None:
        return facts
    return _with_logits(facts, x, choices.logits[layer], score)


def differences(
    one: RecordedChoices, other: RecordedChoices, *, logits: Tensor | None = None
) -> list[Difference]:
    """Two recordings of the same tokens, layer by layer.

    Args:
        one, other: rollout and trainer, bf16 and fp8, or any two of equal L, T and E.
        logits: (L, T, E) for the margins; left out, those of `one`, else of `other`.

    Raises:
        InputError: other numbers of layers, tokens or experts.

    Example:
        >>> def recorded(ids):
        ...     return lpr.traces.RecordedChoices(torch.tensor([ids]), 3, "mine", ("0",))
        >>> a, b = recorded([[0, 1], [1, 2]]), recorded([[1, 0], [0, 2]])
        >>> lpr.evaluation.differences(a, b)[0].differ  # the second token
        0.5
    """
    _check_recorded("differences", one, other)
    mine, yours = ((*c.expert_ids.shape[:2], c.experts) for c in (one, other))
    if mine != yours:
        raise InputError(
            f"{one.source} has {mine[0]} layers of {mine[1]} tokens and {mine[2]} experts, "
            f"{other.source} {yours[0]} of {yours[1]} and {yours[2]}; expected the same."
        )
    given = logits if logits is not None else one.logits if one.logits is not None else other.logits
    found = []
    for layer, name in enumerate(one.layer_names):
        x, y = one.chosen(layer), other.chosen(layer)
        moved = (x != y).any(-1)
        found.append(
            Difference(
                name,
                float(moved.double().mean()),
                int((x & y).sum()) / max(int(x.sum()), 1),
                () if given is None else _by_margin(moved, given[layer], one.k),
            )
        )
    return found


def _check_recorded(function: str, *given: Any) -> None:
    for each in given:
        if not isinstance(each, RecordedChoices):
            raise InputError(
                f"{function}: expected lp_routing.traces.RecordedChoices, such as those of a "
                f"file or of a capture, got {type(each).__name__}."
            )


def _over_devices(load: Tensor, devices: int) -> float:
    E = len(load)
    devices = as_int(devices, "devices", 1, E, "E, the number of experts")
    if E % devices:
        raise InputError(f"devices={devices}: {E} experts cannot be shared out equally.")
    return float(max_over_mean(load.reshape(devices, -1).sum(-1)))


def _with_logits(facts: ChoiceFacts, x: Tensor, logits: Tensor, score: str) -> ChoiceFacts:
    """The same facts, with the k best experts of each token beside those recorded."""
    values = scoring.named(score)(logits, None).double()
    best = largest(values, x.sum(-1))
    worth, most = (float(values.where(some, 0.0).sum()) for some in (x, best))
    return ChoiceFacts(
        **vars(facts)
        | {
            "differ": float((x != best).any(-1).double().mean()),
            "gap": (most - worth) / abs(most) if most else 0.0,
        }
    )


def _by_margin(moved: Tensor, logits: Tensor, k: int) -> tuple[float, ...]:
    """Share of moved tokens in each quarter by margin; ties by the order of tokens."""
    ordered = logits.double().sort(-1, descending=True).values
    if k >= ordered.shape[1]:
        return ()
    order = (ordered[:, k - 1] - ordered[:, k]).argsort(stable=True)
    parts = moved[order].double().tensor_split(QUARTERS)
    return tuple(float(part.mean()) if len(part) else 0.0 for part in parts)
