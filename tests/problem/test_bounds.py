"""Bounds, groups and whole numbers: what each means, and each sentence that refuses one."""

import numpy as np
import pytest
import torch

import lp_routing as lpr

INF = float("inf")
SCORES = torch.arange(15.0).reshape(5, 3)
ONE = lpr.at_most(1)
ARGUMENTS = {"tokens": ("token", 5), "experts": ("expert", 3), "total": ("total", 1)}


@pytest.mark.parametrize(
    ("bounds", "lower", "upper", "words"),
    [
        (lpr.exactly(2), 2, 2, "exactly(2)"),
        (lpr.at_most(2), 0, 2, "at_most(2)"),
        (lpr.at_least(2), 2, INF, "at_least(2)"),
        (lpr.between(1, 2), 1, 2, "between(1, 2)"),
        (lpr.between(0.5, 2.5), 0.5, 2.5, "between(0.5, 2.5)"),
        (lpr.at_most(INF), 0, INF, "at_most(inf)"),
        (lpr.exactly(np.int64(2)), 2, 2, "exactly(2)"),
        (lpr.exactly(torch.tensor(2)), 2, 2, "exactly(2)"),
    ],
)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_each_word_sets_the_limits_it_says(argument, bounds, lower, upper, words):
    kind, rows = ARGUMENTS[argument]
    family = lpr.RoutingProblem(SCORES, **{argument: bounds}).family(kind)
    assert (family.lower.tolist(), family.upper.tolist()) == ([lower] * rows, [upper] * rows)
    assert family.lower.dtype == family.upper.dtype == torch.float64
    assert bounds.words == words


@pytest.mark.parametrize("amounts", [[0, 1, 2], np.array([0, 1, 2]), torch.tensor([0.0, 1, 2])])
def test_one_number_per_row_bounds_each_row_by_its_own(amounts):
    family = lpr.RoutingProblem(SCORES, experts=lpr.exactly(amounts)).family("expert")
    assert family.lower.tolist() == family.upper.tolist() == [0, 1, 2]


def test_many_numbers_are_counted_and_not_listed():
    assert lpr.exactly(list(range(7))).words == "exactly(<7 values>)"
    assert lpr.exactly(torch.ones(2, 3)).words == "exactly(<2x3 values>)"
    assert lpr.exactly([1, 2]).words == "exactly([1, 2])"


@pytest.mark.parametrize("received", [2, 2.5, [1, 2], "2", True, (0, 2)])
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_bare_number_is_refused_with_the_reason(argument, received):
    with pytest.raises(lpr.InputError) as refusal:
        lpr.RoutingProblem(SCORES, **{argument: received})
    says = str(refusal.value)
    assert says.startswith(
        f"{argument}={received!r} does not say whether it is a limit or a demand"
    )
    assert "different problems with different optima" in says
    for word in ("exactly", "at_most", "at_least"):
        assert f"{word}({received!r})" in says
    assert "between(lower, upper)" in says


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        (lpr.at_least(INF), r"at_least\(inf\): a lower bound must be finite"),
        (lpr.exactly(INF), r"exactly\(inf\): a lower bound must be finite"),
        (lpr.between(3, 1), r"between\(3, 1\) contradicts itself: at least 3 and at most 1"),
        (lpr.exactly(-1), r"exactly\(-1\): a bound counts .* cannot be -1; give a number >= 0"),
        (lpr.between(-2, 1), r"between\(-2, 1\): .* cannot be -2; give a number >= 0"),
        (lpr.at_most(-0.5), r"at_most\(-0.5\): .* cannot be -0.5; give"),
        (lpr.at_most(float("nan")), r"at_most\(nan\): .* cannot be nan; give"),
        (lpr.at_least(-INF), r"at_least\(-inf\): .* cannot be -inf; give"),
        (lpr.exactly("two"), r"exactly\(two\): expected a number or one per \w+, got str"),
        (lpr.exactly(None), r"exactly\(None\): expected a number or one per \w+, got NoneType"),
        (lpr.exactly({1: 2}), r"expected a number or one per \w+, got dict"),
        (lpr.exactly(1 + 1j), r"expected real numbers, got torch.complex128"),
        (lpr.exactly([1] * 9), r"<9 values>\): expected one number or \d .* got shape \(9,\)"),
        (lpr.exactly([]), r"exactly\(\[\]\): expected one number or \d .* got shape \(0,\)"),
        (lpr.exactly([[1]]), r"expected one number or \d .* got shape \(1, 1\)"),
    ],
)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_bound_that_makes_no_sense_is_refused(argument, bounds, says):
    with pytest.raises(lpr.InputError, match=f"^{argument}=.*{says}"):
        lpr.RoutingProblem(SCORES, **{argument: bounds})


def test_a_contradiction_names_the_first_row_that_has_it():
    bounds = lpr.between([1, 1, 3], [2, 0, 1])
    with pytest.raises(lpr.InputError, match=r"at least 1 and at most 0 \(first at expert 1\)"):
        lpr.RoutingProblem(SCORES, experts=bounds)


SIDES = {"token_groups": ("token_group", 5), "expert_groups": ("expert_group", 3)}


@pytest.mark.parametrize(
    "members",
    [[0, 2], (0, 2), range(0, 3, 2), np.array([2, 0]), torch.tensor([0, 2], dtype=torch.uint8)],
)
@pytest.mark.parametrize("argument", SIDES)
def test_a_group_holds_the_members_it_lists(argument, members):
    kind, size = SIDES[argument]
    expected = [True, False, True] + [False] * (size - 3)
    for group in (lpr.Group(members, ONE), (members, ONE), lpr.Group(expected, ONE)):
        family = lpr.RoutingProblem(SCORES, **{argument: [group]}).family(kind)
        assert family.members.tolist() == [expected]
        assert (family.name(0), family.upper.tolist()) == (f"{kind}_0", [1])


def test_groups_keep_their_names_and_bounds():
    groups = [lpr.Group([0], lpr.at_least(1), "a"), lpr.Group([1, 2], lpr.exactly(2))]
    family = lpr.RoutingProblem(SCORES, expert_groups=groups).family("expert_group")
    assert [family.name(0), family.name(1)] == ["expert_group_a", "expert_group_1"]
    assert (family.lower.tolist(), family.upper.tolist()) == ([1, 2], [INF, 2])


def test_groups_by_makes_one_group_for_each_label():
    groups = lpr.groups_by([7, 3, 7], lpr.between([0, 1], [1, 2]))
    assert [group.name for group in groups] == ["3", "7"]
    family = lpr.RoutingProblem(SCORES, expert_groups=groups).family("expert_group")
    assert family.members.tolist() == [[False, True, False], [True, False, True]]
    assert (family.lower.tolist(), family.upper.tolist()) == ([0, 1], [1, 2])


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([], r"is empty; leave it out, or give at least one Group"),
        ([5], r"\[0\]: expected a Group or a pair \(members, bounds\), got 5"),
        ([([0], ONE), ([0],)], r"\[1\]: expected a Group or a pair .* got \(\[0\],\)"),
        ([([0], 2)], r"\[0\]=2 does not say whether it is a limit or a demand"),
        ([([0], ONE), ([0], None)], r"\[1\]=None does not say whether it is a limit"),
        ([([9], ONE)], r"\[0\]: \w+ indices must lie in 0\.\.\d, got 9\.\.9"),
        ([([0, -1], ONE)], r"\[0\]: \w+ indices must lie in 0\.\.\d, got -1\.\.0"),
        ([([0.5], ONE)], r"\[0\]: expected \w+ indices or \d booleans, got torch.float64"),
        ([([True], ONE)], r"\[0\]: expected .* got torch.bool of shape \(1,\)"),
        ([([[0]], ONE)], r"\[0\]: expected .* got torch.int64 of shape \(1, 1\)"),
        ([(0, ONE)], r"\[0\]: expected .* got torch.int64 of shape \(\)"),
        ([(np.array([], dtype=np.int64), ONE)], r"\[0\] has no members; leave it out"),
        ([([], ONE)], r"\[0\] has no members; leave it out"),
        ([([0], lpr.exactly([1, 2]))], r"\[0\]=exactly\(\[1, 2\]\): expected one number"),
        ([([0], lpr.between(2, 1))], r"\[0\]=between\(2, 1\) contradicts itself"),
        ([([0], lpr.exactly(-1))], r"\[0\]=exactly\(-1\): .* cannot be -1"),
        (
            [lpr.Group([0], ONE, "a"), lpr.Group([1], ONE, "a")],
            r" have the names \['a', 'a'\]: give each group its own name",
        ),
        ([lpr.Group([0], ONE, "1"), lpr.Group([1], ONE)], r" have the names \['1', '1'\]"),
        (5, r"expected .* got (5|int)"),
        (lpr.Group([0], ONE), r"expected .* got .*Group"),
        ([(["a"], ONE)], r"\[0\]: expected .* indices"),
        ([(None, ONE)], r"\[0\]: expected .* indices"),
    ],
)
@pytest.mark.parametrize("argument", SIDES)
def test_a_group_that_makes_no_sense_is_refused(argument, groups, says):
    with pytest.raises(lpr.InputError, match=f"^{argument}.*{says}"):
        lpr.RoutingProblem(SCORES, **{argument: groups})


def test_a_group_of_all_false_has_no_members():
    with pytest.raises(lpr.InputError, match=r"expert_groups\[0\] has no members"):
        lpr.RoutingProblem(SCORES, expert_groups=[([False] * 3, ONE)])


@pytest.mark.parametrize(
    ("labels", "bounds", "says"),
    [
        ([0, 1], 2, r"bounds=2 does not say whether it is a limit or a demand"),
        ([0, 1], lpr.at_most([1, 2, 3]), r"bounds=at_most.* or 2 .*one per group.* shape \(3,\)"),
        ([], ONE, r"labels: expected one number or string .* shape \(0,\)"),
        ([[0, 1]], ONE, r"labels"),
        (None, ONE, r"labels"),
        (3, ONE, r"labels"),
    ],
)
def test_groups_by_refuses_what_are_no_labels(labels, bounds, says):
    with pytest.raises(lpr.InputError, match=says):
        lpr.groups_by(labels, bounds)


def test_labels_may_be_strings_and_name_the_groups():
    groups = lpr.groups_by(["b", "a", "b"], lpr.at_most([1, 2]))
    assert [group.name for group in groups] == ["a", "b"]
    assert [list(group.members) for group in groups] == [[False, True, False], [True, False, True]]
    assert [group.bounds.upper for group in groups] == [1, 2]


def test_groups_by_refuses_fewer_labels_than_experts():
    groups = lpr.groups_by([0, 1], ONE)
    with pytest.raises(lpr.InputError, match=r"expected expert indices or 3 booleans, .* \(2,\)"):
        lpr.RoutingProblem(SCORES, expert_groups=groups)


E = r" is more than E, the number of experts \(3\)"
T = r" is more than T, the number of tokens \(5\)"
N = r" is more than T \* E, the number of pairs \(15\)"
WHOLE_ARGUMENTS = {
    "token_choice k": (lambda k: lpr.problems.token_choice(SCORES, k), 4, E),
    "expert_choice capacity": (lambda C: lpr.problems.expert_choice(SCORES, C), 6, T),
    "unified total": (lambda N: lpr.problems.unified(SCORES, N), 16, N),
    "capacity k": (lambda k: lpr.problems.capacity(SCORES, k, 1), 4, E),
    "capacity capacity": (lambda C: lpr.problems.capacity(SCORES, 1, C), None, None),
    "balanced k": (lambda k: lpr.problems.balanced(SCORES, k), 4, E),
    "balanced capacity": (lambda C: lpr.problems.balanced(SCORES, 1, 2 if C is None else C), 6, T),
    "capped_expert_choice capacity": (
        lambda C: lpr.problems.capped_expert_choice(SCORES, C, 1),
        6,
        T,
    ),
    "capped_expert_choice k": (lambda k: lpr.problems.capped_expert_choice(SCORES, 1, k), 4, E),
    "served_unified total": (lambda N: lpr.problems.served_unified(SCORES, N), 16, N),
}


@pytest.mark.parametrize(
    "value", [1.5, -0.5, True, np.True_, "2", float("nan"), INF, [1], 1j, np.zeros(2)]
)
@pytest.mark.parametrize("argument", WHOLE_ARGUMENTS)
def test_a_named_problem_refuses_all_but_whole_numbers(argument, value):
    with pytest.raises(lpr.InputError) as refusal:
        WHOLE_ARGUMENTS[argument][0](value)
    name = argument.split()[1]
    if argument == "capacity capacity" and isinstance(value, list | np.ndarray):
        assert "expected one number or 3 (one per expert)" in str(refusal.value)
    else:
        assert str(refusal.value) == f"{name}={value!r}: expected a whole number."


@pytest.mark.parametrize("argument", WHOLE_ARGUMENTS)
def test_a_named_problem_refuses_numbers_out_of_range(argument):
    make, too_many, says = WHOLE_ARGUMENTS[argument]
    name = argument.split()[1]
    with pytest.raises(lpr.InputError, match=f"^{name}=-1: it must be at least"):
        make(-1)
    if too_many is not None:
        with pytest.raises(lpr.InputError, match=f"^{name}={too_many}{says}"):
            make(too_many)
    assert isinstance(make(5 if name == "total" else 2.0), lpr.RoutingProblem)
    assert isinstance(make(np.int64(5 if name == "total" else 2)), lpr.RoutingProblem)


def test_served_unified_refuses_a_budget_below_one_expert_a_token():
    with pytest.raises(
        lpr.InputError, match=r"total=4 cannot give each of the 5 tokens .* least 5"
    ):
        lpr.problems.served_unified(SCORES, 4)
