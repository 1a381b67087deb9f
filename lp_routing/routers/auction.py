"""BASE's balanced assignment by auction: tokens bid for places, and prices rise until all are sold.

Every token that holds fewer than k experts bids for the best ones it does not hold; each bid makes
the token indifferent to its next best expert, plus epsilon. An expert keeps the highest bids it has
room for. (Forward auction, Jacobi form: Bertsekas 1988; places of one expert as similar objects:
Bertsekas and Castanon 1989. The extension to several different experts per token is this
library's.)

**Places that stay empty.** Where experts have more places than tokens take, rows of zeros take the
rest, each at most one place of an expert. So every place is sold in the end, loads respect their
lower bounds, and prices may start anywhere, as epsilon scaling needs.

**The bound.** Throughout, each expert that a token holds earns it, at the price it paid, at least
as much as the best expert it neither holds nor still needs, less epsilon (epsilon-complementary
slackness). At the end all demands are met, and each of the E U places (U, the upper bound on the
loads) is within epsilon of its owner's best response. By weak duality the value is at least the
bound that the prices prove, less E U epsilon; where E divides T k, E U = T k. On scores that are
multiples of a number above E U epsilon the assignment is therefore optimal.

**It ends.** Let R be the largest difference between scores of one token. When an expert receives a
bid, its price is at most E (R + epsilon) above the highest price that the round of epsilon began
with. Otherwise there is a gap of more than R + epsilon below it among the prices, and the experts
above the gap are full. A row that holds some of those holds or still needs every expert below the
gap that it may take: it needs as many of the upper ones in any assignment, and the bidder needs one
more. Then no assignment exists, which `auction` checks first. A price rises by epsilon at least
with every U rounds in which its expert is bid for, which limits the rounds.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError
from lp_routing.routers.balance import (
    Loads,
    balanced_problem,
    loads_of,
    per_batch,
    placed,
    positive,
)
from lp_routing.routers.base import Router, WeightedRule
from lp_routing.routers.capacity import Capacity, check_capacity, resolve_capacity
from lp_routing.routers.catalogue import register
from lp_routing.routers.selection import largest
from lp_routing.validation import as_int, as_scores

NEVER = float("-inf")
USUAL = 2.0**-11
"""Default epsilon, in units of at most twice the largest difference R of scores.

Smaller means more rounds and a smaller gap. On four layers of the sample (1,024 tokens, k = 2,
`python -m benchmarks.router_constants`): 407 rounds and a mean gap of 3.4e-6; half of it 461 and
1.2e-6; twice 421 and 1.0e-5.
"""
COARSE, FINER = 0.25, 8.0
"""The first epsilon is at least `COARSE` units; each next one is `FINER` times smaller.

A coarse start moves prices fast, but bids have to be made again at each finer one. On the same
layers `FINER` 4 and 16 take 534 and 693 rounds, `COARSE` 0.5 takes 336.
"""
FINEST = 2.0**-30
"""Least epsilon, in units: smaller steps could be lost in the rounding of float64 prices, which
have 53 bits for sums of up to E units and their rounding."""
LEAST_POWER = -1000
"""Least exponent of the unit, near the end of float64: scores whose differences are below 2**-1000
are treated as equal."""


@dataclass(frozen=True, eq=False)
class Auctioned:
    """Result of an auction.

    Attributes:
        chosen: boolean (T, E), k experts for each token.
        prices: of the experts, for `lp_routing.certify` with the problem of the same bounds.
        epsilon: the last one; the certified gap is at most E U epsilon, up to rounding.
        rounds: rounds of bidding, over all values of epsilon.
    """

    chosen: Tensor
    prices: Prices
    epsilon: float
    rounds: int


def auction(
    scores: Tensor, k: int = 1, capacity: int | None = None, epsilon: float | None = None
) -> Auctioned:
    """A balanced assignment within E U epsilon of the optimum, and prices that prove it.

    Args:
        scores: (T, E), -inf for forbidden pairs; every token must be allowed k experts.
        k: experts per token.
        capacity: most tokens an expert takes; left out, loads are between the floor and the
            ceiling of T k / E.
        epsilon: by how much bids exceed the indifference price, in units of score; left out,
            between 1/1024 and 1/2048 of the largest difference between scores of one token.

    Raises:
        InputError: k > E, too little capacity, forbidden pairs that leave no assignment, or an
            epsilon that is not above 0 or too fine for float64.
    """
    scores = as_scores(scores)
    T, E = scores.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    loads = loads_of(T, E, k, None if capacity is None else as_int(capacity, "capacity", 0))
    problem = balanced_problem(scores, k, loads)
    if bool((problem.allowed_per_token < E).any()):
        placed(problem, scores.new_zeros(E))  # raises with the reason where there is no assignment
    below_best, unit = _in_units(scores)
    last = USUAL if epsilon is None else min(positive(epsilon, "epsilon") / unit, 1.0)
    if last < FINEST:
        raise InputError(
            f"epsilon={epsilon} is too fine: float64 prices can only be told apart from "
            f"{FINEST * unit:g} on, 2**-30 of the largest difference between scores of one token."
        )
    worth, demand = _with_empty_places(below_best, k, loads)
    prices = worth.new_zeros(E)
    rounds = 0
    for step in _steps(last):
        held, prices, more = _sell(worth, demand, loads.most, prices, step)
        rounds += more
    shifted = (prices - _level(prices, loads, T * k)) * unit
    return Auctioned(held[:T], Prices(experts=shifted), last * unit, rounds)


@register("Balanced assignment", {"auction": lambda s: Auction(s.k)})
@dataclass(frozen=True)
class Auction(WeightedRule, Router):
    """BASE's balanced assignment (Lewis et al. 2021, eq. 3), by auction with epsilon scaling.

    Seeks the optimum of `balanced` and comes within E U epsilon of it (`auction`), with or without
    ties, whatever T, E and k. BASE compares "logits" and weighs by their sigmoid; it needs E to
    divide T, and stops its auction early. Not causal. A token whose pairs are all forbidden is
    padding and takes no place.
    Cost: a sort over the experts for the bidding tokens and a `topk` over the tokens each round;
    the rounds depend on the scores, some hundreds where demand for experts is unequal. Batches of
    the leading dimensions are run one after another.

    Attributes:
        k: experts per token.
        capacity: most tokens an expert takes: a whole number, a `CapacityFactor`, or None for
            loads between the floor and the ceiling of T k / E.
        epsilon: as in `auction`, in units of score.
        score: what is compared and weighs: a function or a name from `lp_routing.scores`.
        normalise: divide the weights of a token by the sum of its kept scores, or of all.
    """

    source = "Lewis et al. 2021, eq. 3; Bertsekas 1988"
    seeks = "balanced"
    cost = (
        "a sort over the experts and a topk over the tokens each round, hundreds of rounds; "
        "batches one after another"
    )
    causal = False
    ties = "any"

    k: int = 1
    capacity: Capacity | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        as_int(self.k, "k", 1)
        if self.capacity is not None:
            check_capacity(self.capacity)
        if self.epsilon is not None:
            positive(self.epsilon, "epsilon")
        super().__post_init__()

    def select(self, scores: Tensor) -> Tensor:
        """The auction of each batch; boolean (..., T, E)."""
        k = as_int(self.k, "k", 1, scores.shape[-1], "E, the number of experts")
        given = self.capacity
        capacity = None if given is None else resolve_capacity(given, scores, k)
        return per_batch(scores, lambda batch: auction(batch, k, capacity, self.epsilon).chosen)


def _in_units(scores: Tensor) -> tuple[Tensor, float]:
    """Each score minus the best of its token, in units, float64 (T, E), and the unit.

    The unit is a power of two, so that only the differences are rounded; it is above the largest
    difference and at most twice as much.
    """
    allowed = scores > NEVER
    first = _power(float(scores.double().masked_fill(~allowed, 0).abs().max()))
    below = scores.double() * 2.0**-first
    below = below - below.amax(1, keepdim=True)
    second = max(_power(-float(below.masked_fill(~allowed, 0).min())), LEAST_POWER - first)
    return below * 2.0**-second, 2.0 ** (first + second)


def _power(size: float) -> int:
    return max(math.frexp(size)[1], LEAST_POWER)


def _with_empty_places(scores: Tensor, k: int, loads: Loads) -> tuple[Tensor, Tensor]:
    """Rows of zeros added for places that stay empty: scores (n, E), int64 (n,) what rows take.

    There are U - L of them, so that no expert has more empty places, and they share the places as
    equally as possible, so that every distribution of empty places is possible (Gale and Ryser).
    """
    T, E = scores.shape
    copies = loads.most - loads.least
    spare = E * loads.most - T * k
    each, more = divmod(spare, copies) if copies else (0, 0)
    empty = [n for n in [each + 1] * more + [each] * (copies - more) if n]
    demand = torch.tensor([k] * T + empty, device=scores.device)
    return torch.cat([scores, scores.new_zeros(len(empty), E)]), demand


def _level(prices: Tensor, loads: Loads, pairs: int) -> Tensor:
    """The amount by which all prices are lowered, so that experts with empty places have price 0.

    The rows of zeros buy the cheapest places; the price of the last one is the level. The bound of
    the problem at the lowered prices is that of the auction, with its rows of zeros, at these
    prices.
    """
    copies = loads.most - loads.least
    spare = len(prices) * loads.most - pairs
    place = -(-spare // copies) - 1 if spare else 0
    return prices.sort().values[place]


def _steps(last: float) -> list[float]:
    """Values of epsilon, from coarse to the last."""
    steps = [last]
    while steps[-1] < COARSE:
        steps.append(steps[-1] * FINER)
    return steps[::-1]


def _sell(
    worth: Tensor,
    demand: Tensor,
    room: int,
    prices: Tensor,
    epsilon: float,
    most_rounds: int | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Sell all places at one epsilon: what each row holds, the prices, and the rounds it took.

    Args:
        worth: float64 (n, E), differences within a row below 1, -inf for forbidden pairs.
        demand: int64 (n,), how many experts each row takes; they add up to E * room.
        room: places of each expert.
        prices: float64 (E,) to start from.
        epsilon: in the unit of `worth`.
        most_rounds: the proved limit of the module's docstring, if left out.
    """
    E = worth.shape[1]
    prices = prices - prices.min()
    if most_rounds is None:
        rise = float(prices.max()) + E * (1 + epsilon)
        most_rounds = E * room * (math.ceil(rise / epsilon) + 2)
    paid = torch.full_like(worth, NEVER)
    for rounds in range(most_rounds + 1):
        held = paid > NEVER
        missing = demand - held.sum(1)
        bidders = (missing > 0).nonzero().squeeze(1)
        if not len(bidders):
            return held, prices, rounds
        bids = _bids(worth[bidders], held[bidders], missing[bidders, None], prices, epsilon)
        paid[bidders] = torch.maximum(paid[bidders], bids)
        kept = largest(paid.mT, room).mT
        lowest = paid.masked_fill(~kept, math.inf).amin(0)
        prices = torch.where(kept.sum(0) == room, torch.maximum(prices, lowest), prices)
        paid.masked_fill_(~kept, NEVER)
    raise RuntimeError(f"the auction did not end within {most_rounds} rounds, its proved limit.")


def _bids(worth: Tensor, held: Tensor, missing: Tensor, prices: Tensor, epsilon: float) -> Tensor:
    """The bids of some rows for the best experts they still need, (m, E); -inf for no bid.

    A row without an alternative expert bids as if the next best were worth 1 less: complementary
    slackness holds for any bid then.
    """
    earned = (worth - prices).masked_fill_(held, NEVER)
    ordered = earned.sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(worth.shape[1], device=worth.device)
    wanted = torch.zeros_like(held).scatter_(1, ordered.indices, ranks < missing)
    last_wanted = ordered.values.gather(1, missing - 1)
    following = ordered.values.gather(1, missing.clamp(max=worth.shape[1] - 1))
    none = (missing == worth.shape[1]) | (following == NEVER)
    following = torch.where(none, last_wanted - 1, following)
    bids = torch.maximum(worth - following + epsilon, prices + epsilon)
    return bids.masked_fill_(~wanted, NEVER)
