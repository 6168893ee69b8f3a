"""`draft_config` makes the configuration under which vLLM loads the draft model.

It sets the draft's attention backend and the size of its largest pass. The target's own configuration stays as it is;
only what is copied here differs.
"""

from __future__ import annotations

import copy

from vllm.config import VllmConfig, set_current_vllm_config
from vllm.logger import init_logger
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import get_attn_backend

from vllm_mtad.config.attention import cache_config_of_the_draft
from vllm_mtad.config.refusals import V2_ATTENTION_BACKENDS

logger = init_logger("vllm.mtad")


def draft_config(config: VllmConfig) -> VllmConfig:
    """A copy of `config` for the draft model; what layers register themselves in is shared with the target's."""
    own = copy.copy(config)
    own.scheduler_config = copy.copy(config.scheduler_config)
    own.scheduler_config.max_num_batched_tokens = largest_pass(config)
    # vLLM ends the compiled range at the budget above, and keeps the inner ends that it finds here.
    own.compilation_config = copy.copy(config.compilation_config)
    ends = config.compilation_config.compile_ranges_endpoints or []
    own.compilation_config.compile_ranges_endpoints = [
        end for end in ends if end < config.scheduler_config.max_num_batched_tokens
    ]
    own.lora_config = None  # adapters are the target's
    own.kernel_config = copy.copy(config.kernel_config)
    if config.speculative_config.moe_backend is not None:  # type: ignore[union-attr]
        own.kernel_config.moe_backend = config.speculative_config.moe_backend  # type: ignore[union-attr]
    own.cache_config = cache_config_of_the_draft(config)
    own.attention_config = copy.copy(config.attention_config)
    if (backend := _choose_backend(config)) is not None:
        own.attention_config.backend = backend
        own.attention_config.backend_per_kind = {}
    return own


def largest_pass(config: VllmConfig) -> int:
    """Tokens of the draft model's largest pass.

    The first pass of a round has one token a request more than the target's step. vLLM's scheduler leaves room for it,
    its kernel warm-up (`v1/worker/gpu/warmup.py`) does not. A beam pass has one token a beam.
    """
    scheduler = config.scheduler_config
    beam_width: int = config.speculative_config.options.beam_width  # type: ignore[union-attr]
    return max(
        scheduler.max_num_batched_tokens + scheduler.max_num_seqs,
        scheduler.max_num_seqs * beam_width,
    )


def _choose_backend(config: VllmConfig) -> AttentionBackendEnum | None:
    """The backend that `speculative_config.attention_backend` names; None if vLLM's own choice can be read by beams;
    otherwise, as for FLASHINFER on Blackwell, the first one that can be and that the device has."""
    speculative = config.speculative_config
    assert speculative is not None
    if speculative.attention_backend is not None:
        return speculative.attention_backend
    chosen = _backend_of_the_draft(config)
    if chosen in V2_ATTENTION_BACKENDS:
        return None
    for name in V2_ATTENTION_BACKENDS:
        own = copy.copy(config)
        own.attention_config = copy.copy(config.attention_config)
        own.attention_config.backend, own.attention_config.backend_per_kind = AttentionBackendEnum[name], {}
        try:
            _backend_of_the_draft(own)
        except ValueError:
            continue
        logger.info("MTAD's draft model uses %s: beams cannot read the KV cache of %s.", name, chosen)
        return AttentionBackendEnum[name]
    return None  # refused by name when the layer is there


def _backend_of_the_draft(config: VllmConfig) -> str:
    """The name of the backend that vLLM would give the draft's attention layers. Raises ValueError if there is none."""
    speculative = config.speculative_config
    assert speculative is not None
    draft = speculative.draft_model_config
    with set_current_vllm_config(config):
        backend = get_attn_backend(
            draft.get_head_size(),
            draft.dtype,
            speculative.kv_cache_dtype or config.cache_config.cache_dtype,
            has_sink=draft.hf_text_config.model_type == "gpt_oss",
        )
    return backend.get_name()
