"""MaxScore: balanced routing as a flow, by the exact flow or by the released two-phase rule."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.errors import InputError
from lp_routing.problem.bounds import between, exactly
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.balance import Loads, balanced_problem, loads_of, per_batch
from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.capacity import Capacity, check_capacity, resolve_capacity
from lp_routing.routers.catalogue import register
from lp_routing.solvers.solve import Status, solve
from lp_routing.validation import as_bool, as_int

NEVER = float("-inf")


@dataclass(frozen=True)
class _Flow(WeightedRule, Router):
    """Shared by both rules: their arguments, and routing batch by batch."""

    source = "Dong et al. 2025, arXiv 2508.12801 (MaxScore)"
    seeks = "balanced"
    causal = False
    ties = "any"

    k: int = 2
    capacity: Capacity | None = None

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        if self.capacity is not None:
            check_capacity(self.capacity)
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """The rule on each batch; boolean (..., T, E).

        Raises:
            InputError: k > E, too little capacity, forbidden pairs that leave no assignment.
        """
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        given = self.capacity
        capacity = None if given is None else resolve_capacity(given, scores, k)
        E = scores.shape[-1]

        def rule(batch: Tensor) -> Tensor:
            return self._routed(batch, k, loads_of(len(batch), E, k, capacity))

        return per_batch(scores, rule)

    @abstractmethod
    def _routed(self, scores: Tensor, k: int, loads: Loads) -> Tensor:
        """The rule on one batch (T, E) of real tokens."""


@register("Balanced assignment", {"maxscore-flow": lambda s: MaxScoreFlow(s.k)})
@dataclass(frozen=True)
class MaxScoreFlow(_Flow):
    """MaxScore as the paper states it, a minimum-cost maximum flow, solved exactly.

    It is the optimum of `balanced`, or with a capacity of exactly k experts a token and at most
    `capacity` tokens an expert. Found by `MinCostFlow`, certified by `lp_routing.solve`.
    Not causal. Cost: a few passes over the scores and a small flow; batches of the leading
    dimensions one after another.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor`, or None for
            loads between the floor and the ceiling of T k / E.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    cost = "a few passes over the scores and a small flow; batches one after another"

    def _routed(self, scores: Tensor, k: int, loads: Loads) -> Tensor:
        return _optimum(balanced_problem(scores, k, loads))


@register("Balanced assignment", {"maxscore": lambda s: MaxScore(s.k)})
@dataclass(frozen=True)
class MaxScore(_Flow):
    """The rule that MaxScore's code uses in place of the flow, in two phases.

    First choices: in token order, each token takes its best expert that still has a place. Second
    phase: the other k - 1 experts of all tokens at once, as the assignment of largest score to the
    places that are left (Kuhn-Munkres in the source, `MinCostFlow` here; both exact). The first
    phase is greedy, so the whole is not the optimum of `balanced`, which it seeks.

    The source (KM.cpp, for K = 2, E = 16, T = 512 and capacity T K / E) sets the score of a first
    choice to 0 in the second phase, which does not forbid it: a token may take an expert twice.
    Here it is forbidden, unless `repeats` asks for the source's rule. What is this library's own:
    other k, T and E (where E does not divide T k no more experts than must reach the ceiling), a
    capacity, forbidden pairs, and that the whole flow is solved where the first choices cannot be
    completed, which only happens with forbidden pairs. The source's growing weight of second
    choices in training does not affect the choice and is left out. Not causal. Cost: a sort over
    the experts, a loop over the tokens on the CPU, then as `MaxScoreFlow`; batches one after
    another.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor`, or None for
            loads between the floor and the ceiling of T k / E.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
        repeats: score a first choice 0 in the second phase, as the source does, in place of
            forbidding it. A token that takes an expert twice has fewer than k experts then, and
            the expert an unused place.
    """

    cost = (
        "a sort, a loop over the tokens on the CPU, then a few passes and a small flow; "
        "batches one after another"
    )

    repeats: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        as_bool(self.repeats, "repeats")

    def _routed(self, scores: Tensor, k: int, loads: Loads) -> Tensor:
        first = first_choices(scores, k, loads)
        if first is not None and k == 1:
            return first
        if first is not None:
            rest = _completed(scores, first, k, loads, 0.0 if self.repeats else NEVER)
            if rest is not None:
                return first | rest
        return _optimum(balanced_problem(scores, k, loads))


def first_choices(scores: Tensor, k: int, loads: Loads) -> Tensor | None:
    """Each token's best expert with a place, in token order: boolean (T, E), one in each row.

    An expert has a place up to the lower bound of the loads; and up to the upper one, as long as
    the T k pairs allow another expert above the lower bound. None where a token is left without an
    expert. Ties go to the lower expert.

    Args:
        scores: (T, E), -inf for forbidden pairs.
        k: experts per token in all.
        loads: lower and upper bound on the tokens of an expert, over all k choices.
    """
    T, E = scores.shape
    order = scores.double().sort(dim=1, descending=True, stable=True)
    allowed = (order.values > NEVER).sum(1).tolist()
    load, extra, taken = [0] * E, T * k - E * loads.least, list[int]()
    for wishes, count in zip(order.indices.tolist(), allowed, strict=True):
        for expert in wishes[:count]:
            if load[expert] < loads.least or (load[expert] < loads.most and extra > 0):
                extra -= load[expert] >= loads.least
                load[expert] += 1
                taken.append(expert)
                break
        else:
            return None
    column = torch.tensor(taken, device=scores.device)[:, None]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, column, True)


def _completed(scores: Tensor, first: Tensor, k: int, loads: Loads, again: float) -> Tensor | None:
    """The best k - 1 further experts of every token in the remaining places; None where infeasible.

    Args:
        scores: (T, E).
        first: boolean (T, E), the first choices.
        k: experts per token in all.
        loads: bounds on the tokens of an expert, over all k choices.
        again: the score of a first choice in this phase; -inf forbids it.
    """
    load = first.sum(0).double()
    left = between((loads.least - load).clamp(min=0), loads.most - load)
    rest = scores.masked_fill(first, again)
    try:
        return _optimum(RoutingProblem(rest, tokens=exactly(k - 1), experts=left))
    except InputError:
        return None


def _optimum(problem: RoutingProblem) -> Tensor:
    """The chosen pairs of an optimum, boolean (T, E).

    Raises:
        InputError: there is no assignment, or none was proved optimal, in the solver's words.
    """
    solution = solve(problem)
    if solution.status is not Status.OPTIMAL or solution.assignment is None:
        raise InputError(f"{solution.status.value} {solution.explanation}")
    return solution.assignment.x > 0
