"""The MoE routers of transformers as data: where their logits are, and how experts are chosen.

One row for each router class. Rows are checked: at capture, the recorded logits are compared with
the router's own weight; in the tests, every class is built and run, and the places are those that
transformers itself records (`OutputRecorder`). Read from transformers 5.23.

Score functions are those of the selection; where a model takes the softmax over the k best logits
only, that is the renormalised softmax. `doge` is missing: it retrieves experts by product keys and
has no logit for each expert.
"""

from dataclasses import dataclass

CORRECTION = "e_score_correction_bias"
SCORES = ("softmax", "sigmoid", "logits")
ROUND_NAMES = {"sqrtsoftplus": "sqrt_softplus"}
"""transformers' name of a score function -> that of `lp_routing.scores`."""


@dataclass(frozen=True)
class Router:
    """A router class of transformers.

    Attributes:
        family: the folder of `transformers.models`.
        place: the place of the logits in the router's output; None where the output is the logits.
        weight: the parameter W (E, H) within the router: logits = hidden @ W.T (+ its bias).
        score: the score function, or the attribute that names it.
        bias: the attribute with the selection bias (E,), which is added to the scores for the
            choice only; None where there is none. A model that does not use it has None there.
        k: experts per token, or the attribute with it.
        linear: the Linear inside the router whose output is recorded instead, where the router
            returns probabilities or changes its input before the Linear.
        adds_bias: whether the bias of the Linear is added, where it has one.
        scale: the attribute by which the logits are multiplied.
        softcap: the attribute c > 0 such that the logits are c * tanh(x / c).

    Attributes are dotted paths, looked up on the router, then on its block, then in the model's
    config.
    """

    family: str
    place: int | None = 0
    weight: str = "weight"
    score: str = "softmax"
    bias: str | None = None
    k: str | int = "top_k"
    linear: str = ""
    adds_bias: bool = True
    scale: str = ""
    softcap: str = ""

    @property
    def where(self) -> str:
        """Where the logits are, in words."""
        if self.linear:
            return f"output of `{self.linear}`"
        return "output" if self.place is None else f"output[{self.place}]"


ROUTERS: dict[str, Router] = {
    "AfmoeTokenChoiceRouter": Router(
        "afmoe", weight="gate.weight", score="sigmoid", bias="expert_bias"
    ),
    "AriaTextTopKRouter": Router("aria"),
    "AXK1TopkRouter": Router("axk1", score="sigmoid", bias=CORRECTION),
    "AXK2TopkRouter": Router("axk2", score="sigmoid", bias=CORRECTION),
    "BailingHybridTopkRouter": Router("bailing_hybrid", score="sigmoid", bias=CORRECTION),
    "BeamTopKRouter": Router("beam", score="sigmoid", bias=CORRECTION),
    "Cohere2MoeTopKRouter": Router("cohere2_moe", score="expert_selection_fn"),
    "DbrxRouter": Router("dbrx", place=None, weight="layer.weight"),
    "DeepseekOcr2TextTopkRouter": Router("deepseek_ocr2"),
    "DeepseekV2TopkRouter": Router("deepseek_v2"),
    "DeepseekV3TopkRouter": Router("deepseek_v3", score="sigmoid", bias=CORRECTION),
    "DeepseekV32TopkRouter": Router("deepseek_v32", score="sigmoid", bias=CORRECTION),
    "DeepseekV4TopKRouter": Router("deepseek_v4", score="scoring_func", bias=CORRECTION),
    "DeepseekV4HashRouter": Router("deepseek_v4", score="scoring_func"),
    "DiffusionGemmaTextRouter": Router(
        "diffusion_gemma", place=None, linear="proj", k="config.top_k_experts"
    ),
    "Dots1TopkRouter": Router("dots1", score="sigmoid", bias=CORRECTION),
    "Dots3NoteTextTopkRouter": Router("dots3_note", score="sigmoid", bias=CORRECTION),
    "Dots3NoteVisionTopKRouter": Router("dots3_note", score="sigmoid", bias=CORRECTION),
    "Ernie4_5_MoeTopKRouter": Router("ernie4_5_moe", bias="moe_statics.e_score_correction_bias"),
    "Ernie4_5_VLMoeMoeTopKRouter": Router(
        "ernie4_5_vl_moe", bias="moe_statics.e_score_correction_bias"
    ),
    "ExaoneMoeTopkRouter": Router("exaone_moe", score="sigmoid", bias=CORRECTION),
    "FlexOlmoTopKRouter": Router("flex_olmo"),
    "FlintTopKRouter": Router("flint", score="sigmoid"),
    "Gemma4TextRouter": Router("gemma4", place=None, linear="proj", k="config.top_k_experts"),
    "Glm4MoeTopkRouter": Router("glm4_moe", score="sigmoid", bias=CORRECTION),
    "Glm4MoeLiteTopkRouter": Router("glm4_moe_lite", score="sigmoid", bias=CORRECTION),
    "Glm4vMoeTextTopkRouter": Router("glm4v_moe", score="sigmoid", bias=CORRECTION),
    "Glm5NextTextTopkRouter": Router("glm5_next", score="sigmoid", bias=CORRECTION),
    "GlmMoeDsaTopkRouter": Router("glm_moe_dsa", score="sigmoid", bias=CORRECTION),
    "GptOssTopKRouter": Router("gpt_oss"),
    "GraniteMoeTopKRouter": Router("granitemoe"),
    "GraniteMoeSWATopKRouter": Router("granitemoe_swa"),
    "GraniteMoeHybridTopKRouter": Router("granitemoehybrid"),
    "GraniteMoeSharedTopKRouter": Router("granitemoeshared"),
    "HunYuanMoEV1Gate": Router("hunyuan_v1_moe", weight="wg.weight"),
    "HYV3TopKRouter": Router("hy_v3", score="sigmoid", bias=CORRECTION),
    "HYV4TopkRouter": Router("hy_v4", score="sigmoid", bias=CORRECTION),
    "InklingTopkRouter": Router("inkling", score="sigmoid", bias=CORRECTION),
    "Inkling2TopKRouter": Router("inkling2", score="scoring_func", bias=CORRECTION),
    "JambaTopKRouter": Router("jamba"),
    "JetMoeTopKGating": Router("jetmoe", place=4, weight="layer.weight"),
    "KimiLinearTopkRouter": Router("kimi_linear", score="sigmoid", bias=CORRECTION),
    "Kolibri1TopKRouter": Router("kolibri1", score="logits", bias=CORRECTION),
    "LagunaTopKRouter": Router(
        "laguna", score="sigmoid", bias=CORRECTION, softcap="router_logit_softcapping"
    ),
    "Lfm2MoeTopKRouter": Router("lfm2_moe", score="sigmoid", bias="expert_bias"),
    "Llama4Router": Router("llama4", place=1, score="sigmoid"),
    "LongcatFlashTopkRouter": Router(
        "longcat_flash", weight="classifier.weight", adds_bias=False, bias=CORRECTION
    ),
    "MellumTopKRouter": Router("mellum"),
    "MiMoV2FlashTopkRouter": Router("mimo_v2_flash", score="sigmoid", bias=CORRECTION),
    "MiniMaxTopKRouter": Router("minimax"),
    "MiniMaxM2TopKRouter": Router("minimax_m2", score="sigmoid", bias=CORRECTION),
    "MiniMaxM3VLTopKRouter": Router("minimax_m3_vl", score="sigmoid", bias=CORRECTION),
    "Mistral4TopkRouter": Router("mistral4"),
    "MistralLarge4TextTopkRouter": Router("mistral_large4"),
    "MixtralTopKRouter": Router("mixtral"),
    "MuseSparkTopkRouter": Router(
        "muse_spark", score="sigmoid", bias=CORRECTION, scale="output_multiplier"
    ),
    "NemotronHTopkRouter": Router("nemotron_h", score="sigmoid", bias=CORRECTION),
    "NllbMoeTop2Router": Router("nllb_moe", place=2, weight="classifier.weight", k=2),
    "OlmoeTopKRouter": Router("olmoe"),
    "OpenAIPrivacyFilterTopKRouter": Router("openai_privacy_filter"),
    "PhimoeTopKRouter": Router("phimoe"),
    "Qwen2MoeTopKRouter": Router("qwen2_moe"),
    "Qwen3_5MoeTopKRouter": Router("qwen3_5_moe"),
    "Qwen3MoeTopKRouter": Router("qwen3_moe"),
    "Qwen3NextTopKRouter": Router("qwen3_next"),
    "Qwen3OmniMoeTextTopKRouter": Router("qwen3_omni_moe"),
    "Qwen3OmniMoeThinkerTextTopKRouter": Router("qwen3_omni_moe"),
    "Qwen3OmniMoeTalkerTextTopKRouter": Router("qwen3_omni_moe"),
    "Qwen3VLMoeTextTopKRouter": Router("qwen3_vl_moe"),
    "Qwen4ExpTextTopKRouter": Router("qwen4_exp"),
    "SolarOpenTopkRouter": Router("solar_open", score="sigmoid", bias=CORRECTION),
    "Step3p7TopKRouter": Router("step3p7", score="sigmoid", bias=CORRECTION),
    "SwitchTransformersTop1Router": Router(
        "switch_transformers", place=2, weight="classifier.weight", k=1
    ),
    "UnlimitedOcrTextTopkRouter": Router("unlimited_ocr"),
    "ZayaRouter": Router("zaya", place=None, linear="router_mlp.out_proj", bias="balancing_biases"),
}
"""Name of a router class -> its row."""
