"""Verification on the V2 runner is vLLM's rejection sampler with MTAD's test in place of `_verify`.

Everything around it is inherited: penalties and masks at all gamma + 1 rows, logprobs, grammar, chunks of large
batches. Two launches where vLLM has four; nothing of size `[..., vocab]` comes from the draft.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from typing_extensions import override
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.sample.bad_words import BadWordsState
from vllm.v1.worker.gpu.sample.output import SamplerOutput
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.states import NO_LOGPROBS
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler, get_max_chunk_logits

from vllm_mtad.runners.v2.kernels.acceptance import RowStatistics, joint_acceptance, target_statistics
from vllm_mtad.runners.v2.noted_requests import NotedRequests
from vllm_mtad.runners.v2.tree_verification import TreeVerification
from vllm_mtad.runners.v2.trees import DraftTrees


class MTADRejectionSampler(RejectionSampler):
    """A RejectionSampler that keeps the longest prefix whose joint ratio passes."""

    def __init__(
        self,
        sampler: Sampler,
        spec_config: Any,
        device: torch.device,
        trees: DraftTrees,
        noted: NotedRequests,
        verification: TreeVerification | None = None,
    ) -> None:
        """`trees`, `noted`: the speculator's, of the drafts that the target sees and of their requests.
        `verification`: if they may be more than chains."""
        super().__init__(sampler, spec_config, device)
        self._options, self._trees, self._verification = spec_config.options, trees, verification
        states = sampler.sampling_states
        self._of_chains = torch.full((states.max_num_reqs,), trees.gamma, dtype=torch.int32, device=device)
        self._of_trees = torch.full_like(self._of_chains, trees.log_q.shape[1])
        self._noted = noted
        sampler.logits_processors.append(noted)
        max_rows = states.max_num_reqs * (self.num_speculative_steps + 1)
        self._statistics = RowStatistics.allocate(
            min(max_rows, max(get_max_chunk_logits(states.vocab_size), self.num_speculative_steps + 1)),
            states.vocab_size,
            device,
            use_fp64=sampler.use_fp64_gumbel,
        )

    @override
    def __call__(self, logits: torch.Tensor, input_batch: InputBatch, *args: Any, **kwargs: Any) -> SamplerOutput:
        if self._verification is not None:
            input_batch = self._verification.with_logical_places(input_batch)
        return super().__call__(logits, input_batch, *args, **kwargs)

    def _max_nodes(self, requests: np.ndarray) -> torch.Tensor:
        """int32 `[num_reqs]`: how many nodes of each request are verified.

        Penalties, bad words, thinking budgets, grammar masks and logprobs are applied row after row, as if each row's
        text were all rows before it. That is true of the chosen draft's alone.
        """
        num_reqs, gamma = len(requests), self._trees.gamma
        if self._verification is None:
            return self._of_trees[:num_reqs]
        num_nodes = self._verification.num_nodes
        if num_nodes == gamma or self.sampler.return_sampling_mask:
            return self._of_chains[:num_reqs]
        sampler = self.sampler
        is_chain = sampler.penalties_state.use_penalty[requests]
        is_chain = (
            is_chain
            | self._noted.has_grammar[requests]
            | (sampler.sampling_states.num_logprobs[requests] != NO_LOGPROBS)
        )
        if sampler.thinking_budget_state.enabled:
            is_chain |= sampler.thinking_budget_state.use_thinking_budget[requests]
        for processor in sampler.logits_processors:
            if isinstance(processor, BadWordsState):
                is_chain |= processor.num_bad_words.np[requests] > 0
        if not is_chain.any():
            return self._of_trees[:num_reqs]
        return async_tensor_h2d(np.where(is_chain, gamma, num_nodes).astype(np.int32), device=self._of_trees.device)

    @override
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
            self._max_nodes(idx_mapping_np),
            idx_mapping,
            self._noted.lossless.gpu,
            self._noted.log_thresholds.gpu,
            self._statistics,
            sampled,
            num_sampled,
            per_token=options.acceptance == "per_token",
            candidate_test=options.candidate_test,
        )
        return warped, sampled, num_sampled
