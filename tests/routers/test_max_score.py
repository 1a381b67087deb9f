"""`MaxScoreFlow` and `MaxScore`: hand-worked choices, brute force, the source's trap, errors."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.routers.auction import auction
from lp_routing.routers.balance import Loads, loads_of
from lp_routing.routers.max_score import MaxScore, MaxScoreFlow, first_choices
from tests.balanced_checks import NEVER, broken, distinct, optimum, tied
from tests.strategies import score_matrices

BOTH = [MaxScoreFlow, MaxScore]
either = pytest.mark.parametrize("rule", BOTH)


def test_the_first_token_may_take_what_a_later_one_needs():
    # Greedy: token 0 has expert 0 at .6, token 1 is left with .1. The flow: .4 + .9.
    scores = torch.tensor([[0.6, 0.4], [0.9, 0.1]])
    assert MaxScore(1).select(scores).int().tolist() == [[1, 0], [0, 1]]
    assert MaxScoreFlow(1).select(scores).int().tolist() == [[0, 1], [1, 0]]


def test_an_expert_that_first_choices_fill_has_no_place_for_second_ones():
    # Two of three experts each, two places an expert. Tokens 0 and 1 fill expert 0 first. Token 2
    # has 1 first, then must take 2; one of the others takes 1, at .2 token 0.
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.45, 0.5, 0.05]])
    first = first_choices(scores, 2, Loads(2, 2))
    assert first.int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert MaxScore(2).select(scores).int().tolist() == [[1, 1, 0], [1, 0, 1], [0, 1, 1]]


def test_no_more_experts_than_must_are_filled_to_the_ceiling_by_first_choices():
    # 5 tokens, 3 experts, k = 2: ten pairs, loads 3 or 4, one expert takes 4. All five like
    # expert 0 best: four have it. k = 1: loads 1 or 2, two experts take 2, so the fifth goes on.
    scores = torch.tensor([[3.0, 2.0, 1.0]] * 5)
    assert first_choices(scores, 2, loads_of(5, 3, 2)).sum(0).tolist() == [4, 1, 0]
    assert first_choices(scores, 1, loads_of(5, 3, 1)).sum(0).tolist() == [2, 2, 1]
    # 7 pairs in 5 experts: loads 1 or 2, two experts take 2; the third that is liked stays at 1
    liked = torch.tensor(
        [[9.0, 0, 0, 0, 0]] * 2 + [[0, 9.0, 0, 0, 0]] * 2 + [[0, 0, 9.0, 1, 0]] * 2
    )
    taken = first_choices(torch.cat([liked, torch.tensor([[0, 0, 0, 0, 1.0]])]), 1, Loads(1, 2))
    assert taken.sum(0).tolist() == [2, 2, 1, 1, 1]


def test_first_choices_that_leave_a_token_without_an_expert_are_none():
    scores = torch.tensor([[2.0, 1.0], [1.0, NEVER]])
    assert first_choices(scores, 1, Loads(1, 1)) is None
    assert MaxScore(1).select(scores).int().tolist() == [[0, 1], [1, 0]]


def test_the_source_may_give_a_token_an_expert_twice():
    # First choices 0, 0, 1: expert 0 is full, 1 has one place, 2 has two. Forbidding the repeat,
    # token 2 goes to 2 and one of the others to 1: .1 + .1 + .3. Where a repeat scores 0, both
    # others have expert 2 and token 2 has expert 1 twice: .3 + .3 + 0 is more.
    scores = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]])
    trap = MaxScore(2, repeats=True).select(scores)
    assert trap.int().tolist() == [[1, 0, 1], [1, 0, 1], [0, 1, 0]]
    assert broken(trap, scores, 2) == ["experts per token", "too empty"]
    assert broken(MaxScore(2).select(scores), scores, 2) == []


def second_by_trying(scores, first, left):
    """The best second experts, none twice, in the places left: every combination is tried."""
    T, E = scores.shape
    taken = first.int().argmax(1).tolist()
    values = scores.tolist()
    best = NEVER
    for second in product(range(E), repeat=T):
        if any(a == b for a, b in zip(taken, second, strict=True)):
            continue
        if all(low <= second.count(e) <= high for e, (low, high) in enumerate(left)):
            best = max(best, sum(values[t][e] for t, e in enumerate(second)))
    return best


def greedy_by_hand(scores, capacity):
    """First choices where E divides T k, as the source loops."""
    load, taken = [0] * scores.shape[1], []
    for row in scores.tolist():
        best = None
        for expert, value in enumerate(row):
            if load[expert] < capacity and (best is None or value > row[best]):
                best = expert
        load[best] += 1
        taken.append(best)
    return taken


@given(score_matrices(max_tokens=6, max_experts=3, forbid=False))
def test_two_phases_are_the_greedy_loop_and_the_best_of_all_second_choices(scores):
    T, E = scores.shape
    if E < 2:
        return
    loads = loads_of(T, E, 2)
    first = first_choices(scores, 2, loads)
    if T * 2 % E == 0:
        assert first.int().argmax(1).tolist() == greedy_by_hand(scores, loads.most)
    chosen = MaxScore(2).select(scores)
    assert broken(chosen, scores, 2) == []
    assert (chosen & first).sum() == T
    load = first.sum(0).tolist()
    left = [(max(0, loads.least - n), loads.most - n) for n in load]
    assert scores[chosen & ~first].sum() == second_by_trying(scores, first, left)


@either
@given(
    scores=score_matrices(max_tokens=5),
    k=st.integers(1, 3),
    capacity=st.one_of(st.none(), st.integers(1, 5)),
)
def test_both_are_feasible_wherever_anything_is_and_the_flow_is_optimal(rule, scores, k, capacity):
    scores = scores[(scores > NEVER).any(1)]
    if not len(scores):
        return
    best = optimum(scores, k, capacity)
    if best == NEVER:
        with pytest.raises(lpr.InputError):
            rule(k, capacity).select(scores)
        return
    chosen = rule(k, capacity).select(scores)
    assert broken(chosen, scores, k, capacity) == []
    value = float(scores[chosen].sum())
    assert value == best if rule is MaxScoreFlow else value <= best


@pytest.mark.parametrize(
    ("T", "E", "k"), [(64, 8, 2), (50, 7, 2), (33, 6, 3), (40, 16, 4), (9, 4, 1)]
)
def test_first_choices_can_always_be_completed_where_no_pair_is_forbidden(T, E, k):
    for seed in range(4):
        scores = distinct(T, E, seed=seed) - torch.arange(E) / 2
        first, chosen = first_choices(scores, k, loads_of(T, E, k)), MaxScore(k).select(scores)
        assert torch.equal(chosen & first, first)
        assert broken(chosen, scores, k) == []
        best = MaxScoreFlow(k).select(scores)
        assert scores[chosen].sum() <= scores[best].sum() + 1e-9


def test_where_forbidden_pairs_leave_no_second_choice_the_whole_flow_is_solved():
    # k = 2, two places an expert. Token 0 may not take expert 2, token 1 not expert 1, so they
    # must have 0 and 1, 0 and 2; token 2 would take 0 first.
    scores = torch.tensor([[1.0, 0.5, NEVER], [1.0, NEVER, 0.5], [0.1, 0.3, 0.2]])
    expected = [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    assert MaxScore(2).select(scores).int().tolist() == expected
    assert MaxScore(2).select(scores.flip(0)).flip(0).int().tolist() == expected
    greedy = torch.tensor([[0.9, 0.3, 0.2], [1.0, 0.5, NEVER], [1.0, NEVER, 0.5]])
    assert first_choices(greedy, 2, Loads(2, 2)) is not None
    assert MaxScore(2).select(greedy).int().tolist() == [[0, 1, 1], [1, 1, 0], [1, 0, 1]]


def test_the_flow_and_an_exact_auction_agree():
    scores = tied(40, 8, dtype=torch.float64) - torch.arange(8)
    sold = auction(scores, 2, epsilon=1 / 128)
    assert scores[sold.chosen].sum() == scores[MaxScoreFlow(2).select(scores)].sum()


@either
def test_a_capacity_leaves_loads_unequal_up_to_it(rule):
    scores = torch.tensor([[float(i), 0.0] for i in range(6, 0, -1)])
    expected = [[1, 0]] * 4 + [[0, 1]] * 2
    assert rule(1, 4).select(scores).int().tolist() == expected
    assert rule(1, CapacityFactor(4 / 3)).select(scores).int().tolist() == expected
    assert rule(1).select(scores).int().tolist() == [[1, 0]] * 3 + [[0, 1]] * 3


@either
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_batches_are_routed_each_on_its_own_without_their_padding(dtype, rule):
    logits, mask = tied(2, 2, 9, 4, dtype=dtype), tied(2, 2, 9, seed=2) > 0
    router = rule(2, normalise="kept")
    routed = router(logits, mask=mask)
    for b in range(2):
        for c in range(2):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)
            assert broken(routed.x[b, c], router.scores(logits[b, c], mask[b, c]), 2) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"capacity": 2.5}, r"capacity=2\.5: expected a whole number"),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected"),
        ({"normalise": "sum"}, r"normalise='sum': expected"),
        ({"repeats": 1}, r"repeats=1: expected True or False"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        MaxScore(**arguments)


@either
def test_what_cannot_be_routed_is_refused_in_words(rule):
    with pytest.raises(lpr.InputError, match=r"k=3 is more than E, the number of experts \(2\)"):
        rule(3)(torch.zeros(4, 2))
    with pytest.raises(lpr.InputError, match=r"give a capacity of at least 2"):
        rule(1, 1)(torch.zeros(4, 2))
    with pytest.raises(lpr.InputError, match=r"No assignment satisfies all bounds"):
        rule(1)(torch.tensor([[0.0, NEVER], [0.0, NEVER], [0.0, NEVER]]))
