"""`Unified`: hand-worked pools, a slow loop as oracle, laws and errors."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK, Unified

NEVER = float("-inf")
POOLS = ["sequence", "batch", "step"]
every_pool = pytest.mark.parametrize("pool", POOLS)

# Two sequences of two tokens, two experts, k = 1: two pairs a pool of two tokens, four in all.
#   sequence 0: tokens (9, 8) and (7, 1);   sequence 1: tokens (6, 5) and (2, 0).
STORY = [[[9.0, 8.0], [7.0, 1.0]], [[6.0, 5.0], [2.0, 0.0]]]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # 9 and 8 win sequence 0, 6 and 5 sequence 1: both second tokens go empty-handed.
        ("sequence", [[[1, 1], [0, 0]], [[1, 1], [0, 0]]]),
        # 9, 8, 7 and 6 are the four largest of all.
        ("batch", [[[1, 1], [1, 0]], [[1, 0], [0, 0]]]),
        # First tokens: 9 and 8 beat 6 and 5. Second tokens: 7 and 2 beat 1 and 0.
        ("step", [[[1, 1], [1, 0]], [[0, 0], [1, 0]]]),
    ],
)
def test_the_pool_decides_who_competes(pool, expected):
    assert Unified(1, pool=pool).select(torch.tensor(STORY)).int().tolist() == expected


# Three tokens (9, 8, 7), (6, 5, 4), (1, 0, 0). With k = 1 there are three pairs: the first token
# takes them all, unless each is served. With k = 2 there are six, and serving token 2 costs the 4.
@pytest.mark.parametrize(
    ("k", "serve_all", "expected"),
    [
        (1, False, [[1, 1, 1], [0, 0, 0], [0, 0, 0]]),
        (1, True, [[1, 0, 0], [1, 0, 0], [1, 0, 0]]),
        (2, False, [[1, 1, 1], [1, 1, 1], [0, 0, 0]]),
        (2, True, [[1, 1, 1], [1, 1, 0], [1, 0, 0]]),
        (3, True, [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_serving_all_gives_every_token_its_best_expert_before_the_rest(k, serve_all, expected):
    scores = torch.tensor([[9.0, 8.0, 7.0], [6.0, 5.0, 4.0], [1.0, 0.0, 0.0]])
    assert Unified(k, serve_all=serve_all).select(scores).int().tolist() == expected


def test_the_unified_score_drops_a_token_and_serves_noise():
    # Claim B5: softmax rows (.49, .49, .01, .01) and (1/4, 1/4, 1/4, 1/4): row 1 takes both slots.
    logits = torch.tensor([[0.49, 0.49, 0.01, 0.01], [0.25] * 4]).log()
    routed = Unified(1, rate=0.0)(logits)
    assert routed.x.int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert routed.dropped.tolist() == [False, True]
    assert not Unified(1, rate=0.0, serve_all=True)(logits).dropped.any()


# Two real tokens and a padding token between them with the largest logits.
#   excluded: two pairs, both to the first token (logits 3, 2 against 1, 0).
#   competes: three pairs; padding takes two of them, and one is left for the first token.
@pytest.mark.parametrize(
    ("padding", "expected"),
    [("excluded", [[1, 1], [0, 0], [0, 0]]), ("competes", [[1, 0], [1, 1], [0, 0]])],
)
def test_padding_is_left_out_or_competes(padding, expected):
    logits = torch.tensor([[3.0, 2.0], [9.0, 9.0], [1.0, 0.0]])
    mask = torch.tensor([True, False, True])
    routed = Unified(1, rate=1.0, padding=padding)(logits, mask=mask)
    assert routed.x.int().tolist() == expected
    assert routed.dropped.tolist() == [False, False, True]
    assert routed.mask is mask


# Three tokens and 1.5 experts a token on average: N = round(4.5) = 4 pairs, the four largest.
def test_a_fraction_is_the_mean_number_of_experts():
    scores = torch.tensor([[9.0, 1.0], [8.0, 7.0], [3.0, 2.0]])
    assert Unified(1.5).select(scores).int().tolist() == [[1, 0], [1, 1], [1, 0]]
    assert Unified(0.5).select(scores).int().tolist() == [[1, 0], [1, 0], [0, 0]]
    served = Unified(4 / 3, serve_all=True).select(scores)  # 4 pairs, all served
    assert served.int().tolist() == [[1, 0], [1, 1], [1, 0]]
    with pytest.raises(lpr.InputError, match=r"k=2\.5 is more than E, the number of experts \(2\)"):
        Unified(2.5).select(scores)


def test_the_two_readings_of_the_first_version_choose_differently():
    # softmax over tokens: token 0 has (3/4, 3/4), token 1 (1/4, 1/4): v1 takes both of token 0's;
    # divided by row sums both tokens have (1/2, 1/2), and ties go to the lower index
    logits = torch.tensor([[math.log(3), math.log(3)], [0.0, 0.0]])
    assert Unified(1, rate=1.0, version="v1")(logits).x.int().tolist() == [[1, 1], [0, 0]]
    shares = Unified(1, rate=1.0, version="v1-normalised").scores(logits)
    assert shares.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_the_first_version_can_choose_what_the_released_one_does_not():
    # At expert 1 token 1 stands alone among the tokens, though its logit is lower than token 0's
    # two: softmax over tokens (1/2, ~0) and (1/2, ~1).
    logits = torch.tensor([[0.0, -9.0], [0.0, -1.0]])
    released = Unified(1, rate=1.0)(logits).x.int().tolist()
    first = Unified(1, rate=1.0, version="v1")(logits).x.int().tolist()
    assert released == [[1, 0], [1, 0]]
    assert first == [[1, 0], [0, 1]]


def by_loop(scores, k, pool, serve_all) -> list[list[list[int]]]:
    """Pool by pool: serve each token if asked to, then the best pairs, the earliest of equals."""
    B, T, E = len(scores), len(scores[0]), len(scores[0][0])
    pools = {
        "sequence": [[(b, t) for t in range(T)] for b in range(B)],
        "batch": [list(product(range(B), range(T)))],
        "step": [[(b, t) for b in range(B)] for t in range(T)],
    }[pool]
    x = [[[0] * E for _ in range(T)] for _ in range(B)]
    for tokens in pools:
        pairs = [(b, t, e) for b, t in tokens for e in range(E) if scores[b][t][e] > NEVER]
        budget = k * len({(b, t) for b, t, _ in pairs})
        pairs.sort(key=lambda p: -scores[p[0]][p[1]][p[2]])  # sorting is stable
        first = {}
        for b, t, e in pairs:
            first.setdefault((b, t), (b, t, e))
        served = list(first.values()) if serve_all else []
        rest = [pair for pair in pairs if pair not in served]
        for b, t, e in (served + rest)[:budget]:
            x[b][t][e] = 1
    return x


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Scores 0..3, one in six forbidden, and about one token in six forbidden throughout."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    values = values.masked_fill(torch.rand(shape, generator=draw) < 1 / 6, NEVER)
    return values.masked_fill(torch.rand((*shape[:-1], 1), generator=draw) < 1 / 6, NEVER)


def test_the_loop_gives_a_hand_worked_answer_and_tells_pools_and_tie_rules_apart():
    assert by_loop(STORY, 1, "step", False) == [[[1, 1], [1, 0]], [[0, 0], [1, 0]]]
    assert by_loop(STORY, 1, "sequence", True) == [[[1, 0], [1, 0]], [[1, 0], [1, 0]]]
    scores = tied(4, 6, 5)
    answers = [by_loop(scores.tolist(), 2, *way) for way in product(POOLS, (False, True))]
    assert all(a != b for i, a in enumerate(answers) for b in answers[:i])
    backwards = Unified(2).select(scores.flip(1)).flip(1).int()
    assert backwards.tolist() != answers[0]


@every_pool
@pytest.mark.parametrize("serve_all", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_unified_equals_the_slow_loop_where_many_scores_tie(k, dtype, serve_all, pool):
    for seed in range(5):
        scores = tied(4, 6, 5, dtype=dtype, seed=seed)
        received = Unified(k, pool=pool, serve_all=serve_all).select(scores)
        assert received.int().tolist() == by_loop(scores.tolist(), k, pool, serve_all)


@pytest.mark.parametrize("version", ["sigmoid", "v1", "v1-normalised"])
@pytest.mark.parametrize("serve_all", [False, True])
def test_sequences_are_routed_each_on_its_own(serve_all, version):
    logits, mask = tied(2, 3, 6, 4, seed=1), tied(2, 3, 6, seed=2) > 0
    router = Unified(2, serve_all=serve_all, version=version)
    routed = router(logits, mask=mask)
    for b in range(2):
        for c in range(3):
            alone = router(logits[b, c], mask=mask[b, c])
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


def test_the_pools_are_one_rule_on_rearranged_tokens():
    scores = tied(3, 4, 5)
    as_one = Unified(2).select(scores.reshape(1, 12, 5)).reshape(3, 4, 5)
    assert torch.equal(Unified(2, pool="batch").select(scores), as_one)
    turned = Unified(2).select(scores.transpose(0, 1)).transpose(0, 1)
    assert torch.equal(Unified(2, pool="step").select(scores), turned)


tables = st.lists(
    st.lists(st.sampled_from([NEVER, -1.0, 0.0, 1.0, 2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("serve_all", [False, True])
@given(table=tables, k=st.integers(1, 4), padded=st.integers(0, 6))
def test_the_budget_is_used_up_where_it_can_be_and_nothing_forbidden_is_taken(
    serve_all, table, k, padded
):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    allowed = (logits > NEVER) & mask[:, None]
    routed = Unified(k, serve_all=serve_all)(logits, mask=mask)
    budget = k * int(allowed.any(1).sum())
    assert int(routed.x.sum()) == min(budget, int(allowed.sum()))
    assert not (routed.x & ~allowed).any()
    assert not serve_all or torch.equal(routed.x.any(1), allowed.any(1))


@pytest.mark.parametrize("serve_all", [False, True])
@given(table=tables, k=st.integers(1, 4))
def test_with_one_token_a_pool_unified_is_token_choice(serve_all, table, k):
    one_token_each = torch.tensor(table, dtype=torch.float64)[:, None]
    received = Unified(k, serve_all=serve_all)(one_token_each).x
    assert torch.equal(received, TopK(k)(one_token_each).x)


@pytest.mark.parametrize("serve_all", [False, True])
@given(st.permutations(range(20)), st.permutations(range(5)), st.permutations(range(4)))
def test_permuting_tokens_and_experts_permutes_the_routing(serve_all, values, tokens, experts):
    scores, router = torch.tensor(values).reshape(5, 4).double(), Unified(2, serve_all=serve_all)
    permuted = router.select(scores[tokens][:, experts])
    assert torch.equal(permuted, router.select(scores)[tokens][:, experts])


# Three tokens come one after another; the second pair of token 0 goes to token 2 when it comes.
@pytest.mark.parametrize("pool", ["sequence", "batch"])
def test_unified_is_not_causal(pool):
    logits = torch.tensor([[5.0, 4.0], [1.0, 0.0], [9.0, 8.0]])
    router = Unified(1, rate=1.0, pool=pool)
    assert router(logits[:2]).x.int().tolist() == [[1, 1], [0, 0]]
    assert router(logits).x.int().tolist() == [[1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"k": -0.5}, r"k=-0\.5: expected a number above 0"),
        ({"k": math.nan}, r"k=nan: expected a number above 0"),
        ({"k": "two"}, r"k='two': expected a whole number"),
        ({"k": 0.5, "serve_all": True}, r"k=0\.5: expected a number of at least 1, as all"),
        ({"rate": -0.1}, r"rate=-0\.1: expected a number from 0 to 1"),
        ({"rate": 1.5}, r"rate=1\.5: expected a number from 0 to 1"),
        ({"rate": math.nan}, r"rate=nan: expected a number from 0 to 1"),
        ({"rate": "half"}, r"rate='half': expected a number from 0 to 1"),
        ({"pool": "layer"}, r"pool='layer': expected .sequence. or .batch. or .step."),
        ({"version": "v2"}, r"version='v2': expected .sigmoid. or .v1."),
        ({"padding": "zero"}, r"padding='zero': expected .excluded. or .competes."),
        ({"normalise": "sum"}, r"normalise='sum': expected .*kept"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        Unified(**{"k": 1, **arguments})


def test_bad_logits_and_masks_are_refused_whether_padding_competes_or_not():
    with pytest.raises(lpr.InputError, match=r"k=4 is more than E, the number of experts \(3\)"):
        Unified(4)(torch.zeros(2, 3))
    with pytest.raises(lpr.InputError, match=r'pool="step" needs logits .* got shape \(2, 3\)'):
        Unified(1, pool="step")(torch.zeros(2, 3))
    for padding in ("excluded", "competes"):
        with pytest.raises(lpr.InputError, match=r"mask: expected booleans of shape \(2,\)"):
            Unified(1, padding=padding)(torch.zeros(2, 3), mask=torch.ones(2))
        with pytest.raises(lpr.InputError, match=r"logits\[1, 2\] is nan"):
            Unified(1, padding=padding)(torch.tensor([[0.0] * 3, [0.0, 0.0, math.nan]]))
