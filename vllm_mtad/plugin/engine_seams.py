"""These patches (seams) of the engine keep async scheduling and schedules, and reserve KV blocks for the beams."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal

from vllm_mtad.config.options import METHOD, is_mtad

logger = logging.getLogger("vllm.mtad")


def keep_async_scheduling(ngram_gpu_types: Any) -> Any:
    """Add mtad to the methods that async scheduling accepts; vLLM uses this list for nothing else."""
    return Literal[ngram_gpu_types, METHOD]


def keep_schedule(disable: Callable) -> Callable:
    """Leave a schedule of draft lengths to mtad."""

    @functools.wraps(disable)
    def unless_mtad(self: Any) -> None:
        if not is_mtad(self.speculative_config):
            disable(self)

    return unless_mtad


def reserve_scratch_blocks(initialize_kv_caches: Callable) -> Callable:
    """The workers have allocated every block; the scheduler is told of all but the beams' scratch."""

    @functools.wraps(initialize_kv_caches)
    def with_scratch(self: Any, vllm_config: Any) -> Any:
        kv_cache_config = initialize_kv_caches(self, vllm_config)
        # On V2 the beams keep their KV outside of the cache.
        if not is_mtad(vllm_config.speculative_config) or vllm_config.use_v2_model_runner:
            return kv_cache_config
        from vllm.v1.core.kv_cache_utils import update_kv_cache_capacity

        from vllm_mtad.runners.v1.scratch import ScratchPlan

        plan = ScratchPlan.of(vllm_config, kv_cache_config)
        logger.info(plan.describe(kv_cache_config))
        kv_cache_config.num_blocks = plan.blocks_left(kv_cache_config.num_blocks)
        vllm_config.cache_config.num_gpu_blocks = kv_cache_config.num_blocks
        update_kv_cache_capacity(vllm_config, kv_cache_config)
        return kv_cache_config

    return with_scratch
