"""Tiny random models of the MoE families of transformers: 2 layers, 4 experts, 16 hidden units."""

from importlib import import_module

import torch

SIZES = {
    **dict.fromkeys(["vocab_size", "max_position_embeddings", "max_seq_len"], 64),
    **dict.fromkeys(["vocab_size_per_layer_input"], 64),
    **dict.fromkeys(["hidden_size", "intermediate_size", "d_model", "d_ff", "mamba_d_head"], 16),
    **dict.fromkeys(["adapter_in_dim"], 16),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"], 16),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 8),
    **dict.fromkeys(["expert_ffn_hidden_size", "head_dim", "d_kv", "q_lora_rank"], 8),
    **dict.fromkeys(["kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "indexer_head_dim"], 8),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["moe_num_experts", "qk_rope_head_dim", "mamba_d_state"], 4),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "num_decoder_layers", "n_layers"], 2),
    **dict.fromkeys(["encoder_layers", "decoder_layers", "num_heads", "n_heads"], 2),
    **dict.fromkeys(["num_attention_heads", "num_key_value_heads", "mamba_n_heads"], 2),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 2),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k"], 2),
    **dict.fromkeys(["mamba_d_conv", "mamba_expand", "expand"], 2),
    **dict.fromkeys(["n_group", "topk_group", "n_shared_experts", "num_shared_experts"], 1),
    **dict.fromkeys(["moe_num_shared_experts"], 1),
    **dict.fromkeys(["first_k_dense_replace", "num_dense_layers"], 0),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Set where a config has the field."""
SPARSE = {"mlp_layer_types": ["sparse", "sparse"]}
FULL = {"layer_types": ["full_attention", "full_attention"]}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
OF_FAMILY = {
    **dict.fromkeys(["beam", "dots3_note", "axk1", "axk2", "deepseek_v3", "deepseek_v32"], SPARSE),
    **dict.fromkeys(["glm4_moe_lite", "exaone_moe", "hy_v3", "hy_v4"], SPARSE),
    **dict.fromkeys(["bailing_hybrid", "kimi_linear"], HYBRID | SPARSE),
    **dict.fromkeys(["lfm2_moe", "qwen3_5_moe", "qwen3_next"], FULL),
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8},
        "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2, "ffn_hidden_size": 16},
    },
    "deepseek_ocr2": FULL | SPARSE,
    "deepseek_v4": {
        "mlp_layer_types": ["hash_moe", "moe"],
        "layer_types": ["sliding_attention", "sliding_attention"],
    },
    "ernie4_5_moe": {"moe_layer_start_index": 0},
    "ernie4_5_vl_moe": SPARSE
    | {
        "moe_intermediate_size": [8, 8],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    },
    "flint": {"mlp_only_layers": []},
    "gemma4": {"enable_moe_block": True, "hidden_size_per_layer_input": 0, "global_head_dim": 8},
    "glm4v_moe": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 0],
        }
    },
    "glm5_next": FULL | SPARSE | {"qk_rope_head_dim": 0},
    "granitemoehybrid": {"layer_types": ["attention", "attention"]},
    "jamba": {
        "attn_layer_period": 1,
        "attn_layer_offset": 0,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
    },
    "laguna": SPARSE | {"moe_router_logit_softcapping": 2.0},
    "longcat_flash": {"head_dim": 4, "zero_expert_num": 2, "router_bias": True},
    "mimo_v2_flash": {"num_key_value_heads": 1},
    "nllb_moe": {"encoder_sparse_step": 1, "decoder_sparse_step": 1},
    "qwen4_exp": HYBRID
    | {
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
    },
    "qwen3_omni_moe": {"shared_expert_intermediate_size": 8},
    "step3p7": SPARSE | {"sliding_window": 8},
    "switch_transformers": {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs beside, so that all that it has is small and routed."""
BLOCKS = {
    "Dots3NoteVisionTopKRouter": ("Dots3NoteVisionMoE", "Dots3NoteVisionConfig", (1,)),
    "Qwen3OmniMoeTalkerTextTopKRouter": (
        "Qwen3OmniMoeTalkerTextSparseMoeBlock",
        "Qwen3OmniMoeTalkerTextConfig",
        (),
    ),
    "Qwen3OmniMoeTextTopKRouter": ("Qwen3OmniMoeTextTopKRouter", "Qwen3OmniMoeTextConfig", ()),
}
"""Routers of towers that no text reaches, or that no model holds: router -> its block alone."""


def modeling(family):
    """The module of a family's models."""
    return import_module(f"transformers.models.{family}.modeling_{family}")


def config_of(cls, family):
    """A tiny config; `cls` is of the family's configs."""
    fields = {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}
    known = {name: value for name, value in SIZES.items() if name in fields}
    return cls(**(known | OF_FAMILY.get(family, {})))


def model_class(family, ending="Model"):
    """The model of a family that takes text: the shortest name, a text model first."""
    module = modeling(family)
    names = [
        name
        for name, found in vars(module).items()
        if name.endswith(ending) and getattr(found, "__module__", "") == module.__name__
        if not any(part in name for part in ("PreTrained", "Vision", "Audio", "Talker"))
    ]
    return getattr(module, min(names, key=lambda name: ("Text" not in name, len(name))))


def randomised(model):
    """The same model in evaluation, with routers that prefer and biases that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if "tid2eid" in name:
                values.random_(0, 4, generator=generator)
            elif "bias" in name:  # less than the scores, so that both decide
                values.copy_(torch.randn(values.shape, generator=generator) / 10)
            elif any(part in name for part in ("gate", "router", "proj", "classifier")):
                values.copy_(torch.randn(values.shape, generator=generator) / 2)
    return model.eval()


def tiny(family, ending="Model"):
    """A tiny random model of a family."""
    cls = model_class(family, ending)
    torch.manual_seed(0)
    return randomised(cls(config_of(cls.config_class, family)))


def run(model, ids):
    """A pass over whole sequences (B, S)."""
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **decoder)
