"""Random pairs of architectures that people run, small enough for a test.

As in `small_pair`, the draft is the target's first layers with a little noise, so that some of its drafts are accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    WhisperFeatureExtractor,
)

from tests.small_pair import MAX_POSITIONS, VOCAB_SIZE, save_tokenizer

WINDOW = 24
PADDING = 64
"""Of a vocabulary, past its tokens."""
AUDIO = 500
"""The token that stands for a sound in a prompt."""
MELS = 16
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def llama(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    return LlamaConfig(**SMALL, vocab_size=vocab_size, num_hidden_layers=num_layers)


def windows_in_every_other_layer(num_layers: int) -> dict[str, Any]:
    kinds = ["sliding_attention", "full_attention"] * num_layers
    return {"num_hidden_layers": num_layers, "layer_types": kinds[:num_layers], "sliding_window": WINDOW}


def gemma3(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    """A draft, of two layers, has half of a target's KV heads, as published ones have fewer."""
    of_layers = windows_in_every_other_layer(num_layers) | {"num_key_value_heads": 2 if num_layers > 2 else 1}
    return Gemma3TextConfig(**(SMALL | of_layers), vocab_size=vocab_size, query_pre_attn_scalar=8)


def mistral(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    """A window in every layer; a target's, of three, is smaller than a draft's."""
    window = WINDOW if num_layers == 3 else WINDOW + 8
    return MistralConfig(**SMALL, sliding_window=window, vocab_size=vocab_size, num_hidden_layers=num_layers)


def gemma2(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    of_layers = windows_in_every_other_layer(num_layers)
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0}
    return Gemma2Config(
        **(SMALL | {"tie_word_embeddings": True}), **of_layers, **caps, vocab_size=vocab_size, query_pre_attn_scalar=8
    )


def gpt_oss(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    of_layers = windows_in_every_other_layer(num_layers)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return GptOssConfig(**SMALL, **of_layers, **experts, vocab_size=vocab_size)


def qwen3_moe(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
    return Qwen3MoeConfig(**SMALL, **experts, vocab_size=vocab_size, num_hidden_layers=num_layers)


def qwen3_next(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    """Gated delta nets, and full attention in the last layer; vLLM asks for experts."""
    kinds = ["linear_attention"] * (num_layers - 1) + ["full_attention"]
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    states = {f"linear_{name}_head_dim": 128 for name in ("key", "value")}  # which vLLM's CPU engine has code for
    states |= {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "shared_expert_intermediate_size": 64}
    return Qwen3NextConfig(
        **SMALL, **experts, **states, vocab_size=vocab_size, num_hidden_layers=num_layers, layer_types=kinds
    )


def qwen2(num_layers: int, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    sizes = {name: value for name, value in SMALL.items() if name != "head_dim"}  # which is hidden_size's share here
    return Qwen2Config(**(sizes | {"hidden_size": 128}), vocab_size=vocab_size, num_hidden_layers=num_layers)


def qwen2_audio() -> PretrainedConfig:
    """Of the models that read more than text, one that vLLM imports without torchvision."""
    encoder = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    audio = Qwen2AudioEncoderConfig(**encoder, num_mel_bins=MELS)
    return Qwen2AudioConfig(text_config=qwen2(3).to_dict(), audio_config=audio.to_dict(), audio_token_index=AUDIO)


def save_audio_target(folder: Path, text: str) -> str:
    """A target that reads audio and text, whose text model is a Qwen2 in the folder `text`; with the names of weights
    that published checkpoints have."""
    model, texts = Qwen2AudioForConditionalGeneration(qwen2_audio()), load_file(Path(text) / "model.safetensors")
    weights = {f"language_model.{name}": weight for name, weight in texts.items()}
    for name, weight in model.state_dict().items():
        if (own := name.removeprefix("model.")).startswith(("audio_tower.", "multi_modal_projector.")):
            weights[own] = weight.float()
    model.config.architectures = ["Qwen2AudioForConditionalGeneration"]
    model.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(folder)
    words = {"audio_token": f"t{AUDIO}", "audio_bos_token": f"t{AUDIO - 2}", "audio_eos_token": f"t{AUDIO - 1}"}
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<unk>", additional_special_tokens=list(words.values()))
    sounds = WhisperFeatureExtractor(feature_size=MELS)
    Qwen2AudioProcessor(sounds, tokenizer, **words).save_pretrained(folder)
    return str(folder)


def _randomise(model: PreTrainedModel, last_layer: int) -> None:
    """Weights with which attention matters, and later layers change little."""
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            if "sinks" in name:
                weight.normal_(0, 1)
            continue
        weight.normal_(0, 1 if "embed" in name else weight.shape[-1] ** -0.5)
        if "q_proj" in name or "k_proj" in name:
            weight.mul_(2.0)
        if "lm_head" in name:
            weight.mul_(3.5)
        if f"layers.{last_layer}." in name and ("o_proj" in name or "down_proj" in name):
            weight.mul_(0.3)


def _cut(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The part of a larger vocabulary that a smaller one has. Past the end of a smaller one, half more of its first
    rows: such padding would often be likeliest, if it were drafted."""
    if len(weight) >= shape[0]:
        return weight[: shape[0]]
    return torch.cat([weight, 1.5 * weight[: shape[0] - len(weight)]])


def save_pair_of(
    folder: Path,
    architecture: Callable[[int, int], PretrainedConfig],
    vocab_sizes: tuple[int, int] = (VOCAB_SIZE, VOCAB_SIZE),
    noise: float = 0.08,
) -> tuple[str, str]:
    """Folders of a target of three layers and a draft of two.

    Args:
        vocab_sizes: the target's and the draft's, padded.
        noise: of the draft's weights, as a share of their standard deviation.
    """
    torch.manual_seed(0)
    target, draft = (
        AutoModelForCausalLM.from_config(architecture(n, size), dtype=torch.float32).eval()
        for n, size in zip((3, 2), vocab_sizes)
    )
    with torch.no_grad():
        _randomise(target, last_layer=2)
        weights = target.state_dict()
        for name, weight in draft.named_parameters():
            weight.copy_(_cut(weights[name], weight.shape))
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * noise)
    for name, model in (("target", target), ("draft", draft)):
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name)
    return str(folder / "target"), str(folder / "draft")


def save_unlike_pair(
    folder: Path, architecture: Callable[[int, int], PretrainedConfig], dtype: torch.dtype = torch.float32
) -> tuple[str, str]:
    """A target of four layers and a Llama that often agrees with it: both have the same embeddings and head, and their
    layers change little.
    """
    torch.manual_seed(0)
    target, draft = (
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for config in (architecture(4, VOCAB_SIZE), llama(2))
    )
    with torch.no_grad():
        for model, share in ((target, 0.3), (draft, 0.1)):
            _randomise(model, last_layer=len(model.model.layers) - 1)
            for name, weight in model.named_parameters():
                if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")) or name.endswith(
                    "down_proj"
                ):
                    weight.mul_(share)
        draft.model.embed_tokens.weight.copy_(target.model.embed_tokens.weight)
        draft.lm_head.weight.copy_(target.lm_head.weight)
    for name, model in (("target", target), ("draft", draft)):
        model.to(dtype).save_pretrained(folder / name)
        save_tokenizer(folder / name)
    return str(folder / "target"), str(folder / "draft")
