"""THE table of problems with known answers. Every solver runs every row; add a row, change no test.

`value` is worked by hand, the story beside it. `prices` are those of the experts where the
optimum leaves no choice, else None. `status` is what `solve` must say.
"""

from typing import NamedTuple

import torch

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly

INF = float("inf")
ONE_LIKED = [[10, 0, 0], [0, 10, 10], [0, 10, 10]]


class Case(NamedTuple):
    name: str
    problem: lpr.RoutingProblem
    status: lpr.Status
    value: float
    prices: list[float] | None = None


def _case(name, problem, value, prices=None):
    return Case(name, problem, lpr.Status.OPTIMAL, value, prices)


def _impossible(name, problem):
    return Case(name, problem, lpr.Status.INFEASIBLE, -INF)


CASES = [
    # Each token keeps its two best: 5+4, 3+2.
    _case("token choice", lpr.problems.token_choice([[5, 4, 1], [1, 3, 2]], 2), 14, [0, 0, 0]),
    # Each expert keeps its best token: 5, 4, 2.
    _case("expert choice", lpr.problems.expert_choice([[5, 4, 1], [1, 3, 2]], 1), 11),
    # The four largest of all six: 5, 4, 3, 2.
    _case("unified", lpr.problems.unified([[5, 4, 1], [1, 3, 2]], 4), 14),
    # Every token must be served, so token 1 gets 1 although 4, 3, 2 are left elsewhere: 9+8+1.
    _case("served unified", lpr.problems.served_unified([[9, 8, 7], [1, 0, 0]], 3), 18),
    # design.md: `<=` lets experts stay short and takes all five tens ...
    _case("capacity, not balanced", lpr.problems.capacity(ONE_LIKED, 2, 2), 50),
    # ... while `=` makes somebody pay: expert 0 must take a second token, worth 0 instead of 10.
    _case("balanced, not capacity", lpr.problems.balanced(ONE_LIKED, 2), 40),
    # Three tokens, two experts: loads are 1 and 2. Two keep the one they like, 4 and 2, the third
    # takes the other for nothing.
    _case("uneven loads", lpr.problems.balanced([[4, 0], [2, 0], [1, 0]], 1), 6),
    # Both want expert 0 (values 3 and 2), it has one slot; token 1 moves and loses only 1.
    # One more slot would be worth 2 - 1 = 1, so that is the price of expert 0.
    _case("one slot, two suitors", lpr.problems.capacity([[3, 1], [2, 1]], 1, 1), 4, None),
    # The same with a token 1 that may go nowhere else: it is dropped, and the slot is worth 2.
    _case(
        "a suitor with no other way", lpr.problems.capacity([[3, 2.5], [2, -INF]], 1, 1), 4.5, None
    ),
    # Three identical tokens at one expert of capacity 2: two pay 5, one goes for 1.
    _case(
        "three tokens in one row",
        lpr.RoutingProblem([[5, 1]], tokens=exactly(3), experts=at_most(2), multiplicity=[3]),
        11,
        [4, 0],
    ),
    # All scores equal: every perfect balance is optimal.
    _case("all equal", lpr.problems.balanced(torch.ones(6, 3), 1), 6),
    # Negative scores under `=`: the least bad, -1 and -2.
    _case("all negative", lpr.problems.token_choice([[-1, -5], [-2, -3]], 1), -3, [0, 0]),
    # Negative scores under `<=`: best to do nothing.
    _case("do nothing", lpr.RoutingProblem([[-1.0, -5.0]], tokens=at_most(1)), 0),
    # A floor of one on expert 1 costs 9 - 2 = 7, and so would one more: a negative price.
    _case(
        "a floor on an expert",
        lpr.RoutingProblem([[9, 2], [9, 2]], tokens=exactly(1), experts=between([0, 1], [2, 2])),
        11,
        [0, -7],
    ),
    # One sequence may take two pairs in all: 7 and 6 of the first, 1 of the second.
    _case(
        "a budget for a sequence",
        lpr.RoutingProblem(
            [[7, 6], [5, 4], [1, 0]],
            tokens=at_most(2),
            token_groups=[lpr.Group([0, 1], at_most(2), "first sequence")],
        ),
        14,
    ),
    # A device with two experts has room for one pair: 9 from device A, 3 and 2 from device B.
    _case(
        "a device with little room",
        lpr.RoutingProblem(
            [[9, 8, 3], [7, 6, 2]],
            tokens=at_most(2),
            expert_groups=lpr.groups_by([0, 0, 1], at_most([1, 2])),
        ),
        14,
    ),
    # Half a pair may be taken: 5 + 4 / 2. Not integral, and said to be so.
    _case("half a pair", lpr.RoutingProblem([[5, 4]], total=at_most(1.5)), 7),
    # Three crossing pairs of experts, each with room for one: the LP takes half of all three.
    _case(
        "crossing groups",
        lpr.RoutingProblem(
            [[2, 2, 2]],
            expert_groups=[([0, 1], at_most(1)), ([1, 2], at_most(1)), ([0, 2], at_most(1))],
        ),
        3,
    ),
    # Memory for four: expert 0 needs two a token, expert 1 one. Token 1 goes to expert 1, half of
    # token 2 to expert 0: 9 + 6 + 7 / 2. A unit of memory is worth the other half token's 7 / 2.
    _case(
        "a row of weights",
        lpr.RoutingProblem([[9, 5], [8, 6], [7, 1]], tokens=at_most(1), rows=[([2, 1], -INF, 4)]),
        18.5,
    ),
    # Loads that differ by nothing: somebody must go to expert 1, token 1 loses least. 5 + 1.
    _case(
        "a row of differences",
        lpr.RoutingProblem([[5, 1], [4, 1]], tokens=exactly(1), rows={"even": ([1, -1], 0, 0)}),
        6,
    ),
    # Token 0 weighs 2 at expert 1, and 1 is wanted: half of it goes there, 5 / 2 + 1 / 2, and
    # token 1 takes its best: 4.
    _case(
        "a row that wants",
        lpr.RoutingProblem([[5, 1], [4, 2]], tokens=exactly(1), rows=[([[0, 2], [0, 0]], 1, INF)]),
        7,
    ),
    # Weights below nothing: at least two pairs at expert 1, said as at most -2.
    _case(
        "a row of negative weights",
        lpr.RoutingProblem([[5, 1], [4, 2], [9, 8]], tokens=exactly(1), rows=[([0, -1], -INF, -2)]),
        15,
    ),
    # One token, one expert.
    _case("smallest", lpr.problems.balanced([[3.0]], 1), 3),
    # No bounds at all: every positive score.
    _case("free", lpr.RoutingProblem([[3.0, -1.0], [2.0, 0.5]]), 5.5),
    # Eight tokens want two each, four experts have three each: 16 against 12.
    _impossible(
        "too few slots",
        lpr.RoutingProblem(torch.ones(8, 4), tokens=exactly(2), experts=at_most(3)),
    ),
    # Experts ask for more tokens than exist.
    _impossible("too few tokens", lpr.RoutingProblem([[1.0], [2.0]], experts=exactly(3))),
    # Only three of six tokens may go to expert 1, which asks for four.
    _impossible(
        "a starved expert",
        lpr.RoutingProblem(
            [[1, 1]] * 3 + [[1, -INF]] * 3, tokens=exactly(1), experts=between([0, 4], [6, 6])
        ),
    ),
    # The budget is below what the tokens must take.
    _impossible(
        "a short budget",
        lpr.RoutingProblem(torch.ones(5, 3), tokens=at_least(1), total=at_most(4)),
    ),
    # Two units of memory each, three tokens, memory for four.
    _impossible(
        "too little memory",
        lpr.RoutingProblem(torch.ones(3, 2), tokens=exactly(1), rows={"memory": ([2, 2], 0, 4)}),
    ),
    # Every pair weighs -1 and the sum must be at most -3, which two tokens cannot reach.
    _impossible(
        "a row out of reach",
        lpr.RoutingProblem(torch.ones(2, 2), tokens=at_most(1), rows=[([[-1.0]], -INF, -3)]),
    ),
    # Two rows that want opposite things.
    _impossible(
        "rows that clash",
        lpr.RoutingProblem(torch.ones(2, 2), rows=[([1, -1], 1, INF), ([-1, 1], 0, INF)]),
    ),
    # A sequence must take more than its tokens may.
    _impossible(
        "a greedy sequence",
        lpr.RoutingProblem(
            torch.ones(4, 3), tokens=at_most(1), token_groups=[([0, 1], at_least(3))]
        ),
    ),
]
FEASIBLE = [case for case in CASES if case.status is lpr.Status.OPTIMAL]
INFEASIBLE = [case for case in CASES if case.status is lpr.Status.INFEASIBLE]
