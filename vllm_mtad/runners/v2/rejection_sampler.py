"""Verification on the V2 runner: vLLM's rejection sampler with MTAD's test in place of `_verify`.

Everything around it is inherited: penalties and masks at all gamma + 1 rows, logprobs, grammar, chunks of large
batches. Two launches where vLLM has four; nothing of size `[..., vocab]` comes from the draft.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler, get_max_chunk_logits

from vllm_mtad.runners.v2.kernels.acceptance import RowStatistics, joint_acceptance, target_statistics
from vllm_mtad.runners.v2.trees import DraftTrees


class MTADRejectionSampler(RejectionSampler):
    """A RejectionSampler that keeps the longest prefix whose joint ratio passes."""

    def __init__(self, sampler: Sampler, spec_config: Any, device: torch.device, trees: DraftTrees) -> None:
        """`trees`: the speculator's, of the drafts that the target sees."""
        super().__init__(sampler, spec_config, device)
        self._options, self._trees = spec_config.options, trees
        states = sampler.sampling_states
        max_rows = states.max_num_reqs * (self.num_speculative_steps + 1)
        self._statistics = RowStatistics.allocate(
            min(max_rows, max(get_max_chunk_logits(states.vocab_size), self.num_speculative_steps + 1)),
            states.vocab_size,
            device,
            use_fp64=sampler.use_fp64_gumbel,
        )

    def _verify(
        self,
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        draft_sampled: torch.Tensor,
        pos: torch.Tensor,
        cu_num_logits: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray,
        expanded_idx_mapping: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        seq_lens_upper_bound_np: np.ndarray,
        verify_draft_sampled: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(warped logits `[rows, vocab]`, tokens `[num_reqs, gamma + 1]` int64, their number `[num_reqs]` int32).

        Args:
            draft_logits: None: a draft's q is in its tree.
            verify_draft_sampled: `[rows]`, -1 for a placeholder or a draft that the grammar refuses.
        """
        warped = self.sampler.apply_sampling_params(
            logits,
            expanded_idx_mapping,
            idx_mapping,
            idx_mapping_np,
            pos,
            draft_sampled,
            expanded_local_pos,
            seq_lens_upper_bound_np,
        )
        states, options = self.sampler.sampling_states, self._options
        target_statistics(warped, expanded_idx_mapping, pos, states.temperature.gpu, states.seeds.gpu, self._statistics)
        num_reqs = len(idx_mapping)
        sampled = draft_sampled.new_empty(num_reqs, self.num_speculative_steps + 1, dtype=torch.int64)
        num_sampled = draft_sampled.new_empty(num_reqs, dtype=torch.int32)
        joint_acceptance(
            warped,
            verify_draft_sampled,
            self._trees,
            cu_num_logits,
            idx_mapping,
            states.temperature.gpu,
            self._statistics,
            sampled,
            num_sampled,
            log_threshold=options.log_threshold,
            per_token=options.acceptance == "per_token",
            lossless=options.greedy == "lossless",
        )
        return warped, sampled, num_sampled
