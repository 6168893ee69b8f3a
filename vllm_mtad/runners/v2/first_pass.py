"""In the first pass of a drafting round the draft model reads what the target saw, and the target's newest token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.attn_utils import build_slot_mappings_by_layer
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator import prepare_prefill_inputs
from vllm.v1.worker.utils import get_uniform_decode_token_count

if TYPE_CHECKING:
    from vllm_mtad.runners.v2.speculator import MTADSpeculator


class FirstPass:
    """Writes the draft KV of a step's tokens, one more a request than the target had.

    Args:
        speculator: whose buffers, model and graphs it uses.

    Attributes:
        hidden: `[max_num_reqs, hidden]`, the draft model's state at each request's newest token.
    """

    def __init__(self, speculator: MTADSpeculator) -> None:
        self._speculator = speculator
        shape, dtype = (speculator.max_num_reqs, speculator.hidden_size), speculator.draft_model_config.dtype
        self.hidden = torch.zeros(shape, dtype=dtype, device=speculator.device)
        self._positions = torch.zeros_like(speculator.expanded_positions)

    def run(
        self, input_batch: InputBatch, num_rejected: torch.Tensor, last_sampled: torch.Tensor, attend: bool
    ) -> None:
        """The pass of this step, into the draft KV and `hidden`; without `attend` no KV is read or written."""
        spec, num_reqs = self._speculator, input_batch.num_reqs
        num_tokens = prepare_prefill_inputs(
            input_buffers=spec.input_buffers,
            input_batch=input_batch,
            last_sampled=last_sampled,
            num_rejected=num_rejected,
            expanded_input_ids=spec.expanded_input_ids,
            expanded_positions=spec.expanded_positions,
            last_token_indices=spec.last_token_indices,
            max_num_reqs=spec.max_num_reqs,
            max_model_len=spec.max_model_len,
        )
        if not attend:
            self.forward(num_reqs, num_tokens, None, None)
            return
        descriptor = self.descriptor(input_batch, num_tokens)
        spec.block_tables.compute_slot_mappings(
            spec.idx_mapping[:num_reqs],
            spec.input_buffers.query_start_loc[: num_reqs + 1],
            spec.expanded_positions,
            num_tokens,
            out=spec.expanded_slot_mappings,
        )
        # A replay reads what the builders refresh in their own buffers.
        metadata, slots = self.metadata(
            num_reqs,
            descriptor,
            input_batch.query_start_loc_np[: num_reqs + 1] + spec.arange_np[: num_reqs + 1],
            input_batch.seq_lens_cpu_upper_bound,
        )
        if descriptor.cg_mode == CUDAGraphMode.FULL:
            assert spec.first_pass_graphs is not None
            spec.first_pass_graphs.run_fullgraph(descriptor)
        else:
            self.forward(num_reqs, descriptor.num_tokens, metadata, slots, descriptor.cg_mode)

    def descriptor(self, input_batch: InputBatch, num_tokens: int) -> BatchExecutionDescriptor:
        """How to run the pass: as a captured graph, as captured pieces, or eagerly."""
        graphs = self._speculator.first_pass_graphs
        if graphs is None:
            return BatchExecutionDescriptor(CUDAGraphMode.NONE, num_tokens, input_batch.num_reqs)
        uniform = get_uniform_decode_token_count(
            input_batch.num_reqs,
            input_batch.num_tokens,
            int(input_batch.num_scheduled_tokens.max()),
            input_batch.decode_graph_eligible,
        )
        return graphs.find(input_batch.num_reqs, num_tokens, None if uniform is None else uniform + 1)

    def metadata(
        self,
        num_reqs: int,
        descriptor: BatchExecutionDescriptor,
        query_start_loc: np.ndarray,
        seq_lens_cpu_upper_bound: torch.Tensor,
    ) -> tuple[dict[str, Any] | None, dict[str, torch.Tensor]]:
        """(attention metadata, slot mapping) by layer, on persistent buffers."""
        spec = self._speculator
        slots = spec.expanded_slot_mappings[:, : descriptor.num_tokens]
        # A graph must hold for any length; told of the longest there is, FlashAttention needs less workspace.
        longest = int(seq_lens_cpu_upper_bound[:num_reqs].max()) + 1
        is_graph = descriptor.cg_mode == CUDAGraphMode.FULL
        spec.draft_max_seq_len = spec.max_model_len if is_graph else min(longest, spec.max_model_len)
        metadata = spec._build_attn_metadata(
            num_reqs=num_reqs,
            batch_desc=descriptor,
            query_start_loc_np=query_start_loc,
            seq_lens_cpu_upper_bound=seq_lens_cpu_upper_bound,
            step=1,  # the target's newest token
            slot_mappings=slots,
        )
        return metadata, build_slot_mappings_by_layer(slots, spec.kv_cache_config)

    def forward(
        self,
        num_reqs: int,
        num_tokens: int,
        metadata: dict[str, Any] | None,
        slots: dict[str, torch.Tensor] | None,
        mode: CUDAGraphMode = CUDAGraphMode.NONE,
    ) -> None:
        spec, positions = self._speculator, self._positions[:num_tokens]
        torch.clamp(spec.expanded_positions[:num_tokens], max=spec.window - 1, out=positions)
        hidden = spec.draft_forward(spec.expanded_input_ids[:num_tokens], positions, metadata, slots, mode)
        self.hidden[:num_reqs] = hidden[spec.last_token_indices[:num_reqs]]

    def capture(self, descriptor: BatchExecutionDescriptor, warmup: bool) -> Callable[[CUDAGraphMode], None]:
        """The pass of a dummy batch, for a graph manager to record."""
        spec = self._speculator
        # How tokens are shared out matters to attention alone, which pieces do not hold.
        num_tokens = descriptor.num_tokens
        num_reqs = descriptor.num_reqs or min(num_tokens, spec.max_num_reqs)
        starts = spec.arange_np[: num_reqs + 1] * num_tokens // num_reqs
        seq_lens = torch.from_numpy(np.diff(starts).astype(np.int32))
        spec.block_tables.get_dummy_block_tables(num_reqs)
        spec.input_buffers.query_start_loc.fill_(num_tokens)
        spec.input_buffers.query_start_loc[: num_reqs + 1] = torch.from_numpy(starts).to(spec.device)
        spec.input_buffers.seq_lens.zero_()
        spec.input_buffers.seq_lens[:num_reqs] = seq_lens.to(spec.device)
        spec.last_token_indices.zero_()
        metadata, slots = self.metadata(num_reqs, descriptor, starts, seq_lens)
        return lambda mode: self.forward(num_reqs, num_tokens, metadata, slots, mode)
