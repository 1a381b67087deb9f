"""`BatchPrioritised`: hand-worked priorities, a slow loop as oracle, laws, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.token_choice import BatchPrioritised

NEVER = float("-inf")
every_priority = pytest.mark.parametrize("priority", ["max", "sum"])

# Three tokens, one place at each of three experts, two experts per token.
#   token 0 (5, 4, 0), token 1 (6, 1, 0), token 2 (3, 0, 2). Best scores 5, 6, 3; sums 9, 7, 5.
# "max": token 1 comes first at expert 0; tokens 0 and 2 are late. Second choices: token 1 gets
# expert 1, token 0 is late there, token 2 gets expert 2.
# "sum": token 0 comes first, at expert 0 and then at expert 1; token 2 again gets expert 2.
THREE = [[5.0, 4.0, 0.0], [6.0, 1.0, 0.0], [3.0, 0.0, 2.0]]


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        ("max", [[0, 0, 0], [1, 1, 0], [0, 0, 1]]),
        ("sum", [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
    ],
)
def test_the_priority_decides_who_is_served(priority, expected):
    routed = BatchPrioritised(2, 1, priority, score="logits")(torch.tensor(THREE))
    assert routed.x.int().tolist() == expected
    assert routed.weights.tolist() == (torch.tensor(THREE) * torch.tensor(expected)).tolist()


def test_a_first_choice_comes_before_the_second_choice_of_a_token_of_higher_priority():
    # Token 0 has the highest priority, but expert 1 is only its second choice.
    logits = torch.tensor([[9.0, 8.0], [0.0, 1.0]])
    assert BatchPrioritised(2, 1, score="logits")(logits).x.int().tolist() == [[1, 0], [0, 1]]


def by_loop(scores, k, capacity, priority) -> list[list[int]]:
    """All first choices in order of priority, then all second ones, while there is room."""
    x, load = [[0] * len(row) for row in scores], [0] * len(scores[0])
    liked = [
        sorted((e for e in range(len(row)) if row[e] > NEVER), key=lambda e: -row[e])[:k]
        for row in scores
    ]
    count = {"max": 1, "sum": k}[priority]
    worth = [sum(row[e] for e in mine[:count]) for row, mine in zip(scores, liked, strict=True)]
    line = sorted(range(len(scores)), key=lambda t: -worth[t])  # sorting is stable
    for rank in range(k):
        for t in line:
            if rank < len(liked[t]) and load[liked[t][rank]] < capacity:
                x[t][liked[t][rank]] = 1
                load[liked[t][rank]] += 1
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Scores -1..3, one in six forbidden, some tokens forbidden throughout."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(-1, 4, shape, generator=draw).to(dtype)
    values = values.masked_fill(torch.rand(shape, generator=draw) < 1 / 6, NEVER)
    return values.masked_fill(torch.rand((*shape[:-1], 1), generator=draw) < 1 / 8, NEVER)


def test_the_loop_gives_the_hand_worked_answers_and_tells_priorities_apart():
    assert by_loop(THREE, 2, 1, "max") == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert by_loop(THREE, 2, 1, "sum") == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    scores = tied(40, 4).tolist()
    by_position = TopK(2, 5, "position", score="logits")(torch.tensor(scores)).x.int().tolist()
    answers = [by_loop(scores, 2, 5, priority) for priority in ("max", "sum")]
    assert answers[0] != answers[1]
    assert by_position not in answers


@every_priority
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_batch_prioritised_equals_the_slow_loop_where_many_scores_tie(k, dtype, priority):
    for capacity in (0, 1, 3, 9):
        scores = tied(6, 7, 4, dtype=dtype, seed=capacity)
        expected = [by_loop(block, k, capacity, priority) for block in scores.tolist()]
        assert BatchPrioritised(k, capacity, priority).select(scores).int().tolist() == expected


@every_priority
def test_batches_are_routed_each_on_its_own(priority):
    logits, mask = tied(2, 3, 6, 4, seed=1), tied(2, 3, 6, seed=2) > 0
    router = BatchPrioritised(2, 2, priority)
    routed = router(logits, mask=mask)
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


tables = st.lists(
    st.lists(st.sampled_from([NEVER, -1.0, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=7,
)


@every_priority
@given(tables, st.integers(0, 8))
def test_with_one_expert_per_token_every_expert_keeps_its_best(priority, table, capacity):
    logits = torch.tensor(table)
    by_priority = BatchPrioritised(1, capacity, priority, score="logits")(logits)
    assert torch.equal(by_priority.x, TopK(1, capacity, score="logits")(logits).x)


@every_priority
@given(tables, st.integers(1, 4), st.integers(0, 7), st.integers(0, 7))
def test_only_choices_are_kept_and_every_expert_is_as_full_as_it_can_be(
    priority, table, k, capacity, padded
):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    routed = BatchPrioritised(k, capacity, priority)(logits, mask=mask)
    wanted = TopK(k)(logits, mask=mask)
    assert not (routed.x & ~wanted.x).any()
    assert torch.equal(routed.load, wanted.load.clamp(max=capacity))


distinct = st.permutations(range(20)).map(lambda p: torch.tensor(p).reshape(5, 4).double())


@given(distinct, st.permutations(range(5)))
def test_permuting_tokens_permutes_the_routing(logits, order):
    router = BatchPrioritised(2, 2, score="logits")
    assert torch.equal(router(logits[order]).x, router(logits).x[order])


def test_a_later_token_of_higher_priority_takes_the_place():
    logits, router = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), BatchPrioritised(1, 1, score="logits")
    assert not router.causal
    assert router(logits[:1]).x.int().tolist() == [[1, 0]]
    assert router(logits).x.int().tolist() == [[0, 0], [1, 0]]


def test_it_never_beats_the_optimum_it_seeks():
    logits = tied(12, 4, seed=3)
    scores = lpr.scores.softmax(logits).double()
    value = float(BatchPrioritised(2, 4)(logits).weights.double().sum())
    best = lpr.solve(lpr.problems.capacity(scores, 2, 4)).value
    assert value <= best + 1e-9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"capacity": None}, r"capacity=None: expected a whole number"),
        ({"priority": "mean"}, r"priority='mean': expected .max. or .sum."),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"normalise": "sum"}, r"normalise='sum': expected .kept., .all. or None"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        BatchPrioritised(**{"k": 1, "capacity": 1, **arguments})


def test_more_experts_per_token_than_there_are_experts_is_refused():
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        BatchPrioritised(5, 1)(torch.zeros(3, 4))
