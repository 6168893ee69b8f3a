"""CUDA graphs of a drafting round: one for the first pass of a uniform batch, one for the whole beam loop.

A beam loop has the same shape for every batch of so many requests, prefills among them, so its graphs are made per
bucket of requests. vLLM's manager captures them, counts their memory and replays them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager


@dataclass(frozen=True)
class BeamBatchDescriptor(BatchExecutionDescriptor):
    """A beam loop: `num_reqs` padded requests, a draft length, and whether top-k, top-p or min-p is asked for."""

    num_speculative_tokens: int = 0
    truncates: bool = False


def request_buckets(max_num_reqs: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... max_num_reqs: padding adds at most half a batch, and graphs stay few."""
    powers = [1 << i for i in range(max_num_reqs.bit_length())]
    return sorted({n for p in powers for n in (p, p + p // 2) if n < max_num_reqs} | {max_num_reqs})


def draft_lengths(vllm_config: VllmConfig) -> list[int]:
    """The draft lengths that the scheduler may ask for, longest first; 0 needs no beams."""
    config = vllm_config.speculative_config
    assert config is not None
    if not config.uses_dynamic_speculative_decoding():
        return [config.num_speculative_tokens]
    schedule = build_dynamic_sd_schedule_lookup(
        config.num_speculative_tokens_per_batch_size,
        vllm_max_batch_size=vllm_config.scheduler_config.max_num_seqs,
        vllm_num_speculative_tokens=config.num_speculative_tokens,
    )
    return sorted(set(schedule[1:]) - {0}, reverse=True)


def decode_graphs_only(mode: CUDAGraphMode) -> CUDAGraphMode:
    """A round is a decode: it has full graphs or none."""
    return CUDAGraphMode.FULL_DECODE_ONLY if mode.decode_mode() == CUDAGraphMode.FULL else CUDAGraphMode.NONE


class FirstPassGraphManager(CudaGraphManager):
    """Graphs of the draft model's pass over gamma + 2 tokens a request: those that the target saw, and its newest."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, mode: CUDAGraphMode) -> None:
        decode_query_len = vllm_config.num_speculative_tokens + 2
        super().__init__(vllm_config, device, decode_graphs_only(mode), decode_query_len)


class BeamGraphManager(CudaGraphManager):
    """Graphs of the beam loop, by request bucket, draft length and whether drafts are truncated."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, mode: CUDAGraphMode, beam_width: int) -> None:
        self._buckets = request_buckets(vllm_config.scheduler_config.max_num_seqs)
        super().__init__(vllm_config, device, decode_graphs_only(mode), beam_width)

    def _init_candidates(self) -> None:
        """vLLM's own sizes are tokens, up to a size at which beams would get graphs for few requests only."""
        if not self.cudagraph_mode:
            return
        self._capture_descs[CUDAGraphMode.FULL] = [
            self._descriptor(num_reqs, length, truncates)
            for num_reqs in reversed(self._buckets)
            for length in draft_lengths(self.vllm_config)
            for truncates in (True, False)
        ]

    def _descriptor(self, num_reqs: int, num_speculative_tokens: int, truncates: bool) -> BeamBatchDescriptor:
        return BeamBatchDescriptor(
            cg_mode=CUDAGraphMode.FULL,
            num_tokens=num_reqs * self.decode_query_len,
            num_reqs=num_reqs,
            uniform_token_count=self.decode_query_len,
            num_speculative_tokens=num_speculative_tokens,
            truncates=truncates,
        )

    def find(self, num_reqs: int, num_speculative_tokens: int, truncates: bool) -> BeamBatchDescriptor | None:
        """The smallest captured graph that holds the batch."""
        at = bisect_left(self._buckets, num_reqs)
        if at == len(self._buckets):
            return None
        descriptor = self._descriptor(self._buckets[at], num_speculative_tokens, truncates)
        return descriptor if descriptor in self.graphs else None
