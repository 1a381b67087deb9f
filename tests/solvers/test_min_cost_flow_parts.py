"""The parts of `MinCostFlow`, each on a case worked by hand or against NumPy."""

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing.solvers.min_cost_flow import MinCostFlow, cpu, cut_prices, newton, solver
from lp_routing.solvers.min_cost_flow.exchange import DONE, NO_PATH, OUT_OF_STEPS, exchange
from lp_routing.solvers.min_cost_flow.rows import NONE
from lp_routing.solvers.min_cost_flow.search import OpenRows, Windows, initial_state
from lp_routing.solvers.min_cost_flow.tree import BELOW, BESIDE, NATURAL, OWN, prices_of

INF = float("inf")


def tree_of(problem):
    return solver.flow_of(problem).tree


# ---- the tree of bounds

# Three tokens, one unit each; two fit into expert 0, so at least one goes to expert 1.
THREE = lpr.RoutingProblem(
    [[5, 1], [4, 2], [3, 0]], tokens=lpr.exactly(1), experts=lpr.at_most([2, 3])
)

# Four tokens, one unit each; the group's children take 2 together, less than its own 3.
GROUPED = lpr.RoutingProblem(
    torch.rand(4, 3),
    tokens=lpr.exactly(1),
    experts=lpr.at_most([1, 1, 4]),
    expert_groups=[lpr.Group([0, 1], lpr.at_most(3))],
)

# Two tokens that may take one each, together at most one: at least one unit is left empty.
TOKEN_GROUP = lpr.RoutingProblem(
    [[3], [2]], tokens=lpr.at_most(1), token_groups=[lpr.Group([0, 1], lpr.at_most(1))]
)


def test_what_siblings_leave_is_a_bound_beside():
    tree = tree_of(THREE)  # nodes: two experts, the null, the root
    assert tree.parent.tolist() == [3, 3, 3, -1]
    assert tree.lower.tolist() == [0, 1, 0, 3]  # 3 units less the 2 that expert 0 can take
    assert tree.upper.tolist() == [2, 3, 0, 3]  # nothing may be left empty
    assert tree.low_from[:3].tolist() == [NATURAL, BESIDE, NATURAL]
    assert tree.high_from[:3].tolist() == [OWN, OWN, NATURAL]


def test_what_children_take_is_a_bound_below():
    tree = tree_of(GROUPED)  # nodes: three experts, the null, the group, the root
    assert tree.parent.tolist() == [4, 4, 5, 5, 5, -1]
    assert tree.upper.tolist() == [1, 1, 4, 0, 2, 4]
    assert tree.lower.tolist() == [0, 0, 2, 0, 0, 4]
    assert tree.high_from[:5].tolist() == [OWN, OWN, OWN, NATURAL, BELOW]
    assert tree.low_from[2] == BESIDE


def test_a_group_of_tokens_bounds_what_is_left_empty():
    tree = tree_of(TOKEN_GROUP)  # nodes: expert, the group's null, the other null, group, root
    assert tree.parent.tolist() == [4, 3, 4, 4, -1]
    assert tree.lower.tolist() == [0, 1, 0, 1, 2]
    assert tree.upper.tolist() == [1, 2, 0, 2, 2]
    assert tree.low_from[1] == BESIDE
    assert tree.low_from[3] == OWN
    assert tree.high_from[0] == BESIDE


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        ({"experts": lpr.at_least(2)}, False),  # 4 of 3 units
        ({"experts": lpr.at_most(1)}, False),  # 3 units for 2 slots
        ({"experts": lpr.at_least([2, 1])}, True),
        ({"experts": lpr.at_least([0, 2]), "total": lpr.at_most(2)}, False),  # all 3 are taken
        ({"expert_groups": [lpr.Group([0, 1], lpr.at_most(2))]}, False),
        ({"token_groups": [lpr.Group([0, 1], lpr.at_most(1))]}, False),
        ({"token_groups": [lpr.Group([0, 1], lpr.at_most(2))]}, True),
    ],
)
def test_bounds_that_contradict_each_other_have_no_tree(bounds, fits):
    problem = lpr.RoutingProblem(torch.zeros(3, 2), tokens=lpr.exactly(1), **bounds)
    assert (solver.flow_of(problem) is not None) == fits


def test_the_price_of_a_bound_beside_is_paid_by_the_siblings():
    # "expert 1 takes at least 1", at 2 a unit, is "expert 0 takes at most 2"
    prices = prices_of(THREE, tree_of(THREE), np.array([0.0, -2.0, 0.0]))
    assert prices.experts.tolist() == [2, 0]
    # 2 is a right price: token 1 loses 2 by moving, the least of 4, 2 and 3
    x = torch.tensor([[1, 0], [0, 1], [1, 0]]).bool()
    assert lpr.certify(THREE, x, prices, exact=True).gap == 0


def test_the_price_of_a_bound_below_is_paid_by_the_children():
    prices = prices_of(GROUPED, tree_of(GROUPED), np.array([0.0, 0.5, 0.0, 0.0, 3.0]))
    assert prices.experts.tolist() == [3, 3.5, 0]
    assert prices.expert_groups.tolist() == [0]


def test_the_price_of_empty_places_is_that_of_the_group_with_the_other_sign():
    prices = prices_of(TOKEN_GROUP, tree_of(TOKEN_GROUP), np.array([0.0, 0.0, 0.0, -2.0]))
    assert prices.token_groups.tolist() == [2]
    assert lpr.certify(TOKEN_GROUP, [[1], [0]], prices, exact=True).gap == 0


def test_a_price_that_no_bound_stands_for_is_dropped():
    problem = lpr.RoutingProblem([[1, 1]], tokens=lpr.exactly(1), experts=lpr.at_most(9))
    prices = prices_of(problem, tree_of(problem), np.array([4.0, 0.0, 0.0]))
    assert prices.experts.tolist() == [0, 0]


def test_a_price_passes_through_a_group_that_all_units_reach():
    # expert 0 takes exactly one of two units, so expert 1 takes one; group and total take both,
    # which is less than they may: no price is theirs, whatever it moves up or down the tree
    problem = lpr.RoutingProblem(
        [[0, 3], [0, 2]],
        tokens=lpr.exactly(1),
        experts=lpr.between([1, 0], [1, 2]),
        expert_groups=[lpr.Group([0, 1], lpr.at_most(10))],
        total=lpr.at_most(8),
    )
    solution = lpr.solve(problem, MinCostFlow())
    assert solution.prices.expert_groups.tolist() == [0]
    assert solution.certificate.gap == 0


def test_prices_add_up_along_the_way_and_flows_do_too():
    tree = tree_of(GROUPED)
    price = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert tree.leaf_prices(price).tolist() == [17, 18, 4, 8]
    assert tree.own(np.array([17.0, 18.0, 4.0, 8.0, 16.0, 0.0])).tolist() == price.tolist()
    assert tree.through(np.array([1, 2, 3, 4])).tolist() == [1, 2, 3, 4, 3]
    above = tree.above()
    assert (above @ price).tolist() == tree.leaf_prices(price).tolist()
    assert above.sum() == 6  # experts 0 and 1 lie below the group too


def test_what_is_too_much_depends_on_the_sign_of_the_price():
    tree = tree_of(THREE)
    load = np.array([3, 0, 0])  # bounds 0..2 and 1..3
    assert newton.excess_at(tree, np.zeros(3), load, 3).tolist() == [1, -1, 0]
    assert newton.excess_at(tree, np.array([1.0, 1, 0]), load, 3).tolist() == [1, -3, 0]
    assert newton.excess_at(tree, np.array([-1.0, -1, 0]), load, 3).tolist() == [3, -1, 0]


@pytest.mark.parametrize("unit", [1.0, 1e-200])
def test_a_price_that_would_change_its_sign_stops_at_0(unit):
    tree = tree_of(THREE)
    before, after = np.array([2.0, -1.0, 1.0]), np.array([-1.0, -3.0, -1.0])
    stopped = newton._signed(tree, before * unit, after * unit)
    assert stopped.tolist() == [0, -3 * unit, -unit]  # the null's bounds are equal: no jump


def test_flows_begin_at_the_bounds_that_prices_stand_for():
    tree = tree_of(THREE)
    state = initial_state(tree, np.array([1.0, 0.0, 0.0]), np.array([1, 2, 0]))
    assert state.flow[:3].tolist() == [2, 2, 0]  # full, as its price says; what arrives; nothing
    assert state.excess.tolist() == [-1, 0, 0, 1]
    assert state.excess.sum() == 0


def test_flows_without_a_price_begin_within_their_bounds():
    # three units arrive at expert 0, which takes 2; none at expert 1, which must have 1
    state = initial_state(tree_of(THREE), np.zeros(3), np.array([3, 0, 0]))
    assert state.flow[:3].tolist() == [2, 1, 0]
    assert state.excess.tolist() == [1, -1, 0, 0]


# ---- prices


ONE_EACH = np.empty(0, np.int64)


def test_a_level_lies_half_way_between_two_values():
    values = np.array([5.0, 1, 4, 2])
    assert newton.level(values, ONE_EACH, 2.0) == 3  # 1 2 | 4 5
    assert newton.level(values, ONE_EACH, 0.0) == 1
    assert newton.level(values, ONE_EACH, 2.5) == 4
    assert newton.level(values, ONE_EACH, 9.0) == 5
    assert newton.level(values[:1], ONE_EACH, 1.0) == 5
    assert values.tolist() == [5, 1, 4, 2]


def test_a_level_of_weights_lies_where_the_weight_is():
    values, weight = np.array([5.0, 1, 4, 2]), np.array([1, 3, 1, 2])  # 1 1 1 2 2 4 5
    assert [newton.level(values, weight, under) for under in (1.0, 3, 4, 5, 5.5, 6)] == [
        1, 1.5, 2, 3, 4, 4.5
    ]  # fmt: skip
    assert weight.tolist() == [1, 3, 1, 2]


@pytest.mark.parametrize("seed", range(200))
def test_levels_are_those_of_sorted_values(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    values = rng.integers(0, int(rng.choice([2, 5, 1000])), n).astype(rng.choice(["f4", "f8"]))
    weight = rng.integers(1, 6, n)
    at = int(rng.integers(1, n))
    ranked = np.sort(values)
    assert newton.level(values, ONE_EACH, float(at)) == (ranked[at - 1] + ranked[at]) / 2
    each = np.sort(np.repeat(values, weight))  # a weight of 3 is a value three times
    under = int(rng.integers(1, len(each)))
    middle = (each[under - 1] + each[under]) / 2
    assert newton.level(values, weight, float(under)) == middle
    inside = newton.level(values, weight, under + 0.5)
    assert inside == each[under]  # within one unit of weight


@pytest.mark.parametrize("odd", [-np.inf, np.inf, np.nan])
def test_a_level_among_values_that_are_no_numbers_ends(odd):
    values = np.array([odd, 1.0, odd, 2.0])
    for under in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0):
        newton.level(values, ONE_EACH, under)
        newton.level(values, np.array([1, 2, 3, 4]), under)


def test_a_price_clears_an_expert_from_above_and_from_below():
    # bids 5 4 1 and -3: of two the price lies between 4 and 1; three at least are had below 0
    bid = np.array([[5.0, -3, 4, 1]] * 3)
    least, most = np.array([0.0, 3, 4]), np.array([2.0, 4, 4])
    prices = newton.clearing_prices(bid - [[0], [2], [0]], ONE_EACH, 4.0, least, most)
    assert prices.tolist() == [2.5, -3, 0]
    weight = np.array([1, 1, 2, 1])  # the bid of 4 counts twice: three units lie above
    assert newton.clearing_prices(bid[:1], weight, 5.0, least, most)[0] == 4


def test_distances_are_those_of_the_nearest_bids():
    bid, price = np.array([[5.0, -3, 4, 1]]), np.array([2.0])  # 3 5 2 1 away
    assert newton.distances(bid, price, ONE_EACH, 4.0, np.array([1.5]))[0] == 2
    assert newton.distances(bid, price, ONE_EACH, 4.0, np.array([9.0]))[0] == 2.5  # half of them


def test_a_diagonal_system_is_solved_at_once():
    x = newton.conjugate_gradients(np.diag([2.0, 4.0]), np.array([2.0, 8.0]), 1e-8)
    assert x.tolist() == [1, 2]
    assert newton.conjugate_gradients(np.eye(2), np.zeros(2), 1e-8).tolist() == [0, 0]


@pytest.mark.parametrize("n", [1, 2, 16, 64])
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_conjugate_gradients_solve_a_damped_graph_to_four_digits(n, spread):
    rng = np.random.default_rng(n)
    between = np.exp(spread * rng.normal(size=(n, n)))
    between += between.T
    system = np.diag(between.sum(1)) - between
    system += np.diag(0.5 * system.diagonal() + 1e-3)  # as Newton's steps are damped
    right = rng.normal(size=n)
    truth = np.linalg.solve(system, right)
    wrong = newton.conjugate_gradients(system, right, 1e-8) - truth
    assert wrong @ system @ wrong <= 1e-6 * (truth @ system @ truth)


# ---- exchanges


def exchanged(scores, x, price, parent, lower, upper, flow, excess, dtype=np.int64, steps=100):
    """`exchange` on rows whose pairs are all open, but for -inf; arrays as they are after it."""
    scores, x = np.array(scores, float), np.array(x)
    allowed = np.isfinite(scores)
    amount = x[allowed].astype(np.int64)
    first = np.append(0, allowed.sum(1).cumsum())
    flow, excess = np.array(flow), np.array(excess)
    price, counts = np.array(price, dtype), np.zeros(4, np.int64)
    never = 1 << 60 if dtype is np.int64 else np.inf
    status, reached = exchange(
        first, np.nonzero(allowed)[1].astype(np.int16), scores[allowed].astype(dtype), amount,
        np.ones_like(amount), price, flow, excess, np.array(parent), np.array(lower),
        np.array(upper), 0, never, steps, counts,
    )  # fmt: skip
    x[allowed] = amount
    return (
        status,
        reached.tolist(),
        x.tolist(),
        price.tolist(),
        flow.tolist(),
        excess.tolist(),
        counts,
    )


def test_a_node_sends_no_less_than_its_lower_bound():
    # The root has 3 too many and expert 0 lacks 3, which it sends on: 2 of them it may keep, for it
    # must send 1. The third comes from expert 1, whose token changes to expert 0 at no cost.
    status, _, x, _, flow, excess, _ = exchanged(
        [[1, 1]], [[0, 1]], [0, 0, 0],
        [2, 2, -1], [1, 0, 1], [3, 3, 1], [3, 1, 0], [-3, 0, 3],
    )  # fmt: skip
    assert status == DONE
    assert (flow, excess) == ([1, 0, 0], [0, 0, 0])
    assert x == [[1, 0]]


def test_a_row_that_gave_a_unit_up_can_take_one_again():
    # Loads are to be 1, 1, 0 and 1. Row 0 holds experts 0 and 2 and cannot have 3, row 1 holds
    # expert 0 and can have 3 alone. Row 0 goes from 0 to 1, at no cost; then what expert 2 has too
    # much goes to 0 by row 0, which has no part in 0 any more, and on to 3 by row 1.
    status, _, x, *_ = exchanged(
        [[5, 5, 3, -INF], [5, -INF, -INF, 2]], [[1, 0, 1, 0], [1, 0, 0, 0]], [2, 2, 0, 0, 0],
        [4, 4, 4, 4, -1], [1, 1, 0, 1, 3], [1, 1, 0, 1, 3], [1, 1, 0, 1, 0], [1, -1, 1, -1, 0],
    )  # fmt: skip
    assert status == DONE
    assert x == [[1, 1, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_three_tokens_exchange_one_unit(dtype):
    # all want expert 0, which takes 2; moving to expert 1 costs 4, 2 and 3: token 1 moves
    status, _, x, price, flow, excess, counts = exchanged(
        [[5, 1], [4, 2], [3, 0]], [[1, 0], [1, 0], [1, 0]], [0, 0, 0],
        [2, 2, -1], [0, 0, 3], [2, 1, 3], [2, 0, 0], [1, 0, -1], dtype,
    )  # fmt: skip
    assert status == DONE
    assert x == [[1, 0], [0, 1], [1, 0]]
    assert price == [2, 0, 0]
    assert flow == [2, 1, 0]
    assert excess == [0, 0, 0]
    assert counts[[0, 2, 3]].tolist() == [1, 1, 1]  # paths found, moves along them, entries moved


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_a_path_of_two_moves_is_taken_where_it_is_cheaper(dtype):
    # token 0 must leave expert 0: to expert 2 it loses 5; to expert 1 it loses 1, and token 1,
    # which is there, loses 1 by giving way to it
    status, _, x, price, _, excess, counts = exchanged(
        [[5, 4, 0], [0, 3, 2]], [[1, 0, 0], [0, 1, 0]], [0, 0, 0, 0],
        [3, 3, 3, -1], [0, 0, 0, 2], [0, 1, 1, 2], [0, 1, 0, 0], [1, 0, 0, -1], dtype,
    )  # fmt: skip
    assert status == DONE
    assert x == [[0, 1, 0], [0, 0, 1]]
    assert price == [2, 1, 0, 0]
    assert excess == [0, 0, 0, 0]
    assert counts[[0, 2, 3]].tolist() == [1, 1, 2]


def test_a_lower_bound_is_filled_through_the_tree():
    # both tokens are on expert 0, which keeps one; expert 1 lacks one: token 1 loses less
    status, _, x, price, flow, _, _ = exchanged(
        [[7, 0], [6, 4]], [[1, 0], [1, 0]], [0, 0, 0],
        [2, 2, -1], [0, 1, 2], [2, 2, 2], [2, 1, 0], [0, -1, 1],
    )  # fmt: skip
    assert status == DONE
    assert x == [[1, 0], [0, 1]]
    assert price[0] - price[1] == 2
    assert flow == [1, 1, 0]


def test_moves_end_when_they_are_used_up():
    arguments = (
        np.zeros((4, 2)), [[1, 0]] * 4, [0, 0, 0],
        [2, 2, -1], [0, 0, 4], [2, 2, 4], [2, 0, 0], [2, 0, -2],
    )  # fmt: skip
    status, _, x, *_ = exchanged(*arguments, steps=1)
    assert status == OUT_OF_STEPS
    assert np.sum(x, 0).tolist() == [3, 1]
    status, _, x, *_ = exchanged(*arguments)
    assert status == DONE
    assert np.sum(x, 0).tolist() == [2, 2]


def test_where_no_path_leads_on_the_nodes_reached_are_a_cut():
    # tokens 0 and 1 fit on experts 0 and 1 alone, token 2 too; both take one: expert 2 is no help
    status, reached, *_ = exchanged(
        [[0, 0, -INF]] * 3, [[1, 0, 0], [0, 1, 0], [1, 0, 0]], [0, 0, 0, 0],
        [3, 3, 3, -1], [0, 0, 0, 3], [1, 1, 3, 3], [1, 1, 0, 0], [1, 0, 0, -1],
    )  # fmt: skip
    assert status == NO_PATH
    assert reached == [True, True, False, False]


def test_the_cut_is_a_proof():
    scores = [[0, 0, -INF]] * 3
    problem = lpr.RoutingProblem(scores, tokens=lpr.exactly(1), experts=lpr.at_most([1, 1, 3]))
    prices = cut_prices(problem)
    assert prices.experts.tolist() == [1, 1, 0]
    assert float(lpr.dual_bound(problem, prices)) == -1  # 3 tokens pay 1 each, 2 slots earn 1 each
    assert cut_prices(problem.with_scores(torch.zeros(3, 3))) is None


# ---- passes over the rows


def responded(scores, price, terms, leaves):
    """One pass of `Rows` that share one null, the last leaf."""
    terms = np.array([terms])
    found = solver.Rows(torch.tensor(scores), terms, np.array([leaves - 1], np.int16), leaves)
    found.turn = np.empty((len(scores), 2))
    found.respond(np.array(price, float))
    return found


def test_a_row_that_leaves_one_place_empty():
    # worth 4, 3 and 1, an empty place 3.5, two places: expert 0 and an empty one
    found = responded([[5.0, 3.0, 1.0]], [1, 0, 0, -3.5], (0, 2, 1), 4)
    assert found.best.tolist() == [[0, 1, 2]]
    assert found.taken.tolist() == [1]
    assert found.load.tolist() == [1, 0, 0, 1]
    assert found.edge.tolist() == [[0, 3, 1]]  # the null could take more, or give some up
    assert found.margin.tolist() == [[0.5, 0.5]]
    assert found.turn.tolist() == [[3.5, 3.5]]


def test_a_pair_worth_nothing_is_left_empty_unless_it_must_be_taken():
    assert responded([[0.0, 0.0]], [0, 0, 0], (0, 2, 1), 3).load.tolist() == [0, 0, 2]
    assert responded([[5.0, 0.0]], [0, 0, 0], (0, 2, 1), 3).load.tolist() == [1, 0, 1]
    assert responded([[0.0, 0.0]], [0, 0, 0], (1, 2, 1), 3).load.tolist() == [1, 0, 1]
    assert responded([[-1.0, -1.0]], [0, 0, 0], (2, 2, 1), 3).load.tolist() == [1, 1, 0]


def test_a_row_of_three_copies_with_four_units():
    # three go to the better expert, one to the other, which could take two more
    found = responded([[2.0, 5.0]], [0, 0, 0], (4, 4, 3), 3)
    assert found.best.tolist() == [[1, 0]]
    assert found.load.tolist() == [1, 3, 0]
    assert found.edge.tolist() == [[1, 0, NONE]]
    assert found.margin.tolist() == [[3, INF]]
    x, load = found.place(np.zeros(3), np.zeros(3, np.int64))
    assert x.tolist() == [[1, 3]]
    assert load.tolist() == [1, 3, 0]


def test_a_row_of_three_copies_that_may_take_fewer():
    # of 5 units 3 go to expert 0; expert 1 is worth less than an empty place
    found = responded([[2.0, -1.0]], [0, 0, 0], (1, 5, 3), 3)
    assert found.load.tolist() == [3, 0, 2]
    assert found.edge.tolist() == [[0, 2, 1]]
    assert found.margin.tolist() == [[2, 1]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_second_pass_finds_what_a_first_would(seed, ties):
    """Among equals the second pass may keep those of the first: worths are the same, not names."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (50, 7)).astype(float) if ties else rng.normal(size=(50, 7))
    terms = (int(rng.integers(0, 3)), int(rng.integers(3, 8)), int(rng.integers(1, 3)))
    warm = responded(scores, np.zeros(8), terms, 8)
    for _ in range(3):
        price = rng.integers(-2, 3, 8).astype(float)
        warm.respond(price)
        cold = responded(scores, price, terms, 8)
        worth = [np.take_along_axis(scores - price[:7], each.best, 1) for each in (warm, cold)]
        assert np.array_equal(*worth)
        for name in ("taken", "margin", "turn", *(() if ties else ("best", "load", "edge"))):
            assert np.array_equal(getattr(warm, name), getattr(cold, name)), name


def test_rows_that_do_not_mind_go_where_there_is_room():
    found = responded(np.ones((4, 2)), [0, 0, 0], (1, 1, 1), 3)
    assert found.load.tolist() == [4, 0, 0]
    x, load = found.place(np.zeros(3), np.array([1, 3, 0]))
    assert x.sum(0).tolist() == [1, 3]
    assert load.tolist() == [1, 3, 0]
    assert x.sum(1).tolist() == [1, 1, 1, 1]


def test_rows_that_hold_the_worse_expert_are_suboptimal():
    found = responded([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]], [0, 0, 0], (1, 1, 1), 3)
    x = torch.tensor([[1, 0], [0, 1], [0, 1]], dtype=torch.uint8)
    looked, wholly_open = np.zeros(3, np.uint8), np.full(3, 2, np.uint8)
    assert found.suboptimal(np.zeros(3), 1.0, looked, x, True).tolist() == [1]
    assert found.suboptimal(np.zeros(3), 0.5, looked, x, True).tolist() == []  # margins are 1
    assert found.suboptimal(np.zeros(3), 1.0, wholly_open, x, True).tolist() == []
    assert found.suboptimal(np.array([0.0, 1.0, 0.0]), 1.0, looked, x, True).tolist() == [1]
    assert found.suboptimal(np.array([1.0, 0.0, 0.0]), 1.0, looked, x, True).tolist() == []


def test_rows_of_half_precision_are_read_in_blocks(monkeypatch):
    """Two blocks of two rows: three rows prefer expert 0; the last one holds the worse expert."""
    monkeypatch.setattr(cpu, "BLOCK", 4)
    scores = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [2.0, 1.0]], dtype=torch.bfloat16)
    found = solver.Rows(scores, np.array([[1, 1, 1]]), np.array([2], np.int16), 3)
    assert [rows for rows, _ in found.blocks()] == [slice(0, 2), slice(2, 4)]
    assert found.respond(np.zeros(3)).tolist() == [3, 1, 0]
    x = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.uint8)
    assert found.suboptimal(np.zeros(3), 1.0, np.zeros(4, np.uint8), x, True).tolist() == [3]


def test_an_expert_that_some_copies_take_can_take_the_others():
    # four units of three copies; expert 1 is better and holds one: two more belong there
    found = responded([[2.0, 5.0]], [0, 0, 0], (4, 4, 3), 3)
    shut = np.zeros(1, np.uint8)
    assert found.suboptimal(np.zeros(3), 9.0, shut, torch.tensor([[3, 1]]), True).tolist() == [0]
    assert found.suboptimal(np.zeros(3), 9.0, shut, torch.tensor([[1, 3]]), True).tolist() == []


def test_a_row_that_must_have_an_expert_is_optimal_with_one_that_costs():
    # -1 is the better of two, and none is not allowed; where it is, none is better
    for must, wrong in ((1, []), (0, [0])):
        found = responded([[-1.0, -2.0]], [0, 0, 0], (must, 1, 1), 3)
        x, shut = torch.tensor([[1, 0]], dtype=torch.uint8), np.zeros(1, np.uint8)
        assert found.suboptimal(np.zeros(3), 9.0, shut, x, True).tolist() == wrong


def test_the_entries_of_a_row_hold_no_more_than_it_may_leave_empty():
    # two places, one of which must be filled: one unit may idle, and does
    found = responded([[2.0, -1.0]], [0, 0, 0], (1, 2, 1), 3)
    x, open_wide = torch.tensor([[1, 0]], dtype=torch.uint8), np.full(1, 2, np.uint8)
    read = found.read(np.arange(1), x, open_wide)
    some = OpenRows(read, np.zeros(3), Windows(np.zeros(3), np.zeros(3)))
    assert some.leaf.tolist() == [0, 1, 2]
    assert some.amount.tolist() == [1, 0, 1]
    assert some.cap.tolist() == [1, 1, 1]


def test_units_that_would_change_are_counted_within_the_wider_width():
    found = responded([[2.0, 1.0], [5.0, 1.0]], [0, 0, 0], (1, 1, 1), 3)  # margins 1 and 4
    assert found.curvature(np.array([2.0, 1.0, 1.0]))[0, 1] == 1 / 4  # one of them, 2 either way
    assert found.curvature(np.array([1.0, 8.0, 1.0]))[0, 1] == 2 / 16
    assert found.curvature(np.array([0.5, 0.5, 9.0])).sum() == 0


def test_the_closest_rows_of_a_leaf_are_opened():
    scores = [[float(size), 0.0] for size in (1, 2, 4, 8, 16)]  # margins
    opened, window = responded(scores, [0, 0, 0], (1, 1, 1), 3).closest(2)
    assert opened.tolist() == [1, 1, 0, 0, 0]
    assert 2 < window[0] <= 4


def test_rows_without_a_choice_are_not_opened():
    scores = [[5.0, -np.inf], [2.0, 0.0], [1.0, 0.0]]  # no margin, 2 and 1
    opened, _ = responded(scores, [0, 0, 0], (1, 1, 1), 3).closest(1)
    assert opened.tolist() == [0, 0, 1]
