"""The real speculator on tensors without data, over every graph that it would capture and the largest eager batch."""

import sys
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.interpreter import GridExecutor
from vllm.config import set_current_vllm_config

from tests.v2.startup.gpus import GPUS, default_sizes_of
from tests.v2.startup.shapes import PAIRS
from tests.v2.startup.stand_ins import META, StandInDraft, StandInLayer, check_launch, flash_attention
from tests.v2.startup.test_sizes import BLOCK_SIZE, configured, draft_s_largest
from vllm_mtad.runners.v2.beams import Truncation
from vllm_mtad.runners.v2.graphs import request_buckets
from vllm_mtad.runners.v2.kv_groups import KVGroup
from vllm_mtad.runners.v2.speculator import MTADSpeculator

BACKENDS = {9: "FLASH_ATTN"}
"""By the GPU's generation; elsewhere our kernel reads the prefix."""


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(GridExecutor, "__call__", check_launch)
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", flash_attention())
    # vLLM's own truncation looks for its device's programs.
    monkeypatch.setattr("vllm.platforms.cpu.CpuPlatform.num_compute_units", lambda self, device_id=0: 132)


def speculator_on(gpu, pair, shape, gamma: int, beam_width: int, monkeypatch) -> MTADSpeculator:
    with default_sizes_of(gpu):
        config = configured(pair, gamma, beam_width)
    largest, context = draft_s_largest(config), config.compilation_config.static_forward_context
    layers = {f"draft.{i}": StandInLayer(shape, BACKENDS.get(gpu.capability[0], "TRITON_ATTN")) for i in range(2)}

    def load_draft_model(self, target, target_layers):
        context.update(layers)
        return StandInDraft(shape, layers, largest, BLOCK_SIZE)

    monkeypatch.setattr(MTADSpeculator, "load_draft_model", load_draft_model)
    with set_current_vllm_config(config):
        speculator = MTADSpeculator(config, META)
        speculator.load_model(torch.nn.Module())
    pages = -(-config.model_config.max_model_len // BLOCK_SIZE)
    tables = torch.empty(speculator.max_num_reqs, pages, dtype=torch.int32, device=META)
    speculator.block_tables = SimpleNamespace(input_block_tables=[tables])
    speculator.kv_groups, speculator.page_size = [KVGroup(0, BLOCK_SIZE, tuple(layers))], BLOCK_SIZE
    return speculator


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize(("gamma", "beam_width"), [(1, 1), (4, 4), (8, 8), (12, 16)])
def test_every_beam_loop(pairs, gpu, pair, gamma, beam_width, monkeypatch):
    speculator = speculator_on(gpu, pairs[pair], PAIRS[pair][1], gamma, beam_width, monkeypatch)
    for requests in {1, 3, *request_buckets(speculator.max_num_reqs)[-2:], speculator.max_num_reqs}:
        for truncation in (Truncation.NONE, Truncation.SMALL_TOP_K):
            speculator.model.passes.clear()
            speculator._beam_loop(requests, gamma, truncation)
            assert speculator.model.passes == [requests * beam_width] * (gamma - 1)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_the_largest_first_pass(pairs, gpu, monkeypatch):
    """All tokens of a step and one more of each request, in the buffers that there are."""
    speculator = speculator_on(gpu, pairs["Llama"], PAIRS["Llama"][1], 4, 4, monkeypatch)
    scheduler = speculator.vllm_config.scheduler_config
    metadata = dict.fromkeys(speculator.draft_attn_layer_names)
    tokens = scheduler.max_num_batched_tokens + scheduler.max_num_seqs
    speculator.first_pass.forward(scheduler.max_num_seqs, tokens, metadata, None)
    assert speculator.model.passes == [tokens]
