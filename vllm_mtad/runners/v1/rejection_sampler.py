"""The V1 rejection sampler processes and warps all gamma + 1 rows, runs the joint test, and draws one extra token.

Per step: one gather of the target's logits into request order, the processors, one warp, and a test over
`[num_reqs, gamma]`. Nothing of size `[..., vocab]` comes from the draft.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from typing_extensions import override
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.logits_processor.builtin import MinTokensLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import PLACEHOLDER_TOKEN_ID, RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from vllm_mtad.algorithm.acceptance import accepted_length, accepted_node, draw_token
from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.algorithm.warp import WarpedRows, warp
from vllm_mtad.runners.v1.branches import VerifiedTree
from vllm_mtad.runners.v1.handover import DraftHandover


@dataclass(frozen=True)
class _Layout:
    """Where each request's rows are among the `[sum(n_i + 1)]` rows of the step.

    `request`: `[rows]`, the request of each row. `first`: `[num_reqs]`, its first row. `num_drafts`: `[num_reqs]`.
    """

    request: torch.Tensor
    first: torch.Tensor
    num_drafts: torch.Tensor

    @classmethod
    def of(cls, metadata: SpecDecodeMetadata) -> _Layout:
        rows = metadata.bonus_logits_indices.long()
        first = torch.cat([rows.new_zeros(1), rows[:-1] + 1])
        total = len(metadata.draft_token_ids) + len(rows)
        request = torch.arange(len(rows), device=rows.device)
        return cls(request.repeat_interleave(rows - first + 1, output_size=total), first, rows - first)


class MTADRejectionSampler(RejectionSampler):
    """A RejectionSampler whose `forward` keeps the longest prefix whose joint ratio passes."""

    def __init__(self, sampler: Sampler, spec_config: Any = None, device: torch.device | None = None) -> None:
        super().__init__(sampler, spec_config, device)
        self.options = spec_config.options

    @override
    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probs: DraftHandover | None,  # type: ignore[override]
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        """`[num_reqs, gamma + 1]` int32 tokens, -1 after the extra token.

        Args:
            draft_probs: what `GPUModelRunner._get_spec_decode_draft_probs` handed over (seam); None in vLLM's
                profiling run, which then measures the parent. (This class needs more there: gamma + 1 rows a request,
                where vLLM profiles two.)
            logits: `[rows, vocab]`, raw logits of each request's n_i + 1 rows.
        """
        if draft_probs is None:
            return super().forward(metadata, None, logits, sampling_metadata)
        layout = _Layout.of(metadata)
        processed = self._apply_processors(metadata, logits, sampling_metadata)
        take_argmax = draft_probs.extra_token_as_argmax
        best = None if take_argmax is None else processed.argmax(1)
        kept_for_logprobs = None
        if sampling_metadata.max_num_logprobs is not None:
            kept_for_logprobs = processed.clone() if self.is_processed_logprobs_mode else logits
        target = warp(processed, draft_probs.warp.rows(layout.request))

        verification = draft_probs.verification
        if verification is None or verification.trees is None:
            drafts, accepted = self._accept_chains(metadata, layout, target, draft_probs)
            extra_rows = layout.first + accepted
        else:
            drafts, accepted, kept = self._accept_trees(
                layout, target, verification.trees, verification.verified, draft_probs.log_thresholds
            )
            extra_rows = layout.first + torch.tensor(kept)
            verification.keep(kept)
        extra = self._draw_extra(target.rows(extra_rows), draft_probs, sampling_metadata, logits.shape[1])
        if take_argmax is not None and best is not None:
            extra = torch.where(take_argmax, best[extra_rows], extra)

        columns = torch.arange(drafts.shape[1] + 1, device=logits.device)
        padded = torch.nn.functional.pad(drafts, (0, 1))
        output = torch.where(columns < accepted[:, None], padded, PLACEHOLDER_TOKEN_ID)
        output = output.scatter_(1, accepted[:, None], extra[:, None]).int()
        logprobs = None
        if kept_for_logprobs is not None:
            logprobs = self._logprobs(metadata, sampling_metadata, kept_for_logprobs, layout, target, output)
        return SamplerOutput(sampled_token_ids=output, logprobs_tensors=logprobs)

    def _apply_processors(
        self, metadata: SpecDecodeMetadata, logits: torch.Tensor, sampling_metadata: SamplingMetadata
    ) -> torch.Tensor:
        """Float32 logits after penalties and masks, each row seeing the draft tokens before it.

        min_tokens is applied to all rows at once: on the last row, vLLM's own would count the committed tokens
        only, and forbid a stop that plain decoding allows there.
        """
        bare = replace(sampling_metadata, logitsprocs=LogitsProcessors())
        processed = self.sampler.apply_logits_processors(
            logits[metadata.bonus_logits_indices].float(), bare, predict_bonus_token=True
        )
        if len(metadata.draft_token_ids) > 0:  # else every row is a bonus row, and vLLM's own fails on no rows
            targets = self.apply_logits_processors(logits[metadata.target_logits_indices].float(), bare, metadata)
            bonus = processed
            processed = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
            processed[metadata.target_logits_indices] = targets
            processed[metadata.bonus_logits_indices] = bonus
        rows_of_requests = [n + 1 for n in metadata.num_draft_tokens]
        for processor in sampling_metadata.logitsprocs.non_argmax_invariant:
            # vLLM builds no other with speculation.
            assert isinstance(processor, MinTokensLogitsProcessor), type(processor)
            processed = processor.apply_with_spec_decode(processed, rows_of_requests)
        return processed

    def _accept_chains(
        self, metadata: SpecDecodeMetadata, layout: _Layout, target: WarpedRows, draft: DraftHandover
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(draft tokens `[num_reqs, max_spec_len]`, how many of them are kept `[num_reqs]`)."""
        tokens = torch.full_like(layout.request, PLACEHOLDER_TOKEN_ID)
        tokens[metadata.target_logits_indices] = metadata.draft_token_ids.long()
        log_p = target.log_prob_of(tokens)
        columns = torch.arange(metadata.max_spec_len, device=tokens.device)
        rows = (layout.first[:, None] + columns).clamp_(max=len(tokens) - 1)
        log_p = log_p[rows]
        # Of a draft that waited for more than a round nobody knows q any more, and it may be longer than this round's.
        missing = max(0, log_p.shape[1] - draft.log_q.shape[1])
        accepted = accepted_length(
            log_p,
            torch.nn.functional.pad(draft.log_q, (0, missing), value=torch.inf)[:, : log_p.shape[1]],
            layout.num_drafts,
            draft.log_thresholds,
            self.options.acceptance,
        )
        return tokens[rows], accepted

    def _accept_trees(
        self,
        layout: _Layout,
        target: WarpedRows,
        trees: DraftTree,
        verified: list[VerifiedTree],
        log_thresholds: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """(tokens of the kept path `[num_reqs, gamma]`, their number `[num_reqs]`, its last row in each request)."""
        num_reqs, num_nodes = trees.tokens.shape
        nodes: list[int] = []
        rows: list[int] = []  # a node's p stands in the row of its parent
        for request, (first, tree) in enumerate(zip(layout.first.tolist(), verified)):
            nodes += [request * num_nodes + node for node in tree.nodes]
            rows += [first + parent for parent in tree.parents[1:]]
        scored = torch.tensor(nodes, dtype=torch.int64)
        log_p = torch.full((num_reqs * num_nodes,), -torch.inf)
        log_p[scored] = target.log_prob_of(trees.tokens.flatten()[scored], torch.tensor(rows, dtype=torch.int64))
        options = self.options
        kept = accepted_node(
            trees,
            log_p.view(num_reqs, num_nodes),
            torch.full((num_reqs,), num_nodes),
            log_thresholds,
            options.acceptance,
            options.candidate_test,
        ).tolist()
        # Of a DraftTree's rows, then of those that the target saw.
        paths = [trees.path(request, row) for request, row in enumerate(kept)]
        tokens = trees.tokens.tolist()
        path_tokens = [[tokens[i][row - 1] for row in path] for i, path in enumerate(paths)]
        padded = [own + [PLACEHOLDER_TOKEN_ID] * (trees.gamma - len(own)) for own in path_tokens]
        last_rows = [tree.nodes.index(row - 1) + 1 if row else 0 for tree, row in zip(verified, kept)]
        return torch.tensor(padded), torch.tensor([len(path) for path in paths]), last_rows

    @staticmethod
    def _draw_extra(
        target: WarpedRows, draft: DraftHandover, sampling_metadata: SamplingMetadata, vocab_size: int
    ) -> torch.Tensor:
        """`[num_reqs]` tokens. A seeded request draws from its own generator, unless its sample is discarded.

        It draws for the whole vocabulary: the candidates' number depends on the other requests.
        """
        exponential = torch.empty_like(target.log_probs).exponential_()
        for request, generator in sampling_metadata.generators.items():
            if not draft.discarded[request]:
                own = exponential.new_empty(vocab_size).exponential_(generator=generator)
                exponential[request] = own if target.token_ids is None else own[target.token_ids[request]]
        return draw_token(target, exponential)

    def _logprobs(
        self,
        metadata: SpecDecodeMetadata,
        sampling_metadata: SamplingMetadata,
        rows: torch.Tensor,
        layout: _Layout,
        target: WarpedRows,
        output: torch.Tensor,
    ) -> Any:
        """As vLLM reports them. In the processed modes, rows that sample hold what was sampled from."""
        if self.is_processed_logprobs_mode and sampling_metadata.temperature is not None:
            log_probs = target.log_probs
            if target.token_ids is not None:
                dense = torch.full_like(rows, -torch.inf)
                log_probs = dense.scatter_(1, target.token_ids, target.log_probs)
            samples = sampling_metadata.temperature[layout.request] > 0
            rows = torch.where(samples[:, None], log_probs, rows)
        return self._get_logprobs_tensors(
            sampling_metadata.max_num_logprobs,
            metadata,
            rows,
            rows[metadata.target_logits_indices],
            rows[metadata.bonus_logits_indices],
            output,
        )
