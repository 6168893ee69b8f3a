"""Each row here names what cannot be combined with mtad: a field, on which model runner, and what it accepts instead.

Rows with a value that needs arithmetic to be judged are in `engine_checks`; what must be true of the draft model, in
`checks`; MTAD's own fields are judged by `options`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vllm.platforms import current_platform
from vllm.utils.torch_utils import resolve_kv_cache_dtype_string

from vllm_mtad.releases import moved

if TYPE_CHECKING:
    from vllm.config import VllmConfig

V2_ATTENTION_BACKENDS = ("FLASH_ATTN", "TRITON_ATTN", "CPU_ATTN")
"""Backends whose KV cache the beams of the V2 runner can read."""


@dataclass(frozen=True)
class FieldRefusal:
    """A field of `--speculative-config` that has one accepted value with mtad, which is also vLLM's default."""

    field: str
    accepted: Any
    why: str


FIELDS = (
    FieldRefusal("use_heterogeneous_vocab", False, "the joint ratio compares both models on the same tokens"),
    FieldRefusal("parallel_drafting", False, "beams are drafted one depth at a time"),
    FieldRefusal("disable_padded_drafter_batch", False, "the drafter needs the padded batch"),
    FieldRefusal("rejection_sample_method", "standard", "mtad has its own test, chosen by acceptance"),
    FieldRefusal("draft_sample_method", "greedy", "mtad has its own drafting, chosen by draft_sampling"),
    FieldRefusal("use_local_argmax_reduction", False, "beams need more than the largest logit"),
    FieldRefusal(
        "enable_adaptive_verification",
        False,
        "it trims drafts by how likely each is to be accepted, which mtad's beams do not estimate",
    ),
)


def field_problems(given: Mapping[str, Any]) -> Iterator[str]:
    """
    Args:
        given: the fields that the user gave, with the target's configuration.
    """
    for row in FIELDS:
        if (value := given.get(row.field, row.accepted)) != row.accepted:
            yield (
                f"speculative_config.{row.field}={value!r} cannot be combined with mtad ({row.why}): leave it at"
                f" {row.accepted!r}."
            )
    tensor_parallel = given["target_parallel_config"].tensor_parallel_size
    if (value := given.get("draft_tensor_parallel_size")) not in (None, tensor_parallel):
        yield (
            f"speculative_config.draft_tensor_parallel_size={value} is not accepted by mtad: leave it out or give the"
            f" target's tensor_parallel_size, {tensor_parallel}."
        )


@dataclass(frozen=True)
class EngineRefusal:
    """An engine option that cannot be combined with mtad.

    `runner`: the model runner that cannot, "" for both. `what`: the option; `{}` in it stands for its value. `value`:
    gives that value from a finished configuration. `is_refused`: whether that value is refused.
    """

    runner: Literal["", "v1", "v2"]
    what: str
    value: Callable[[VllmConfig], Any]
    accepted: str
    is_refused: Callable[[Any], bool] = bool


def _above_one(value: int) -> bool:
    return value > 1


def _draft_cache_dtype(config: VllmConfig) -> str:
    """The dtype of the draft's KV cache; a checkpoint may bring its own."""
    speculative: Any = config.speculative_config
    given = speculative.kv_cache_dtype or config.cache_config.cache_dtype
    return resolve_kv_cache_dtype_string(given, speculative.draft_model_config)


def _cache_dtype_of_trees(config: VllmConfig) -> str:
    speculative: Any = config.speculative_config
    dtype = config.cache_config.cache_dtype if speculative.options.num_candidates > 1 else "auto"
    return resolve_kv_cache_dtype_string(dtype, config.model_config)


def _adapted_modules(config: VllmConfig) -> Collection[str] | None:
    """None: all of the target's."""
    return () if config.lora_config is None else config.lora_config.target_modules


def _draft_backend(config: VllmConfig) -> str | None:
    backend = config.speculative_config.attention_backend  # type: ignore[union-attr]
    return None if backend is None else backend.name


ENGINE = (
    EngineRefusal("", "pipeline_parallel_size={}", lambda c: c.parallel_config.pipeline_parallel_size, "1", _above_one),
    EngineRefusal(
        "",
        "data_parallel_size={} with a mixture of experts",
        lambda c: c.parallel_config.data_parallel_size if c.model_config.is_moe else 1,
        "1 (its replicas' passes must go together, and drafts differ), or a dense target",
        _above_one,
    ),
    EngineRefusal(
        "",
        "decode_context_parallel_size={}",
        lambda c: c.parallel_config.decode_context_parallel_size,
        "1",
        _above_one,
    ),
    EngineRefusal(
        "",
        "prefill_context_parallel_size={}",
        lambda c: c.parallel_config.prefill_context_parallel_size,
        "1",
        _above_one,
    ),
    EngineRefusal("", "enable_eplb={}", lambda c: c.parallel_config.enable_eplb, "False"),
    EngineRefusal("", "enable_dbo={}", lambda c: c.parallel_config.use_ubatching, "False"),
    EngineRefusal("", "kv_transfer_config", lambda c: c.kv_transfer_config is not None, "none"),
    EngineRefusal("", "runner={!r}", lambda c: c.model_config.runner_type, "'generate'", lambda v: v != "generate"),
    EngineRefusal("", "an encoder-decoder target", lambda c: c.model_config.is_encoder_decoder, "a decoder"),
    EngineRefusal("", "logits_processors", lambda c: bool(c.model_config.logits_processors), "none"),
    EngineRefusal(
        "v1",
        "Model Runner V1 (VLLM_USE_V2_MODEL_RUNNER=0) on a GPU",
        lambda c: not current_platform.is_cpu(),
        "Model Runner V2",
    ),
    EngineRefusal(
        "v1",
        "logprobs_mode={!r}",
        lambda c: c.model_config.logprobs_mode,
        "the other modes",
        lambda v: v == "processed_logits",
    ),
    EngineRefusal(
        "v1",
        "enable_prompt_embeds=True",
        lambda c: c.model_config.enable_prompt_embeds,
        "False (vLLM asks for the ids of a prompt's last tokens)",
    ),
    EngineRefusal(
        "v1",
        "max_model_len='auto'",
        lambda c: c.model_config.original_max_model_len == -1,
        "a number (auto would leave no scratch)",
    ),
    EngineRefusal(
        "v2",
        "speculative_config.attention_backend={!r}",
        _draft_backend,
        ", ".join(V2_ATTENTION_BACKENDS),
        lambda v: v not in (None, *V2_ATTENTION_BACKENDS),
    ),
    EngineRefusal(
        "v2",
        "kv_cache_dtype={!r} for the draft",
        _draft_cache_dtype,
        "an unquantized one (speculative_config.kv_cache_dtype)",
        moved("is_quantized_kv_cache"),
    ),
    EngineRefusal(
        "v2",
        "kv_cache_dtype={!r} with speculative_config.num_candidates above 1",
        _cache_dtype_of_trees,
        "an unquantized one",
        moved("is_quantized_kv_cache"),
    ),
    EngineRefusal(
        "v2",
        "lora_target_modules={!r} with enable_lora=True",
        _adapted_modules,
        "modules without 'lm_head', as vLLM gives its deltas to wrong rows when there are drafts",
        lambda modules: modules is None or "lm_head" in modules,
    ),
    EngineRefusal("v2", "watermark_config", lambda c: c.watermark_config is not None, "none"),
    EngineRefusal(
        "v2", "enable_batch_sharded_sampling={}", lambda c: c.parallel_config.enable_batch_sharded_sampling, "False"
    ),
)


def engine_option_problems(config: VllmConfig) -> Iterator[str]:
    runner = "v2" if config.use_v2_model_runner else "v1"
    for row in ENGINE:
        if row.runner in ("", runner) and row.is_refused(value := row.value(config)):
            yield (
                f"{row.what.format(value)} cannot be combined with speculative method 'mtad': it accepts"
                f" {row.accepted}."
            )


def split_blocks(block_size: int, kernel_block_size: int) -> ValueError:
    """For a backend that splits blocks: it is chosen in the worker, so this refusal is raised there."""
    return ValueError(
        f"block_size={block_size} cannot be combined with speculative method 'mtad': the attention backend splits it,"
        f" so give its own block size, {kernel_block_size}."
    )
