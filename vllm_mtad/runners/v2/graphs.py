"""CUDA graphs of a drafting round: one for the first pass of a uniform batch, one for the whole beam loop.

Both are made per bucket of requests; a beam loop has the same shape for every batch of so many requests, prefills among
them. vLLM's manager captures them, counts their memory and replays them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager

from vllm_mtad.runners.v2.beams import Truncation

MAX_GRAPHED_REQUESTS = 256
"""Larger batches compute for longer than it takes to launch them."""
GRAPHED_TRUNCATIONS = (Truncation.ANY, Truncation.SMALL_TOP_K, Truncation.NONE)
"""The largest memory first. What asks for less than `ANY` and has no graphs of its own takes those of `ANY`."""


@dataclass(frozen=True)
class BeamBatchDescriptor(BatchExecutionDescriptor):
    """A beam loop: `num_reqs` padded requests, a draft length, and what truncation it does."""

    num_speculative_tokens: int = 0
    truncation: Truncation = Truncation.NONE


def request_buckets(max_num_reqs: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ...: padding adds at most half a batch, and graphs stay few."""
    most = min(max_num_reqs, MAX_GRAPHED_REQUESTS)
    powers = [1 << i for i in range(most.bit_length())]
    return sorted({n for p in powers for n in (p, p + p // 2) if n < most} | {most})


def schedule_of(vllm_config: VllmConfig) -> list[int]:
    """The draft length that the scheduler asks for, by the number of requests; element 0 means nothing."""
    config, max_num_reqs = vllm_config.speculative_config, vllm_config.scheduler_config.max_num_seqs
    assert config is not None
    if not config.uses_dynamic_speculative_decoding():
        return [config.num_speculative_tokens] * (max_num_reqs + 1)
    return build_dynamic_sd_schedule_lookup(
        config.num_speculative_tokens_per_batch_size,
        vllm_max_batch_size=max_num_reqs,
        vllm_num_speculative_tokens=config.num_speculative_tokens,
    )


class _BucketedGraphManager(CudaGraphManager):
    """Full graphs where vLLM's mode has full decode graphs, and none otherwise.

    vLLM's own sizes are numbers of tokens that suit the target; here they would end where the target's graphs go on.
    """

    def __init__(
        self, vllm_config: VllmConfig, device: torch.device, mode: CUDAGraphMode, tokens_per_request: int
    ) -> None:
        self._buckets = request_buckets(vllm_config.scheduler_config.max_num_seqs)
        has_full = mode.decode_mode() == CUDAGraphMode.FULL
        own_mode = CUDAGraphMode.FULL_DECODE_ONLY if has_full else CUDAGraphMode.NONE
        super().__init__(vllm_config, device, own_mode, tokens_per_request)

    def _to_capture(self, descriptors: Sequence[BatchExecutionDescriptor]) -> None:
        """The largest first: the others then fit into its memory."""
        if self.cudagraph_mode:
            self._capture_descs[CUDAGraphMode.FULL] = list(descriptors)

    def _bucket(self, num_reqs: int) -> int | None:
        at = bisect_left(self._buckets, num_reqs)
        return self._buckets[at] if at < len(self._buckets) else None


class FirstPassGraphManager(_BucketedGraphManager):
    """Graphs of the draft model's pass over the tokens that the target saw (1 and its drafts) and its newest."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, mode: CUDAGraphMode) -> None:
        super().__init__(vllm_config, device, mode, vllm_config.num_speculative_tokens + 2)

    def _init_candidates(self) -> None:
        # What the target verifies was drafted in an earlier step, for a batch of any size.
        widths = sorted({length + 2 for length in schedule_of(self.vllm_config)[1:]}, reverse=True)
        most = self.vllm_config.scheduler_config.max_num_batched_tokens
        shapes = ((n, width) for n in reversed(self._buckets) for width in widths if n * width <= most)
        self._to_capture([self._descriptor(n, width) for n, width in shapes])

    @staticmethod
    def _descriptor(num_reqs: int, tokens_per_request: int) -> BatchExecutionDescriptor:
        return BatchExecutionDescriptor(
            cg_mode=CUDAGraphMode.FULL,
            num_tokens=num_reqs * tokens_per_request,
            num_reqs=num_reqs,
            uniform_token_count=tokens_per_request,
        )

    def find(self, num_reqs: int, tokens_per_request: int) -> BatchExecutionDescriptor | None:
        """The smallest captured graph that holds the batch."""
        if (bucket := self._bucket(num_reqs)) is None:
            return None
        descriptor = self._descriptor(bucket, tokens_per_request)
        return descriptor if descriptor in self.graphs else None


class BeamGraphManager(_BucketedGraphManager):
    """Graphs of the beam loop, by request bucket, draft length and truncation."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, mode: CUDAGraphMode, beam_width: int) -> None:
        super().__init__(vllm_config, device, mode, beam_width)

    def _init_candidates(self) -> None:
        schedule = schedule_of(self.vllm_config)
        self._to_capture(
            [
                self._descriptor(num_reqs, length, truncation)
                for below, num_reqs in reversed(list(zip([0, *self._buckets], self._buckets)))
                for length in sorted(set(schedule[below + 1 : num_reqs + 1]) - {0}, reverse=True)
                for truncation in GRAPHED_TRUNCATIONS
            ]
        )

    def _descriptor(self, num_reqs: int, num_speculative_tokens: int, truncation: Truncation) -> BeamBatchDescriptor:
        return BeamBatchDescriptor(
            cg_mode=CUDAGraphMode.FULL,
            num_tokens=num_reqs * self.decode_query_len,
            num_reqs=num_reqs,
            uniform_token_count=self.decode_query_len,
            num_speculative_tokens=num_speculative_tokens,
            truncation=truncation,
        )

    def find(self, num_reqs: int, num_speculative_tokens: int, truncation: Truncation) -> BeamBatchDescriptor | None:
        """The smallest captured graph that holds the batch."""
        if (bucket := self._bucket(num_reqs)) is None:
            return None
        graphed = truncation if truncation in GRAPHED_TRUNCATIONS else Truncation.ANY
        descriptor = self._descriptor(bucket, num_speculative_tokens, graphed)
        return descriptor if descriptor in self.graphs else None
