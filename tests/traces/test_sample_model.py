"""The sample, its cards and the weights are what they say they are."""

import json

import pytest
import torch

import lp_routing as lpr
from benchmarks.byte_moe.corpus import load_corpus
from benchmarks.byte_moe.sample import CARDS, describe_loads, load_model, route
from benchmarks.byte_moe.train import METRICS, WEIGHTS, as_tensor, evaluate

CORPUS = load_corpus()
same_text = CORPUS.sha256 == json.loads(METRICS.read_text())["corpus"]["sha256"]
needs_the_text = pytest.mark.skipif(not same_text, reason="another CPython has another text")


def test_the_files_are_small_enough_to_ship():
    assert WEIGHTS.stat().st_size <= 6_000_000
    assert lpr.traces.sample().router_logits.numel() * 2 <= 1_100_000


def test_the_sample_is_four_layers_of_consecutive_windows():
    sample = lpr.traces.sample()
    assert sample.router_logits.shape == (4, 4096, 32)
    assert sample.router_logits.dtype == torch.float16
    assert torch.equal(sample.sequence, torch.arange(16).repeat_interleave(256).to(torch.int16))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_cards_state_the_loads_of_the_sample(card):
    text = card.read_text()
    for layer, logits in enumerate(lpr.traces.sample().router_logits.float()):
        assert f"| {layer} | {describe_loads(logits, 2)} |" in text
    assert f"| 0 | {describe_loads(lpr.traces.sample().router_logits[1].float(), 2)} |" not in text


def test_the_model_predicts_held_out_text_clearly_below_two_nats_per_byte():
    # on whatever standard library is here; the card's figure is for the one it names
    assert evaluate(load_model(), as_tensor(CORPUS.held_out), 256, one_in=80) < 1.7


def test_a_model_with_shuffled_weights_does_not():
    model = load_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.flatten().flip(0).view_as(parameter))
    assert evaluate(model, as_tensor(CORPUS.held_out), 256, one_in=160) > 2.0


@needs_the_text
def test_the_sample_is_what_the_weights_make_of_the_text():
    logits = route(load_model(), as_tensor(CORPUS.held_out))
    assert torch.allclose(logits, lpr.traces.sample().router_logits.float(), atol=5e-3)
