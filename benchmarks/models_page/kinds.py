"""`KINDS` are the kinds of models that people run, each as a small pair.

`tested_on` is what a reader of the page is told of tests; the rest is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.models_page.verdicts import MAX_MODEL_LEN, Config, Pair

NOT_RUN = "configuration only"
JOINT, MODELS, TARGETS = (f"`tests/engine/test_{name}.py`" for name in ("joint_greedy", "models", "targets"))
VOCABULARIES = f"{MODELS}, either way"


@dataclass(frozen=True)
class Kind:
    """`tested_on`: the test that runs such a model, in Markdown."""

    what: str
    pair: Pair
    tested_on: str = NOT_RUN


def _config(model_type: str, architecture: str, **others: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 512,
        "max_position_embeddings": 4 * MAX_MODEL_LEN,
        "dtype": "bfloat16",
        **others,
    }


def _with_vision(model_type: str, architecture: str, text: Config, **others: Any) -> dict[str, Any]:
    return {"model_type": model_type, "architectures": [architecture], "text_config": text, **others}


LLAMA = _config("llama", "LlamaForCausalLM")
QWEN3 = _config("qwen3", "Qwen3ForCausalLM")
QWEN3_MOE = _config("qwen3_moe", "Qwen3MoeForCausalLM", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)
SOFT_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
GEMMA_2 = _config("gemma2", "Gemma2ForCausalLM", sliding_window=256, **SOFT_CAPS)
GEMMA_3 = _config("gemma3_text", "Gemma3ForCausalLM", num_hidden_layers=6, sliding_window=256)
MISTRAL = _config("mistral", "MistralForCausalLM", sliding_window=256)
PHI_3 = _config("phi3", "Phi3ForCausalLM", sliding_window=256, pad_token_id=0)
LLAMA_4 = _config("llama4_text", "Llama4ForCausalLM", attention_chunk_size=256, num_local_experts=4)
WIDE_WINDOW = {"use_sliding_window": True, "sliding_window": MAX_MODEL_LEN, "max_window_layers": 2}
GPT_OSS = _config("gpt_oss", "GptOssForCausalLM", sliding_window=128, num_local_experts=4, num_experts_per_tok=2)
DEEPSEEK = _config(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    kv_lora_rank=64,
    q_lora_rank=64,
    qk_nope_head_dim=32,
    qk_rope_head_dim=32,
    v_head_dim=32,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
)
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "full_attention_interval": 4,
}
QWEN3_NEXT = _config(
    "qwen3_next", "Qwen3NextForCausalLM", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, **_LINEAR
)
QWEN35 = _config("qwen3_5_text", "Qwen3_5ForCausalLM", **_LINEAR)
MAMBA = {
    "model_type": "mamba",
    "architectures": ["MambaForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "dtype": "bfloat16",
}
BLOOM = {
    "model_type": "bloom",
    "architectures": ["BloomForCausalLM"],
    "hidden_size": 128,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 512,
    "dtype": "bfloat16",
}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAVA = _with_vision("llava", "LlavaForConditionalGeneration", LLAMA, vision_config=CLIP)
GEMMA_3_VISION = _with_vision(
    "gemma3", "Gemma3ForConditionalGeneration", GEMMA_3, vision_config={"hidden_size": 64, "num_hidden_layers": 2}
)
QWEN2_AUDIO = _with_vision(
    "qwen2_audio",
    "Qwen2AudioForConditionalGeneration",
    LLAMA | {"model_type": "qwen2"},
    audio_config={"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64},
)
FP8 = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}}
TEXT_ONLY: Mapping[str, Any] = {"language_model_only": True}

KINDS = (
    Kind("Llama, full attention", Pair(LLAMA, LLAMA), JOINT),
    Kind("Qwen3, full attention", Pair(QWEN3, QWEN3)),
    Kind("a mixture of experts (Qwen3-MoE), dense draft", Pair(QWEN3_MOE, QWEN3), f"{TARGETS}, on V1"),
    Kind("a mixture of experts as the draft", Pair(QWEN3_MOE, QWEN3_MOE), MODELS),
    Kind("an FP8 target", Pair(LLAMA | FP8, LLAMA), f"{NOT_RUN}; int8 in {TARGETS}, on V1"),
    Kind("an AWQ target", Pair(LLAMA | AWQ, LLAMA)),
    Kind(
        "a target that keeps its KV in fp8 (`--kv-cache-dtype fp8`), the draft not",
        Pair(LLAMA, LLAMA, {"kv_cache_dtype": "fp8"}, fields={"kv_cache_dtype": "auto"}),
        TARGETS,
    ),
    Kind(
        "replicas of a dense target (`--data-parallel-size 2`)",
        Pair(LLAMA, LLAMA, {"data_parallel_size": 2}),
        f"{TARGETS}, on V1",
    ),
    Kind("replicas of a mixture of experts", Pair(QWEN3_MOE, QWEN3, {"data_parallel_size": 2})),
    Kind("Gemma 2: windows in every second layer, soft-caps", Pair(GEMMA_2, GEMMA_2), MODELS),
    Kind("Gemma 3, text: windows in five layers of six", Pair(GEMMA_3, GEMMA_3), MODELS),
    Kind("Mistral with a window in every layer, another in the draft", Pair(MISTRAL, MISTRAL), MODELS),
    Kind("full attention, a draft with a window in every layer", Pair(LLAMA, MISTRAL)),
    Kind("Phi-3 with a window in every layer", Pair(PHI_3, PHI_3)),
    Kind(
        "Qwen2 with windows in half of its layers",
        Pair(_config("qwen2", "Qwen2ForCausalLM", **WIDE_WINDOW | {"sliding_window": 256}), LLAMA),
    ),
    Kind(
        "Qwen2 with windows of `max_model_len` in half of its layers",
        Pair(_config("qwen2", "Qwen2ForCausalLM", **WIDE_WINDOW), LLAMA),
    ),
    Kind("gpt-oss: windows in every second layer, sinks", Pair(GPT_OSS, LLAMA)),
    Kind("gpt-oss as the draft", Pair(GPT_OSS, GPT_OSS), MODELS),
    Kind("Bloom (ALiBi) as the draft", Pair(LLAMA, BLOOM)),
    Kind("Llama 4, text: chunks in three layers of four", Pair(LLAMA_4, LLAMA)),
    Kind("DeepSeek-V3 (MLA)", Pair(DEEPSEEK, LLAMA)),
    Kind("DeepSeek-V3 as the draft", Pair(LLAMA, DEEPSEEK)),
    Kind("Qwen3-Next: three layers of four are recurrent", Pair(QWEN3_NEXT, LLAMA), TARGETS),
    Kind("Qwen3.5: three layers of four are recurrent", Pair(QWEN35, LLAMA)),
    Kind("Mamba", Pair(MAMBA, LLAMA)),
    Kind("Mamba as the draft", Pair(LLAMA, MAMBA)),
    Kind(
        "LLaVA: requests with images are decoded without drafts",
        Pair(LLAVA, LLAMA),
        f"no images; sounds in {TARGETS}",
    ),
    Kind("Qwen2-Audio: requests with sounds are decoded without drafts", Pair(QWEN2_AUDIO, LLAMA), TARGETS),
    Kind("Qwen2-Audio with `--language-model-only`", Pair(QWEN2_AUDIO, LLAMA, TEXT_ONLY), TARGETS),
    Kind("LLaVA with `--language-model-only`", Pair(LLAVA, LLAMA, TEXT_ONLY)),
    Kind("Gemma 3 with its images", Pair(GEMMA_3_VISION, GEMMA_3)),
    Kind("Gemma 3 with `--language-model-only`", Pair(GEMMA_3_VISION, GEMMA_3, TEXT_ONLY)),
    Kind("LLaVA as the draft", Pair(LLAMA, LLAVA)),
    Kind("the same tokenizer, padded to another size", Pair(LLAMA | {"vocab_size": 640}, LLAMA), VOCABULARIES),
    Kind("another tokenizer", Pair(LLAMA, LLAMA, swaps_words=True)),
    Kind("LoRA on the target (`--enable-lora`)", Pair(LLAMA, LLAMA, {"enable_lora": True})),
    Kind(
        "LoRA on the target, of `--lora-target-modules` without `lm_head`",
        Pair(LLAMA, LLAMA, {"enable_lora": True, "lora_target_modules": ["q_proj"]}),
        TARGETS,
    ),
)
