"""`TopP`, `Threshold`, `ReLURouter`, `RunningThreshold`: by hand, loops, certificates, errors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import lp_routing as lpr
from lp_routing.routers import Unified
from lp_routing.routers.sparse import ReLURouter, RunningThreshold, Threshold, TopP

NEVER = float("-inf")


def tied(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Logits in quarters from -1 to 1, one in ten forbidden."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(-4, 5, shape, generator=draw).to(dtype) / 4
    return values.masked_fill(torch.rand(shape, generator=draw) < 1 / 10, NEVER)


# A certain token and an undecided one. Of ties the lower index comes first.
SURE = torch.tensor([[0.75, 0.125, 0.125, 0.0], [0.25, 0.25, 0.25, 0.25]])


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.25, [[1, 0, 0, 0], [1, 0, 0, 0]]),
        (0.5, [[1, 0, 0, 0], [1, 1, 0, 0]]),
        (0.75, [[1, 0, 0, 0], [1, 1, 1, 0]]),
        (0.76, [[1, 1, 0, 0], [1, 1, 1, 1]]),
        (1.0, [[1, 1, 1, 0], [1, 1, 1, 1]]),
    ],
)
def test_top_p_by_hand(p, expected):
    assert TopP(p).select(SURE).int().tolist() == expected
    assert TopP(p).select(SURE * 4).int().tolist() == expected  # a share, whatever the sum


tables = st.lists(
    st.lists(st.one_of(st.just(NEVER), st.floats(-6, 6)), min_size=5, max_size=5),
    min_size=1,
    max_size=5,
)


@given(table=tables, p=st.floats(0.01, 1.0), score=st.sampled_from(["softmax", "sigmoid"]))
def test_top_p_is_the_smallest_set_that_holds_the_share(table, p, score):
    logits = torch.tensor(table, dtype=torch.float64)
    router = TopP(p, score=score, normalise="kept")
    routed, scores = router(logits), router.scores(logits)
    for s, x in zip(scores, routed.x, strict=True):
        allowed = s[s > NEVER]
        if not len(allowed):
            assert not x.any()
            continue
        held, goal = s[x].sum(), p * allowed.sum()
        assert held >= goal - 1e-12
        assert held - s[x].min() < goal + 1e-12
        out = s[~x & (s > NEVER)]
        assert not len(out) or out.max() <= s[x].min()
    served = (logits > NEVER).any(-1)
    assert torch.allclose(routed.weights.sum(-1), served.double())


def test_top_p_refuses_negative_scores():
    with pytest.raises(lpr.InputError, match=r"some are negative"):
        TopP(0.5, score="logits")(torch.tensor([[1.0, -1.0]]))


# Claim B6: a threshold fixed beforehand is the optimum of `unified` for the budget it realises.
@pytest.mark.parametrize(
    ("value", "score"),
    [(value, score) for value in (0.25, 0.5) for score in ("softmax", "sigmoid", "logits")]
    + [(-0.5, "logits"), (0.0, "softmax"), (1.0, "sigmoid")],
)
def test_a_threshold_is_certified_optimal_for_the_budget_it_realises(value, score):
    for seed in range(5):
        logits = tied(20, 4, dtype=torch.float64, seed=seed)
        router = Threshold(value, score=score)
        routed = router(logits)
        pairs = int(routed.x.sum())
        problem = lpr.problems.unified(router.scores(logits), pairs)
        proof = lpr.certify(problem, routed, lpr.Prices(total=value), exact=True)
        assert proof.gap == 0
        assert proof.proves_optimal(0)
        best = float(lpr.solve(problem).value)
        assert float(proof.value) == pytest.approx(best)
        if 0 < pairs < int((logits > NEVER).sum()):
            # the certificate would notice one pair swapped for a worse one, or one left out
            less = routed.x.clone()
            less[tuple(less.nonzero()[0])] = False
            assert not lpr.certify(problem, less, lpr.Prices(total=value)).proves_optimal()


def test_relu_takes_positive_logits_and_is_certified_at_price_0():
    logits = torch.tensor([[1.5, -0.5, 0.0], [-1.0, -2.0, NEVER]], dtype=torch.float64)
    routed = ReLURouter()(logits)
    assert routed.x.int().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert routed.weights.tolist() == [[1.5, 0, 0], [0, 0, 0]]
    assert routed.dropped.tolist() == [False, True]
    wide = tied(30, 5, dtype=torch.float64)
    routed = ReLURouter()(wide)
    problem = lpr.problems.unified(wide, int(routed.x.sum()))
    assert lpr.certify(problem, routed, lpr.Prices(), exact=True).gap == 0
    finite = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradcheck(lambda z: ReLURouter()(z).weights, finite.requires_grad_())


# Scores 8, 7 and 4, 1: a budget of one expert per token would be met at 7, of two at 1.
POOL = torch.tensor([[8.0, 7.0], [4.0, 1.0]], dtype=torch.float64)


def test_the_running_threshold_by_hand():
    router = RunningThreshold(1, rate=0.5, score="logits")
    routed, state = router(POOL)
    assert routed.x.all()  # it starts at 0
    assert state == 3.5
    routed, state = router(POOL, state)
    assert routed.x.int().tolist() == [[1, 1], [1, 0]]
    assert state == 5.25
    # three pairs for two tokens are half an expert too many, each
    routed, state = RunningThreshold(1, rate=0.5, update="step", score="logits")(POOL, state - 2)
    assert routed.x.int().tolist() == [[1, 1], [1, 0]]
    assert state == 3.5


def test_with_rate_1_the_next_batch_of_the_same_scores_is_unified():
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    router = RunningThreshold(2, rate=1)
    _, state = router(logits)
    routed, again = router(logits, state)
    assert torch.equal(routed.x, Unified(2, rate=0.0)(logits).x)
    assert torch.equal(state, again)


def test_a_budget_that_float64_rounds_down_is_met_in_whole_pairs():
    scores = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
    router = RunningThreshold(0.29, rate=1.0, score="logits")  # 0.29 * 100 is 28.999... in float64
    _, state = router(scores)
    assert int(router(scores, state)[0].x.sum()) == 29


@pytest.mark.parametrize("update", ["quantile", "step"])
def test_every_batch_is_certified_optimal_for_the_budget_it_realised(update):
    router, state = RunningThreshold(1.5, rate=0.05, update=update, score="logits"), None
    for seed in range(6):
        logits = tied(20, 4, dtype=torch.float64, seed=seed)
        before = 0.0 if state is None else float(state)
        routed, state = router(logits, state)
        problem = lpr.problems.unified(logits, int(routed.x.sum()))
        assert lpr.certify(problem, routed, lpr.Prices(total=before), exact=True).gap == 0


# Whatever comes, and here it drifts: the mean of n batches is off by (last - first) / (rate n).
def test_the_mean_budget_is_met():
    draw = torch.Generator().manual_seed(2)
    for update, rate in (("step", 0.02), ("quantile", 0.2)):
        router, state, counts = RunningThreshold(2, rate=rate, update=update), None, []
        for n in range(300):
            logits = torch.randn(64, 16, generator=draw, dtype=torch.float64) * (1 + n / 300)
            routed, state = router(logits, state)
            counts.append(float(routed.x.sum()) / 64)
        mean = sum(counts) / 300
        if update == "step":
            assert mean - 2 == pytest.approx(float(state) / (rate * 300), abs=1e-9)
        assert abs(sum(counts[50:]) / 250 - 2) < 0.1


ROUTERS = [TopP(0.6), Threshold(0.3), ReLURouter(), RunningThreshold(1.5)]
every_router = pytest.mark.parametrize("router", ROUTERS, ids=lambda r: type(r).__name__)


def only_assignment(result):
    return result[0] if isinstance(result, tuple) else result


@every_router
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_leading_dimensions_are_routed_each_on_its_own(router, dtype):
    logits, mask = tied(2, 3, 6, 4, dtype=dtype, seed=3), torch.rand(2, 3, 6) < 0.8
    routed = only_assignment(router(logits, mask=mask))
    for b in range(2):
        for c in range(3):
            alone = only_assignment(router(logits[b, c], mask=mask[b, c]))
            assert torch.equal(routed.x[b, c], alone.x)
            assert torch.equal(routed.weights[b, c], alone.weights)


def test_leading_dimensions_have_thresholds_of_their_own():
    logits, mask = tied(2, 3, 6, 4, seed=4), torch.rand(2, 3, 6) < 0.6
    mask[1, 2] = False
    for update in ("quantile", "step"):
        router = RunningThreshold(1.5, update=update)
        _, first = router(logits)
        routed, after = router(logits, first, mask=mask)
        assert after[1, 2] == first[1, 2]  # nobody came
        for b in range(2):
            for c in range(3):
                alone, state = router(logits[b, c], first[b, c], mask=mask[b, c])
                assert torch.equal(routed.x[b, c], alone.x)
                assert torch.equal(after[b, c], state)


@every_router
@given(table=tables, padded=st.integers(0, 5))
def test_nothing_forbidden_is_taken_and_earlier_tokens_do_not_see_later_ones(router, table, padded):
    logits, mask = torch.tensor(table), torch.arange(len(table)) >= padded
    x = only_assignment(router(logits, mask=mask)).x
    assert not (x & ~((logits > NEVER) & mask[:, None])).any()
    assert router.causal
    assert torch.equal(only_assignment(router(logits[:1], mask=mask[:1])).x, x[:1])


@every_router
def test_weights_are_differentiable(router):
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    assert gradcheck(lambda z: only_assignment(router(z)).weights, logits.requires_grad_())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TopP(0), r"p=0: expected a share above 0, at most 1"),
        (lambda: TopP(1.1), r"p=1\.1: expected a share"),
        (lambda: TopP(math.nan), r"p=nan: expected a share"),
        (lambda: TopP(0.5, score="tanh"), r"score 'tanh': expected"),
        (lambda: TopP(0.5, normalise="sum"), r"normalise='sum': expected"),
        (lambda: Threshold(math.inf), r"value=inf: expected a finite number"),
        (lambda: Threshold(True), r"value=True: expected a finite number"),
        (lambda: RunningThreshold(0), r"budget=0: expected a number of experts above 0"),
        (lambda: RunningThreshold(-1), r"budget=-1: expected a number of experts above 0"),
        (lambda: RunningThreshold(1, rate=2), r"rate=2: expected a number from 0 to 1"),
        (lambda: RunningThreshold(1, update="mean"), r"update='mean': expected \"quantile\""),
        (lambda: RunningThreshold(1, start=math.nan), r"start=nan: expected a finite number"),
        (lambda: RunningThreshold(3)(POOL), r"budget=3 is more than E.* \(2\)"),
        (lambda: RunningThreshold(1)(POOL, 0.5), r"expected the thresholds.* got float"),
        (lambda: RunningThreshold(1)(POOL, torch.zeros(2)), r"of shape \(\), got .*\(2,\)"),
        (lambda: ReLURouter()(torch.tensor([[math.nan]])), r"logits\[0, 0\] is nan"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_received(make, says):
    with pytest.raises(lpr.InputError, match=says):
        make()
