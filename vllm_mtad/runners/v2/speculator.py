"""The V2 speculator runs a drafting round: one draft pass over what the target saw, then the beam loop.

    propose
      first pass   draft KV of the accepted tokens and of the target's newest; its last hidden state
      beam loop    gamma times: logits, a beam step, and (but for the last) a draft pass over the beams
      choice       the best beam: draft tokens for the runner, log q for the rejection sampler

A round costs gamma draft passes, without a host-device synchronisation. Both parts are CUDA graphs where vLLM's mode
has full decode graphs; the first pass of batches with prefills runs in piecewise graphs where the draft is compiled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override
from vllm.config import VllmConfig, get_layers_from_vllm_config
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import BatchDescriptor, set_forward_context
from vllm.logger import init_logger
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.utils import PAD_SLOT_ID
from vllm.v1.sample.ops import topk_topp_triton
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, has_compiled_submodule
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.states import SamplingStates
from vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator import StandaloneARSpeculator

from vllm_mtad.config.refusals import split_blocks
from vllm_mtad.runners.draft_layers import keep_whole_texts
from vllm_mtad.runners.not_finite import warn_of_weights
from vllm_mtad.runners.v2.attention_stand_in import check_layer, check_page_layout
from vllm_mtad.runners.v2.beam_attention import BeamAttention, BeamAttentionMetadata
from vllm_mtad.runners.v2.beams import DraftBeams, DraftRequests, Truncation
from vllm_mtad.runners.v2.catch_up import CatchUp
from vllm_mtad.runners.v2.draft_config import draft_config
from vllm_mtad.runners.v2.first_pass import FirstPass
from vllm_mtad.runners.v2.graphs import (
    BeamBatchDescriptor,
    BeamGraphManager,
    FirstPassGraphManager,
    schedule_of,
)
from vllm_mtad.runners.v2.kv_groups import KVGroup, kv_groups_of
from vllm_mtad.runners.v2.noted_requests import NotedRequests
from vllm_mtad.runners.v2.shared_prefix import Prefixes, prefix_readers
from vllm_mtad.runners.v2.tree_verification import TreeVerification
from vllm_mtad.runners.v2.warm_up import compile_first_pass_inputs

logger = init_logger("vllm.mtad")


class MTADSpeculator(StandaloneARSpeculator):
    """A StandaloneARSpeculator that drafts over beams."""

    vllm_config: VllmConfig

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(vllm_config, device)
        options = self.speculative_config.options
        self.beam_width: int = options.beam_width
        self.gamma: int = options.num_speculative_tokens
        self.vocab_size = self.speculative_config.common_vocab_size
        # Rotary tables end at the draft's window.
        self.window = min(self.max_model_len, self.draft_model_config.max_model_len)
        self.noted = NotedRequests(self.max_num_reqs, options, device)
        self.requests = DraftRequests.allocate(self.idx_mapping, self.temperature, self.seeds, self.noted.lossless.gpu)
        self.beams = DraftBeams(options, self.max_num_reqs, self.vocab_size, self.requests, self.window)
        self._schedule = schedule_of(vllm_config)
        self.first_pass = FirstPass(self)
        self.prefix_lens = torch.zeros(self.max_num_reqs, dtype=torch.int32, device=device)
        self.beam_depths = torch.arange(self.gamma + 1, dtype=torch.int32, device=device)[:, None].repeat(
            1, self.beam_width
        )
        self.beam_starts = torch.arange(self.max_num_reqs + 1, dtype=torch.int32, device=device) * self.beam_width
        self.sampling_states: SamplingStates | None = None
        self.catch_up: CatchUp | None = None
        self.first_pass_graphs: FirstPassGraphManager | None = None
        self.beam_graphs: BeamGraphManager | None = None
        self.verification: TreeVerification | None = None
        """If the target verifies several candidates."""

    # -- set-up ---------------------------------------------------------------------------------------

    def use_sampler(self, sampler: Sampler) -> None:
        """The target's: with its parameters drafts are warped too, and it knows every request's text."""
        self.sampling_states = sampler.sampling_states
        self.all_token_ids: torch.Tensor = sampler.req_states.all_token_ids.gpu

    @override
    def load_draft_model(self, target_model: nn.Module, target_attn_layer_names: set[str]) -> nn.Module:
        real = self.vllm_config
        self.vllm_config = draft_config(real)
        try:
            return super().load_draft_model(target_model, target_attn_layer_names)
        finally:
            self.vllm_config = real

    @override
    def load_model(self, target_model: nn.Module) -> None:
        super().load_model(target_model)
        warn_of_weights(self.model, self.speculative_config.model)
        found = get_layers_from_vllm_config(self.vllm_config, AttentionLayerBase)
        layers = [found[name] for name in sorted(self.draft_attn_layer_names)]
        for layer in layers:
            check_layer(layer)
        keep_whole_texts(layers)
        dtype = self.draft_model_config.dtype
        most_rows = self.max_num_reqs * self.beam_width
        readers = prefix_readers(layers, self.beam_width, most_rows, self.max_model_len, dtype, self.device)
        beam_attention = [
            BeamAttention(layer, self.max_num_reqs, self.beam_width, self.gamma - 1, reader, dtype, self.device)
            for layer, reader in zip(layers, readers)
        ]
        self.prefix_readers = set(readers)
        scratch = sum(attention.scratch_bytes for attention in beam_attention)
        logger.info(
            "MTAD scratch: %.1f MiB for the KV of %d requests x %d beams, outside of the KV cache.",
            scratch / 2**20,
            self.max_num_reqs,
            self.beam_width,
        )
        if self.speculative_config.options.num_candidates > 1:
            self.verification = TreeVerification(
                self.beams.trees,
                {name: layer for name, layer in found.items() if name not in self.draft_attn_layer_names},
                self.max_num_reqs,
                self.max_model_len,
                self.vllm_config.compilation_config.max_cudagraph_capture_size or 0,
                self.vllm_config.model_config.dtype,
                self.device,
            )
        compile_first_pass_inputs(self)

    @override
    def set_attn(self, *args: Any, **kwargs: Any) -> None:
        super().set_attn(*args, **kwargs)
        for name in self.draft_attn_layer_names:
            check_page_layout(self.vllm_config.compilation_config.static_forward_context[name])
        self.kv_groups = kv_groups_of(self.kv_cache_config, self.draft_attn_layer_names)
        page_sizes = {group.page_size for group in self.kv_groups}
        if len(page_sizes) > 1:
            raise ValueError(
                f"speculative_config.model={self.speculative_config.model!r} has layers whose KV lies in pages of"
                f" {sorted(page_sizes)} tokens: mtad needs a draft with as many KV heads, as large, in every layer."
            )
        (self.page_size,) = page_sizes
        for group in itertools.chain(*self.attn_groups):
            if group.kernel_block_size is not None:
                raise split_blocks(group.kv_cache_spec.block_size, group.kernel_block_size)
        self.catch_up = CatchUp(self, self.kv_cache_config.num_blocks)
        if self.verification is not None:
            self.verification.set_attn(self.kv_cache_config)

    # -- a drafting round -----------------------------------------------------------------------------

    @override
    @torch.inference_mode()
    def propose(
        self,
        input_batch: InputBatch,
        attn_metadata: dict[str, Any],
        slot_mappings: dict[str, torch.Tensor],
        last_hidden_states: torch.Tensor,
        aux_hidden_states: list[torch.Tensor] | None,
        num_sampled: torch.Tensor,
        num_rejected: torch.Tensor,
        last_sampled: torch.Tensor,
        next_prefill_tokens: torch.Tensor,
        temperature: torch.Tensor,
        seeds: torch.Tensor,
        dp_sync_state: Any = None,
        dummy_run: bool = False,
        skip_attn_for_dummy_run: bool = False,
        mm_inputs: Any = None,
        is_profile: bool = False,
        num_speculative_tokens: int | None = None,
    ) -> torch.Tensor:
        """`[num_reqs, nodes]` int64 draft tokens; what they extend and their log q: `beams.trees`, by request state.

        Columns from `num_speculative_tokens` on mean nothing: up to gamma of them are one candidate's, more are all
        candidates'. With 0 of them, or if nobody in the batch wants drafts, nothing of the draft model runs; later it
        reads what it has missed.
        """
        num_reqs = input_batch.num_reqs
        num_nodes = self.num_speculative_steps if num_speculative_tokens is None else num_speculative_tokens
        if self.verification is not None and not dummy_run:
            self.verification.finish(input_batch)
        if not dummy_run and not self._reads(input_batch, num_nodes):
            assert self.catch_up is not None
            self.catch_up.skip(input_batch)
            return torch.zeros_like(self.draft_tokens[:num_reqs])  # nobody accepts them, but the target may read them
        attend = not (dummy_run and skip_attn_for_dummy_run)
        # Dummy requests carry arange for states: as padding they neither write KV nor touch a live request's log q.
        self._copy_request_inputs(num_reqs, input_batch.idx_mapping, temperature, seeds, dummy_run=dummy_run)
        truncation = Truncation.NONE
        if num_nodes > 0:
            # Profiling runs with the largest memory.
            truncation = Truncation.ANY if is_profile else self._copy_truncation(input_batch.idx_mapping_np)
        undrafted = None if dummy_run or self.catch_up is None else self.catch_up.run(input_batch)
        self.first_pass.run(input_batch, num_rejected, last_sampled, attend)
        if num_nodes > 0:
            graphs = self.beam_graphs if attend else None
            if graphs is not None and (descriptor := graphs.find(num_reqs, num_nodes, truncation)):
                graphs.run_fullgraph(descriptor)
            else:
                self._beam_loop(num_reqs, num_nodes, truncation, attend)
        if undrafted is not None:
            self.beams.trees.log_q[undrafted] = torch.inf  # fails the joint test
        return self.draft_tokens[:num_reqs]

    def _reads(self, input_batch: InputBatch, num_nodes: int) -> bool:
        """Whether the draft model reads what the target has read, for drafts of this step or of a later one."""
        if not self.noted.want_drafts(input_batch.idx_mapping_np).any():
            return False
        if num_nodes > 0:
            return True
        # From 0.33 on vLLM asks for no drafts of steps after which nobody decodes. Of a prompt the next step decodes.
        ends = input_batch.num_computed_tokens_np + input_batch.num_scheduled_tokens
        return self._schedule[input_batch.num_reqs] > 0 and bool((ends < input_batch.prefill_len_np).any())

    def _copy_truncation(self, requests: np.ndarray) -> Truncation:
        assert self.sampling_states is not None, "the runner has not handed over its sampling states"
        truncation = Truncation.of(self.sampling_states, requests)
        if truncation is not Truncation.NONE:
            self.requests.copy_truncation(self.sampling_states, self.vocab_size)
        return truncation

    def draft_forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: dict[str, Any] | None,
        slots: dict[str, torch.Tensor] | None,
        mode: CUDAGraphMode = CUDAGraphMode.NONE,
    ) -> torch.Tensor:
        """The draft model's hidden states `[num_tokens, hidden]`. Replaces vLLM's `_run_model`, which knows no graphs.

        Pieces (`CUDAGraphMode.PIECEWISE`) read the tensors that they were captured with: ids and positions must be
        persistent.
        """
        num_tokens = len(input_ids)
        if self.speculative_config.draft_lacks_ids:
            input_ids.clamp_(max=self.vocab_size - 1)
        with set_forward_context(
            metadata,
            self.vllm_config,
            num_tokens=num_tokens,
            cudagraph_runtime_mode=mode,
            slot_mapping=slots,
            batch_descriptor=BatchDescriptor(num_tokens=num_tokens),
        ):
            hidden = self.model(input_ids=input_ids, positions=positions)
        return hidden[0] if isinstance(hidden, tuple) else hidden

    def draft_logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` of the draft's hidden states `[rows, hidden]`, without its padding past the target's."""
        return self.model.compute_logits(hidden)[:, : self.vocab_size]

    def _beam_loop(self, num_reqs: int, num_nodes: int, truncation: Truncation, attend: bool = True) -> None:
        """From the first pass's states to the trees or chosen drafts; every tensor that it reads is persistent."""
        num_drafts = min(num_nodes, self.gamma)
        states, roots = self.requests.states[:num_reqs], self.requests.root_positions[:num_reqs]
        last_positions = self.expanded_positions[self.last_token_indices[:num_reqs]]
        roots.copy_(torch.where(states >= 0, last_positions, -1))
        self.prefix_lens[:num_reqs] = roots + 1
        self.beams.step(self.first_pass.hidden[:num_reqs], self.draft_logits_of, 0, num_reqs, truncation)
        rows = num_reqs * self.beam_width
        passes = self._beam_metadata(num_reqs, num_drafts) if attend else [None] * (num_drafts - 1)
        for depth, metadata in enumerate(passes, start=1):  # tokens that the beams have
            positions = (roots + depth).clamp_(min=0, max=self.window - 1)
            hidden = self.draft_forward(
                self.beams.input_ids[:rows],
                positions.repeat_interleave(self.beam_width, output_size=rows),
                metadata,
                slots=None,  # a beam writes nothing into the paged cache
            )
            self.beams.step(hidden, self.draft_logits_of, depth, num_reqs, truncation)
        self.beams.choose(num_reqs, num_nodes, self.draft_tokens)

    def _beam_metadata(self, num_reqs: int, num_drafts: int) -> list[dict[str, Any] | None]:
        """Attention metadata by layer, of each pass over the beams."""
        if num_drafts == 1:
            return []

        def prefixes(group: KVGroup, depth: int) -> Prefixes:
            return Prefixes(
                lens=self.prefix_lens[:num_reqs],
                block_table=self.block_tables.input_block_tables[group.index][:num_reqs],
                query_start_loc=self.beam_starts[: num_reqs + 1],
                max_len=self.max_model_len,
                page_size=self.page_size,
                depths=self.beam_depths[depth],
            )

        # The prefixes' lengths stay as they are in a round: one plan serves all its passes and layers.
        plans = {reader: reader.plan(prefixes(self.kv_groups[0], 1)) for reader in self.prefix_readers}
        passes: list[dict[str, Any] | None] = []
        for depth in range(1, num_drafts):
            of_pass: dict[str, Any] = {}
            for group in self.kv_groups:
                metadata = BeamAttentionMetadata(depth, self.beams.ancestry(depth), prefixes(group, depth), plans)
                of_pass |= dict.fromkeys(group.layers, metadata)
            passes.append(of_pass)
        return passes

    # -- CUDA graphs ----------------------------------------------------------------------------------

    @override
    def init_cudagraph_manager(self, cudagraph_mode: CUDAGraphMode) -> None:
        supports_uniform = self.attn_cg_support.min_cg_support.value >= AttentionCGSupport.UNIFORM_BATCH.value
        self.first_pass_graphs = FirstPassGraphManager(
            self.vllm_config,
            self.device,
            cudagraph_mode,
            supports_uniform=supports_uniform,
            is_compiled=has_compiled_submodule(self.model),
        )
        self.beam_graphs = BeamGraphManager(self.vllm_config, self.device, cudagraph_mode, self.beam_width)

    @override
    def capture(self) -> None:
        assert self.first_pass_graphs is not None
        assert self.beam_graphs is not None
        self.idx_mapping.fill_(-1)
        self.expanded_slot_mappings.fill_(PAD_SLOT_ID)
        self.first_pass_graphs.capture(self.first_pass.capture, "Capturing MTAD first passes")
        self.beam_graphs.capture(self._capture_beam_loop, "Capturing MTAD beam loops")
        # vLLM's truncation keeps scratch tensors that it may replace by larger ones; the graphs use today's.
        self._captured_scratch = [
            *topk_topp_triton._TRITON_BUFFER_CACHE.values(),
            *topk_topp_triton._TRITON_TABLE_CACHE.values(),
            *topk_topp_triton._TRITON_SPLIT_CACHE.values(),
        ]

    def _capture_beam_loop(self, descriptor: BatchExecutionDescriptor, warmup: bool) -> Callable[[CUDAGraphMode], None]:
        assert isinstance(descriptor, BeamBatchDescriptor)
        num_reqs, nodes, truncation = descriptor.num_reqs, descriptor.num_speculative_tokens, descriptor.truncation
        assert num_reqs is not None
        return lambda mode: self._beam_loop(num_reqs, nodes, truncation)
