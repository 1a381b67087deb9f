"""The MoE blocks of transformers' models: tiny random ones whose router is fed our logits.

A model is built from its configuration with a hidden size of E, and its router's weight is set to
the identity, so that hidden states are logits. What is read is what the block hands its experts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.compare import CapacityRule, PeerMap, Subject
from benchmarks.peers.megatron import biased
from lp_routing.routers.base import AnyRouter
from lp_routing.routers.token_choice import GroupLimited, TopK
from lp_routing.scores import softmax

GROUPS, TOP_GROUPS = 4, 2
MOST_BIAS = 0.2
"""Largest bias of an expert, in scores: enough to change choices between scores in (0, 1)."""

SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "intermediate_size": 8,
    "moe_intermediate_size": 8,
    "intermediate_size_mlp": 8,
    "shared_expert_intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT_ATTENTION: dict[str, Any] = {
    "head_dim": 4,
    "q_lora_rank": 4,
    "kv_lora_rank": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}
GROUPED: dict[str, Any] = {"n_group": GROUPS, "topk_group": TOP_GROUPS, "first_k_dense_replace": 0}

Rule = Callable[[int, Tensor], AnyRouter]
"""(k, bias of the experts (E,)) -> our router."""


@dataclass(frozen=True)
class Model:
    """A model type, its own words for what is asked of it, and our router for its rule.

    Attributes:
        name: the `model_type` of its configuration.
        rule: ours.
        experts: what its configuration calls E.
        choices: what it calls k.
        options: what else it needs.
    """

    name: str
    rule: Rule
    experts: str = "num_experts"
    choices: str = "num_experts_per_tok"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grouped(self) -> bool:
        """Whether it chooses groups of experts first."""
        return "n_group" in self.options


def by_softmax(k: int, _: Tensor) -> AnyRouter:
    """The k largest by softmax."""
    return TopK(k)


def by_softmax_and_bias(k: int, bias: Tensor) -> AnyRouter:
    """The k largest by softmax and a bias for each expert."""
    return TopK(k, score=biased(bias, softmax))


def by_logits(k: int, _: Tensor) -> AnyRouter:
    """The k largest logits."""
    return TopK(k, score="logits")


def by_best_of_groups(k: int, _: Tensor) -> AnyRouter:
    """DeepSeek-V2: by softmax, in the groups with the best single experts."""
    return GroupLimited(k, GROUPS, TOP_GROUPS, "max")


def by_best_two_of_groups(k: int, bias: Tensor) -> AnyRouter:
    """DeepSeek-V3: by sigmoid and bias, in the groups whose best two experts sum to most."""
    return GroupLimited(k, GROUPS, TOP_GROUPS, "top2", score=biased(bias))


LOCAL, ROUTED = "num_local_experts", "n_routed_experts"
MODELS = (
    Model("mixtral", by_softmax, LOCAL),
    Model("olmoe", by_softmax),
    Model("qwen2_moe", by_softmax),
    Model("qwen3_moe", by_softmax),
    Model("gpt_oss", by_logits, LOCAL),
    Model("llama4_text", by_logits, LOCAL),
    Model(
        "ernie4_5_moe",
        by_softmax_and_bias,
        "moe_num_experts",
        "moe_k",
        {"moe_layer_start_index": 0},
    ),
    Model(
        "deepseek_v2",
        by_best_of_groups,
        ROUTED,
        options=LATENT_ATTENTION | GROUPED | {"topk_method": "group_limited_greedy"},
    ),
    Model("deepseek_v3", by_best_two_of_groups, ROUTED, options=LATENT_ATTENTION | GROUPED),
    Model("glm4_moe", by_best_two_of_groups, ROUTED, options=GROUPED),
)


@cache
def transformers() -> Any:
    """The package."""
    return import_module("transformers")


def subjects(E: int, k: int) -> Sequence[Subject | CapacityRule]:
    """Every model type whose rule fits E and k."""
    bias = torch.linspace(-MOST_BIAS, MOST_BIAS, E)
    fits = E % GROUPS == 0 and E >= 2 * GROUPS and k <= TOP_GROUPS * E // GROUPS
    return [
        Subject(f"{model.name}, MoE block", chosen(model, E, k, bias), model.rule(k, bias))
        for model in MODELS
        if fits or not model.grouped
    ]


def chosen(model: Model, E: int, k: int, bias: Tensor) -> PeerMap:
    """What a block that is fed our logits hands to its experts."""

    @cache
    def block() -> nn.Module:
        found = moe_block(causal_lm(model, E, k))
        feed(found, bias)
        return found

    return lambda logits, _: handed_to_experts(block(), logits)


def causal_lm(model: Model, E: int, k: int) -> nn.Module:
    """A small random model with hidden size E, float32, in evaluation mode."""
    asked = {"hidden_size": E, model.experts: E, model.choices: k}
    heads = {"head_dim": E // SMALL["num_attention_heads"]}
    options = SMALL | heads | dict(model.options) | asked
    config = transformers().AutoConfig.for_model(model.name, **options)
    torch.manual_seed(0)
    built: nn.Module = transformers().AutoModelForCausalLM.from_config(config)
    return built.float().eval()


def moe_block(model: nn.Module) -> nn.Module:
    """The first module that has experts and a router."""
    return next(m for m in model.modules() if hasattr(m, "experts") and router_of(m) is not None)


def router_of(block: nn.Module) -> nn.Module | None:
    """The part of a block that turns hidden states into logits."""
    return getattr(block, "gate", None) or getattr(block, "router", None)


def feed(block: nn.Module, bias: Tensor) -> None:
    """Make the router pass hidden states on as logits, and give it a bias where it has one."""
    router = router_of(block)
    for name, values in [*block.named_parameters(), *block.named_buffers()]:
        if name.endswith("e_score_correction_bias"):
            values.data.copy_(bias.view_as(values))
    for name, values in [] if router is None else router.named_parameters():
        if name == "weight":
            values.data.copy_(torch.eye(*values.shape))
        elif name == "bias":
            values.data.zero_()


def handed_to_experts(block: nn.Module, logits: Tensor) -> Tensor:
    """The pairs that a block routes when its hidden states are these logits; boolean (T, E)."""
    inputs: list[Any] = []
    scores: list[Any] = []

    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.extend((*args, *kwargs.values()))

    def keep(_: nn.Module, __: Any, result: Any) -> None:
        scores.extend(result if isinstance(result, tuple) else (result,))

    router = router_of(block)
    hooks = [block.experts.register_forward_pre_hook(see, with_kwargs=True)]  # type: ignore[union-attr]
    hooks += [] if router is None else [router.register_forward_hook(keep)]
    try:
        with torch.no_grad():
            block(logits[None])
    finally:
        for hook in hooks:
            hook.remove()
    nowhere = torch.zeros_like(logits, dtype=torch.bool)
    for value in inputs:
        if isinstance(value, Tensor) and not value.is_floating_point():
            return nowhere.scatter(1, value.view(len(logits), -1), True)
    for value in scores:  # Llama 4 hands on no ids: every score but those of the chosen is 0
        if value.shape == logits.shape and bool((value == 0).any()):
            return torch.as_tensor(value > 0)
    raise RuntimeError(f"{type(block).__name__} hands no ids to its experts.")
