"""What a model's configuration says of its attention: what mtad cannot do, and layers that see a window only."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import CacheConfig, ModelConfig, VllmConfig

RECURRENT, MLA = "recurrent or hybrid layers", "multi-head latent attention (MLA)"
CHUNKED = "attention in chunks"


def unsupported_attention(model: ModelConfig) -> str | None:
    """The name of what mtad's own attention cannot do of a model's, or None: no draft may have it, and no target that
    verifies several candidates; which other targets may, `engine_checks` says."""
    text = model.hf_text_config
    layer_types = set(getattr(text, "layer_types", None) or ())
    if model.is_attention_free or model.is_hybrid or "linear_attention" in layer_types:
        return RECURRENT
    if model.use_mla:
        return MLA
    if "chunked_attention" in layer_types or getattr(text, "attention_chunk_size", None):
        return CHUNKED
    if getattr(text, "num_kv_shared_layers", 0):
        return "KV sharing between layers"
    if getattr(text, "alibi", False) or text.model_type in ("bloom", "mpt", "baichuan", "step1"):
        return "ALiBi"
    return None


def is_gated_delta_net(model: ModelConfig) -> bool:
    """Whether a model mixes full attention with gated delta nets (Qwen3-Next, Qwen3.5): the recurrent layers of which
    vLLM keeps the state after each of a step's tokens, so that rejected ones leave no trace. (Of Mamba's first kind it
    does not; their configurations call them the same, and have no heads of values.)"""
    text = model.hf_text_config
    kinds = set(getattr(text, "layer_types", None) or ())
    is_recurrent = kinds == {"linear_attention", "full_attention"} and hasattr(text, "linear_num_value_heads")
    return is_recurrent and not model.use_mla


@dataclass(frozen=True)
class Window:
    """Layers in which a token sees `size` tokens, itself among them. `everywhere`: no layer sees more."""

    size: int
    everywhere: bool


def window_of(model: ModelConfig, max_len: int) -> Window | None:
    """The window of a model's layers; None if there is none, or none that a text of `max_len` tokens would leave."""
    text = model.hf_text_config
    layer_types = getattr(text, "layer_types", None) or ()
    size = getattr(text, "sliding_window", None) or getattr(text, "interleaved_sliding_window", None)
    if not size or not getattr(text, "use_sliding_window", True):
        return None
    if layer_types and "sliding_attention" not in layer_types:
        return None
    sizes = [n for n in (size if isinstance(size, list) else [size]) if n]
    return Window(min(sizes), set(layer_types) <= {"sliding_attention"}) if sizes and min(sizes) < max_len else None


def cache_config_of_the_draft(config: VllmConfig) -> CacheConfig:
    """The cache configuration for the draft's layers: their own dtype, and nothing that vLLM has set for the target's:
    a window, which layers take that bring none of their own, and how much of a text a recurrent layer's state stands
    for."""
    speculative = config.speculative_config
    assert speculative is not None
    window = window_of(speculative.draft_model_config, config.model_config.max_model_len)
    own = copy.copy(config.cache_config)
    own.mamba_block_size = None
    if speculative.kv_cache_dtype is not None:
        own.cache_dtype = speculative.kv_cache_dtype
    own.sliding_window = window.size if window is not None and window.everywhere else None
    return own
