"""A feasible assignment near given prices, without an LP: for a solver that was stopped early.

Tokens choose at the prices, in rounds, as much as they must and then what earns something; bounds
that are asked for too much keep what would be missed most. Lower bounds that are still open are
met by exchanges between experts, or, where groups stand in the way, by a maximum flow.
"""

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.placing import Floor, Placement, exchange, fill, meet_demands
from lp_routing.problem.problem import RoutingProblem

LARGEST_FLOW = 1 << 22
"""Up to this many pairs T * E a maximum flow decides what exchanges leave open."""


def feasible_assignment(problem: RoutingProblem, prices: Prices) -> Tensor | None:
    """Whole amounts (T, E) that satisfy every bound, or None.

    Boolean where every row is one token, else int64; on the device of the scores. None where no
    assignment exists, where the problem is not a network flow (`why_not_integral`) and the quick
    ways fail, and where demands exceed 2**31 pairs. Beyond 4,194,304 pairs T * E also where
    groups are in the way of exchanges; without groups the answer is exact at any size. Time grows
    with T * E, and memory beside scores and result stays below 1.5 times the scores. Ties go to
    the lower token, then the lower expert.
    """
    try:
        whole = problem if problem.is_integral else problem.with_whole_bounds()
    except InputError:  # no whole number lies between two bounds
        return None
    placement = Placement(whole, prices)
    if not _place(placement) and not _by_flow(placement, prices):
        return None
    _fill_up(placement, Floor.SCORED)
    return placement.x


def _place(placement: Placement) -> bool:
    """Fill in rounds, then exchange; whether all bounds are met."""
    fill(placement, placement.lower, Floor.NEEDED)
    _fill_up(placement, Floor.EARNED)
    for limit, spare in zip(placement.limits, placement.spares(), strict=True):
        if bool((spare < 0).any()):
            fill(placement, placement.upper - placement.per_token, Floor.ALLOWED, limit)
    return placement.meets_demands() or exchange(placement)


def _fill_up(placement: Placement, floor: Floor) -> None:
    fill(placement, placement.upper - placement.per_token, floor)


def _by_flow(placement: Placement, prices: Prices) -> bool:
    """Meet all bounds by a maximum flow, which may move everything; whether there is one."""
    problem = placement.problem
    grouped = any(family.members is not None for family in problem.families)
    if not grouped or not problem.is_integral or problem.T * problem.E > LARGEST_FLOW:
        return False  # without groups the exchanges have decided
    repaired = meet_demands(problem, placement.x.cpu().numpy().astype("int64"), prices)
    if repaired is None:
        return False
    placement.set(torch.as_tensor(repaired).to(placement.x))
    return True
