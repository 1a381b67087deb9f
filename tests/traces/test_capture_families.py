"""Every MoE family of transformers: captured logits against logits by hand, facts against choices.

By hand: the hidden states that the router is given, and the one parameter (E, H) that it has.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lp_routing as lpr
from lp_routing import scores
from lp_routing.traces import capture
from lp_routing.traces.families import ROUTERS
from tests.moe_families import BLOCKS, config_of, modeling, randomised, run, tiny

transformers = pytest.importorskip("transformers")
MODELS = Path(transformers.__file__).parent / "models"
FAMILIES = sorted({router.family for router in ROUTERS.values()})
NOT_LOGITS = {
    "DogeCDMoE": "products of keys, no logit for each expert",
    "JetMoeAttention": "passes on what JetMoeTopKGating gives",
    "Ernie4_5_VLMoeMoeBlock": "passes on what its two routers give",
}
"""What transformers records under `router_logits` that is no router of ours."""


def sources():
    """Family and source of every modeling file that speaks of experts."""
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        text = path.read_text()
        if "expert" in text:
            yield path.parent.name, text


def recorded_by_transformers():
    """Class -> place of the logits, wherever a model records `router_logits`."""
    found = {}
    for _, text in sources():
        for line in re.findall(r'"router_logits": (.*OutputRecorder.*)', text):
            pairs = re.findall(r"OutputRecorder\((\w+),.*?index=(\d+)", line)
            assert pairs, line
            found |= {name: int(place) for name, place in pairs}
    return found


def routers_by_name():
    """Class -> family, of the classes that are called routers and speak of experts."""
    found = {}
    for family, text in sources():
        for part in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
            name = re.match(r"class (\w+(?:Router|Gate|Gating))\(", part)
            if name and "expert" in part and re.search(r"topk|argmax|tid2eid|num_experts", part):
                found[name[1]] = family
    return found


def test_no_router_of_transformers_is_missing():
    assert len(FAMILIES) > 60
    recorded = recorded_by_transformers()
    assert len(recorded) > 60
    assert set(recorded) - set(ROUTERS) == set(NOT_LOGITS)
    named = routers_by_name()
    assert set(named) <= set(ROUTERS)
    assert {name: ROUTERS[name].family for name in named} == named
    for name, place in recorded.items():
        if name in ROUTERS and not ROUTERS[name].linear:
            # an output that is no tuple is recorded as the first of one
            assert (ROUTERS[name].place or 0) == place, name


def watch(model):
    """Router name -> what it is given and gives, in a list that grows."""
    seen = {}
    for name, module in model.named_modules():
        if type(module).__name__ in ROUTERS:
            calls = seen.setdefault(name, [])
            module.register_forward_hook(
                lambda module, args, output, calls=calls: calls.append((module, args[0], output))
            )
    return seen


def by_hand(router, hidden):
    """Logits (T, E) of the hidden states that a router is given."""
    hidden = hidden.flatten(0, -2).double()
    name = type(router).__name__
    if name == "ZayaRouter":  # the states of the layer before come in
        return None
    if name in ("Gemma4TextRouter", "DiffusionGemmaTextRouter"):
        root = hidden.pow(2).mean(-1, keepdim=True).add(router.eps).sqrt()
        hidden = hidden / root * router.scale.double() / hidden.shape[-1] ** 0.5
    (weight,) = [
        values
        for values in router.parameters()
        if values.ndim == 2 and values.shape[1] == hidden.shape[1]
    ]
    logits = hidden @ weight.double().T
    if name in ("GptOssTopKRouter", "OpenAIPrivacyFilterTopKRouter"):
        logits = logits + router.bias.double()
    if name == "MuseSparkTopkRouter":
        logits = logits * router.output_multiplier
    if name == "LagunaTopKRouter" and router.router_logit_softcapping > 0:
        cap = router.router_logit_softcapping
        logits = torch.tanh(logits / cap) * cap
    if name == "InklingTopkRouter":
        logits = logits[:, : router.num_experts]
    return logits


def compare(model, trace, seen):
    """Captured logits, choices by score and bias, and weights against what the routers did."""
    assert list(trace.layer_names) == [name for name, calls in seen.items() if calls]
    for index, name in enumerate(trace.layer_names):
        ((router, hidden, output),) = seen[name]
        logits, expected = trace.router_logits[index], by_hand(router, hidden)
        if expected is not None:
            torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-5)
        check_choice(router, output, logits, trace, index)


def check_choice(router, output, logits, trace, index):
    """The router's choice is the top k of score + bias; its weights are as the scores are."""
    name = type(router).__name__
    worth = scores.named(trace.score)(logits)
    biased = worth if trace.bias is None else worth + trace.bias[index]
    chosen = biased.topk(trace.k).indices.sort(-1).values
    if name in ("Gemma4TextRouter", "DiffusionGemmaTextRouter"):
        torch.testing.assert_close(output[0], worth)
    if name == "DbrxRouter":
        return
    if name == "Llama4Router":
        torch.testing.assert_close(output[0].gather(1, chosen), worth.gather(1, chosen))
        return
    if name == "JetMoeTopKGating":
        assert output[3] == torch.bincount(chosen.flatten(), minlength=4).tolist()
        return
    if name in ("SwitchTransformersTop1Router", "NllbMoeTop2Router"):
        dispatched = output[0].flatten(0, -2)
        assert bool((dispatched.sum(-1) == 1).all())
        assert torch.equal(dispatched.argmax(-1), worth.argmax(-1))
        return
    T = len(logits)
    ids = next(p for p in output if not p.is_floating_point() and p.shape == (T, trace.k))
    weights = next(p for p in output if p.is_floating_point() and p.shape == (T, trace.k))
    if name == "ZayaRouter":  # its last class is no expert: index 0 and weight 0
        skipped = chosen == logits.shape[1] - 1
        chosen = chosen.masked_fill(skipped, 0)
        assert bool((weights[skipped] == 0).all())
        assert 0 < int(skipped.sum()) < T
    if name != "DeepseekV4HashRouter":
        assert torch.equal(ids.sort(-1).values, chosen)
    if name not in ("PhimoeTopKRouter", "Kolibri1TopKRouter", "ZayaRouter") and "Gemma" not in name:
        kept = worth.gather(1, ids)
        torch.testing.assert_close(
            weights / weights.sum(-1, keepdim=True), kept / kept.sum(-1, keepdim=True)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_logits_are_those_by_hand(family):
    model = tiny(family)
    seen = watch(model)
    ids = torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(1))
    with capture(model) as captured:
        run(model, ids)
    assert list(captured.rows) == list(seen)
    here = {type(m).__name__ for m in model.modules()} & set(ROUTERS)
    expected = {name for name, router in ROUTERS.items() if router.family == family}
    assert here == expected - set(BLOCKS)
    trace = captured.trace()
    assert trace.router_logits.shape[1] == 10
    assert torch.equal(trace.sequence, torch.arange(2).repeat_interleave(5))
    assert trace.k == (1 if family in ("zaya", "switch_transformers") else 2)
    if any(ROUTERS[name].bias for name in here):
        assert trace.bias.abs().min(-1).values.max() > 0
    compare(model, trace, seen)


@pytest.mark.parametrize("name", BLOCKS)
def test_routers_that_text_does_not_reach_alone(name):
    block, config, more = BLOCKS[name]
    module = modeling(ROUTERS[name].family)
    config = config_of(getattr(module, config), ROUTERS[name].family)
    model = nn.Sequential(randomised(getattr(module, block)(config, *more)))
    seen = watch(model)
    with capture(model) as captured, torch.no_grad():
        model(torch.randn(1, 10, 16))
    compare(model, captured.trace(), seen)


@pytest.mark.parametrize(
    ("family", "fact", "told"),
    [
        ("llama4", {"place": 0}, "is not hidden @ weight.T of Llama4Router"),
        ("mixtral", {"place": 1}, "is not hidden @ weight.T of MixtralTopKRouter"),
        ("mixtral", {"place": 2}, "expected floating-point logits .* got torch.int64"),
        ("gpt_oss", {"adds_bias": False}, "is not hidden @ weight.T of GptOssTopKRouter"),
        ("longcat_flash", {"adds_bias": True}, r"is not hidden @ weight.T \+ bias of Longcat"),
        ("muse_spark", {"scale": ""}, "is not hidden @ weight.T of MuseSparkTopkRouter"),
        ("gemma4", {"linear": "", "place": 0, "weight": "proj.weight"}, "is not hidden @ weight"),
    ],
)
def test_what_is_not_the_product_is_refused(monkeypatch, family, fact, told):
    for name, router in ROUTERS.items():
        if router.family == family:
            monkeypatch.setitem(ROUTERS, name, replace(router, **fact))
    model = tiny(family)
    with pytest.raises(lpr.InputError, match=told), capture(model):
        run(model, torch.arange(3, 9)[None])


@pytest.mark.parametrize(
    ("family", "fact"),
    [
        ("deepseek_v3", {"score": "softmax"}),
        ("deepseek_v3", {"bias": None}),
        ("ernie4_5_moe", {"score": "sigmoid"}),
        ("mixtral", {"score": "sigmoid"}),
        ("afmoe", {"bias": None}),
    ],
)
def test_the_comparison_sees_wrong_facts(monkeypatch, family, fact):
    for name, router in ROUTERS.items():
        if router.family == family:
            monkeypatch.setitem(ROUTERS, name, replace(router, **fact))
    model = tiny(family)
    seen = watch(model)
    ids = torch.randint(3, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    with capture(model) as captured:
        run(model, ids)
    with pytest.raises(AssertionError):
        compare(model, captured.trace(), seen)
