"""What must be true before anything is loaded; every refusal is one sentence that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

    from vllm_mtad.config.speculative import MTADSpeculativeConfig

logger = init_logger("vllm.mtad")

RECURRENT, MLA = "recurrent or hybrid layers", "multi-head latent attention (MLA)"
SLIDING = "sliding-window attention"

# Field of SpeculativeConfig -> (the value that mtad works with, why another does not).
_FIXED_FIELDS: dict[str, tuple[Any, str]] = {
    "use_heterogeneous_vocab": (False, "the joint ratio compares both models on the same tokens"),
    "parallel_drafting": (False, "beams are drafted one depth at a time"),
    "disable_padded_drafter_batch": (False, "the drafter needs the padded batch"),
    "rejection_sample_method": ("standard", "mtad has its own test, chosen by acceptance"),
    "draft_sample_method": ("greedy", "mtad has its own drafting, chosen by draft_sampling"),
    "use_local_argmax_reduction": (False, "beams need more than the largest logit"),
    "enable_adaptive_verification": (False, "it is for dspark"),
    "num_speculative_tokens_per_batch_size": (None, "a schedule of draft lengths is not supported on V1"),
}


def check_combinable_fields(config: MTADSpeculativeConfig) -> None:
    for name, (accepted, why) in _FIXED_FIELDS.items():
        if (value := getattr(config, name)) != accepted:
            raise ValueError(
                f"speculative_config.{name}={value!r} cannot be combined with mtad ({why}): leave it at {accepted!r}."
            )
    target_tp = config.target_parallel_config.tensor_parallel_size
    if config.draft_tensor_parallel_size not in (None, target_tp):
        raise ValueError(
            f"speculative_config.draft_tensor_parallel_size={config.draft_tensor_parallel_size} is not accepted by"
            f" mtad: leave it out or give the target's tensor_parallel_size, {target_tp}."
        )


def check_draft_path(model: str) -> None:
    """A draft that is named as a folder must be one; anything else is left to the hub."""
    named_as_path = model.startswith(("/", "./", "../", "~")) or model.count("/") > 1
    if named_as_path and "://" not in model and not Path(model).is_dir():
        raise ValueError(f"speculative_config.model={model!r} is not there: give a model folder or a hub id.")


def check_draft_model(config: MTADSpeculativeConfig) -> None:
    draft, target = config.draft_model_config, config.target_model_config
    if feature := unsupported_attention(draft):
        raise ValueError(
            f"speculative_config.model={config.model!r} uses {feature}: mtad needs a draft with full causal softmax"
            " attention in every layer."
        )
    if draft.is_multimodal_model or draft.uses_mrope:
        raise ValueError(f"speculative_config.model={config.model!r} is a multimodal model: mtad needs a text draft.")
    same_tokens = _same_tokenizer(target, draft)
    sizes = f"{target.get_vocab_size()} (target) and {draft.get_vocab_size()} (draft)"
    if same_tokens is False or (same_tokens is None and target.get_vocab_size() != draft.get_vocab_size()):
        raise ValueError(
            f"speculative_config.model={config.model!r} has another vocabulary than the target {target.model!r}"
            f" (sizes {sizes}): mtad needs a draft with the target's tokenizer."
        )
    if target.get_vocab_size() != draft.get_vocab_size():
        raise ValueError(
            f"speculative_config.model={config.model!r} has the target's tokenizer, but its vocabulary is padded to"
            f" another size ({sizes}): mtad needs equal padded sizes."
        )


def _several_kv_cache_groups(target: ModelConfig) -> str | None:
    """The name of what gives a target other KV than full attention has, or None."""
    feature = unsupported_attention(target)
    return feature if feature in (RECURRENT, SLIDING, MLA) else None


def unsupported_attention(model: ModelConfig) -> str | None:
    """The name of what makes a draft's attention other than full causal softmax, or None."""
    text = model.hf_text_config
    layer_types = set(getattr(text, "layer_types", None) or ())
    if model.is_attention_free or model.is_hybrid or "linear_attention" in layer_types:
        return RECURRENT
    if model.use_mla:
        return MLA
    sliding = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    if "sliding_attention" in layer_types or "chunked_attention" in layer_types or (sliding and not layer_types):
        return SLIDING
    if getattr(text, "attn_logit_softcapping", None):
        return "an attention logit soft-cap"
    if getattr(text, "alibi", False) or text.model_type in ("bloom", "mpt", "baichuan"):
        return "ALiBi"
    if text.model_type == "gpt_oss" or getattr(text, "attention_sinks", False):
        return "attention sinks"
    return None


def _same_tokenizer(target: ModelConfig, draft: ModelConfig) -> bool | None:
    """Whether both tokenizers give ordinary tokens the same ids; None if either cannot be read.

    Special tokens may be named differently (Llama 3 against 3.2) without changing what text means.
    """
    ordinary = [
        _ordinary_tokens(model, target.trust_remote_code, revision)
        for model, revision in ((target.tokenizer, target.tokenizer_revision), (draft.model, draft.revision))
    ]
    if ordinary[0] is None or ordinary[1] is None:
        logger.warning("mtad could not read both tokenizers and compares only the sizes of the vocabularies.")
        return None
    return ordinary[0] == ordinary[1]


def _ordinary_tokens(name: str, trust_remote_code: bool, revision: str | None) -> dict[str, int] | None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision)
    except (OSError, ValueError, KeyError):
        return None
    special = tokenizer.added_tokens_decoder
    return {token: token_id for token, token_id in tokenizer.get_vocab().items() if token_id not in special}


def check_engine(config: VllmConfig) -> None:
    """What depends on the whole engine configuration."""
    speculative: Any = config.speculative_config
    beam_width, scheduler, parallel = speculative.beam_width, config.scheduler_config, config.parallel_config
    if beam_width > scheduler.max_num_batched_tokens:
        raise ValueError(
            f"speculative_config.beam_width={beam_width} is larger than"
            f" max_num_batched_tokens={scheduler.max_num_batched_tokens}: a request's beams must fit in one step."
        )
    window = min(config.model_config.max_model_len, speculative.draft_model_config.max_model_len)
    if speculative.num_speculative_tokens >= window:
        raise ValueError(
            f"speculative_config.num_speculative_tokens={speculative.num_speculative_tokens} does not fit in the"
            f" models' length of {window} tokens: give less than that."
        )
    if feature := _several_kv_cache_groups(config.model_config):
        raise ValueError(
            f"The target {config.model_config.model!r} has {feature}, which cannot be combined with speculative method"
            " 'mtad': its KV cache and the draft's would be of several kinds."
        )
    model, context_parallel = config.model_config, parallel.decode_context_parallel_size
    refused = (
        (parallel.pipeline_parallel_size > 1, f"pipeline_parallel_size={parallel.pipeline_parallel_size}", "1"),
        (parallel.data_parallel_size > 1, f"data_parallel_size={parallel.data_parallel_size}", "1"),
        (context_parallel > 1, f"decode_context_parallel_size={context_parallel}", "1"),
        (parallel.enable_eplb, "enable_eplb=True", "False"),
        (config.lora_config is not None, "enable_lora=True", "False"),
        (config.kv_transfer_config is not None, "kv_transfer_config", "none"),
        (model.is_multimodal_model, "a multimodal target", "a text model"),
        (model.runner_type != "generate", f"runner={model.runner_type!r}", "'generate'"),
        (bool(model.logits_processors), "logits_processors", "none (vLLM applies them to no draft token)"),
        (model.logprobs_mode == "processed_logits", "logprobs_mode='processed_logits'", "the other modes"),
        (model.original_max_model_len == -1, "max_model_len='auto'", "a number (auto would leave no scratch)"),
    )
    for is_set, what, accepted in refused:
        if is_set:
            raise ValueError(f"{what} cannot be combined with speculative method 'mtad': it accepts {accepted}.")
