"""Seams in the engine: which runner, and which blocks of the KV cache the scheduler may hand out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from vllm_mtad.config.options import METHOD

logger = logging.getLogger("vllm.mtad")


def select_v1_runner(unsupported_features: Callable) -> Callable:
    @functools.wraps(unsupported_features)
    def with_mtad(self: Any) -> list[str]:
        features = unsupported_features(self)
        if self.speculative_config is not None and self.speculative_config.method == METHOD:
            features.append(f"speculative method '{METHOD}'")
        return features

    return with_mtad


def reserve_scratch_blocks(initialize_kv_caches: Callable) -> Callable:
    """The workers have allocated every block; the scheduler is told of all but the beams' scratch."""

    @functools.wraps(initialize_kv_caches)
    def with_scratch(self: Any, vllm_config: Any) -> Any:
        kv_cache_config = initialize_kv_caches(self, vllm_config)
        if vllm_config.speculative_config is None or vllm_config.speculative_config.method != METHOD:
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
