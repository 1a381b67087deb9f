"""The best experts of few groups: dynamic programming, LP, HiGHS and brute force; the proxy."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.extensions import group_limited as group_limit
from lp_routing.extensions.group_limited import (
    best_in_groups,
    of_proxy,
    relaxed_in_groups,
    searched_in_groups,
)
from lp_routing.solvers.highs import NothingFound, search

NEVER = float("-inf")
# group A = (10, 7, 7), group B = (12, 2, 0), k = 2 of one group. A is worth 17, B 14. The LP opens
# half of each: half of 10 and 12, and 7 + 7 halved again, 5 + 6 + 3.5 + 3.5 = 18.
TWO_GROUPS = torch.tensor([[10.0, 7.0, 7.0, 12.0, 2.0, 0.0]])


def by_brute_force(row, k, groups, top_groups) -> float:
    """The best of all k experts that lie in at most M groups; -inf where there are none."""
    size = len(row) // groups
    sets = combinations(range(len(row)), k)
    fitting = (some for some in sets if len({e // size for e in some}) <= top_groups)
    return max((sum(row[e] for e in some) for some in fitting), default=NEVER)


def test_two_groups_are_worth_17_and_18_to_the_lp():
    best = best_in_groups(TWO_GROUPS, 2, 2, 1)
    assert best.x.tolist() == [[True, True, False, False, False, False]]  # ties: the lower expert
    assert (best.value, best.bound, best.gap) == (17, 17, 0)
    assert relaxed_in_groups(TWO_GROUPS, 2, 2, 1) == pytest.approx(18, abs=1e-9)
    assert searched_in_groups(TWO_GROUPS, 2, 2, 1).value == 17
    relaxed = searched_in_groups(TWO_GROUPS, 2, 2, 1, integral=False)
    assert relaxed.value == pytest.approx(18)
    assert relaxed.x.sum() == pytest.approx(2)
    assert 0 < float(relaxed.x[0, 0]) < 1


# k = 3 of one group: (10, 9, 0) has the best and the two best, (8, 8, 8) is worth 24 against 19
@pytest.mark.parametrize(
    ("row", "k", "rank_by", "value", "best"),
    [
        ([10, 7, 7, 12, 2, 0], 2, "max", 14, 17),
        ([10, 7, 7, 12, 2, 0], 2, "top2", 17, 17),
        ([10, 9, 0, 8, 8, 8], 3, "max", 19, 24),
        ([10, 9, 0, 8, 8, 8], 3, "top2", 19, 24),
    ],
)
def test_the_proxy_is_held_against_the_best_choice(row, k, rank_by, value, best):
    found = of_proxy(torch.tensor([row]), k, 2, 1, rank_by)
    assert (found.value, found.bound, found.gap) == (value, best, best - value)
    assert found.relative_gap == (best - value) / best


def test_a_capacity_is_kept_and_the_better_token_is_served():
    # both tokens want experts 0 and 1 of group A; each has room for one token. The second token
    # loses less by going to B: 10 + 9 for the first, 6 + 6 for the second.
    scores = torch.tensor([[10.0, 9.0, 1.0, 1.0], [7.0, 7.0, 6.0, 6.0]])
    found = searched_in_groups(scores, 2, 2, 1, capacity=1)
    assert found.x.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert (found.value, found.bound) == (31, pytest.approx(31))
    assert searched_in_groups(scores, 2, 2, 1, capacity=0).value == 0


def test_with_a_capacity_it_agrees_with_trying_all_choices():
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        scores = torch.randint(0, 9, (3, 4), generator=draw).double()
        rows = [
            [some for n in range(3) for some in combinations(range(4), n) if fits(some)]
            for _ in scores
        ]
        best = max(
            sum(float(scores[i, list(some)].sum()) for i, some in enumerate(choice))
            for choice in product(*rows)
            if all(sum(e in some for some in choice) <= 1 for e in range(4))
        )
        found = searched_in_groups(scores, 2, 2, 1, capacity=1)
        assert found.value == best
        assert (found.x.sum(0) <= 1).all()
        lp = searched_in_groups(scores, 2, 2, 1, capacity=1, integral=False)
        assert lp.bound >= best - 1e-9


def test_only_the_opening_of_groups_is_searched_in_whole_numbers(monkeypatch):
    asked = []

    def spy(*given, whole, **rest):
        asked.append(whole.tolist())
        return search(*given, whole=whole, **rest)

    monkeypatch.setattr(group_limit, "search", spy)
    # tokens alike, so that the LP may split pairs wherever it likes; pairs come back whole
    found = searched_in_groups(torch.ones(6, 4), 2, 2, 1, capacity=3)
    assert asked == [[0.0] * 24 + [1.0] * 12]
    assert found.x.dtype == torch.bool
    assert found.x.sum(0).tolist() == [3, 3, 3, 3]
    assert (found.value, found.bound) == (12, pytest.approx(12))


def fits(some) -> bool:
    return len({e // 2 for e in some}) <= 1


@pytest.mark.parametrize("option", [(2, 3, 2), (4, 2, 1), (3, 4, 2), (5, 4, 3), (8, 8, 8)])
def test_highs_and_the_lp_by_one_price_agree_with_dynamic_programming(option):
    k, groups, top_groups = option
    draw = torch.Generator().manual_seed(k)
    scores = torch.randn(6, 24 if groups != 4 else 16, generator=draw, dtype=torch.float64)
    best = best_in_groups(scores, k, groups, top_groups)
    found = searched_in_groups(scores, k, groups, top_groups)
    assert found.value == pytest.approx(best.value, abs=1e-9)
    assert found.ended == "branch and bound (HiGHS)"
    lp = searched_in_groups(scores, k, groups, top_groups, integral=False)
    relaxed = relaxed_in_groups(scores, k, groups, top_groups)
    assert lp.value == pytest.approx(relaxed, abs=1e-7)
    assert relaxed >= best.value - 1e-9


@st.composite
def tables(draw):
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    top_groups = draw(st.integers(1, groups))
    k = draw(st.integers(1, top_groups * size))
    entry = st.one_of(st.integers(-3, 6), st.integers(-3, 6), st.just(NEVER))
    E = groups * size
    rows = draw(st.lists(st.lists(entry, min_size=E, max_size=E), min_size=1, max_size=4))
    return torch.tensor(rows, dtype=torch.float64), k, groups, top_groups


@settings(deadline=None)
@given(tables())
def test_it_equals_brute_force_where_many_scores_tie_and_some_are_forbidden(case):
    scores, k, groups, top_groups = case
    best = [by_brute_force(row, k, groups, top_groups) for row in scores.tolist()]
    if NEVER in best:
        with pytest.raises(lpr.InputError, match="allowed experts"):
            best_in_groups(scores, k, groups, top_groups)
        return
    found = best_in_groups(scores, k, groups, top_groups)
    assert found.value == sum(best)
    assert (found.x.sum(-1) == k).all()
    opened = found.x.unflatten(-1, (groups, -1)).any(-1).sum(-1)
    assert (opened <= top_groups).all()
    assert relaxed_in_groups(scores, k, groups, top_groups) >= sum(best) - 1e-9


@settings(deadline=None)
@given(tables(), st.integers(-4, 4))
def test_a_constant_added_to_a_tokens_scores_adds_k_of_it(case, constant):
    scores, k, groups, top_groups = case
    scores = scores.masked_fill(scores == NEVER, -5.0)
    for value in (
        lambda s: best_in_groups(s, k, groups, top_groups).value,
        lambda s: relaxed_in_groups(s, k, groups, top_groups),
    ):
        assert value(scores + constant) == pytest.approx(
            value(scores) + constant * k * len(scores), abs=1e-9
        )


def test_tokens_in_chunks_are_the_same(monkeypatch):
    scores = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    whole = best_in_groups(scores, 3, 4, 2), relaxed_in_groups(scores, 3, 4, 2)
    monkeypatch.setattr(group_limit, "CHUNK", 7)
    assert torch.equal(best_in_groups(scores, 3, 4, 2).x, whole[0].x)
    assert relaxed_in_groups(scores, 3, 4, 2) == pytest.approx(whole[1], rel=1e-12)


def test_a_proxy_that_opens_groups_without_enough_experts_is_said():
    scores = torch.tensor([[9.0, NEVER, 5.0, 5.0]])
    assert best_in_groups(scores, 2, 2, 1).value == 10
    with pytest.raises(lpr.InputError, match=r"'max' opens for token 0 hold 1 .* fewer than k=2"):
        of_proxy(scores, 2, 2, 1)


@pytest.mark.parametrize(
    ("scores", "option", "says"),
    [
        (torch.ones(2, 6), (2, 4, 1), "groups=4 does not divide E"),
        (torch.ones(2, 6), (2, 2, 3), "top_groups=3 is more than groups"),
        (torch.ones(2, 6), (4, 2, 1), "k=4 is more than the experts of 1 group"),
        (torch.ones(2, 6), (0, 2, 1), "k=0"),
        (torch.ones(6), (1, 2, 1), "expected a matrix"),
        (torch.tensor([[1.0, float("nan")]]), (1, 2, 1), "is nan"),
        (torch.tensor([[1.0, float("inf")]]), (1, 2, 1), "is inf"),
        (torch.tensor([[NEVER, NEVER]]), (1, 2, 1), "token 0 has 0 allowed experts"),
    ],
)
def test_bad_input_is_refused_in_words(scores, option, says):
    for function in (best_in_groups, relaxed_in_groups, searched_in_groups, of_proxy):
        with pytest.raises(lpr.InputError, match=says):
            function(scores, *option)


def test_rows_that_nothing_satisfies_are_said_and_a_search_is_stopped_in_time():
    one = np.ones(1)
    with pytest.raises(NothingFound, match="found no choice"):
        search(one, np.eye(1), one * 2, one * 3, column_upper=one, whole=one, time_limit_s=1)
    with pytest.raises(NothingFound, match="time_limit_s=0"):
        searched_in_groups(TWO_GROUPS.repeat(40, 1), 2, 2, 1, capacity=8, time_limit_s=0)


def test_a_capacity_must_be_a_whole_number():
    with pytest.raises(lpr.InputError, match="capacity=-1"):
        searched_in_groups(TWO_GROUPS, 2, 2, 1, capacity=-1)
