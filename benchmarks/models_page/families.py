"""The rows of the table of known drafts as pairs of config.json, with the shapes of the models.

What the checks do not read of a target (its heads, its experts) is not its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.models_page.verdicts import MAX_MODEL_LEN, Pair, Verdict, ask
from vllm_mtad.config.draft_table import FAMILIES, Family, Shape
from vllm_mtad.config.engine_checks import V2_MAX_BEAM_WIDTH, widest_beams

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
OF_TYPE: Mapping[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    "gemma2": {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {"sliding_window": 1024},
}
NOTES = {
    "Llama 2": "TinyLlama's window is 2,048 tokens",
    "Qwen2.5": "from 7B on the vocabulary is padded to another size than the draft's",
    "Qwen2.5-Coder": "as Qwen2.5",
    "Gemma 3": "served with `--language-model-only`; sliding windows in five layers of six; the target's vocabulary is"
    " padded to another size",
    "Gemma 2": "a sliding window in every second layer; attention logits are soft-capped",
}


@dataclass(frozen=True)
class Draft:
    shape: Shape
    heads: tuple[int, int]
    """Query heads, and KV heads."""
    head_size: int
    window: int

    @property
    def widest_beams(self) -> int:
        """On a GPU, in bfloat16."""
        return min(V2_MAX_BEAM_WIDTH, widest_beams(*self.heads, self.head_size, itemsize=2))


DRAFTS = {
    "meta-llama/Llama-3.2-1B": Draft(("llama", 2048, 16, 128256), (32, 8), 64, 131072),
    "TinyLlama/TinyLlama-1.1B": Draft(("llama", 2048, 22, 32000), (32, 4), 64, 2048),
    "Qwen/Qwen2.5-0.5B": Draft(("qwen2", 896, 24, 151936), (14, 2), 64, 32768),
    "Qwen/Qwen2.5-Coder-0.5B": Draft(("qwen2", 896, 24, 151936), (14, 2), 64, 32768),
    "Qwen/Qwen3-0.6B": Draft(("qwen3", 1024, 28, 151936), (16, 8), 128, 40960),
    "google/gemma-3-1b": Draft(("gemma3_text", 1152, 26, 262144), (4, 1), 256, 32768),
    "google/gemma-2-2b": Draft(("gemma2", 2304, 26, 256000), (8, 4), 256, 8192),
    "HuggingFaceTB/SmolLM2-135M": Draft(("llama", 576, 30, 49152), (9, 3), 64, 8192),
}
"""By how their hub ids begin."""


def draft_of(family: Family) -> Draft:
    return next(draft for name, draft in DRAFTS.items() if family.draft.startswith(name))


def pair_of(family: Family, shape: Shape) -> Pair:
    draft = draft_of(family)
    target = text_config(shape)
    if shape[0] == "gemma3_text":
        target = {
            "model_type": "gemma3",
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": target,
            "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "image_size": 896, "patch_size": 14},
        }
    heads = {"num_attention_heads": draft.heads[0], "num_key_value_heads": draft.heads[1], "head_dim": draft.head_size}
    small = text_config(draft.shape) | heads | {"max_position_embeddings": draft.window}
    return Pair(target, small, {"language_model_only": True} if shape[0] == "gemma3_text" else {})


def text_config(shape: Shape) -> dict[str, Any]:
    model_type, hidden_size, num_layers, vocab_size = shape
    return {
        "model_type": model_type,
        "architectures": [ARCHITECTURES[model_type]],
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "num_key_value_heads": hidden_size // 64,
        "head_dim": 64,
        "vocab_size": vocab_size,
        "max_position_embeddings": 8 * MAX_MODEL_LEN,
        "dtype": "bfloat16",
        **OF_TYPE.get(model_type, {}),
    }


def all_verdicts() -> dict[Family, dict[Shape, Verdict]]:
    """Instruction-tuned models have the shapes of their base: a pair of shapes is asked once."""
    asked: dict[tuple[Shape, Shape], Verdict] = {}
    found: dict[Family, dict[Shape, Verdict]] = {}
    for family in FAMILIES:
        small = draft_of(family).shape
        for shape in family.shapes:
            if (shape, small) not in asked:
                asked[shape, small] = ask(pair_of(family, shape))
        found[family] = {shape: asked[shape, small] for shape in family.shapes}
    return found
