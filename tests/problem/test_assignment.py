"""What a router returns: loads, drops, weights and gradients; and its value, certified optimal."""

from functools import partial

import pytest
import torch

import lp_routing as lpr
from lp_routing.routers import ExpertChoice, TopK, Unified

NEVER = float("-inf")
raw = partial(TopK, score="logits")

# Three tokens, two experts; the last token is padding.
#   token 0 goes to both experts, token 1 nowhere, padding nowhere.
WHOLE = lpr.Assignment(
    torch.tensor([[1, 1], [0, 0], [0, 0]], dtype=torch.bool),
    weights=torch.tensor([[0.5, 0.25], [0.0, 0.0], [0.0, 0.0]]),
    mask=torch.tensor([True, True, False]),
)


def test_loads_and_drops_are_counted_and_padding_is_not_dropped():
    assert WHOLE.load.tolist() == [1, 1]
    assert WHOLE.experts_per_token.tolist() == [2, 0, 0]
    assert WHOLE.dropped.tolist() == [False, True, False]
    assert lpr.Assignment(WHOLE.x).dropped.tolist() == [False, True, True]
    assert WHOLE.amounts.dtype == WHOLE.load.dtype == torch.float64
    assert WHOLE.amounts.tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("x", "whole", "load", "dropped"),
    [
        ([[1.0, 0.0], [0.5, 0.5]], False, [1.5, 0.5], [False, False]),
        ([[0.25, 0.0], [0.5, 0.0]], False, [0.75, 0], [True, False]),
        # A row that stands for several identical tokens.
        ([[3, 0], [0, 2]], True, [3, 2], [False, False]),
        ([[2.0, 0.0], [0.0, 0.0]], True, [2, 0], [False, True]),
    ],
)
def test_amounts_may_be_fractions_or_several_tokens(x, whole, load, dropped):
    assignment = lpr.Assignment(torch.tensor(x))
    assert assignment.is_whole is whole
    assert assignment.load.tolist() == load
    assert assignment.dropped.tolist() == dropped


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_long_columns_of_low_precision_are_summed_without_losing_tokens(dtype):
    assert lpr.Assignment(torch.ones(5001, 1, dtype=dtype)).load.tolist() == [5001]
    assert lpr.Assignment(torch.ones(5001, 1, dtype=torch.bool)).load.tolist() == [5001]


def test_an_entry_of_a_batch_is_an_assignment_with_its_own_weights_and_mask():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    batch = TopK(2)(logits, mask=mask)
    for b in range(3):
        alone = TopK(2)(logits[b], mask=mask[b])
        assert torch.equal(batch[b].x, alone.x)
        assert torch.equal(batch[b].weights, alone.weights)
        assert torch.equal(batch[b].mask, alone.mask)
    assert not torch.equal(batch[1].x, batch[2].x)
    assert len(list(batch)) == 3
    assert lpr.Assignment(batch.x)[0].weights is None


def test_an_assignment_of_one_batch_has_no_entries():
    with pytest.raises(IndexError, match="no leading dimension"):
        WHOLE[0]


# TopK(2): logits (0, log 3, log 4) have the softmax (1/8, 3/8, 4/8), whose sum is 1, and the
# sigmoids 1/2, 3/4, 4/5, whose sum is 41/20 and 31/20 over the kept two.
# Unified(1) with rate 1 and two experts: sigmoids 3/4 and 1/2 of each token, two pairs of four.
@pytest.mark.parametrize(
    ("router", "logits", "raw_weights", "kept", "of_all"),
    [
        (TopK, [[0, 3, 4]], [[0, 3 / 8, 4 / 8]], [[0, 3 / 7, 4 / 7]], [[0, 3 / 8, 4 / 8]]),
        (
            partial(TopK, score="sigmoid"),
            [[0, 3, 4]],
            [[0, 3 / 4, 4 / 5]],
            [[0, 15 / 31, 16 / 31]],
            [[0, 15 / 41, 16 / 41]],
        ),
        (
            partial(Unified, rate=1.0),
            [[3, 0], [3, 0]],
            [[3 / 4, 1 / 2], [3 / 4, 1 / 2]],
            [[3 / 5, 2 / 5], [3 / 5, 2 / 5]],
            [[3 / 5, 2 / 5], [3 / 5, 2 / 5]],
        ),
        (
            lambda k, **how: Unified(k - 1, rate=1.0, **how),
            [[3, 0], [3, 0]],
            [[3 / 4, 0], [3 / 4, 0]],
            [[1, 0], [1, 0]],
            [[3 / 5, 0], [3 / 5, 0]],
        ),
    ],
    ids=["softmax", "sigmoid", "unified, all kept", "unified"],
)
def test_weights_are_divided_by_the_kept_scores_or_by_all(
    router, logits, raw_weights, kept, of_all
):
    # A logit n stands for log n, and a token that may go nowhere stands below.
    values = torch.tensor(logits, dtype=torch.float64)
    values = torch.where(values > 0, values.log(), values)
    nowhere = torch.full((1, values.shape[1]), NEVER, dtype=torch.float64)
    values = torch.cat([values, nowhere])
    for normalise, expected in {None: raw_weights, "kept": kept, "all": of_all}.items():
        weights = router(2, normalise=normalise)(values).weights
        assert torch.allclose(weights[:-1], torch.tensor(expected, dtype=torch.float64))
        assert (weights[-1] == 0).all()


ROUTERS = {
    "TopK": TopK(2),
    "TopK, kept": TopK(2, normalise="kept"),
    "TopK, all, sigmoid": TopK(2, score="sigmoid", normalise="all"),
    "TopK, by score": TopK(2, capacity=2, score="sigmoid"),
    "TopK, rank-major": TopK(2, capacity=2, by="position", normalise="kept"),
    "TopK, token-major": TopK(2, capacity=2, by="position", order="token"),
    "ExpertChoice": ExpertChoice(2),
    "Unified": Unified(2),
    "Unified, batch, kept": Unified(2, pool="batch", normalise="kept"),
    "Unified, step, all": Unified(2, pool="step", normalise="all"),
    "Unified, served, v1": Unified(2, serve_all=True, version="v1"),
}
every_router = pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)


def some_logits(**options) -> torch.Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(2, 4, 3, dtype=torch.float64, generator=draw, **options)


@every_router
def test_gradients_of_the_weights_equal_finite_differences(router):
    logits = some_logits(requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: router(values).weights, logits)
    routed = router(logits)
    routed.weights.square().sum().backward()
    assert (logits.grad[routed.x] != 0).any()
    assert not routed.x.requires_grad


@every_router
def test_a_token_that_may_go_nowhere_leaves_the_gradients_of_the_others_finite(router):
    logits = some_logits()
    logits[0, 2] = NEVER
    logits.requires_grad_()
    router(logits).weights.square().sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).any()


@every_router
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_any_layout_are_routed_like_the_same_numbers_widened(router, dtype):
    logits = some_logits().to(dtype).transpose(0, 1).contiguous().transpose(0, 1)
    assert not logits.is_contiguous()
    routed, widened = router(logits), router(logits.float().contiguous())
    assert routed.weights.dtype == torch.float32
    assert torch.equal(routed.x, widened.x)
    assert torch.equal(routed.weights, widened.weights)


@every_router
def test_one_expert_or_everything_forbidden_is_still_a_routing(router):
    nothing = router(torch.full((2, 4, 3), NEVER))
    assert not nothing.x.any()
    assert (nothing.weights == 0).all()
    assert nothing.dropped.all()
    all_padding = router(some_logits(), mask=torch.zeros(2, 4, dtype=torch.bool))
    assert not all_padding.x.any()
    assert not all_padding.dropped.any()


@pytest.mark.parametrize("router", [TopK(1), TopK(1, capacity=5), ExpertChoice(5), Unified(1)])
def test_a_single_expert_takes_every_token(router):
    assert router(torch.zeros(2, 5, 1)).x.all()


def of_total(problem):
    return lambda scores: problem(scores, 2 * len(scores))


CERTIFIED = {
    "TopK": (raw(2), lambda scores: lpr.problems.token_choice(scores, 2)),
    "ExpertChoice": (ExpertChoice(3), lambda scores: lpr.problems.expert_choice(scores, 3)),
    "Unified": (Unified(2), of_total(lpr.problems.unified)),
    "served": (Unified(2, serve_all=True), of_total(lpr.problems.served_unified)),
}


def dyadic(seed: int, step: float) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 24, (9, 5), generator=draw).double() * step


@pytest.mark.parametrize(("router", "problem"), CERTIFIED.values(), ids=CERTIFIED)
@pytest.mark.parametrize("step", [1 / 4, 1 / 1024])
@pytest.mark.parametrize("seed", range(6))
def test_routers_reach_the_certified_optimum_of_their_problem(router, problem, step, seed):
    scores = dyadic(seed, step)
    problem = problem(scores)
    prices = lpr.solve(problem, "highs").prices
    chosen = router.select(scores)
    proof = lpr.certify(problem, lpr.Assignment(chosen), prices, exact=True)
    assert proof.gap == 0
    assert proof.violations == ()

    # The same rule on turned scores keeps to every bound and is worth less; with a pair less,
    # a bound is broken.
    worst = lpr.certify(problem, router.select(-scores), prices, exact=True)
    assert worst.violations == ()
    assert worst.gap > 0
    one_less = chosen.clone()
    one_less[tuple(chosen.nonzero()[0])] = False
    assert lpr.certify(problem, one_less, prices).violations


def test_dropping_keeps_to_the_capacity_and_misses_the_optimum():
    # Both want expert 0, one place: dropping keeps a value of 3, but moving token 0 gives 2 + 3.
    scores = torch.tensor([[3.0, 2.0], [3.0, 0.0]])
    problem = lpr.problems.capacity(scores, 1, 1)
    routed = raw(1, capacity=1)(scores)
    proof = lpr.certify(problem, routed, lpr.solve(problem, "highs").prices, exact=True)
    assert routed.x.int().tolist() == [[1, 0], [0, 0]]
    assert (proof.value, proof.bound, proof.violations) == (3, 5, ())
