"""The V1 proposer runs one draft pass over what was committed, then the beam loop of `algorithm.beams`.

A round costs gamma draft passes, or 1 + groups * (gamma - 1) where requests are drafted for in groups. Beyond the
models, a beam step is a warp of `[rows, vocab]`, one draw over the candidates and one copy of the beams' private
blocks; log q leaves as `[num_reqs, gamma]`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from typing_extensions import override
from vllm.config import VllmConfig
from vllm.forward_context import set_forward_context
from vllm.model_executor.models import supports_multimodal
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.spec_decode.draft_model import DraftModelProposer

from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, choose_draft, chosen_slots
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.tree import DraftTree, draft_tree
from vllm_mtad.algorithm.warp import warp
from vllm_mtad.config.attention import cache_config_of_the_draft
from vllm_mtad.config.refusals import split_blocks
from vllm_mtad.runners.draft_holes import DraftHoles
from vllm_mtad.runners.draft_layers import keep_whole_texts
from vllm_mtad.runners.not_finite import warn_of_states
from vllm_mtad.runners.v1.beam_cache import BeamCache
from vllm_mtad.runners.v1.first_pass import FirstPassPlan, TargetStep
from vllm_mtad.runners.v1.handover import DraftHandover
from vllm_mtad.runners.v1.request_table import RequestTable
from vllm_mtad.runners.v1.scratch import ScratchPlan
from vllm_mtad.runners.v1.tree_verification import TreeVerification


class MTADProposer(DraftModelProposer):
    """A DraftModelProposer whose `propose` drafts over beams."""

    vllm_config: VllmConfig

    def __init__(self, vllm_config: VllmConfig, device: torch.device, runner: Any = None) -> None:
        super().__init__(vllm_config, device, runner)
        self.method = "draft_model"  # what the parent compares with literals
        self.runner = runner
        self.options = self.speculative_config.options
        self.requests = RequestTable(runner, self.options)
        self._verification: TreeVerification | None = None
        self._holes: DraftHoles | None = None
        """From the first round without drafts on."""
        self._is_warned = False
        self._draft_limit = self.draft_model_config.max_model_len
        self._vocab_size: int = self.speculative_config.common_vocab_size

    # -- set-up ---------------------------------------------------------------------------------------

    @override
    def _create_draft_vllm_config(self) -> VllmConfig:
        own = super()._create_draft_vllm_config()
        own.cache_config = cache_config_of_the_draft(own)
        own.lora_config = None  # adapters are the target's
        return own

    @override
    def load_model(self, target_model: Any) -> None:
        if supports_multimodal(target_model):  # there vLLM looks for the token of an image
            target_model = target_model.get_language_model()
        super().load_model(target_model)
        keep_whole_texts(self._layer(name) for name in self._draft_attn_layer_names)

    @override
    def initialize_attn_backend(
        self, kv_cache_config: KVCacheConfig, kernel_block_sizes: list[int] | None = None
    ) -> None:
        plan = ScratchPlan.of(self.vllm_config, kv_cache_config)
        rows = plan.requests_in_flight * plan.beam_width
        # Builders size persistent buffers by max_num_seqs: for the draft layers that is the beam rows.
        real = self.vllm_config
        self.vllm_config = copy.copy(real)
        self.vllm_config.scheduler_config = copy.copy(real.scheduler_config)
        self.vllm_config.scheduler_config.max_num_seqs = max(self.max_batch_size, rows)
        self.vllm_config.cache_config = cache_config_of_the_draft(real)
        try:
            super().initialize_attn_backend(kv_cache_config, kernel_block_sizes)
            for group in self.draft_attn_groups:  # vLLM's builders know of a group's first layer, and take its window
                group.create_metadata_builders(self.vllm_config, self.device)
        finally:
            self.vllm_config = real
        if kernel_block_sizes is not None and kernel_block_sizes[self.kv_cache_gid] != self.block_size:
            raise split_blocks(self.block_size, kernel_block_sizes[self.kv_cache_gid])
        self._plan = plan
        self._beam_cache: BeamCache | None = None
        if self.options.num_candidates > 1:
            self._verification = self._verify_trees()
        self._row_starts = torch.arange(rows + 1, dtype=torch.int32, device=self.device)
        self._row_starts_cpu = torch.arange(rows + 1, dtype=torch.int32)

    def _verify_trees(self) -> TreeVerification:
        (group,) = (g for g in self.runner.attn_groups[self.kv_cache_gid] if self._layers_of_target(g))
        return TreeVerification(
            self.runner, group, self._layers_of_target(group), self._plan, self.options.num_speculative_tokens
        )

    def _layers_of_target(self, group: Any) -> list[str]:
        return [name for name in group.layer_names if name not in self._draft_attn_layer_names]

    def _cache(self, max_blocks: int) -> BeamCache:
        if self._beam_cache is None:  # the KV cache is bound after the attention backend is initialised
            kv_caches = [self._layer(name).kv_cache for name in self._draft_attn_layer_names]
            self._beam_cache = BeamCache(self._plan, kv_caches, max_blocks, self.block_size)
        return self._beam_cache

    def _layer(self, name: str) -> Any:
        return self.compilation_config.static_forward_context[name]

    # -- a drafting round -----------------------------------------------------------------------------

    @override
    def propose(  # type: ignore[override]
        self,
        num_speculative_tokens: int,
        target_token_ids: torch.Tensor,
        target_positions: torch.Tensor,
        target_hidden_states: torch.Tensor,
        next_token_ids: torch.Tensor,
        token_indices_to_sample: torch.Tensor | None,
        common_attn_metadata: CommonAttentionMetadata,
        sampling_metadata: Any,
        mm_embed_inputs: Any = None,
        num_rejected_tokens_gpu: torch.Tensor | None = None,
        slot_mappings: Any = None,
    ) -> torch.Tensor | list[list[int]]:
        """Each request's draft tokens; their log q waits in `take_last_draft_probs`.

        Args:
            num_speculative_tokens: more than those of one candidate asks for trees, 0 for no drafts.

        Returns:
            `[num_reqs, num_speculative_tokens]`; or, of each request, a list of its tree's tokens, or of none if it has
            no drafts.
        """
        self.requests.refresh()
        step = TargetStep.of(
            common_attn_metadata,
            target_token_ids,
            # Positions of a multimodal target are others: they count an image's rows and columns.
            self.runner.input_batch.num_computed_tokens_cpu[: common_attn_metadata.num_reqs],
            next_token_ids,
            num_rejected_tokens_gpu,
            self.block_size,
        )
        wants_drafts = ~self.requests.undrafted
        if num_speculative_tokens == 0 or not wants_drafts.any():
            return self._round_without_drafts(step)
        plan = self._plan_first_pass(step, wants_drafts)
        last_rows, metadata = self._set_first_pass(plan, step)
        # Accepted tokens have draft KV in scratch only, until this pass rewrites them.
        hidden = self._forward(metadata.num_actual_tokens, metadata, draft_index=0)[last_rows]
        if not self._is_warned:  # here, as weights may be packed on a CPU
            self._is_warned = warn_of_states(hidden, self.speculative_config.model)
        lengths = torch.from_numpy(plan.ends)

        as_trees = num_speculative_tokens > self.options.num_speculative_tokens
        gamma = min(num_speculative_tokens, self.options.num_speculative_tokens)
        drafts = DraftTree.empty(len(lengths), gamma, self.options.num_candidates if as_trees else 1, self.device)
        is_drafted = wants_drafts & plan.is_complete
        for group in self._groups(is_drafted):
            drafts.put(group, self._draft(group, hidden, lengths, drafts, metadata))
        self._mask_what_cannot_be_verified(drafts, lengths)
        self._last_draft_probs = drafts.log_q
        self._expect(drafts if as_trees else None)
        if not as_trees and is_drafted.all():
            return drafts.tokens.clamp(min=0)
        return [[token for token in tokens if token >= 0] for tokens in drafts.tokens.tolist()]

    def _mask_what_cannot_be_verified(self, drafts: DraftTree, lengths: torch.Tensor) -> None:
        """Past the draft model's window a request has no q, which costs the others nothing; and some requests' target
        rows are processed as if they were a text, so only their chosen draft is verified.
        """
        depths = torch.tensor(drafts.depths, device=self.device)
        drafts.log_q.masked_fill_(lengths[:, None] + depths - 1 > self._draft_limit, torch.inf)
        drafts.tokens[:, drafts.gamma :].masked_fill_(self.requests.chain_only[:, None], -1)

    def _round_without_drafts(self, step: TargetStep) -> list[list[int]]:
        """Nothing of the draft model runs, and later it has to read what it missed."""
        self._draft_holes().open(step.block_table, step.begins, step.ends)
        self._last_draft_probs = None  # type: ignore[assignment]
        self._expect(None)
        return [[] for _ in step.begins]

    def _expect(self, trees: DraftTree | None) -> None:
        if self._verification is not None:
            self._verification.expect(self.runner.input_batch.req_ids.copy(), trees)

    def _draft_holes(self) -> DraftHoles:
        if self._holes is None:
            kv, *_ = (self._layer(name).kv_cache for name in self._draft_attn_layer_names)
            self._holes = DraftHoles(kv.shape[0], self.block_size)
        return self._holes

    def _plan_first_pass(self, step: TargetStep, wants_drafts: np.ndarray) -> FirstPassPlan:
        """What the draft model reads in this round; the account of what it has missed follows."""
        if self._holes is None:  # it has never missed anything
            return FirstPassPlan.of(step, step.begins, wants_drafts, self.max_num_tokens)
        begins = self._holes.first(step.block_table, step.begins)
        plan = FirstPassPlan.of(step, begins, wants_drafts, self.max_num_tokens)
        plan.note(step, self._holes)
        return plan

    def _set_first_pass(self, plan: FirstPassPlan, step: TargetStep) -> tuple[torch.Tensor, CommonAttentionMetadata]:
        """(each request's last row, attention metadata) of the first pass, whose tokens and positions are set."""
        kept_rows = step.kept_rows if self._verification is None else self._verification.kept_rows(step.kept_rows)
        metadata = plan.metadata(step, self.block_size, self.max_model_len)
        num_tokens = metadata.num_actual_tokens
        self.input_ids[:num_tokens] = plan.tokens(step, kept_rows, self.runner.input_batch.token_ids_cpu)
        self.positions[:num_tokens] = torch.from_numpy(plan.positions()[1])
        return torch.from_numpy(plan.last_rows), metadata

    def _groups(self, is_drafted: np.ndarray) -> Iterator[slice | torch.Tensor]:
        """The requests to draft for, as many at a time as there is scratch; partial prefills are left out.

        Args:
            is_drafted: bool `[num_reqs]`, those that can be and want to be drafted for.
        """
        size, num_reqs = self._plan.requests_in_flight, len(is_drafted)
        is_active = is_drafted & ~self.runner.discard_request_mask.np[:num_reqs]
        if is_active.all():
            yield from (slice(at, min(at + size, num_reqs)) for at in range(0, num_reqs, size))
            return
        active = torch.from_numpy(np.flatnonzero(is_active)).to(self.device)
        yield from active.split(size) if len(active) else ()

    def _draft(
        self,
        group: slice | torch.Tensor,
        hidden: torch.Tensor,
        lengths: torch.Tensor,
        drafts: DraftTree,
        metadata: CommonAttentionMetadata,
    ) -> DraftTree:
        """A draft of the shape of `drafts` for each of the group: grow beams from its last committed token."""
        table, lengths = self.requests, lengths[group]
        gamma, num_candidates = drafts.gamma, drafts.num_candidates
        warp_of_all = table.warp if num_candidates == 1 else table.tree_warp
        parameters, deterministic = warp_of_all.rows(group), table.deterministic
        deterministic = None if deterministic is None else deterministic[group]
        keeps_argmax = table.lossless[group] if num_candidates > 1 else None
        # Lossless chains are one-hot: if there are no others, one beam is all there is.
        width = 1 if warp_of_all.all_one_hot else self.options.beam_width
        num_reqs, logits = len(lengths), self._logits_of(hidden[group])
        keys = None
        if table.draws_any:
            roots = root_keys(table.seeds[group], lengths - 1)
            keys = draft_keys(roots[:, None], torch.arange(gamma, device=self.device))

        def noise(depth: int) -> DrawNoise | None:
            return None if keys is None else DrawNoise(keys[:, depth], self._vocab_size, deterministic)

        beams = beam_step(Beams.root(num_reqs, self.device), warp(logits, parameters), width, noise(0), keeps_argmax)
        levels = [beams]
        if gamma > 1:
            requests_of_rows = torch.arange(num_reqs, device=self.device).repeat_interleave(width)
            row_parameters, row_lengths = parameters.rows(requests_of_rows), lengths[requests_of_rows]
            cache = self._cache(metadata.block_table_tensor.shape[1])
            block_table = cache.start(metadata.block_table_tensor[group], lengths, width, metadata.max_seq_len)
        for depth in range(1, gamma):
            if depth > 1:
                cache.follow(beams.parents)
            hidden_rows = self._beam_pass(beams, row_lengths + depth, block_table, cache, metadata, depth)
            logits = self._logits_of(hidden_rows)
            beams = beam_step(beams, warp(logits, row_parameters), width, noise(depth), keeps_argmax)
            levels.append(beams)
        if num_candidates == 1:
            return DraftTree.chain(*choose_draft(beams))
        return draft_tree(levels, num_candidates, chosen_slots(beams, keeps_argmax))

    def _logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab]` of the draft's hidden states `[rows, hidden]`, without its padding past the target's."""
        return self.model.compute_logits(hidden)[:, : self._vocab_size]

    def _beam_pass(
        self,
        beams: Beams,
        seq_lens: torch.Tensor,
        block_table: torch.Tensor,
        cache: BeamCache,
        metadata: CommonAttentionMetadata,
        depth: int,
    ) -> torch.Tensor:
        """Hidden states `[rows, hidden]` after each beam's newest token."""
        rows = len(seq_lens)
        self.input_ids[:rows] = beams.tokens[:, :, -1].reshape(-1)
        self.positions[:rows] = seq_lens - 1
        row_metadata = metadata.replace(
            query_start_loc=self._row_starts[: rows + 1],
            query_start_loc_cpu=self._row_starts_cpu[: rows + 1],
            # A row past the limit drafts what nobody will use; builders size their buffers by the limit.
            seq_lens=seq_lens.clamp(max=self.max_model_len).int(),
            seq_lens_cpu_upper_bound=None,
            num_reqs=rows,
            num_actual_tokens=rows,
            max_query_len=1,
            max_seq_len=metadata.max_seq_len + depth,
            block_table_tensor=block_table,
            slot_mapping=cache.slots(seq_lens - 1),
            positions=self.positions[:rows],
            is_prefilling=None,
            _num_computed_tokens_cache=None,
            _token_to_req_indices_cache=None,
        )
        return self._forward(rows, row_metadata, draft_index=depth)[:rows]

    def _forward(self, num_tokens: int, metadata: CommonAttentionMetadata, draft_index: int) -> torch.Tensor:
        """One pass of the draft model over `input_ids[:num_tokens]`."""
        _, per_layer_metadata = self.build_per_group_and_layer_attn_metadata(metadata, draft_index)
        mode, num_input_tokens, num_tokens_across_dp = self._determine_batch_execution_and_padding(num_tokens)
        # Rotary tables end at the draft's window. What lies past it is scratch, or belongs to a request that no
        # longer drafts.
        self.positions[:num_input_tokens].clamp_(max=self._draft_limit - 1)
        if self.speculative_config.draft_lacks_ids:
            self.input_ids[:num_input_tokens].clamp_(max=self._vocab_size - 1)
        with set_forward_context(
            per_layer_metadata,
            self.vllm_config,
            num_tokens=num_input_tokens,
            num_tokens_across_dp=num_tokens_across_dp,
            cudagraph_runtime_mode=mode,
            slot_mapping=self._get_slot_mapping(num_input_tokens, metadata.slot_mapping),
        ):
            return self.model(
                input_ids=self.input_ids[:num_input_tokens],
                positions=self.positions[:num_input_tokens],
                inputs_embeds=None,
            )

    # -- the handover to the rejection sampler --------------------------------------------------------

    def hand_over(self, log_q: torch.Tensor | None, req_ids: list[str] | None) -> DraftHandover:
        """What the last round drafted, in the order of the batch that is verified now.

        Args:
            log_q: `[num_reqs, gamma]` of the last round, or None if there was none.
            req_ids: its requests, in order.
        """
        self.requests.refresh()
        batch = self.runner.input_batch
        if log_q is None or req_ids is None:
            log_q = torch.full((batch.num_reqs, self.options.num_speculative_tokens), torch.inf, device=self.device)
        elif req_ids != batch.req_ids:
            row_of = {req_id: row for row, req_id in enumerate(req_ids)}
            rows = torch.tensor([row_of.get(req_id, -1) for req_id in batch.req_ids]).to(self.device)
            log_q = log_q[rows].masked_fill_((rows < 0)[:, None], torch.inf)
        table = self.requests
        return DraftHandover(
            log_q=log_q,
            warp=table.warp,
            extra_token_as_argmax=table.joint_greedy,
            discarded=self.runner.discard_request_mask.np[: batch.num_reqs],
            log_thresholds=table.log_thresholds,
            verification=self._verification,
        )
