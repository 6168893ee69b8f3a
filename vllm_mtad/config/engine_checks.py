"""`check_engine` checks a finished engine configuration: the rows of `refusals`, and sizes that must fit together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mtad.config.attention import CHUNKED, MLA, RECURRENT, is_gated_delta_net, unsupported_attention, window_of
from vllm_mtad.config.checks import draft_file_problems
from vllm_mtad.config.errors import one_sentence
from vllm_mtad.config.refusals import engine_option_problems

if TYPE_CHECKING:
    from vllm.config import VllmConfig

V2_MAX_BEAM_WIDTH, V2_MAX_DRAFT_LENGTH = 16, 32
"""What the kernels are compiled and tested for (`benchmarks/compile_matrix.py`)."""
V2_MAX_TILE = {4: 64 * 64, 2: 128 * 128}
"""What fits into a smaller GPU's shared memory, by bytes of a number: a KV head's query heads of all beams times their
size, which counts as 64 at least."""


FORMATS_OF_FILES = ("auto", "hf", "safetensors")
"""vLLM's load formats that read files of the model's folder, and whole."""


def check_engine(config: VllmConfig) -> None:
    """
    Raises:
        ValueError: all that cannot be combined with mtad, each in one sentence.
    """
    config.speculative_config.refuse(engine_problems(config))  # type: ignore[union-attr]


def engine_problems(config: VllmConfig) -> Iterator[str]:
    speculative: Any = config.speculative_config
    window = min(config.model_config.max_model_len, speculative.draft_model_config.max_model_len)
    gamma = speculative.options.num_speculative_tokens
    if gamma >= window:
        yield (
            f"speculative_config.num_speculative_tokens={gamma} does not fit in the models' length of {window} tokens:"
            " give less than that."
        )
    yield from _problems_of_the_target(config)
    yield from _problems_of_quantization(config)
    yield from _problems_of_windows(config)
    yield from engine_option_problems(config)
    if config.load_config.load_format in FORMATS_OF_FILES:
        yield from draft_file_problems(Path(speculative.draft_model_config.model))
    yield from _problems_of_candidates(config)
    if config.use_v2_model_runner:
        yield from _problems_of_v2_sizes(config)
        yield from _problems_of_v2_tile(config)
        yield from _problems_of_graphs(config)
    else:
        yield from _problems_of_v1_rows(config)
        yield from _problems_of_v1_scratch(config)


def _problems_of_the_target(config: VllmConfig) -> Iterator[str]:
    speculative: Any = config.speculative_config
    target, candidates = config.model_config, speculative.options.num_candidates
    feature, is_v2 = unsupported_attention(target), config.use_v2_model_runner
    if is_v2 and is_gated_delta_net(target):
        if config.cache_config.use_replayssm:
            yield "use_replayssm=True cannot be combined with speculative method 'mtad': it accepts False."
    elif feature in (RECURRENT, MLA, CHUNKED):
        yield (
            f"The target {target.model!r} has {feature}, which cannot be combined with speculative method 'mtad' on"
            f" Model Runner {'V2' if is_v2 else 'V1'} ({_why_no_target(feature, is_v2)}): it accepts softmax attention,"
            f" full or in windows{', and gated delta nets beside it' if is_v2 else ''}."
        )
    if candidates > 1 and (why := _why_no_trees(config, feature)) is not None:
        yield (
            f"speculative_config.num_candidates={candidates} cannot be used with the target {target.model!r} ({why}):"
            " give 1."
        )


def _why_no_target(feature: str, is_v2: bool) -> str:
    if feature == CHUNKED or (feature == MLA and is_v2):
        return "it was not tried"
    if is_v2:
        return "that a rejected token leaves no trace in their state was shown of gated delta nets alone"
    return "what it keeps of a text does not fit into the draft's KV group"


def _why_no_trees(config: VllmConfig, feature: str | None) -> str | None:
    """Why a target cannot verify several candidates, if it can verify one. `feature`: its unsupported attention."""
    speculative: Any = config.speculative_config
    target, draft = config.model_config, speculative.draft_model_config
    if target.uses_mrope:
        return "its positions have several dimensions"
    if not config.use_v2_model_runner:
        window = window_of(target, target.max_model_len)
        heads = [(model.get_total_num_kv_heads(), model.get_head_size()) for model in (target, draft)]
        is_mixed = window is not None and not window.everywhere
        return "on V1 its windows ask for a draft of its KV heads" if is_mixed and heads[0] != heads[1] else None
    if target.is_mm_prefix_lm and target.supports_multimodal_inputs:
        return "around an image it attends to what comes behind; it could be served with language_model_only"
    return "its window is the backend's" if target.rswa_window else feature


def _problems_of_quantization(config: VllmConfig) -> Iterator[str]:
    """Of the draft, which has the target's dtype; a worker would end over it."""
    from vllm.config import VllmConfig

    draft = config.speculative_config.draft_model_config  # type: ignore[union-attr]
    try:
        VllmConfig.get_quantization_config(draft, config.load_config)
    except ValueError as error:
        yield f"speculative_config.model={draft.model!r} cannot be loaded: {one_sentence(error)}"


def _problems_of_windows(config: VllmConfig) -> Iterator[str]:
    speculative: Any = config.speculative_config
    max_len, gamma = config.model_config.max_model_len, speculative.options.num_speculative_tokens
    windows = (window_of(m, max_len) for m in (config.model_config, speculative.draft_model_config))
    smallest = min((window.size for window in windows if window is not None), default=None)
    if smallest is not None and gamma >= smallest:
        yield (
            f"speculative_config.num_speculative_tokens={gamma} does not fit in the models' sliding window of"
            f" {smallest} tokens: give less than that."
        )


def _problems_of_v1_rows(config: VllmConfig) -> Iterator[str]:
    beam_width: int = config.speculative_config.options.beam_width  # type: ignore[union-attr]
    budget = config.scheduler_config.max_num_batched_tokens
    if beam_width > budget:
        yield (
            f"speculative_config.beam_width={beam_width} is larger than max_num_batched_tokens={budget}: a request's"
            " beams must fit in one step."
        )


def _problems_of_v1_scratch(config: VllmConfig) -> Iterator[str]:
    """Where the number of blocks is known before the memory is."""
    from vllm_mtad.runners.v1.scratch import ScratchPlan

    blocks = config.cache_config.num_gpu_blocks_override
    if blocks is not None:
        plan = ScratchPlan.of_blocks(config, config.cache_config.block_size, blocks)
        if (problem := plan.problem(blocks)) is not None:
            yield problem


def _problems_of_v2_sizes(config: VllmConfig) -> Iterator[str]:
    speculative: Any = config.speculative_config
    options = speculative.options
    for name, most in (("beam_width", V2_MAX_BEAM_WIDTH), ("num_speculative_tokens", V2_MAX_DRAFT_LENGTH)):
        if (value := getattr(options, name)) > most:
            yield (
                f"speculative_config.{name}={value} is not accepted by mtad on Model Runner V2: give at most {most}."
            )


def widest_beams(num_heads: int, num_kv_heads: int, head_size: int, itemsize: int) -> int:
    """The largest beam width whose attention fits on a GPU, with numbers of `itemsize` bytes; 0 if none does."""
    head_tile = max(64, 1 << (head_size - 1).bit_length())
    return V2_MAX_TILE[itemsize] // head_tile // (num_heads // num_kv_heads)


def _problems_of_v2_tile(config: VllmConfig) -> Iterator[str]:
    from vllm.platforms import current_platform

    speculative: Any = config.speculative_config
    draft, parallel = speculative.draft_model_config, speculative.draft_parallel_config
    if current_platform.is_cpu():
        return
    heads = draft.get_num_attention_heads(parallel), draft.get_num_kv_heads(parallel)
    most = widest_beams(*heads, draft.get_head_size(), draft.dtype.itemsize)
    beam_width = speculative.options.beam_width
    if beam_width > most:
        ways = [f"at most {most}"] if most else []
        ways += ["dtype='bfloat16' or 'float16'"] if draft.dtype.itemsize == 4 else []
        give = f"give {', or '.join(ways)}" if ways else "it has too many query heads a KV head, or too large ones"
        yield (
            f"speculative_config.beam_width={beam_width} with dtype={str(draft.dtype).split('.')[-1]!r} is"
            f" not accepted by mtad for this draft on a GPU: {give}."
        )


def _problems_of_candidates(config: VllmConfig) -> Iterator[str]:
    options = config.speculative_config.options  # type: ignore[union-attr]
    if options.num_candidates == 1:
        return
    rows = options.num_nodes + 1
    budget, window = config.scheduler_config.max_num_batched_tokens, config.model_config.max_model_len
    for name, most in (("max_num_batched_tokens", budget), ("max_model_len", window)):
        if rows > most:
            yield (
                f"speculative_config.num_candidates={options.num_candidates} does not fit: {options.num_candidates}"
                f" candidates of {options.num_speculative_tokens} tokens are {rows} rows, and {name} is {most}."
            )


def _problems_of_graphs(config: VllmConfig) -> Iterator[str]:
    from vllm.config.compilation import CUDAGraphMode

    options = config.speculative_config.options  # type: ignore[union-attr]
    if options.num_candidates == 1:
        return
    if config.compilation_config.cudagraph_mode == CUDAGraphMode.FULL:
        yield (
            f"cudagraph_mode='FULL' cannot be combined with speculative_config.num_candidates={options.num_candidates}:"
            " it accepts FULL_AND_PIECEWISE, FULL_DECODE_ONLY, PIECEWISE and NONE."
        )
