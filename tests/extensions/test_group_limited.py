"""`GroupLimited`: the proxy of the groups, the best choice by brute force, laws, errors."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.token_choice import GroupLimited

NEVER = float("-inf")
every_proxy = pytest.mark.parametrize("rank_by", ["max", "top2"])

# Claim B3: group A = (10, 7, 7), group B = (12, 2, 0), two experts out of one group.
# A is worth 17, B 14. The largest score is in B, the two largest of a group are in A.
TWO_GROUPS = torch.tensor([[10.0, 7.0, 7.0, 12.0, 2.0, 0.0]])


@pytest.mark.parametrize(
    ("rank_by", "expected"), [("max", [[0, 0, 0, 1, 1, 0]]), ("top2", [[1, 1, 0, 0, 0, 0]])]
)
def test_the_proxy_decides_which_group_is_open(rank_by, expected):
    router = GroupLimited(2, groups=2, top_groups=1, rank_by=rank_by, score="logits")
    routed = router(TWO_GROUPS)
    assert routed.x.int().tolist() == expected
    assert routed.weights.tolist() == (TWO_GROUPS * torch.tensor(expected)).tolist()


def best_of(row, k, groups, top_groups) -> float:
    """The most a token can get from at most `top_groups` groups, by trying all choices of them."""
    size = len(row) // groups
    worth = []
    for some in combinations(range(groups), top_groups):
        inside = [row[e] for g in some for e in range(g * size, (g + 1) * size) if row[e] > NEVER]
        worth.append(sum(sorted(inside, reverse=True)[:k]))
    return max(worth)


# Claim O8, either proxy: the best choice under the group limit is better than the proxy's.
#   "max": above, 14 instead of 17.
#   "top2": three experts of one group; A = (10, 9, 0) has the better two, B = (8, 8, 8) is worth
#   24 against 19.
@pytest.mark.parametrize(
    ("rank_by", "k", "row", "taken", "best"),
    [
        ("max", 2, [10.0, 7.0, 7.0, 12.0, 2.0, 0.0], 14, 17),
        ("top2", 3, [10.0, 9.0, 0.0, 8.0, 8.0, 8.0], 19, 24),
    ],
)
def test_the_proxy_misses_the_best_choice_under_the_group_limit(rank_by, k, row, taken, best):
    router = GroupLimited(k, groups=2, top_groups=1, rank_by=rank_by, score="logits")
    assert float(router(torch.tensor([row])).weights.sum()) == taken
    assert best_of(row, k, 2, 1) == best


def test_the_group_limit_has_no_whole_lp():
    # x_e <= y_g and y_A + y_B <= 1: half of each group gives 10/2 + 12/2 + 7/2 + 7/2 = 18.
    opens = [
        [float(e == i) for e in range(6)] + [-float(i // 3 == g) for g in (0, 1)] for i in range(6)
    ]
    rules = [
        LinearConstraint(opens, ub=0),
        LinearConstraint([[1.0] * 6 + [0.0] * 2], lb=2, ub=2),
        LinearConstraint([[0.0] * 6 + [1.0] * 2], ub=1),
    ]
    worth = [*(-TWO_GROUPS[0]).tolist(), 0.0, 0.0]
    as_lp, as_ilp = (
        -milp(worth, constraints=rules, bounds=Bounds(0, 1), integrality=whole).fun
        for whole in (0, 1)
    )
    assert (round(as_lp, 9), round(as_ilp, 9)) == (18, 17)
    assert best_of(TWO_GROUPS[0].tolist(), 2, 2, 1) == 17


def by_loop(scores, k, groups, top_groups, rank_by) -> list[list[int]]:
    """Token by token: rank the groups, keep the experts of the first ones, rank those."""
    x = []
    for row in scores:
        size = len(row) // groups
        worth = []
        for g in range(groups):
            inside = sorted((s for s in row[g * size : (g + 1) * size] if s > NEVER), reverse=True)
            worth.append(sum(inside[: 1 if rank_by == "max" else 2]) if inside else NEVER)
        ranked = sorted(range(groups), key=lambda g: -worth[g])  # sorting is stable
        experts = [
            e for e in range(len(row)) if e // size in ranked[:top_groups] and row[e] > NEVER
        ]
        taken = sorted(experts, key=lambda e: -row[e])[:k]
        x.append([int(e in taken) for e in range(len(row))])
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Scores 0..3, one in six forbidden, so that groups tie and some lose experts."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 6, NEVER)


def test_the_loop_gives_the_hand_worked_answers_and_tells_proxies_and_ties_apart():
    rows = TWO_GROUPS.tolist()
    assert by_loop(rows, 2, 2, 1, "max") == [[0, 0, 0, 1, 1, 0]]
    assert by_loop(rows, 2, 2, 1, "top2") == [[1, 1, 0, 0, 0, 0]]
    scores = tied(30, 6)
    backwards = GroupLimited(2, 3, 1, score="logits")(scores.flip(-1)).x.flip(-1).int()
    assert backwards.tolist() != by_loop(scores.tolist(), 2, 3, 1, "max")


@every_proxy
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "groups", "top_groups"),
    [(1, 3, 1), (2, 3, 1), (3, 3, 2), (2, 2, 1), (2, 6, 2), (6, 1, 1)],
)
def test_group_limited_equals_the_slow_loop_where_many_scores_tie(
    k, groups, top_groups, dtype, rank_by
):
    scores = tied(20, 7, 6, dtype=dtype)
    router = GroupLimited(k, groups, top_groups, rank_by)
    expected = [by_loop(block, k, groups, top_groups, rank_by) for block in scores.tolist()]
    assert router.select(scores).int().tolist() == expected


@every_proxy
def test_batches_are_routed_each_on_its_own_and_padding_goes_nowhere(rank_by):
    logits, mask = tied(2, 3, 5, 6, seed=1), tied(2, 3, 5, seed=2) > 0
    router = GroupLimited(2, 3, 2, rank_by, normalise="kept")
    routed = router(logits, mask=mask)
    assert not routed.x[~mask].any()
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


rows = st.lists(st.integers(-2, 4).map(float), min_size=6, max_size=6)
tables = st.lists(rows, min_size=1, max_size=5)
some_forbidden = st.lists(
    st.lists(st.sampled_from([NEVER, -1.0, 0.0, 1.0, 2.0]), min_size=6, max_size=6),
    min_size=1,
    max_size=5,
)


@every_proxy
@given(tables, st.sampled_from([(1, 2, 1), (3, 2, 1), (2, 3, 2), (4, 3, 2), (2, 3, 1)]))
def test_k_experts_are_taken_from_at_most_m_groups_and_never_beat_the_best_choice(
    rank_by, table, option
):
    k, groups, top_groups = option
    x = GroupLimited(k, groups, top_groups, rank_by, score="logits")(torch.tensor(table)).x
    assert (x.sum(-1) == k).all()
    assert (x.unflatten(-1, (groups, -1)).any(-1).sum(-1) <= top_groups).all()
    worth = (torch.tensor(table) * x).sum(-1).tolist()
    best = [best_of(row, k, groups, top_groups) for row in table]
    assert all(got <= most for got, most in zip(worth, best, strict=True))


@given(tables, st.sampled_from([2, 3]))
def test_the_two_best_of_a_group_are_the_right_proxy_for_two_experts_of_one_group(table, groups):
    x = GroupLimited(2, groups, 1, "top2", score="logits")(torch.tensor(table)).x
    worth = (torch.tensor(table) * x).sum(-1).tolist()
    assert worth == [best_of(row, 2, groups, 1) for row in table]


@given(some_forbidden, st.sampled_from([(1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]))
def test_the_best_score_is_the_right_proxy_where_the_limit_does_not_bind(table, option):
    # The k best experts lie in k groups at most, and those are the k groups of best maximum.
    k, top_groups = option
    logits = torch.tensor(table)
    assert torch.equal(GroupLimited(k, 3, top_groups)(logits).x, TopK(k)(logits).x)


@every_proxy
@given(some_forbidden, st.integers(1, 6))
def test_with_all_groups_open_it_is_row_top_k(rank_by, table, k):
    logits = torch.tensor(table)
    limited, free = GroupLimited(k, 3, 3, rank_by)(logits), TopK(k)(logits)
    assert torch.equal(limited.x, free.x)
    assert torch.equal(limited.weights, free.weights)


@every_proxy
@given(some_forbidden, some_forbidden)
def test_tokens_appended_later_change_no_earlier_row(rank_by, table, later):
    router = GroupLimited(2, 3, 1, rank_by)
    both = router(torch.tensor(table + later)).x
    assert router.causal
    assert torch.equal(both[: len(table)], router(torch.tensor(table)).x)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"groups": 0}, r"groups=0: it must be at least 1"),
        ({"groups": 1.5}, r"groups=1\.5: expected a whole number"),
        ({"top_groups": 0}, r"top_groups=0: it must be at least 1"),
        ({"top_groups": 4}, r"top_groups=4 is more than groups, the number of groups \(3\)"),
        ({"rank_by": "mean"}, r"rank_by='mean': expected .max. or .top2."),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"normalise": "sum"}, r"normalise='sum': expected .kept., .all. or None"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        GroupLimited(**{"k": 1, "groups": 3, "top_groups": 1, **arguments})


def test_groups_that_do_not_fit_the_experts_are_refused():
    with pytest.raises(lpr.InputError, match=r"groups=4 does not divide E, .* \(6\)"):
        GroupLimited(1, 4, 1)(torch.zeros(2, 6))
    with pytest.raises(lpr.InputError, match=r"k=3 is more than the experts of 1 group\(s\) \(2\)"):
        GroupLimited(3, 3, 1)(torch.zeros(2, 6))
