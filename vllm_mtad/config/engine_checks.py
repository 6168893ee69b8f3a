"""What must be true of the whole engine configuration, on both runners and on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.utils.torch_utils import is_quantized_kv_cache, resolve_kv_cache_dtype_string

from vllm_mtad.config.checks import MLA, RECURRENT, SLIDING, unsupported_attention

if TYPE_CHECKING:
    from vllm.config import VllmConfig

V2_ATTENTION_BACKENDS = ("FLASH_ATTN", "TRITON_ATTN", "CPU_ATTN")
"""Backends whose KV cache the beams of the V2 runner can read."""

V2_MAX_BEAM_WIDTH, V2_MAX_DRAFT_LENGTH = 16, 32
"""What the kernels are compiled and tested for (`benchmarks/compile_matrix.py`)."""
V2_MAX_TILE = {4: 64 * 64, 2: 128 * 128}
"""By bytes of a number, query heads of a KV head's beams times their size, which counts as 64 at least: more does not
fit into a smaller GPU's shared memory."""


def check_engine(config: VllmConfig) -> None:
    speculative: Any = config.speculative_config
    window = min(config.model_config.max_model_len, speculative.draft_model_config.max_model_len)
    if speculative.draft_length >= window:
        raise ValueError(
            f"speculative_config.num_speculative_tokens={speculative.draft_length} does not fit in the"
            f" models' length of {window} tokens: give less than that."
        )
    feature = unsupported_attention(config.model_config)
    if feature in (RECURRENT, SLIDING, MLA):
        raise ValueError(
            f"The target {config.model_config.model!r} has {feature}, which cannot be combined with speculative method"
            " 'mtad': its KV cache and the draft's would be of several kinds."
        )
    _refuse(_common_refusals(config))
    _check_candidates(config)
    if config.use_v2_model_runner:
        _check_v2_sizes(config)
        _check_v2_tile(config)
        _check_graphs_of_candidates(config)
        _refuse(_v2_refusals(config))
    else:
        _check_v1_rows(config)
        _refuse(_v1_refusals(config))


Refusals = list[tuple[bool, str, str]]
"""(whether it is set, what is set, what would be accepted)"""


def _refuse(refusals: Refusals) -> None:
    for is_set, what, accepted in refusals:
        if is_set:
            raise ValueError(f"{what} cannot be combined with speculative method 'mtad': it accepts {accepted}.")


def _common_refusals(config: VllmConfig) -> Refusals:
    model, parallel = config.model_config, config.parallel_config
    context_parallel = parallel.decode_context_parallel_size
    prefill_context_parallel = parallel.prefill_context_parallel_size
    return [
        (parallel.pipeline_parallel_size > 1, f"pipeline_parallel_size={parallel.pipeline_parallel_size}", "1"),
        (parallel.data_parallel_size > 1, f"data_parallel_size={parallel.data_parallel_size}", "1"),
        (context_parallel > 1, f"decode_context_parallel_size={context_parallel}", "1"),
        (prefill_context_parallel > 1, f"prefill_context_parallel_size={prefill_context_parallel}", "1"),
        (parallel.enable_eplb, "enable_eplb=True", "False"),
        (parallel.use_ubatching, "enable_dbo=True", "False"),
        (config.lora_config is not None, "enable_lora=True", "False"),
        (config.kv_transfer_config is not None, "kv_transfer_config", "none"),
        (model.is_multimodal_model, "a multimodal target", "a text model"),
        (model.runner_type != "generate", f"runner={model.runner_type!r}", "'generate'"),
        (bool(model.logits_processors), "logits_processors", "none"),
    ]


def _v1_refusals(config: VllmConfig) -> Refusals:
    from vllm.platforms import current_platform

    speculative: Any = config.speculative_config
    model, schedule = config.model_config, speculative.num_speculative_tokens_per_batch_size
    options = speculative.options
    of_candidates = (options.num_speculative_tokens, options.num_nodes)
    return [
        (not current_platform.is_cpu(), "Model Runner V1 (VLLM_USE_V2_MODEL_RUNNER=0) on a GPU", "Model Runner V2"),
        (
            any(length not in of_candidates for _, _, length in schedule or ()),
            f"speculative_config.num_speculative_tokens_per_batch_size={schedule} on Model Runner V1",
            "a schedule of draft lengths on V2 only",
        ),
        (model.logprobs_mode == "processed_logits", "logprobs_mode='processed_logits'", "the other modes"),
        (model.original_max_model_len == -1, "max_model_len='auto'", "a number (auto would leave no scratch)"),
    ]


def _check_v1_rows(config: VllmConfig) -> None:
    beam_width: int = config.speculative_config.beam_width  # type: ignore[union-attr]
    budget = config.scheduler_config.max_num_batched_tokens
    if beam_width > budget:
        raise ValueError(
            f"speculative_config.beam_width={beam_width} is larger than max_num_batched_tokens={budget}: a request's"
            " beams must fit in one step."
        )


def _v2_refusals(config: VllmConfig) -> Refusals:
    speculative: Any = config.speculative_config
    backend = speculative.attention_backend
    dtype = speculative.kv_cache_dtype or config.cache_config.cache_dtype
    dtype = resolve_kv_cache_dtype_string(dtype, speculative.draft_model_config)  # a checkpoint may bring its own
    accepted = ", ".join(V2_ATTENTION_BACKENDS)
    return [
        (
            backend is not None and backend.name not in V2_ATTENTION_BACKENDS,
            f"speculative_config.attention_backend={backend and backend.name!r}",
            accepted,
        ),
        (
            is_quantized_kv_cache(dtype),
            f"kv_cache_dtype={dtype!r} for the draft",
            "an unquantized one (speculative_config.kv_cache_dtype)",
        ),
        (getattr(config, "watermark_config", None) is not None, "watermark_config", "none"),
        (config.parallel_config.enable_batch_sharded_sampling, "enable_batch_sharded_sampling=True", "False"),
    ]


def _check_v2_sizes(config: VllmConfig) -> None:
    speculative: Any = config.speculative_config
    options = speculative.options
    for name, most in (("beam_width", V2_MAX_BEAM_WIDTH), ("num_speculative_tokens", V2_MAX_DRAFT_LENGTH)):
        if (value := getattr(options, name)) > most:
            raise ValueError(
                f"speculative_config.{name}={value} is not accepted by mtad on Model Runner V2: give at most {most}."
            )


def widest_beams(num_heads: int, num_kv_heads: int, head_size: int, itemsize: int) -> int:
    """The largest beam width whose attention fits on a GPU, in numbers of so many bytes; 0 if none does."""
    head_tile = max(64, 1 << (head_size - 1).bit_length())
    return V2_MAX_TILE[itemsize] // head_tile // (num_heads // num_kv_heads)


def _check_v2_tile(config: VllmConfig) -> None:
    from vllm.platforms import current_platform

    speculative: Any = config.speculative_config
    draft, parallel = speculative.draft_model_config, speculative.draft_parallel_config
    if current_platform.is_cpu():
        return
    heads = draft.get_num_attention_heads(parallel), draft.get_num_kv_heads(parallel)
    most = widest_beams(*heads, draft.get_head_size(), draft.dtype.itemsize)
    if speculative.beam_width > most:
        ways = [f"at most {most}"] if most else []
        ways += ["dtype='bfloat16' or 'float16'"] if draft.dtype.itemsize == 4 else []
        give = f"give {', or '.join(ways)}" if ways else "it has too many query heads a KV head, or too large ones"
        raise ValueError(
            f"speculative_config.beam_width={speculative.beam_width} with dtype={str(draft.dtype).split('.')[-1]!r} is"
            f" not accepted by mtad for this draft on a GPU: {give}."
        )


def _check_candidates(config: VllmConfig) -> None:
    options = config.speculative_config.options  # type: ignore[union-attr]
    if options.num_candidates == 1:
        return
    rows = options.num_nodes + 1
    budget, window = config.scheduler_config.max_num_batched_tokens, config.model_config.max_model_len
    for name, most in (("max_num_batched_tokens", budget), ("max_model_len", window)):
        if rows > most:
            raise ValueError(
                f"speculative_config.num_candidates={options.num_candidates} does not fit: {options.num_candidates}"
                f" candidates of {options.num_speculative_tokens} tokens are {rows} rows, and {name} is {most}."
            )


def _check_graphs_of_candidates(config: VllmConfig) -> None:
    from vllm.config.compilation import CUDAGraphMode

    options = config.speculative_config.options  # type: ignore[union-attr]
    if options.num_candidates == 1:
        return
    if config.compilation_config.cudagraph_mode == CUDAGraphMode.FULL:
        raise ValueError(
            f"cudagraph_mode='FULL' cannot be combined with speculative_config.num_candidates={options.num_candidates}:"
            " it accepts FULL_AND_PIECEWISE, FULL_DECODE_ONLY, PIECEWISE and NONE."
        )
