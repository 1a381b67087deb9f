"""What transformers' MoE blocks do that their names do not say, each reproduced."""

import torch
from torch import Tensor, nn

from benchmarks.peers.findings import Finding, normal
from benchmarks.peers.models import (
    GROUPS,
    MODELS,
    TOP_GROUPS,
    by_best_two_of_groups,
    causal_lm,
    chosen,
    moe_block,
    router_of,
)

EXPERTS, CHOICES, TOKENS = 16, 2, 1024


def a_group_left_out_is_chosen() -> Finding:
    """Experts outside the chosen groups get score 0, which beats a negative biased score."""
    logits, bias = normal(0, TOKENS, EXPERTS), torch.full((EXPERTS,), -1.5)
    wrong = {}
    for model in MODELS:
        if model.rule is by_best_two_of_groups:
            theirs = chosen(model, EXPERTS, CHOICES, bias)(logits, None)
            ours = model.rule(CHOICES, bias)(logits).x  # type: ignore[union-attr]
            wrong[model.name] = int((theirs != ours).any(-1).sum())
    told = ", ".join(f"{name}: {count}" for name, count in wrong.items())
    return Finding(
        "groups left out",
        any(wrong.values()),
        f"sigmoid + bias -1.5, so that all biased scores are negative, top {TOP_GROUPS} of "
        f"{GROUPS} groups: tokens of {TOKENS} that are sent elsewhere than to the best experts "
        f"of their groups: {told}. A group that is left out must score -inf; where it is set to "
        f"0 it wins.",
        {name: float(count) for name, count in wrong.items()},
    )


def logits_as_they_come_out() -> Finding:
    """`output_router_logits=True` is what audits are fed with: are they the logits?"""
    raw, other, none = [], [], []
    for model in MODELS:
        built = causal_lm(model, EXPERTS, CHOICES)
        given, computed = router_logits(built)
        if given is None:
            none.append(model.name)
        elif given.shape == computed.shape and torch.allclose(given, computed, atol=1e-5):
            raw.append(model.name)
        else:
            other.append(model.name)
    return Finding(
        "output_router_logits",
        bool(other or none),
        f"the router's logits themselves: {', '.join(raw) or 'no model'}; something else: "
        f"{', '.join(other) or 'no model'}; nothing: {', '.join(none) or 'no model'}.",
        {"raw": len(raw), "other": len(other), "none": len(none)},
    )


def router_logits(model: nn.Module) -> tuple[Tensor | None, Tensor]:
    """What a model gives as logits of its MoE layer, and hidden states times the weight."""
    router = router_of(moe_block(model))
    assert router is not None
    seen: list[Tensor] = []
    hook = router.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ids = torch.arange(3, 19)[None]
    try:
        with torch.no_grad():
            result = model(ids, output_router_logits=True)
    finally:
        hook.remove()
    states = seen[0].reshape(-1, EXPERTS)
    bias = getattr(router, "bias", None)
    computed = nn.functional.linear(states, router.weight, bias)  # type: ignore[arg-type]
    given = getattr(result, "router_logits", None)
    return (None if not given else given[0].reshape(-1, EXPERTS)), computed
