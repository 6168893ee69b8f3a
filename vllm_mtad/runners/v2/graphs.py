"""CUDA graphs record a drafting round: one holds the first pass of a uniform batch, one the whole beam loop.

Both are made per bucket of requests; a beam loop has the same shape for every batch of so many requests, prefills among
them. The first pass of any other batch has piecewise graphs by its number of tokens, if the draft model is compiled.
vLLM's manager captures them, counts their memory and replays them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from typing_extensions import override
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


def has_full_decode(mode: CUDAGraphMode) -> bool:
    return mode.decode_mode() == CUDAGraphMode.FULL


class _BucketedGraphManager(CudaGraphManager):
    """Full graphs by buckets of requests.

    vLLM's own sizes are numbers of tokens that suit the target; here they would end where the target's graphs go on.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        device: torch.device,
        tokens_per_request: int,
        *,
        has_full: bool,
        has_piecewise: bool = False,
    ) -> None:
        self._buckets = request_buckets(vllm_config.scheduler_config.max_num_seqs)
        own_mode = {
            (True, True): CUDAGraphMode.FULL_AND_PIECEWISE,
            (True, False): CUDAGraphMode.FULL_DECODE_ONLY,
            (False, True): CUDAGraphMode.PIECEWISE,
            (False, False): CUDAGraphMode.NONE,
        }[has_full, has_piecewise]
        super().__init__(vllm_config, device, own_mode, tokens_per_request)

    def _to_capture(self, descriptors: Sequence[BatchExecutionDescriptor]) -> None:
        """The largest first: the others then fit into its memory."""
        for descriptor in descriptors:
            self._capture_descs.setdefault(descriptor.cg_mode, []).append(descriptor)

    def _bucket(self, num_reqs: int) -> int | None:
        at = bisect_left(self._buckets, num_reqs)
        return self._buckets[at] if at < len(self._buckets) else None


class FirstPassGraphManager(_BucketedGraphManager):
    """Graphs of the draft model's pass over the tokens that the target saw and each request's newest.

    Args:
        mode: vLLM's.
        supports_uniform: whether the attention backend has full graphs of uniform batches.
        is_compiled: whether the draft model is; its pieces between attention are then graphs, as the target's are.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        device: torch.device,
        mode: CUDAGraphMode,
        *,
        supports_uniform: bool,
        is_compiled: bool,
    ) -> None:
        super().__init__(
            vllm_config,
            device,
            vllm_config.num_speculative_tokens + 2,
            has_full=supports_uniform and has_full_decode(mode),
            has_piecewise=is_compiled and mode.mixed_mode() == CUDAGraphMode.PIECEWISE,
        )

    @override
    def _init_candidates(self) -> None:
        self._sizes: list[int] = []
        if self.cudagraph_mode.mixed_mode() == CUDAGraphMode.PIECEWISE:
            self._sizes = sorted(self.compilation_config.cudagraph_capture_sizes or [])
            self._to_capture([self._piecewise(size) for size in reversed(self._sizes)])
        if has_full_decode(self.cudagraph_mode):
            # What the target verifies was drafted in an earlier step, for a batch of any size.
            widths = sorted({length + 2 for length in schedule_of(self.vllm_config)[1:]}, reverse=True)
            most = self.vllm_config.scheduler_config.max_num_batched_tokens
            shapes = ((n, width) for n in reversed(self._buckets) for width in widths if n * width <= most)
            self._to_capture([self._uniform(n, width) for n, width in shapes])

    @staticmethod
    def _uniform(num_reqs: int, tokens_per_request: int) -> BatchExecutionDescriptor:
        return BatchExecutionDescriptor(
            cg_mode=CUDAGraphMode.FULL,
            num_tokens=num_reqs * tokens_per_request,
            num_reqs=num_reqs,
            uniform_token_count=tokens_per_request,
        )

    @staticmethod
    def _piecewise(num_tokens: int) -> BatchExecutionDescriptor:
        return BatchExecutionDescriptor(cg_mode=CUDAGraphMode.PIECEWISE, num_tokens=num_tokens, num_reqs=None)

    def find(self, num_reqs: int, num_tokens: int, tokens_per_request: int | None) -> BatchExecutionDescriptor:
        """How to run a batch: the smallest captured graph or pieces that hold it, or else eagerly.

        Args:
            tokens_per_request: if it is the same for all.
        """
        if tokens_per_request is not None and (bucket := self._bucket(num_reqs)) is not None:
            descriptor = self._uniform(bucket, tokens_per_request)
            if descriptor in self.graphs:
                return descriptor
        at = bisect_left(self._sizes, num_tokens)
        if self._graphs_captured and at < len(self._sizes):
            return self._piecewise(self._sizes[at])
        return BatchExecutionDescriptor(CUDAGraphMode.NONE, num_tokens, num_reqs)


class BeamGraphManager(_BucketedGraphManager):
    """Graphs of the beam loop, by request bucket, draft length and truncation."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, mode: CUDAGraphMode, beam_width: int) -> None:
        super().__init__(vllm_config, device, beam_width, has_full=has_full_decode(mode))

    @override
    def _init_candidates(self) -> None:
        if not self.cudagraph_mode:
            return
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
