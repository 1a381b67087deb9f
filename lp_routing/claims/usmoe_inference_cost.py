"""USMoE: the smallest budget at which other mechanisms hold token choice's score (B8)."""

import math
from collections.abc import Sequence

from torch import Tensor

from lp_routing.claims.claim import Claim, Evidence, Number, Subject, Verdict
from lp_routing.claims.layers import by_layer, span
from lp_routing.claims.usmoe_rules import PAPER
from lp_routing.extensions.inference_cost import (
    ROUNDING,
    CapacityPoint,
    InferenceCost,
    inference_cost,
)
from lp_routing.scores import softmax

CLAIMED = 0.86
"""The share of the pairs that is said to suffice."""
FACTORS = (1.25,)
"""Where the check looks at capacity; each takes an exact solve a layer."""


def in_order(cost: InferenceCost) -> bool:
    """Whether the budgets are the smallest, and the curves keep what is provable."""
    slack = 1e-9 * (1 + cost.value)
    smallest = all(
        curve[at.budget] >= cost.value - slack
        and bool((curve[: at.budget] < cost.value * (1 - ROUNDING)).all())
        for curve, at in ((cost.unified, cost.at_unified), (cost.served, cost.at_served))
    )
    capped = all(_point_in_order(point, cost, slack) for point in cost.capacity)
    return smallest and capped and cost.at_unified.budget <= cost.at_served.budget <= cost.pairs


def _point_in_order(point: CapacityPoint, cost: InferenceCost, slack: float) -> bool:
    """Proved, never above token choice or as many pairs of the pool, level from its C on."""
    most = min(cost.value, float(cost.unified[min(point.slots, cost.pairs)]))
    level = point.capacity >= cost.at_capacity.makespan
    proved = abs(point.bound - point.value) <= slack
    in_bounds = point.value <= most + slack
    return proved and in_bounds and (not level or point.value >= cost.value - slack)


def examine(subject: Subject) -> Evidence:
    """Layer by layer: the smallest budgets, their makespans, and the curves by tenths."""
    costs = [
        inference_cost(softmax(logits), subject.k, factors=FACTORS) for logits in subject.logits
    ]
    pairs = costs[0].pairs
    few = int(CLAIMED * pairs)

    def shares(which: str) -> list[float]:
        return [100 * getattr(cost, f"at_{which}").budget / pairs for cost in costs]

    held = [_percent(cost.unified[few], cost) for cost in costs]
    capped = [_percent(cost.capacity[0].value, cost) for cost in costs]
    sentence = (
        f"Token choice's softmax score with {pairs} pairs (fullest expert "
        f"{span([c.makespan for c in costs])} tokens) is reached by unified with "
        f"{span(shares('unified'))} % of them (fullest expert "
        f"{span([c.at_unified.makespan for c in costs])}), by served unified with "
        f"{span(shares('served'))} % ({span([c.at_served.makespan for c in costs])}), by capacity "
        f"from {span([c.at_capacity.makespan for c in costs])} slots an expert on, room for "
        f"{span(shares('capacity'))} % of the pairs. With {few} pairs, 14 % fewer, "
        f"unified holds {span(held)} % of it; capacity at {FACTORS[0]:g} times the mean load holds "
        f"{span(capped)} %."
    )
    numbers: dict[str, Number] = {"pairs of token choice": pairs}
    for which in ("unified", "served", "capacity"):
        at = [getattr(cost, f"at_{which}") for cost in costs]
        unit = "slots" if which == "capacity" else "pairs"
        numbers |= by_layer(f"smallest budget, {which}, {unit}", [each.budget for each in at])
        numbers |= by_layer(f"makespan, {which}", [each.makespan for each in at])
    numbers |= by_layer("makespan, token choice", [cost.makespan for cost in costs])
    numbers |= by_layer("% of value held by unified at 86 % of the pairs", held)
    numbers |= by_layer(f"% of value, capacity {costs[0].capacity[0].capacity}", capped)
    return Evidence(all(in_order(cost) for cost in costs), sentence, numbers | _tenths(costs))


def _percent(value: Tensor | float, cost: InferenceCost) -> float:
    """Of token choice's value, which is more than 0 unless all scores are 0."""
    return 100 * float(value) / cost.value if cost.value else 100.0


def _tenths(costs: Sequence[InferenceCost]) -> dict[str, Number]:
    """Both curves, by value and makespan, at every tenth of token choice's pairs."""
    numbers: dict[str, Number] = {}
    for tenths in range(1, 11):
        N = costs[0].pairs * tenths // 10
        at = f"{10 * tenths} % of the pairs"
        for which in ("unified", "served"):
            held = [_percent(getattr(cost, which)[N], cost) for cost in costs]
            fullest = [int(getattr(cost, f"{which}_makespan")[N]) for cost in costs]
            if math.isfinite(held[0]):
                numbers |= by_layer(f"% of value, {which}, {at}", held)
                numbers |= by_layer(f"makespan, {which}, {at}", fullest)
    return numbers


def betrays(scores: Tensor) -> str | None:
    """A budget or a capacity that is not the smallest; for scores >= 0."""
    for k in range(1, scores.shape[1] + 1):
        if not in_order(inference_cost(scores, k, factors=(0.5, 1.0))):
            return f"k={k}: a budget is not the smallest that holds token choice's value."
    return None


B8 = Claim(
    id="B8",
    title="14 % less inference cost",
    statement="Unified routing reaches token choice's quality with 14 % less inference cost.",
    formula="expert FLOPs ~ N; smallest N with value(N) >= sum of row top-K, N <= 0.86 T K",
    conditions="",
    source=f"{PAPER}, abstract of v2: inference costs reduced by up to 14 %",
    verdict=Verdict.EMPIRICAL,
    reason=(
        "That 14 % fewer pairs cost 14 % fewer expert FLOPs is an identity. Whether the score held "
        "is the same depends on the logits: T K pairs always suffice, since token choice is "
        "feasible there (B2). Score is not quality, which logits do not show; and a step lasts as "
        "long as its fullest expert, so the makespan stands beside every budget. With capacity "
        "(slots E C, at most k a token) nothing is worth more than row top-k, so it draws level "
        "only when C holds the row top-k of all tokens: at token choice's largest load, or below "
        "where ties leave another row top-k."
    ),
    examine=examine,
    betrays=betrays,
    forbidden_too=True,
)
