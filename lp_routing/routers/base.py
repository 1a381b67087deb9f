"""The base classes of routers: scores from logits, a selection from scores, an `Assignment`.

Also shared by stateful rules: the check of their state, and the interval of prices at which a given
number of entries is taken.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.assignment import Assignment
from lp_routing.scores import ScoreFunction, check_logits, named
from lp_routing.validation import refuse_nan_and_inf

Normalise = Literal["kept", "all"] | None
State = TypeVar("State")


class Rule(ABC):
    """What all routers have in common: scores, combine weights, source and cost.

    Attributes:
        source: paper and equation, or file of the released code.
        cost: what one call takes, in `topk` and passes over the scores.
    """

    source: ClassVar[str]
    cost: ClassVar[str]

    @property
    @abstractmethod
    def seeks(self) -> str:
        """The named problem whose optimum it seeks, such as "balanced"; "" where it seeks none."""

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether the experts of a token do not depend on later tokens."""

    @property
    def ties(self) -> str:
        """The tie rule: "index", the lower index; "any", not determined by index."""
        return "index"

    @abstractmethod
    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The scores that the rule compares, (..., T, E); -inf for forbidden pairs and padding."""

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Combine weights (..., T, E): the scores of the chosen pairs, 0 elsewhere."""
        return kept_scores(scores, chosen)

    def _scored(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """The scores of checked logits, checked."""
        wide = check_logits(logits)
        scores = self.scores(wide, mask)
        _check_result(scores, wide)
        return scores


class Router(Rule):
    """A routing rule in torch, on any device, over any leading dimensions.

    `select` is the rule itself; it takes any scores, so a rule can be run on scores other than its
    own. Ties go to the lower index: the lower expert within a token, the lower token within an
    expert, the lower token and then the lower expert within a pool. Ties are between scores: equal
    logits have equal scores with every score function. Rules that choose a whole assignment at once
    have `ties = "any"`: among tied optima they take one, the same for the same input, not by index.
    """

    @abstractmethod
    def select(self, scores: Tensor) -> Tensor:
        """The chosen pairs, boolean (..., T, E); pairs of score -inf are never chosen."""

    def __call__(self, logits: Tensor, *, mask: Tensor | None = None) -> Assignment:
        """Route a batch.

        Args:
            logits: (..., T, E) floating point, -inf for forbidden pairs.
            mask: boolean (..., T), True for real tokens; padding is routed nowhere and takes no
                slot, unless the router says otherwise.

        Raises:
            InputError: NaN, +inf, wrong shape or dtype, k > E, capacity > T where it must be met.
        """
        scores = self._scored(logits, mask)
        chosen = self.select(scores.detach())
        return Assignment(chosen, self.weigh(scores, chosen), mask)


class StatefulRouter(Rule, Generic[State]):
    """A rule with a state that is passed from batch to batch: biases, a threshold, prices.

    The caller holds the state: `assignment, state = router(logits, state)`. Without one the rule
    starts cold. The router itself stores nothing, so a state can be frozen (at inference), moved or
    inspected.
    """

    @abstractmethod
    def initial(self, scores: Tensor) -> State:
        """The state to start cold with, for scores (..., T, E)."""

    @abstractmethod
    def step(self, scores: Tensor, state: State) -> tuple[Tensor, State]:
        """The chosen pairs, boolean (..., T, E), and the state for the next batch."""

    def __call__(
        self, logits: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Assignment, State]:
        """Route a batch and return the state for the next one.

        Args:
            logits: (..., T, E) floating point, -inf for forbidden pairs.
            state: as returned by the previous call; None starts cold.
            mask: boolean (..., T), True for real tokens.

        Raises:
            InputError: as `Router`; a state of another shape or kind.
        """
        scores = self._scored(logits, mask)
        plain = scores.detach()
        chosen, after = self.step(plain, self.initial(plain) if state is None else state)
        return Assignment(chosen, self.weigh(scores, chosen), mask), after


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredRule(Rule):
    """A rule that compares the scores of a score function.

    Attributes:
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
    """

    score: ScoreFunction | str = "softmax"

    def __post_init__(self) -> None:
        named(self.score)

    def scores(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score function's (..., T, E)."""
        return named(self.score)(logits, mask)


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedRule(ScoredRule):
    """A `ScoredRule` whose combine weights may be normalised token by token.

    Attributes:
        normalise: None, or "kept" or "all": divide the weights of a token by the sum of its kept
            scores, or of all its scores.
    """

    normalise: Normalise = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalise(self.normalise)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Scores of the chosen pairs, divided as `normalise` says; (..., T, E)."""
        return normalised(scores, chosen, self.normalise)


AnyRouter = Router | StatefulRouter[Any]


def check_normalise(by: Normalise) -> None:
    """Raise `InputError` for anything but "kept", "all" and None."""
    if not (by is None or (isinstance(by, str) and by in ("kept", "all"))):
        raise InputError(f'normalise={by!r}: expected "kept", "all" or None.')


def kept_scores(scores: Tensor, chosen: Tensor) -> Tensor:
    """Scores of the chosen pairs, 0 elsewhere (also where a score is -inf)."""
    return scores.masked_fill(~chosen, 0.0)


def _check_result(scores: Tensor, logits: Tensor) -> None:
    """Check the output of a score function like user input."""
    if not isinstance(scores, Tensor):
        raise InputError(
            f"the score function returned {type(scores).__name__}; it must return a tensor."
        )
    if scores.shape != logits.shape:
        raise InputError(
            f"the score function returned shape {tuple(scores.shape)} for logits of shape "
            f"{tuple(logits.shape)}; it must keep the shape."
        )
    if not scores.is_floating_point():
        raise InputError(
            f"the score function returned {scores.dtype}; it must return floating-point numbers."
        )
    refuse_nan_and_inf(scores.detach(), "the score function's result")


def normalised(scores: Tensor, chosen: Tensor, by: Normalise) -> Tensor:
    """Combine weights divided, token by token, by the sum of the kept scores or of all scores."""
    kept = kept_scores(scores, chosen)
    if by is None:
        return kept
    if bool((kept < 0).any()):
        raise InputError(f"normalise={by!r} divides by a sum of scores, but some are negative.")
    whole = kept if by == "kept" else scores.masked_fill(scores == float("-inf"), 0.0)
    total = whole.sum(-1, keepdim=True)
    return kept / total.masked_fill(total == 0, 1.0)


INF = float("inf")


def check_state(state: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The state, if it is a finite floating-point tensor of that shape.

    Raises:
        InputError: a state of other experts, other leading dimensions or another kind.
    """
    if not isinstance(state, Tensor):
        raise InputError(
            f"state: expected {what}, a tensor of shape {shape}, got {type(state).__name__}; give "
            f"what the call before returned, or None to start cold."
        )
    if state.shape != shape or not state.is_floating_point():
        raise InputError(
            f"state: expected {what}, floating-point numbers of shape {shape}, got {state.dtype} "
            f"of shape {tuple(state.shape)}; each entry of the leading dimensions has its own."
        )
    if not bool(state.isfinite().all()):
        raise InputError(f"state: {what} must be finite; start again with None.")
    return state


def cold_prices(scores: Tensor) -> Tensor:
    """Zeros (..., E) in the precision of the scores (..., T, E), float32 at least."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    shape = (*scores.shape[:-2], scores.shape[-1])
    return torch.zeros(shape, dtype=dtype, device=scores.device)


def neighbours_of_rank(ordered: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The (count + 1)-th and the count-th entry of each descending line.

    Args:
        ordered: (..., n).
        count: whole numbers from 0 to n that broadcast to (...).

    Returns:
        Two tensors (...): the lower is -inf past the last entry, the upper +inf before the first.
        At a price between the two, exactly `count` entries of a line are worth taking.
    """
    n = ordered.shape[-1]
    at = count.expand(ordered.shape[:-1])[..., None]
    lower = ordered.gather(-1, at.clamp(max=n - 1)).masked_fill(at >= n, -INF)
    upper = ordered.gather(-1, (at - 1).clamp(min=0)).masked_fill(at == 0, INF)
    return lower[..., 0], upper[..., 0]


def next_largest(values: Tensor, count: int) -> Tensor:
    """The (count + 1)-th largest entry of each line (..., n), or 0 where it is less or missing."""
    if count >= values.shape[-1]:
        return values.new_zeros(values.shape[:-1])
    return torch.topk(values, count + 1).values[..., -1].clamp(min=0)
