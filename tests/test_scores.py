"""Scores: hand-worked values, the formulas written out in plain Python, and their laws."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import scores

NEVER = float("-inf")
LOG3 = math.log(3)
TINY = torch.zeros(2, 3)
ALL = {
    **scores.BY_NAME,
    "unified_v1": scores.unified_v1,
    "unified, rate 1/4": partial(scores.unified, rate=0.25),
    "unified_v1, per token": partial(scores.unified_v1, per_token=True),
    "unified_v1, rate 1": partial(scores.unified_v1, rate=1.0),
}
every_score = pytest.mark.parametrize("score", ALL.values(), ids=ALL)


def softmax_of(line: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in line)
    return [math.exp(value) / total if total else 0.0 for value in line]


def by_definition(rows: list[list[float]], rate: float, version: str) -> list[list[float]]:
    """(1 - rate) softmax over experts + rate * (sigmoid * 2/E, or softmax over tokens)."""
    E = len(rows[0])
    over_experts = [softmax_of(row) for row in rows]
    if version == "v1":
        second = [list(row) for row in zip(*map(softmax_of, zip(*rows, strict=True)), strict=True)]
    else:
        second = [[2 / E / (1 + math.exp(-v)) if v > NEVER else 0.0 for v in row] for row in rows]
    return [
        [(1 - rate) * p + rate * g if v > NEVER else NEVER for v, p, g in zip(*row, strict=True)]
        for row in zip(rows, over_experts, second, strict=True)
    ]


def close(received: torch.Tensor, expected, tolerance: float = 1e-12) -> bool:
    expected = torch.as_tensor(expected, dtype=received.dtype)
    return torch.allclose(received, expected, rtol=tolerance, atol=0)


# Logits 0 and log 3. Over two experts the softmax is 1/4, 3/4; the sigmoid is 1/2, 3/4, and
# 2/E is 1. Over four experts (0, 0, 0, log 3) the softmax is 1/6 and 1/2, and 2/E is 1/2.
@pytest.mark.parametrize(
    ("score", "logits", "expected"),
    [
        (scores.logits, [[0, LOG3]], [[0, LOG3]]),
        (scores.softmax, [[0, LOG3]], [[1 / 4, 3 / 4]]),
        (scores.sigmoid, [[0, LOG3]], [[1 / 2, 3 / 4]]),
        (scores.unified, [[0, LOG3]], [[3 / 8, 3 / 4]]),
        (partial(scores.unified, rate=0.0), [[0, LOG3]], [[1 / 4, 3 / 4]]),
        (partial(scores.unified, rate=1.0), [[0, LOG3]], [[1 / 2, 3 / 4]]),
        (scores.unified, [[0, 0, 0, LOG3]], [[5 / 24, 5 / 24, 5 / 24, 7 / 16]]),
        # v1: token 0 against token 1 at expert 0 is 1/2 : 1/2, at expert 1 it is 3/4 : 1/4.
        (scores.unified_v1, [[0, LOG3], [0, 0]], [[3 / 8, 3 / 4], [1 / 2, 3 / 8]]),
        # divided by row sums: 1/2 : 3/4 becomes 2/5 : 3/5, and 1/2 : 1/4 becomes 2/3 : 1/3
        (
            partial(scores.unified_v1, rate=1.0, per_token=True),
            [[0, LOG3], [0, 0]],
            [[2 / 5, 3 / 5], [2 / 3, 1 / 3]],
        ),
        # One token a column: the softmax over tokens is 1.
        (partial(scores.unified_v1, rate=1.0), [[0, LOG3]], [[1, 1]]),
        # A forbidden pair stays forbidden; the others share the whole softmax.
        (scores.softmax, [[0, NEVER, LOG3]], [[1 / 4, NEVER, 3 / 4]]),
        (scores.softmax, [[NEVER, NEVER]], [[NEVER, NEVER]]),
    ],
)
def test_scores_have_the_values_worked_by_hand(score, logits, expected):
    assert close(score(torch.tensor(logits, dtype=torch.float64), None), expected)


@pytest.mark.parametrize("version", ["sigmoid", "v1"])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_unified_scores_equal_their_formula(rate, version):
    draw = torch.Generator().manual_seed(1)
    score = scores.unified if version == "sigmoid" else scores.unified_v1
    logits = 2 * torch.randn(8, 5, dtype=torch.float64, generator=draw)
    logits[2, 1] = logits[4, 0] = NEVER
    received = score(logits, rate=rate)
    assert close(received, by_definition(logits.tolist(), rate, version))
    assert not close(received, by_definition(logits.tolist(), rate + 0.01, version))


@every_score
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_widened_before_anything_is_computed(score, dtype):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    received = score(logits, None)
    assert received.dtype == torch.float32
    assert torch.equal(received, score(logits.float(), None))


@every_score
def test_double_precision_stays_double(score):
    assert score(torch.zeros(2, 3, dtype=torch.float64), None).dtype == torch.float64


def test_neighbouring_bfloat16_logits_get_no_tie_from_the_softmax():
    logits = torch.tensor([[0.0625, 0.0625 + 2**-11]], dtype=torch.bfloat16)
    in_bfloat16 = torch.softmax(logits, -1)[0]
    assert in_bfloat16[0] == in_bfloat16[1]
    low, high = scores.softmax(logits)[0]
    assert low < high


@every_score
def test_batched_scores_equal_the_scores_of_each_batch_alone(score):
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 5, 4, generator=draw)
    mask = torch.rand(2, 3, 5, generator=draw) < 0.7
    received = score(logits, mask)
    for b in range(2):
        for c in range(3):
            assert torch.equal(received[b, c], score(logits[b, c], mask[b, c]))


@every_score
def test_padding_scores_minus_infinity_and_its_logits_touch_no_other_token(score):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([True, True, False, True, False])
    received = score(logits, mask)
    assert (received[~mask] == NEVER).all()
    assert received[mask].isfinite().all()
    assert torch.equal(received, score(logits.masked_fill(~mask[:, None], 9.0), mask))


def test_without_a_mask_the_first_version_lets_every_token_count():
    logits = torch.zeros(2, 2)
    higher = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    assert (scores.unified_v1(higher)[0] < scores.unified_v1(logits)[0]).all()
    assert torch.equal(scores.unified(higher)[0], scores.unified(logits)[0])


@every_score
def test_scores_leave_the_logits_alone_and_read_any_layout(score):
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(5)).mT
    before = logits.clone()
    assert not logits.is_contiguous()
    assert torch.equal(score(logits, None), score(logits.contiguous(), None))
    assert torch.equal(logits, before)


tables = st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=1, max_size=5)


@given(tables, st.integers(-9, 9))
def test_adding_a_constant_to_a_tokens_logits_leaves_the_softmax_the_same(table, constant):
    logits = torch.tensor(table, dtype=torch.float64)
    shift = constant * torch.arange(len(table), dtype=torch.float64)[:, None]
    assert torch.equal(scores.softmax(logits), scores.softmax(logits + shift))


def test_adding_a_constant_changes_the_sigmoid_and_so_the_unified_score():
    logits = torch.tensor([[0.0, 1.0]])
    assert (scores.unified(logits) < scores.unified(logits + 1)).all()


@given(tables, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_within_a_token_every_rate_orders_the_experts_like_their_logits(table, rate):
    logits = torch.tensor(table, dtype=torch.float64)
    received = scores.unified(logits, rate=rate)
    before = logits[:, :, None] < logits[:, None, :]
    assert torch.equal(received[:, :, None] < received[:, None, :], before)


@every_score
def test_gradients_of_scores_equal_finite_differences(score):
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    assert torch.autograd.gradcheck(lambda values: score(values, None), logits.requires_grad_())


@every_score
def test_a_token_that_is_forbidden_everywhere_gets_a_zero_gradient_not_nan(score):
    logits = torch.tensor([[NEVER, NEVER], [1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    received = score(logits, None)
    received.masked_fill(received == NEVER, 0.0).square().sum().backward()
    assert torch.equal(logits.grad[0], torch.zeros(2))
    assert (logits.grad[1] != 0).any()


def test_an_expert_forbidden_to_all_tokens_gets_a_zero_gradient_not_nan():
    logits = torch.tensor([[NEVER, 1.0], [NEVER, 2.0]], requires_grad=True)
    scores.unified_v1(logits)[:, 1].square().sum().backward()
    assert torch.equal(logits.grad[:, 0], torch.zeros(2))
    assert (logits.grad[:, 1] != 0).all()


@every_score
@pytest.mark.parametrize(
    ("logits", "says"),
    [
        ([[0.0, math.nan]], r"logits\[0, 1\] is nan \(1 such entries\).*finite, or -inf"),
        ([[[0.0], [math.inf]]], r"logits\[0, 1, 0\] is inf .*Look for overflow"),
        ([1.0, 2.0], r"\(\.\.\., tokens, experts\).*torch\.float32 of shape \(2,\)"),
        ([[1, 2]], r"floating-point.*torch\.int64 of shape \(1, 2\)"),
        ([[True, False]], r"floating-point.*torch\.bool of shape \(1, 2\)"),
        ([[1j, 2]], r"floating-point.*torch\.complex64 of shape \(1, 2\)"),
        ([[], []], r"at least one token and one expert, got .* of shape \(2, 0\)"),
        (torch.zeros(0, 3), r"at least one token and one expert, got .* of shape \(0, 3\)"),
        (torch.zeros(0, 2, 3), r"got .* of shape \(0, 2, 3\)"),
    ],
)
def test_bad_logits_are_refused_with_what_was_received(score, logits, says):
    with pytest.raises(lpr.InputError, match=says):
        score(torch.as_tensor(logits), None)


@every_score
@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(2), r"booleans of shape \(2,\) \(True for real.*got torch\.float32"),
        (torch.tensor([0, 1]), r"booleans.*got torch\.int64 of shape \(2,\)"),
        (torch.ones(3, dtype=torch.bool), r"shape \(2,\).*got torch\.bool of shape \(3,\)"),
        (torch.ones(2, 3, dtype=torch.bool), r"shape \(2,\).*got torch\.bool of shape \(2, 3\)"),
    ],
    ids=["float", "int", "too long", "one per pair"],
)
def test_bad_masks_are_refused_with_what_was_received(score, mask, says):
    with pytest.raises(lpr.InputError, match=says):
        score(TINY, mask)


def test_logits_that_are_no_numbers_are_refused_with_their_type():
    with pytest.raises(lpr.InputError, match=r"logits: expected .*NoneType"):
        scores.softmax(None)


@pytest.mark.parametrize("mask", [[True, False], np.array([True, False])], ids=type)
def test_a_mask_that_is_no_tensor_is_refused_with_its_type(mask):
    with pytest.raises(lpr.InputError, match=f"mask: expected .*{type(mask).__name__}"):
        scores.softmax(TINY, mask)


@pytest.mark.parametrize("name", ["softmx", ""])
def test_an_unknown_score_name_is_refused_with_the_names_there_are(name):
    with pytest.raises(
        lpr.InputError, match=rf"{name!r}: expected a function or one of softmax, sigmoid, unified"
    ):
        scores.named(name)


@pytest.mark.parametrize("score", [None, 3])
def test_a_score_that_is_neither_a_function_nor_a_name_is_refused(score):
    with pytest.raises(lpr.InputError, match=rf"score {score}.*function"):
        scores.named(score)


# softplus(log(e^4 - 1)) = log(1 + e^4 - 1) = 4, softplus(log(e - 1)) = 1, softplus(0) = log 2.
def test_the_square_root_of_the_softplus_has_the_values_worked_by_hand():
    rows = [[math.log(math.expm1(4)), math.log(math.expm1(1)), 0.0, NEVER]]
    received = scores.sqrt_softplus(torch.tensor(rows, dtype=torch.float64))
    assert close(received, [[2.0, 1.0, math.sqrt(math.log(2)), NEVER]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_square_root_of_the_softplus_keeps_its_digits_far_out(dtype):
    # log(1 + exp(x)) is exp(x) (1 - exp(x)/2 + ...) far below 0, and x + exp(-x) far above.
    logits = torch.tensor([[-160.0, -100.0, -40.5, -39.5, -17.0, 17.0, 39.5, 40.5, 3e4]])
    expected = [math.sqrt(math.log1p(math.exp(x)) if x < 700 else x) for x in logits[0].tolist()]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert close(scores.sqrt_softplus(logits.to(dtype)), [expected], tolerance)
    wrong = [value * (1 + 2 * tolerance) for value in expected]
    assert not close(scores.sqrt_softplus(logits.to(dtype)), [wrong], tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_square_root_of_the_softplus_never_falls_where_the_logit_rises(dtype):
    seams = torch.tensor([-40.0, 20.0, 40.0], dtype=dtype)[:, None]
    steps = torch.arange(-50, 51, dtype=dtype) * 40 * torch.finfo(dtype).eps
    received = scores.sqrt_softplus(seams + steps)
    assert (received.diff(dim=-1) >= 0).all()
    assert (received[:, -1] > received[:, 0]).all()


@pytest.mark.parametrize("logit", [-160.0, -104.5, -41.0, 0.0, 41.0, 1e4])
def test_the_square_root_of_the_softplus_has_a_finite_positive_slope_everywhere(logit):
    logits = torch.tensor([[logit, 0.0]], requires_grad=True)
    scores.sqrt_softplus(logits)[0, 0].backward()
    slope = float(logits.grad[0, 0])
    # sigmoid(x) / (2 sqrt(softplus(x)))
    sigmoid, root = 1 / (1 + math.exp(-logit)), math.sqrt(math.log1p(math.exp(min(logit, 700))))
    expected = sigmoid / 2 / (root if logit < 700 else math.sqrt(logit))
    assert slope == pytest.approx(expected, rel=1e-4)
