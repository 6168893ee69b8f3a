"""Before a batch is drafted for again, the draft model reads what it has missed: the steps without drafts.

One eager pass of at most `max_num_batched_tokens` rows a step. Who still lacks some then waits for the next step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor
from vllm.v1.worker.gpu.input_batch import InputBatch

from vllm_mtad.runners.v2.missed_text import MissedText, MissedTokens, Span

if TYPE_CHECKING:
    from vllm_mtad.runners.v2.speculator import MTADSpeculator


class CatchUp:
    """
    Args:
        speculator: whose buffers and model it uses; its KV cache is set up.
        num_blocks: of the KV cache.
    """

    def __init__(self, speculator: MTADSpeculator, num_blocks: int) -> None:
        self._speculator = speculator
        groups = [group.index for group in speculator.kv_groups]
        tables = [speculator.block_tables.block_tables[group].gpu for group in groups]
        in_flight = speculator.vllm_config.max_concurrent_batches
        max_lag = in_flight * speculator.num_speculative_steps
        table_shape = (len(tables[0]), max(table.shape[1] for table in tables))
        self._missed = MissedText(table_shape, groups, num_blocks, speculator.page_size, max_lag)
        self._missed.follow(speculator.block_tables)

    def skip(self, input_batch: InputBatch) -> None:
        """In this step the draft model reads nothing."""
        self._missed.skip(self._span(input_batch))

    def run(self, input_batch: InputBatch) -> torch.Tensor | None:
        """Read what was missed up to this step, as far as a pass goes.

        Returns:
            int64 `[n]`, the states of the requests that must not be drafted for; None if there is none.
        """
        missed = self._missed.take(self._span(input_batch), self._speculator.max_num_tokens)
        if missed is None:
            return None
        if len(missed.states):
            # The pass has requests of its own in the first rows of the batch's block tables.
            of_batch = [table.clone() for table in self._tables(len(missed.states))]
            self._read(missed)
            for table, kept in zip(self._tables(len(missed.states)), of_batch):
                table.copy_(kept)
        if not len(missed.unfinished):
            return None
        return async_tensor_h2d(missed.unfinished, device=self._speculator.device)

    def _tables(self, num_reqs: int) -> list[torch.Tensor]:
        """The batch's block tables of the draft's KV groups, so many of their rows."""
        tables = self._speculator.block_tables.input_block_tables
        return [tables[group.index][:num_reqs] for group in self._speculator.kv_groups]

    @torch.inference_mode()
    def _read(self, missed: MissedTokens) -> None:
        """Write the draft KV of these tokens."""
        spec, num_reqs = self._speculator, len(missed.states)
        row_states, row_positions = missed.rows()
        num_tokens = len(row_positions)
        starts = np.append(0, missed.counts.cumsum()).astype(np.int32)
        seq_lens = torch.from_numpy(missed.ends.astype(np.int32))

        states = async_tensor_h2d(missed.states, device=spec.device, dtype=spec.idx_mapping.dtype)
        positions = spec.expanded_positions[:num_tokens]
        positions.copy_(async_tensor_h2d(row_positions, device=spec.device))
        of_rows = async_tensor_h2d(row_states, device=spec.device)
        # Tokens from this step's first on may not be known yet: the first pass writes over what they leave.
        spec.expanded_input_ids[:num_tokens] = spec.all_token_ids[of_rows, positions]
        spec.input_buffers.query_start_loc[: num_reqs + 1] = async_tensor_h2d(starts, device=spec.device)
        spec.input_buffers.seq_lens[:num_reqs] = async_tensor_h2d(seq_lens, device=spec.device)
        for group, table in zip(spec.kv_groups, self._tables(num_reqs)):
            table.copy_(spec.block_tables.block_tables[group.index].gpu[states])
        spec.block_tables.compute_slot_mappings(
            states,
            spec.input_buffers.query_start_loc[: num_reqs + 1],
            positions,
            num_tokens,
            out=spec.expanded_slot_mappings,
        )
        descriptor = BatchExecutionDescriptor(CUDAGraphMode.NONE, num_tokens, num_reqs)
        # The builder adds the first pass's one token.
        metadata, slots = spec.first_pass.metadata(num_reqs, descriptor, starts, seq_lens - 1)
        spec.draft_forward(spec.expanded_input_ids[:num_tokens], positions.clamp(max=spec.window - 1), metadata, slots)

    def _span(self, input_batch: InputBatch) -> Span:
        states = input_batch.idx_mapping_np
        return Span(
            states,
            input_batch.num_computed_tokens_np.astype(np.int64),
            input_batch.num_scheduled_tokens.astype(np.int64),
            is_exact=input_batch.is_prefilling_np,  # no drafts of it are in flight
            wants_drafts=self._speculator.noted.want_drafts(states),
        )
