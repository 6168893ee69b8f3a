"""`SpeculatorAlone` is a speculator as an engine builds it, without an engine and without a target.

The worker, the model runner, the KV cache and the graphs are set up by vLLM's own code, in the order of its executor
and engine core; only the target's weights are left out, and with them its layers. What is synthetic is the batch: its
requests each have gamma + 1 new tokens, all accepted, behind a context of random KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing import Lock
from typing import Any

import numpy as np
import torch
from torch import nn
from vllm import SamplingParams
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.utils.gc_utils import freeze_gc_for_cudagraph_capture
from vllm.utils.math_utils import cdiv
from vllm.utils.network_utils import get_file_store_init_method
from vllm.v1.attention.backends.utils import resolve_kv_cache_layout
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.worker_base import WorkerWrapperBase

from benchmarks.gpu_checks.graph_use import count_replays
from benchmarks.gpu_checks.models import spread_weights
from vllm_mtad.releases import moved

Contexts = tuple[int, ...]
"""Tokens of each request of a batch."""


class SpeculatorAlone:
    """Several may live in one process; a batch is set up by `set_batch`, then `propose` can be called again and again.

    Args:
        model: folder of the draft's shape, given to vLLM as the target too.
        speculative: fields of the speculative configuration, method and gamma among them.
        batches: the contexts of every batch to come.
        options: of `EngineArgs`.
    """

    def __init__(
        self, model: str, speculative: dict[str, Any], batches: Sequence[Contexts], options: dict[str, Any]
    ) -> None:
        self.gamma: int = speculative["num_speculative_tokens"]
        self._block_size: int = options["block_size"]
        blocks = 1 + max(sum(map(self._blocks, contexts)) for contexts in batches)
        config = EngineArgs(
            model=model,
            load_format="dummy",
            skip_tokenizer_init=True,
            speculative_config={"model": model} | speculative,
            max_num_seqs=max(map(len, batches)),
            num_gpu_blocks_override=blocks + 1,
            gpu_memory_utilization=0.05,  # of which nothing is taken: blocks are counted above
            enable_prefix_caching=False,
            seed=0,
            **options,
        ).create_engine_config()
        self.runner = _start_runner(config)
        self.speculator = self.runner.speculator
        if current_platform.is_cuda():
            spread_weights(self.speculator.model)
            for cache in self.runner.kv_caches:
                cache.normal_()
        names = ("first_pass_graphs", "beam_graphs")
        self._graphs = {name: getattr(self.speculator, name) for name in names if hasattr(self.speculator, name)}
        for manager in self._graphs.values():
            count_replays(manager)
        self._batch: InputBatch | None = None

    def _blocks(self, context: int) -> int:
        return cdiv(context + self.gamma + 2, self._block_size)

    # -- graphs ---------------------------------------------------------------------------------------

    @torch.inference_mode()
    def capture(self) -> None:
        """Records what the speculator records in an engine, for draft_model nothing."""
        with freeze_gc_for_cudagraph_capture():
            self.speculator.capture()
        torch.accelerator.synchronize()

    def use_graphs(self, use: bool) -> None:
        for name, manager in self._graphs.items():
            setattr(self.speculator, name, manager if use else None)

    @property
    def replays(self) -> dict[str, int]:
        """How often each sort of graph was replayed so far."""
        return {name: manager.replays for name, manager in self._graphs.items()}

    # -- a batch --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def set_batch(self, contexts: Contexts) -> None:
        """A request for each of `contexts`, its tokens before the one that the target has just given."""
        runner, requests, new = self.runner, len(contexts), self.gamma + 1
        computed = np.array(contexts, dtype=np.int32) - new
        batch = InputBatch.make_dummy(requests, requests * new, runner.input_buffers, is_padding=False)
        batch.seq_lens += torch.from_numpy(computed).to(runner.device)
        batch.seq_lens_cpu_upper_bound += torch.from_numpy(computed)
        batch.num_computed_tokens_np[:] = computed
        batch.positions.copy_(torch.from_numpy((computed[:, None] + np.arange(new)).ravel()))
        batch.input_ids.random_(0, runner.vocab_size)
        first = 1
        for i, blocks in enumerate(map(self._blocks, contexts)):
            runner.block_tables.append_block_ids(i, (list(range(first, first + blocks)),), overwrite=True)
            first += blocks
        runner.block_tables.apply_staged_writes()
        runner.block_tables.gather_block_tables(batch.idx_mapping, num_reqs_padded=requests)
        self._batch = batch
        self._num_sampled = torch.full((requests,), new, dtype=torch.int32, device=runner.device)
        self._num_rejected = torch.zeros_like(self._num_sampled)
        torch.accelerator.synchronize()

    def set_sampling(self, **values: Any) -> None:
        """The same for every request, but for the seed."""
        states = self.runner.sampler.sampling_states
        for i in range(states.max_num_reqs):
            states.add_request(i, SamplingParams(temperature=1.0, seed=i, **values))
        states.apply_staged_writes()

    def propose(self) -> torch.Tensor:
        """One drafting round, launched and not waited for: `[requests, gamma]` int64."""
        assert self._batch is not None
        runner = self.runner
        states = runner.sampler.sampling_states
        return self.speculator.propose(
            input_batch=self._batch,
            attn_metadata={},
            slot_mappings={},
            last_hidden_states=None,
            aux_hidden_states=None,
            num_sampled=self._num_sampled,
            num_rejected=self._num_rejected,
            last_sampled=runner.req_states.last_sampled_tokens,
            next_prefill_tokens=runner.req_states.next_prefill_tokens,
            temperature=states.temperature.gpu,
            seeds=states.seeds.gpu,
            num_speculative_tokens=self.gamma,
        )


def _start_runner(config: VllmConfig) -> Any:
    """A model runner as after an engine's start, before graphs are captured; its target is an empty module."""
    wrapper = WorkerWrapperBase(rpc_rank=0)
    wrapper.init_worker(
        [
            {
                "vllm_config": config,
                "local_rank": 0,
                "rank": 0,
                "distributed_init_method": get_file_store_init_method(),
                "is_driver_worker": True,
                "shared_worker_lock": Lock(),
            }
        ]
    )
    wrapper.init_device()
    runner = wrapper.worker.model_runner
    with set_current_vllm_config(config):
        runner.load_model(model=nn.Module())
    current_platform.update_block_size_for_backend(config)

    register_all_kvcache_specs(config)
    specs = wrapper.worker.get_kv_cache_spec()
    layout = resolve_kv_cache_layout(config, [wrapper.worker.get_supported_kv_cache_layouts()], specs.values())
    wrapper.worker.set_kv_cache_layout(layout.name)
    (kv_cache_config,) = moved("get_kv_cache_configs")(config, [specs], [0])
    kv_cache_config.kv_cache_layout = config.cache_config.kv_cache_layout
    wrapper.initialize_from_config([kv_cache_config])
    return runner
