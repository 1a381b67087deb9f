"""`competition_scores`: responses worked by hand, and routing by them; errors."""

import math

import pytest
import torch

import lp_routing as lpr
from lp_routing.routers import ExpertChoice, TopK
from lp_routing.scores import competition_scores

every_response = pytest.mark.parametrize("response", ["norm", "mean"])

# One token, three experts, width 2, with norms 5, 0 and 4: softplus(5), log 2 and softplus(4).
# Entry by entry: the mean of softplus(3) and softplus(-4), log 2, softplus(4) and softplus(0).
OUTPUTS = torch.tensor([[[3.0, -4.0], [0.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("response", "expected", "winner"),
    [
        ("norm", [softplus(5), softplus(0), softplus(4)], 0),
        (
            "mean",
            [(softplus(3) + softplus(-4)) / 2, softplus(0), (softplus(4) + softplus(0)) / 2],
            2,
        ),
    ],
)
def test_the_expert_that_responds_most_wins(response, expected, winner):
    received = competition_scores(OUTPUTS, response)
    assert torch.allclose(
        received, torch.tensor([expected], dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert int(received.argmax()) == winner


def test_token_choice_by_response_is_top_k_of_the_scores_with_their_shares_as_weights():
    routed = TopK(2, score="logits", normalise="kept")(competition_scores(OUTPUTS))
    five, four = softplus(5), softplus(4)
    assert routed.x.int().tolist() == [[1, 0, 1]]
    expected = torch.tensor([[five, 0.0, four]], dtype=torch.float64) / (five + four)
    assert torch.allclose(routed.weights, expected, rtol=1e-12, atol=0)


def test_any_other_rule_and_any_problem_takes_them_as_scores():
    outputs = torch.randn(8, 4, 16, generator=torch.Generator().manual_seed(0))
    scores = competition_scores(outputs)
    routed = ExpertChoice(2, score="logits")(scores)
    best = lpr.solve(lpr.problems.expert_choice(scores, 2)).value
    assert float(routed.weights.double().sum()) == pytest.approx(best, rel=1e-9)


@every_response
def test_batches_are_scored_each_on_its_own(response):
    outputs = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    received = competition_scores(outputs, response)
    assert received.shape == (2, 3, 5, 4)
    assert (received > 0).all()
    for b in range(2):
        for c in range(3):
            alone = competition_scores(outputs[b, c], response)
            assert torch.allclose(received[b, c], alone, rtol=1e-6, atol=0)


@every_response
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(response, dtype):
    # norms of 600 entries of 200 pass the largest float16 when squared
    outputs = torch.full((1, 2, 600), 200.0, dtype=dtype)
    received = competition_scores(outputs, response)
    assert received.dtype == torch.float32
    assert torch.equal(received, competition_scores(outputs.float(), response))
    assert received.isfinite().all()


@every_response
def test_gradients_reach_the_outputs_and_are_zero_not_nan_at_an_answer_of_zeros(response):
    outputs = torch.zeros(1, 2, 3, requires_grad=True)
    competition_scores(outputs, response).sum().backward()
    assert outputs.grad.isfinite().all()
    draw = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda values: competition_scores(values, response), draw.requires_grad_()
    )


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([[[1.0]]], r"floating-point tensor .*, got list"),
        (torch.ones(2, 3, 4, dtype=torch.int64), r"got torch\.int64"),
        (torch.ones(2, 3), r"width\), none of them 0, got shape \(2, 3\)"),
        (torch.ones(2, 0, 4), r"got shape \(2, 0, 4\)"),
        (torch.tensor([[[1.0, math.nan]]]), r"outputs\[0, 0, 1\] is nan"),
        (torch.tensor([[[-math.inf, 1.0]]]), r"outputs\[0, 0, 0\] is inf"),
    ],
)
def test_bad_outputs_are_refused_with_what_was_received(outputs, says):
    with pytest.raises(lpr.InputError, match=says):
        competition_scores(outputs)


def test_an_unknown_response_is_refused():
    with pytest.raises(lpr.InputError, match=r"response='max': expected .norm. or .mean."):
        competition_scores(OUTPUTS, "max")
