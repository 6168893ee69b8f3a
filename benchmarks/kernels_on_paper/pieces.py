"""This module makes the plugin's own parts of a drafting round and a verification as the engine does, on any device.

Logits and the draft model's attention inputs are given; everything between them and the draft, or the accepted tokens,
is the engine's own code. On the meta device nothing is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

COMPUTE_UNITS = 132
"""Those of an H100: vLLM's truncation and our readers of prefixes share work out among them."""
WINDOW = 8192
LIMITS: dict[str, dict[str, Any]] = {
    "none": {},
    "top-k 10, top-p 0.9": {"top_k": 10, "top_p": 0.9},
    "top-p 0.9": {"top_p": 0.9},
}
"""What requests ask for: a beam step has its own launches for each."""
_ROOM = 1 << 20


@dataclass(frozen=True)
class Shape:
    """The shape of a draft model (Llama-3.2-1B's) and its beams."""

    beam_width: int = 4
    gamma: int = 4
    num_heads: int = 32
    num_kv_heads: int = 8
    head_size: int = 64
    vocab_size: int = 128_256
    dtype: torch.dtype = torch.bfloat16
    page_size: int = 16
    max_num_reqs: int = 256
    num_candidates: int = 1
    window: int | None = None
    soft_cap: float | None = None
    has_sinks: bool = False

    def but(self, **values: Any) -> Shape:
        return replace(self, **values)


class Drafting:
    """The beams of a batch of requests, and their attention on one layer.

    Args:
        prefix_len: tokens of every request's prefix. All block tables name the same pages.
        flash: prefixes are read by FlashAttention 3, for which `standing_in_for_flash_attention` stands in.
    """

    def __init__(
        self, shape: Shape, device: torch.device, prefix_len: int = 2048, *, flash: bool = False, **options: Any
    ):
        from vllm_mtad.config.options import MTADOptions
        from vllm_mtad.runners.v2.beam_attention import BeamAttention
        from vllm_mtad.runners.v2.beams import DraftBeams, DraftRequests
        from vllm_mtad.runners.v2.shared_prefix import AttentionShape, FlashPrefixReader, TritonPrefixReader

        n, width = shape.max_num_reqs, shape.beam_width
        self.shape, self.device = shape, device
        states = torch.arange(n, device=device)
        temperature = torch.ones(n, device=device)
        seeds, lossless = torch.zeros_like(states), torch.zeros(n, dtype=torch.int32, device=device)
        self.requests = DraftRequests.allocate(states, temperature, seeds, lossless)
        self.requests.root_positions.fill_(prefix_len - 1)
        mtad = MTADOptions(shape.gamma, width, num_candidates=shape.num_candidates, max_candidate_rows=_ROOM, **options)
        self.beams = DraftBeams(mtad, n, shape.vocab_size, self.requests, WINDOW)
        self.draft_tokens = torch.zeros(n, mtad.num_nodes, dtype=torch.int64, device=device)
        self._layer = attention_layer(shape, device)
        of_layer = AttentionShape.of(self._layer.impl, WINDOW)
        self.reader: Any
        if flash:
            self.reader = FlashPrefixReader(of_layer, width, shape.dtype)
        else:
            self.reader = TritonPrefixReader(of_layer, width, n * width, device, programs=2 * COMPUTE_UNITS)
        depth = max(1, shape.gamma - 1)
        self._attention = BeamAttention(self._layer, n, width, depth, self.reader, shape.dtype, device)
        pages = -(-prefix_len // shape.page_size)
        self._cache = torch.zeros(
            pages, shape.num_kv_heads, shape.page_size, 2 * shape.head_size, dtype=shape.dtype, device=device
        )
        block_table = torch.arange(pages, dtype=torch.int32, device=device)
        self._block_tables = block_table.expand(n, pages).contiguous()
        self._lens = torch.full((n,), prefix_len, dtype=torch.int32, device=device)
        self._starts = torch.arange(n + 1, dtype=torch.int32, device=device) * width

    def limit(self, **values: float) -> Any:
        """Every request has this top_k, top_p and min_p. Returns the truncation that a beam step does for them."""
        _use_pageable_memory()
        from vllm import SamplingParams
        from vllm.v1.worker.gpu.sample.states import SamplingStates

        from vllm_mtad.runners.v2.beams import Truncation

        states = SamplingStates(self.shape.max_num_reqs, self.shape.vocab_size)
        for i in range(self.shape.max_num_reqs):
            states.add_request(i, SamplingParams(temperature=1.0, seed=i, **values))  # type: ignore[arg-type]
        states.apply_staged_writes()
        self.requests.copy_truncation(states, self.shape.vocab_size)
        return Truncation.of(states, np.arange(self.shape.max_num_reqs))

    def plan(self, num_reqs: int) -> Any:
        """What a round plans once for all its attention: the metadata of a pass, by depth."""
        from vllm_mtad.runners.v2.beam_attention import BeamAttentionMetadata
        from vllm_mtad.runners.v2.shared_prefix import Prefixes

        prefixes = Prefixes(
            lens=self._lens[:num_reqs],
            block_table=self._block_tables[:num_reqs],
            query_start_loc=self._starts[: num_reqs + 1],
            max_len=WINDOW,
            page_size=self.shape.page_size,
            depths=self._starts[: self.shape.beam_width],  # only a window reads them
        )
        plans = {self.reader: self.reader.plan(prefixes)}
        return lambda depth: BeamAttentionMetadata(depth, self.beams.ancestry(depth), prefixes, plans)

    def projections(self, num_reqs: int) -> list[torch.Tensor]:
        """Query, key, value and output of one layer. The first three are parts of one tensor, as a projection's are."""
        shape, rows = self.shape, num_reqs * self.shape.beam_width
        heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        qkv = torch.zeros(rows, sum(heads) * shape.head_size, dtype=shape.dtype, device=self.device)
        parts = qkv.split([n * shape.head_size for n in heads], dim=1)
        views = [part.view(rows, -1, shape.head_size) for part in parts]
        return [*views, torch.empty(views[0].shape, dtype=shape.dtype, device=self.device)]

    def attend(self, metadata: Any, projections: list[torch.Tensor]) -> None:
        """One layer's attention of a pass."""
        query, key, value, out = projections
        self._layer.impl.forward(self._layer, query, key, value, self._cache, metadata, out)

    def grow(self, logits: Callable[[int], torch.Tensor], depth: int, num_reqs: int, truncation: Any) -> None:
        """The beam step. `logits` gives those of so many rows."""
        rows = num_reqs * (self.shape.beam_width if depth else 1)
        hidden = torch.empty(rows, 1, device=self.device)
        self.beams.step(hidden, lambda some: logits(len(some)), depth, num_reqs, truncation)

    def choose(self, num_reqs: int, num_drafts: int) -> None:
        self.beams.choose(num_reqs, num_drafts, self.draft_tokens)


def _use_pageable_memory() -> None:
    """Without a GPU no memory is pinned; vLLM's CPU worker has stand-ins."""
    if not torch.cuda.is_available():
        import vllm.v1.worker.cpu.shm  # noqa: F401


def attention_layer(shape: Shape, device: torch.device) -> Any:
    impl = SimpleNamespace(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.head_size,
        scale=shape.head_size**-0.5,
        sliding_window=(-1, -1) if shape.window is None else (shape.window - 1, 0),
        logits_soft_cap=shape.soft_cap,
        sinks=torch.zeros(shape.num_heads, dtype=shape.dtype, device=device) if shape.has_sinks else None,
        forward=lambda *args: None,
    )
    return SimpleNamespace(impl=impl, attn_backend=SimpleNamespace(get_name=lambda: "FLASH_ATTN"))


class Verification:
    """Turns the target's logits into accepted tokens: vLLM's sampler and rejection sampler, with our test in it."""

    def __init__(
        self, shape: Shape, device: torch.device, limits: dict[str, Any] | None = None, **options: Any
    ) -> None:
        _use_pageable_memory()
        from vllm import SamplingParams
        from vllm.config import VllmConfig
        from vllm.v1.worker.gpu.sample.sampler import Sampler
        from vllm.v1.worker.gpu.states import RequestState

        from vllm_mtad.config.options import MTADOptions
        from vllm_mtad.runners.v2.noted_requests import NotedRequests
        from vllm_mtad.runners.v2.rejection_sampler import MTADRejectionSampler
        from vllm_mtad.runners.v2.trees import DraftTrees

        n = shape.max_num_reqs
        self.shape, self.device = shape, device
        use_fp64 = options.pop("use_fp64", False)
        mtad = MTADOptions(
            shape.gamma, shape.beam_width, num_candidates=shape.num_candidates, max_candidate_rows=_ROOM, **options
        )
        nodes = mtad.num_nodes
        request_states = RequestState(n, WINDOW, WINDOW, nodes, shape.vocab_size, torch.device("cpu"))
        sampler = Sampler(
            VllmConfig(), n, shape.vocab_size, torch.device("cpu"), request_states, use_fp64_gumbel=use_fp64
        )
        config = SimpleNamespace(
            options=mtad,
            num_speculative_tokens=nodes,
            enable_adaptive_verification=False,
            rejection_sample_method="standard",
            fly_entropy_threshold=None,
            fly_entropy_top_k=None,
        )
        trees = DraftTrees.allocate(n, shape.gamma, shape.num_candidates, device)
        self._sampler = MTADRejectionSampler(sampler, config, device, trees, NotedRequests(n, mtad, device))
        for i in range(n):
            sampler.add_request(i, SamplingParams(temperature=1.0, seed=i, **(limits or {})))
        sampler.apply_staged_writes()

    def batch(self, drafts: Sequence[int]) -> SimpleNamespace:
        """A batch whose requests have so many drafts each: what `verify` asks of vLLM's InputBatch, and more."""
        counts = np.array(drafts) + 1
        ends = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
        states, rows = torch.arange(len(counts), dtype=torch.int32), int(ends[-1])
        return SimpleNamespace(
            num_reqs=len(counts),
            cu_num_logits_np=ends,
            cu_num_logits=torch.from_numpy(ends).to(self.device),
            idx_mapping=states.to(self.device),
            idx_mapping_np=np.arange(len(counts)),
            expanded_idx_mapping=states.repeat_interleave(torch.from_numpy(counts)).to(self.device),
            expanded_local_pos=torch.zeros(rows, dtype=torch.int32, device=self.device),
            seq_lens_cpu_upper_bound=torch.full((len(counts),), WINDOW, dtype=torch.int32),
            drafted=torch.zeros(rows, dtype=torch.int32, device=self.device),
            positions=torch.zeros(rows, dtype=torch.int64, device=self.device),
        )

    def verify(self, logits: torch.Tensor, batch: SimpleNamespace) -> None:
        """`logits` `[rows, vocab]` of the batch, in vLLM's chunks."""
        from vllm.v1.worker.gpu.spec_decode.rejection_sampler import get_max_chunk_logits

        at_a_time, batch_of_vllm = get_max_chunk_logits(self.shape.vocab_size), cast(Any, batch)
        self._sampler._verify_in_chunks(logits, batch_of_vllm, None, batch.drafted, batch.positions, at_a_time, -1)


@contextmanager
def on_an_h100() -> Iterator[None]:
    """Within this context, vLLM's truncation shares work out as it does on an H100."""
    from vllm.v1.sample.ops import topk_topp_triton

    def num_compute_units(device_id: int | None = None) -> int:
        return COMPUTE_UNITS

    cuda = SimpleNamespace(is_cuda_alike=lambda: True)
    with (
        mock.patch.object(topk_topp_triton, "num_compute_units", num_compute_units),
        mock.patch.object(topk_topp_triton, "current_platform", cuda),
    ):
        yield


@contextmanager
def standing_in_for_flash_attention(launched: Callable[[str, int], None] = lambda name, size: None) -> Iterator[None]:
    """FlashAttention 3 is not in a CPU's vLLM. What stands in gives outputs of its shapes and strides, and says what
    its C++ launches (`hopper/flash_api.cpp`): its scheduler where no plan is given, its kernel, and the combination of
    several splits. `launched`: called for each, with the bytes that it must read and write.
    """

    def get_scheduler_metadata(**arguments: Any) -> torch.Tensor:
        launched("prepare_varlen_num_blocks", arguments["cache_seqlens"].nbytes)
        return arguments["cache_seqlens"].new_empty(4 * len(arguments["cache_seqlens"]))

    def flash_attn_varlen_func(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        query, keys, lens = arguments["q"], arguments["k"], arguments["seqused_k"]
        if arguments.get("scheduler_metadata") is None:
            launched("prepare_varlen_num_blocks", lens.nbytes)
        tokens = len(lens) * keys.shape[0] * keys.shape[1]  # every request has all of the pages
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        lse = query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
        read = 2 * tokens * keys.shape[2] * keys.shape[3] * keys.itemsize
        launched("flash_fwd", read + query.nbytes + out.nbytes + lse.nbytes)
        if arguments["num_splits"] != 1:
            launched("flash_fwd_combine", out.nbytes + lse.nbytes)
        return out, lse

    module = ModuleType("vllm.vllm_flash_attn")
    module.__dict__.update(flash_attn_varlen_func=flash_attn_varlen_func, get_scheduler_metadata=get_scheduler_metadata)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]
        if before is not None:
            sys.modules[module.__name__] = before
