"""`HashRouter` and `RandomRouter`: the same token the same experts, even loads, laws, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import TopK
from lp_routing.routers.random import HashRouter, RandomRouter

NEVER = float("-inf")
both = pytest.mark.parametrize("kind", [HashRouter, RandomRouter])


def test_the_same_token_id_goes_to_the_same_experts_wherever_it_stands():
    ids = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 3]])
    x = HashRouter(2, token_ids=ids)(torch.randn(2, 4, 16)).x
    assert torch.equal(x[0, 1], x[0, 3])
    assert torch.equal(x[0, 0], x[1, 3])
    assert len({tuple(row) for row in x.flatten(0, 1).int().tolist()}) > 2
    alone = HashRouter(2, token_ids=torch.tensor([9]))(torch.zeros(1, 16)).x
    assert torch.equal(alone[0], x[1, 1])


def test_without_ids_the_place_in_the_sequence_is_hashed():
    x = HashRouter(1)(torch.zeros(2, 50, 8)).x
    assert torch.equal(x[0], x[1])
    assert torch.equal(HashRouter(1, token_ids=torch.arange(50))(torch.zeros(50, 8)).x, x[0])
    assert x[0].sum(0).count_nonzero() > 4


def test_ids_of_one_sequence_serve_all_sequences_of_a_batch():
    ids = torch.tensor([7, 7, 8], dtype=torch.int32)
    x = HashRouter(1, token_ids=ids)(torch.zeros(2, 3, 8)).x
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0, 0], x[0, 1])


def test_where_an_expert_is_forbidden_only_its_tokens_move():
    ids, logits = torch.arange(200), torch.zeros(200, 8)
    before = HashRouter(1, token_ids=ids)(logits).x
    logits[:, 3] = NEVER
    after = HashRouter(1, token_ids=ids)(logits).x
    assert before[:, 3].any()
    assert not after[:, 3].any()
    assert torch.equal(before[~before[:, 3]], after[~before[:, 3]])


@both
@pytest.mark.parametrize("k", [1, 3])
def test_every_expert_is_as_likely_as_any_other(kind, k):
    T, E = 20_000, 8
    load = kind(k)(torch.randn(T, E, generator=torch.Generator().manual_seed(0))).load
    error = math.sqrt(T * k / E * (1 - k / E))
    assert load.sum() == T * k
    assert (load - T * k / E).abs().max() < 4 * error
    assert (load - T * k / E).abs().max() > 0


@both
@given(st.lists(st.floats(-9, 9, width=32), min_size=24, max_size=24), st.integers(0, 9))
def test_only_which_pairs_are_forbidden_counts(kind, values, seed):
    logits = torch.tensor(values).reshape(6, 4)
    router = kind(2, seed)
    assert torch.equal(router(logits).x, router(torch.zeros(6, 4)).x)


tables = st.lists(
    st.lists(st.sampled_from([NEVER, 0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=6
)


@both
@given(table=tables, k=st.integers(1, 4), padded=st.integers(0, 6), seed=st.integers(0, 9))
def test_k_allowed_experts_share_a_token_equally(kind, table, k, padded, seed):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    allowed = (logits > NEVER) & mask[:, None]
    routed = kind(k, seed)(logits, mask=mask)
    assert torch.equal(routed.x.sum(-1), allowed.sum(-1).clamp(max=k))
    assert not (routed.x & ~allowed).any()
    assert torch.allclose(routed.weights.sum(-1), allowed.any(-1).float())
    assert (routed.weights[~routed.x] == 0).all()


@both
def test_weights_can_be_the_scores_of_the_drawn_experts(kind):
    logits = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    routed = kind(2, weights="scores", score="sqrt_softplus", normalise="kept")(logits)
    scores = lpr.scores.sqrt_softplus(logits) * routed.x
    assert torch.allclose(routed.weights, scores / scores.sum(-1, keepdim=True))
    assert not torch.allclose(routed.weights, kind(2)(logits).weights)


@both
@given(table=tables, later=tables)
def test_tokens_appended_later_change_no_earlier_row(kind, table, later):
    together = kind(2)(torch.tensor(table + later)).x
    assert kind(2).causal
    assert torch.equal(together[: len(table)], kind(2)(torch.tensor(table)).x)


@both
def test_the_draws_are_a_function_of_the_seed(kind):
    one, again, other = (kind(2, seed)(torch.zeros(3, 40, 8)).x for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_chance_differs_between_entries_of_a_batch():
    x = RandomRouter(1)(torch.zeros(2, 40, 8)).x
    assert not torch.equal(x[0], x[1])


def test_chance_is_no_echo_of_the_hash_of_the_same_seed():
    logits = torch.zeros(40, 8)
    assert not torch.equal(RandomRouter(1)(logits).x, HashRouter(1)(logits).x)


@both
@given(st.permutations(range(24)))
def test_neither_beats_row_top_k(kind, values):
    logits = torch.tensor(values).reshape(6, 4).double()
    drawn = float((kind(2)(logits).x * logits).sum())
    assert drawn <= float((TopK(2)(logits).x * logits).sum())


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_is_routed_alike(kind, dtype):
    assert torch.equal(kind(2)(torch.zeros(5, 4, dtype=dtype)).x, kind(2)(torch.zeros(5, 4)).x)


@both
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, r"k=0: it must be at least 1"),
        ({"seed": -1}, r"seed=-1: it must be at least 0"),
        ({"weights": "one"}, r"weights='one': expected .equal. or .scores."),
        ({"score": "softmaxx"}, r"score 'softmaxx': expected a function or one of softmax"),
        ({"normalise": "sum"}, r"normalise='sum': expected .kept., .all. or None"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_once_with_what_was_received(kind, arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        kind(**{"k": 1, **arguments})


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, 2], r"whole numbers \(\.\.\., T\), got list"),
        (torch.ones(3), r"got torch\.float32"),
        (torch.ones(3, dtype=torch.bool), r"got torch\.bool"),
    ],
)
def test_token_ids_that_are_no_whole_numbers_are_refused(ids, says):
    with pytest.raises(lpr.InputError, match=says):
        HashRouter(1, token_ids=ids)


@pytest.mark.parametrize("shape", [(), (2,), (2, 4), (1, 3), (2, 2, 3)])
def test_token_ids_of_another_shape_are_refused(shape):
    ids = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(lpr.InputError, match=r"do not fit tokens of shape \(2, 3\)"):
        HashRouter(1, token_ids=ids)(torch.zeros(2, 3, 4))


@both
def test_more_experts_per_token_than_there_are_experts_is_refused(kind):
    with pytest.raises(lpr.InputError, match=r"k=5 is more than E, the number of experts \(4\)"):
        kind(5)(torch.zeros(3, 4))
