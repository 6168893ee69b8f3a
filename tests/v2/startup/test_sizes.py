"""From vLLM's default sizes for a GPU to its warm-up and its graphs: no pass of the draft is larger than what it was
compiled for, or than its buffers.

vLLM's own code chooses the sizes and schedules the warm-up. The models are configurations without weights; what would
run them is a recorder.
"""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from vllm.config import replace
from vllm.config.compilation import CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.worker.gpu.warmup import _warmup_kernels

from tests.v2.startup.gpus import GPUS, default_sizes_of
from tests.v2.startup.shapes import PAIRS
from vllm_mtad.runners.v2.draft_config import draft_config
from vllm_mtad.runners.v2.graphs import BeamGraphManager, FirstPassGraphManager

SERVE, OFFLINE = UsageContext.OPENAI_API_SERVER, UsageContext.LLM_CLASS
GAMMAS, BEAM_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 12), (1, 4, 8, 16)
SMALL_BUDGETS = [(8, 48), (256, 1024), (1024, 4096), (1, 16), (40, 130)]
BLOCK_SIZE = 32


def configured(pair, gamma, beam_width, context=SERVE, num_candidates=1, **options):
    """The engine's configuration, as `vllm serve` or `LLM(...)` makes it."""
    target, draft = pair
    speculative = {"method": "mtad", "model": draft, "num_speculative_tokens": gamma, "beam_width": beam_width}
    speculative["num_candidates"] = num_candidates
    made = {"block_size": BLOCK_SIZE, "load_format": "dummy"}  # the models are configurations alone
    arguments = EngineArgs(model=target, speculative_config=speculative, **made, **options)
    return arguments.create_engine_config(context)


def warm_up_steps(config) -> list[tuple[int, int]]:
    """(tokens, requests) of each step that vLLM's kernel warm-up schedules."""
    gamma, steps = config.num_speculative_tokens, []
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=8, head_size=64, dtype=torch.bfloat16)
    runner = SimpleNamespace(
        vllm_config=config,
        scheduler_config=config.scheduler_config,
        num_speculative_steps=gamma,
        decode_query_len=gamma + 1,
        max_model_len=config.model_config.max_model_len,
        is_pooling_model=False,
        is_encoder_decoder=False,
        is_last_pp_rank=False,
        model_state=SimpleNamespace(),
        kv_cache_config=SimpleNamespace(kv_cache_groups=[SimpleNamespace(kv_cache_spec=spec)], num_blocks=10**6),
        kv_connector=SimpleNamespace(set_disabled=lambda disabled: None),
        kv_block_zeroer=None,
    )

    def record(output):
        if output.total_num_scheduled_tokens:
            steps.append((output.total_num_scheduled_tokens, len(output.num_scheduled_tokens)))

    _warmup_kernels(runner, record, lambda grammar: None)
    return steps


def draft_s_largest(config) -> int:
    """Tokens that the compiled draft takes, by what vLLM makes of its configuration."""
    speculative = config.speculative_config
    loaded = replace(draft_config(config), model_config=speculative.draft_model_config, quant_config=None)
    return loaded.compilation_config.get_compile_ranges()[-1].end


def check_sizes(config) -> None:
    scheduler, largest = config.scheduler_config, draft_s_largest(config)
    buffers = scheduler.max_num_batched_tokens + scheduler.max_num_seqs  # of StandaloneARSpeculator's first pass
    target_s_largest = config.compilation_config.get_compile_ranges()[-1].end
    for tokens, requests in warm_up_steps(config):
        assert tokens <= target_s_largest
        assert tokens + requests <= min(largest, buffers)
    assert scheduler.max_num_seqs * config.speculative_config.options.beam_width <= largest


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("context", [SERVE, OFFLINE], ids=lambda context: context.name)
def test_default_sizes(pairs, gpu, context):
    with default_sizes_of(gpu):
        config = configured(pairs["Llama"], 4, 4, context)
    scheduler = config.scheduler_config
    expected = {
        "H100": {SERVE: (8192, 1024), OFFLINE: (16_384, 1024)},
        "B200": {SERVE: (16_384, 1024), OFFLINE: (16_384, 1024)},
    }
    name = next((name for name in expected if name in gpu.name), None)
    sizes = expected[name][context] if name else {SERVE: (2048, 256), OFFLINE: (8192, 256)}[context]
    assert (scheduler.max_num_batched_tokens, scheduler.max_num_seqs) == sizes, "the GPU is not what vLLM sees"


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("context", [SERVE, OFFLINE], ids=lambda context: context.name)
def test_no_pass_at_default_sizes_is_too_large(pairs, gpu, context, pair):
    with default_sizes_of(gpu):
        for gamma, beam_width in product(GAMMAS, BEAM_WIDTHS):
            check_sizes(configured(pairs[pair], gamma, beam_width, context))


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("context", [SERVE, OFFLINE], ids=lambda context: context.name)
def test_no_pass_with_several_candidates_is_too_large(pairs, gpu, context):
    with default_sizes_of(gpu):
        for gamma, candidates in ((1, 2), (4, 4), (8, 4), (12, 8)):
            check_sizes(configured(pairs["Llama"], gamma, candidates, context, num_candidates=candidates))


@pytest.mark.parametrize(("requests", "tokens"), SMALL_BUDGETS)
def test_no_pass_at_small_budgets_is_too_large(pairs, requests, tokens):
    sizes = {"max_num_seqs": requests, "max_num_batched_tokens": tokens, "max_model_len": 2048}
    for gamma, beam_width in product(GAMMAS, BEAM_WIDTHS):
        check_sizes(configured(pairs["Llama"], gamma, beam_width, **sizes))


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_captured_shape_fits(pairs, gpu, monkeypatch):
    ranks = SimpleNamespace(is_first_rank=True, is_last_rank=True)
    monkeypatch.setattr("vllm.v1.worker.gpu.cudagraph_utils.get_pp_group", lambda: ranks)
    monkeypatch.setattr("vllm.platforms.cpu.CpuPlatform.get_global_graph_pool", lambda self: None, raising=False)
    for gamma, beam_width in ((1, 1), (4, 4), (12, 16)):
        with default_sizes_of(gpu):
            config = configured(pairs["Llama"], gamma, beam_width)
        config.compilation_config.cudagraph_capture_sizes = [1, 2, 4, *range(8, 513, 8)]  # vLLM's on a GPU
        mode, cpu = CUDAGraphMode.FULL_AND_PIECEWISE, torch.device("cpu")
        first = FirstPassGraphManager(config, cpu, mode, supports_uniform=True, is_compiled=True)
        beams = BeamGraphManager(config, cpu, mode, beam_width)
        captured = [d for manager in (first, beams) for group in manager._capture_descs.values() for d in group]
        assert {d.cg_mode for d in captured} == {CUDAGraphMode.FULL, CUDAGraphMode.PIECEWISE}
        for descriptor in captured:
            assert descriptor.num_tokens <= draft_s_largest(config)
            assert (descriptor.num_reqs or 0) <= config.scheduler_config.max_num_seqs
