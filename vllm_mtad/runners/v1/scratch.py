"""`ScratchPlan` says how many KV blocks beams and candidates need, and how many requests are drafted at a time.

A beam is a row of the draft model's batch: it reads the request's own blocks up to the last full one and
writes to private blocks after that. Those come from the tail of the pool; the scheduler never sees them.
Every block of vLLM's pool holds all layers, so a scratch block costs the target's KV as well. Several candidates
(`tree_verification`) need blocks of the same kind, for the target; they are not in use while beams are, so both take
the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from vllm.utils.math_utils import cdiv

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

MAX_ROWS_IN_FLIGHT = 256
"""Beam rows drafted at a time; larger batches are drafted in groups. At this size a draft step is no longer
bound by reading the weights, so more rows would cost scratch memory and save nothing."""
MAX_SHARE_OF_BEAMS = 0.25
"""Of the KV cache, that beams take at most (but for one request's, which they always do): the rest is for texts."""


@dataclass(frozen=True)
class ScratchPlan:
    requests_in_flight: int
    beam_width: int
    blocks_per_beam: int
    blocks_needed_by_one_request: int
    """Blocks of a request of max_model_len."""
    branches: int = 0
    """Paths of the target's trees beside the chosen drafts, in one step at most."""
    blocks_per_branch: int = 0

    @classmethod
    def of(cls, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> ScratchPlan:
        """The plan of a KV cache."""
        block_size = min(group.kv_cache_spec.block_size for group in kv_cache_config.kv_cache_groups)
        return cls.of_blocks(vllm_config, block_size, kv_cache_config.num_blocks)

    @classmethod
    def of_blocks(cls, vllm_config: VllmConfig, block_size: int, total: int | None) -> ScratchPlan:
        """`total`: the blocks of the KV cache; None for as many as it takes."""
        options = vllm_config.speculative_config.options  # type: ignore[union-attr]
        scheduler = vllm_config.scheduler_config
        rows = min(MAX_ROWS_IN_FLIGHT, scheduler.max_num_batched_tokens)
        # After up to block_size - 1 tokens of the request's partial block, KV of gamma - 1 tokens: the last
        # drafted token needs none. With gamma = 1 there is no beam row at all.
        tail = options.num_speculative_tokens - 1
        # Every node beside the chosen draft may be a leaf; a branch holds the newest token and gamma more.
        assert options.max_candidate_rows is not None  # the configuration has filled it in
        trees = min(scheduler.max_num_seqs, options.max_candidate_rows // (options.num_nodes + 1))
        others = options.num_nodes - options.num_speculative_tokens
        blocks_per_beam = cdiv(block_size - 1 + tail, block_size) if tail else 0
        needed_by_one = cdiv(vllm_config.model_config.max_model_len, block_size) + 1
        requests = min(scheduler.max_num_seqs, rows // options.beam_width)
        if tail and total is not None:
            most_blocks = min(int(total * MAX_SHARE_OF_BEAMS), total - needed_by_one)
            requests = min(requests, most_blocks // (options.beam_width * blocks_per_beam))
        return cls(
            requests_in_flight=max(1, requests),
            beam_width=options.beam_width,
            blocks_per_beam=blocks_per_beam,
            blocks_needed_by_one_request=needed_by_one,
            branches=trees * others,
            blocks_per_branch=cdiv(block_size + options.num_speculative_tokens, block_size) if others else 0,
        )

    @property
    def num_blocks(self) -> int:
        beams = self.requests_in_flight * self.beam_width * self.blocks_per_beam
        return max(beams, self.branches * self.blocks_per_branch)

    def scratch_of(self, num_blocks: int, rows: int, blocks_per_row: int, device: torch.device) -> torch.Tensor:
        """Int64 `[rows, blocks_per_row]` block ids, of a pool of `num_blocks`."""
        first = num_blocks - self.num_blocks
        return torch.arange(first, first + rows * blocks_per_row, device=device).view(rows, blocks_per_row)

    def blocks_left(self, num_blocks: int) -> int:
        """Blocks for requests; raises ValueError if not even one request of max_model_len fits."""
        if (problem := self.problem(num_blocks)) is not None:
            raise ValueError(problem)
        return num_blocks - self.num_blocks

    def problem(self, num_blocks: int) -> str | None:
        """Why a KV cache of so many blocks is too small; None if it is not."""
        if num_blocks - self.num_blocks < self.blocks_needed_by_one_request:
            return (
                f"The KV cache has {num_blocks} blocks, of which mtad's scratch takes {self.num_blocks}, and one"
                f" request of max_model_len needs {self.blocks_needed_by_one_request}: enlarge the KV cache"
                " (VLLM_CPU_KVCACHE_SPACE), or lower speculative_config.beam_width, num_candidates or"
                " max_candidate_rows, max_num_seqs, max_model_len or block_size."
            )
        return None

    def describe(self, kv_cache_config: KVCacheConfig) -> str:
        """One log line with what the scratch costs."""
        total = kv_cache_config.num_blocks
        block_bytes = kv_cache_config.kv_cache_tensors[0].size / total
        per_row = self.blocks_per_beam * block_bytes / 2**10
        trees = f"; of the same, {self.branches} branches of {self.blocks_per_branch}" if self.branches else ""
        return (
            f"MTAD scratch: {self.num_blocks} of {total} KV blocks ({self.num_blocks * block_bytes / 2**20:.1f} MiB)"
            f" for {self.requests_in_flight} requests x {self.beam_width} beams in flight; {self.blocks_per_beam}"
            f" blocks ({per_row:.0f} KiB) a beam row{trees}."
        )
