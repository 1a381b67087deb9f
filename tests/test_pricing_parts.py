"""The parts of Pricing, each against a slow definition of what it should find."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import at_least, at_most, between, exactly
from lp_routing.pricing.box_lp import _best_responses
from lp_routing.pricing.clearing import Lines, _middle
from lp_routing.pricing.narrowing import tick
from lp_routing.pricing.priced import priced_constraints, to_prices, to_vector
from lp_routing.pricing.rows import NEVER, everything, joined, nobody, rows_of
from lp_routing.pricing.screen import screen
from lp_routing.solvers.base import SolverStatus
from lp_routing.solvers.highs import BASIC, UPPER, HiGHS
from tests.strategies import prices_for, problems
from tests.test_hard_cases import integers, skewed

INF = float("inf")
SHAPES = st.tuples(st.integers(1, 60), st.integers(0, 2**32 - 1))


# --- clearing


def dual_of_one(price, offers, weights, lower, upper):
    """What a market costs at a price: what buyers gain, and the price of its bounds."""
    gained = float((weights * np.maximum(offers - price, 0)).sum())
    return gained + (upper * price if price > 0 else lower * price if price < 0 else 0.0)


@pytest.mark.parametrize("weighted", [False, True])
@given(SHAPES)
@settings(max_examples=60)
def test_no_price_is_better_for_a_market_than_where_it_clears(weighted, drawn):
    count, seed = drawn
    random = np.random.default_rng(seed)
    label = random.integers(0, 5, count)  # list 4 belongs to none, others may be empty
    offers = random.integers(-4, 5, count) / 2  # many ties, some below zero
    weights = random.integers(1, 4, count).astype(float) if weighted else np.ones(count)
    there = np.bincount(label, weights, 5)[:4]
    lower = np.floor(there * random.choice([0, 0, 0.5, 1], 4))
    upper = lower + random.choice([0, 1, 3, INF], 4)
    found = Lines(label, 4).clear(offers, lower, upper, weights if weighted else None)
    for line in np.flatnonzero(there):
        mine = label == line
        market = offers[mine], weights[mine], lower[line], upper[line]
        best = min(dual_of_one(price, *market) for price in {0.0, *offers[mine]})
        assert dual_of_one(found[line], *market) <= best + 1e-12
        assert found[line] >= 0 or lower[line] > 0  # a sign that the bounds allow


def test_a_row_that_may_stay_empty_pays_nothing_for_what_it_does_not_want():
    # both pairs would lose, and nothing must be taken: a slot of this row is worth 0, not -1
    cleared = Lines(np.array([0, 0]), 1).clear(
        np.array([-1.0, -2.0]), np.array([0.0]), np.array([2.0]), None
    )
    assert cleared.tolist() == [0]


@pytest.mark.parametrize("keep", [False, True])
@given(SHAPES)
def test_the_middle_lies_between_the_last_that_fits_and_the_first_that_does_not(keep, drawn):
    count, seed = drawn
    random = np.random.default_rng(seed)
    ranked = np.sort(random.normal(size=(3, count)))[:, ::-1].copy()
    ranked[1, count // 2 :] = NEVER  # a list that is shorter
    weights = random.integers(1, 4, (3, count)).astype(float)
    units = random.integers(1, 2 * count + 2, 3).astype(float)
    found = _middle(ranked, units, np.cumsum(weights, 1), keep=keep)
    for offers, weight, room, price in zip(ranked, weights, units, found, strict=True):
        sold, inside = 0.0, NEVER
        for offer, wants in zip(offers, weight, strict=True):
            if offer == NEVER or sold + wants > room:
                break
            sold, inside = sold + wants, offer
        else:
            offer = NEVER
        if offer == NEVER:  # all fit
            listed = offers[offers > NEVER]
            assert price == (NEVER if not keep else listed.min(initial=INF) if len(listed) else 0)
        else:  # one that fits in part is both the last that fits and the first that does not
            last = offer if sold < room else inside
            assert price == (last + offer) / 2


@given(problems())
def test_markets_that_clear_at_once_share_no_pair(problem):
    priced, _ = priced_constraints(problem, 1.0, 100.0)
    sets = priced.disjoint
    assert sorted(np.concatenate([[], *sets]).tolist()) == list(range(len(priced)))
    for rows in sets:
        counted = priced.incidence[:, rows].sum(1)
        on_experts, on_places = counted[: problem.E], counted[problem.E :]
        assert float(on_experts.max() + (on_places.max() if len(on_places) else 0)) <= 1


# --- constraints as vectors


def test_nested_groups_are_counted_by_all_that_contain_them():
    # token 0 lies in the pair and in the half, token 2 in the half alone, token 3 in neither;
    # places are the pair with the half, the half, and no group at all
    problem = lpr.RoutingProblem(
        torch.ones(4, 3),
        experts=at_most(3),
        total=between(1, 9),
        token_groups=[([0, 1], at_most(2)), ([0, 1, 2], at_least(1))],
        expert_groups=[([0, 1, 2], at_most(8)), ([2], exactly(2))],
    )
    priced, place = priced_constraints(problem, 1.0, 100.0)
    assert place.tolist() == [0, 0, 1, 2]
    assert priced.kinds == (("expert", 3), ("total", 1), ("token_group", 2), ("expert_group", 2))
    assert priced.incidence.tolist() == [
        [1, 0, 0, 1, 0, 0, 1, 0],  # expert 0: itself, the total, all experts
        [0, 1, 0, 1, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 0, 1, 1],  # expert 2 is a group of its own as well
        [0, 0, 0, 0, 1, 1, 0, 0],  # the pair: itself and the half
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert priced.lower.tolist() == [0, 0, 0, 1, 0, 1, 0, 2]
    assert priced.upper.tolist() == [3, 3, 3, 9, 2, INF, 8, 2]
    assert (priced.counts_at_least(), priced.counts_at_most()) == (1, 9)


@given(problems(), st.data())
def test_incidence_counts_and_prices_are_those_of_the_families(problem, data):
    priced, place = priced_constraints(problem, 1.0, 100.0)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = torch.as_tensor(random.integers(0, 3, problem.scores.shape)).double()
    load = [x.sum(0)]
    if place is not None:
        places = len(priced.incidence) - problem.E
        load.append(torch.zeros(places).double().index_add(0, place, x.sum(1)))
    families = [family for family in problem.families if family.kind != "token"]
    counted = [family.activity(x.sum(1), x.sum(0)) for family in families]
    assert priced.counts(torch.cat(load)).tolist() == torch.cat([*counted, x.new_zeros(0)]).tolist()
    prices = data.draw(prices_for(problem))
    vector = to_vector(problem, priced, prices)
    again = to_prices(problem, priced, vector)
    assert lpr.dual_bound(problem, again) == lpr.dual_bound(problem, prices)


# --- screening


def wrongly_closed(problem, x, contest, prices):
    """How many closed pairs differ from the best response of their row; each row one token."""
    on_experts = prices[None].double()
    earned = problem.scores.double() - on_experts
    must, may = (int(side.clamp(max=problem.E)[0]) for side in problem.token_bounds())
    ranked = torch.topk(earned, min(may + 1, problem.E), dim=1).values
    last = ranked[:, may - 1 : may]
    beyond = ranked[:, may : may + 1] if may < problem.E else torch.full_like(last, NEVER)
    is_open = torch.zeros(problem.scores.shape, dtype=torch.bool)
    row, rank = (contest.value > NEVER).nonzero().T
    is_open[contest.index[row], contest.expert[row, rank]] = True
    wanted, unwanted = earned > beyond, earned < last
    if must < may:
        wanted, unwanted = wanted & (earned > 0), unwanted | (earned < 0)
    surely, never = x & ~is_open, ~x & ~is_open
    return int((surely & unwanted).sum() + (never & wanted).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [exactly(2), at_most(2), exactly(1), at_most(8)], ids=str)
@pytest.mark.parametrize("scores", [skewed, integers], ids=["skewed", "ties"])
def test_closed_pairs_are_best_responses_throughout_the_box(scores, tokens, dtype):
    # 64 experts: rows are closed by their few best, by short lists, and by all, whichever does
    problem = lpr.RoutingProblem(scores(600, 64), tokens=tokens, experts=at_most(50))
    priced, place = priced_constraints(problem, 1.0, 100.0)
    rows, random = rows_of(problem, place), np.random.default_rng(0)
    for width in (0.0, 1e-3, 0.1, 2.0):
        low = random.uniform(0, 0.3, 64) * (random.random(64) < 0.5)
        high = low + width * random.random(64)
        x = torch.zeros(600, 64, dtype=torch.bool)
        contest, load, _ = screen(rows, priced, low, high, x, dtype=dtype)
        assert load.tolist() == x.sum(0).tolist()
        for _ in range(5):
            prices = torch.as_tensor(random.uniform(low, high))
            assert wrongly_closed(problem, x, contest, prices) == 0
        if width == 1e-3 and scores is skewed:
            assert contest.pairs < 0.2 * problem.scores.numel()
            # prices that lie outside the box show: the check can fail
            elsewhere = torch.as_tensor(high + 2 * random.random(64))
            assert wrongly_closed(problem, x, contest, elsewhere)


@pytest.mark.parametrize("tokens", [exactly(2), at_most(2), between(1, 3)], ids=str)
def test_screening_again_in_a_smaller_box_is_screening_once(tokens):
    groups = lpr.groups_by([i % 3 for i in range(500)], at_most(300))
    problem = lpr.RoutingProblem(
        skewed(500, 12), tokens=tokens, experts=at_most(90), token_groups=groups
    )
    priced, place = priced_constraints(problem, 1.0, 100.0)
    low, high = np.zeros(len(priced)), np.full(len(priced), 0.05)
    inner, outer = low + 0.02, high - 0.02
    direct, twice = (torch.zeros(500, 12, dtype=torch.bool) for _ in range(2))
    contest, load, _ = screen(rows_of(problem, place), priced, inner, outer, direct)
    first, before, _ = screen(rows_of(problem, place), priced, low, high, twice)
    again, after, closed = screen(first, priced, inner, outer)
    closed.write(twice)
    assert torch.equal(direct, twice)
    assert torch.equal(load, before + after)
    assert (contest.pairs, len(contest)) == (again.pairs, len(again))
    assert again.pairs < first.pairs < problem.scores.numel()


def test_contests_of_different_widths_stand_one_below_the_other():
    problem = lpr.RoutingProblem([[3.0, 1.0], [-INF, 2.0]], tokens=at_most(1))
    wide = everything(rows_of(problem, None))
    assert (wide.may.tolist(), wide.pairs) == ([1, 1], 3)
    both = joined([nobody(grouped=False), wide])
    assert both.value.tolist() == [[3, 1], [NEVER, 2]]
    assert len(nobody(grouped=True)) == 0


# --- ties


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        (torch.rand(64, 8, generator=torch.Generator().manual_seed(0)), 0),  # all differ
        (integers(64, 8), 1),
        (integers(64, 8) / 4, 0.25),
        (torch.full((9, 4), 7.0), 7),  # all are one number: its size
        (torch.full((9, 4), -7.0), 7),
        (torch.zeros(9, 4), 1),
        (torch.full((3, 4), -INF), 0),  # nothing to take
        (torch.tensor([[1.0, 1.0, 5.0, 5.0]] * 9), 4),
    ],
    ids=["none", "integers", "quarters", "sevens", "minus", "zeros", "forbidden", "two"],
)
def test_noise_is_as_large_as_the_step_between_scores_that_are_tied(scores, step):
    rows = rows_of(lpr.RoutingProblem(scores), None)
    assert tick(rows) == step


# --- box LP


@pytest.mark.parametrize(
    ("earned", "must", "may", "columns", "row_is_basic"),
    [
        ([3, 1, 2], 2, 2, [UPPER, 0, BASIC], False),  # the last of its two sets the token's price
        ([3, -1, 2], 0, 2, [UPPER, 0, BASIC], False),  # gains on all it may take
        ([3, -1, -2], 0, 2, [UPPER, 0, 0], True),  # stops where it gains nothing
        ([-3, -1, -2], 1, 2, [0, BASIC, 0], False),  # takes what it must at a loss
        ([-3, -1, -2], 0, 2, [0, 0, 0], True),
        ([3, 1, 2], 1.5, 1.5, [UPPER, 0, BASIC], False),  # 1.5 of 1 unit a pair
    ],
)
def test_simplex_starts_from_what_a_row_wants_at_the_prices_in_the_middle(
    earned, must, may, columns, row_is_basic
):
    row = np.array([0, 1, 1, 1])  # beside a row with one pair
    earned = np.array([5.0, *earned])
    found = _best_responses(earned, row, np.array([1.0, must]), np.array([1.0, may]))
    assert found.columns.tolist() == [BASIC, *columns]
    assert (found.rows == BASIC).tolist() == [False, row_is_basic]


@given(problems())
@settings(max_examples=60)
def test_there_are_as_many_basic_entries_as_rows(problem):
    rows = rows_of(problem, None)
    contest = everything(rows)
    row, rank = np.nonzero(contest.value.numpy() > NEVER)
    must, may = (side.numpy() / contest.units.numpy() for side in (contest.must, contest.may))
    found = _best_responses(contest.value.numpy()[row, rank], row, must, may)
    assert (found.columns == BASIC).sum() + (found.rows == BASIC).sum() == len(contest)


def test_where_simplex_fails_from_that_start_it_starts_from_scratch(monkeypatch):
    run, starts = HiGHS.run, []

    def stalls(highs, program, *, integral=False, start=None):
        starts.append(start is not None)
        found = run(highs, program, integral=integral, start=start)
        return found if start is None else found._replace(outcome=SolverStatus.FAILED, columns=None)

    monkeypatch.setattr(HiGHS, "run", stalls)
    scores = skewed(512, 16)
    problem = lpr.RoutingProblem(scores, tokens=exactly(2), experts=at_most(64))
    assert lpr.solve(problem, lpr.Pricing()).status is lpr.Status.OPTIMAL
    assert starts[:2] == [True, False]
