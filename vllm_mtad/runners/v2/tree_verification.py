"""`TreeVerification` places trees for the target, lets their rows attend, and moves the candidate that is kept.

    a step      vLLM lays the rows out as a text and computes their slots
                `lay_out_trees`: positions by depth, prefixes, ancestors
                the forward pass: vLLM writes KV, `TreeAttention` attends
                the rejection sampler keeps a node
    its end     `finish`: the kept tokens and their KV where a text's are

vLLM puts requests with drafts before those without. The others, prefills most of them, go through vLLM's own attention;
so do all requests of a batch that is too large for several candidates, or in which a draft comes with a prompt: there
drafts are chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.input_batch import InputBatch

from vllm_mtad.algorithm.tree import node_depths
from vllm_mtad.runners.v2.attention_stand_in import AttentionStandIn, check_layer, check_page_layout
from vllm_mtad.runners.v2.kernels.kept_path import move_kept_paths
from vllm_mtad.runners.v2.kernels.tree_attention import tree_attention
from vllm_mtad.runners.v2.kernels.tree_layout import lay_out_trees
from vllm_mtad.runners.v2.kv_groups import KVGroup, kv_groups_of
from vllm_mtad.runners.v2.model_states import ModelStateAround
from vllm_mtad.runners.v2.shared_prefix import Prefixes, PrefixReader, prefix_readers
from vllm_mtad.runners.v2.trees import DraftTrees
from vllm_mtad.runners.v2.verification_log import VerificationLog


@dataclass(frozen=True)
class TreeAttentionMetadata:
    """In place of a backend's metadata, for a pass over trees.

    `prefixes`: of the requests with trees, up to each one's newest token, which is among them. `ancestry`: see
    `lay_out_trees`. `num_rows`: of these requests. `of_others`: the backend's metadata of the whole batch, if it has
    other requests too.
    """

    prefixes: Prefixes
    ancestry: torch.Tensor
    prefix_plans: Mapping[PrefixReader, torch.Tensor | None]
    num_rows: int
    of_others: Any = None


class TreeAttention(AttentionStandIn):
    """The attention of trees, on a layer of the target."""

    metadata = TreeAttentionMetadata

    def __init__(self, layer: Any, prefix_reader: PrefixReader, device: torch.device) -> None:
        super().__init__(layer, device)
        self._prefix_reader = prefix_reader

    def of_others(self, metadata: TreeAttentionMetadata) -> Any:
        """The backend attends for all, as if drafts were texts; then trees get what is theirs."""
        return metadata.of_others

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        metadata: TreeAttentionMetadata,
        out: torch.Tensor,
    ) -> None:
        """Rows are each request's newest token and its nodes; padding and others' behind them are not written."""
        prefixes = metadata.prefixes
        if metadata.of_others is not None:
            query, key, value, out = (rows[: metadata.num_rows] for rows in (query, key, value, out))
        plan = metadata.prefix_plans[self._prefix_reader]
        prefix, lse = self._prefix_reader.read(query, keys, values, prefixes, plan)
        tree_attention(
            query,
            key,
            value,
            prefixes.query_start_loc,
            metadata.ancestry,
            prefix,
            lse,
            out,
            scale=self._impl.scale,
            upcast=self._upcast,
            soft_cap=self._soft_cap,
            sinks=self._sinks,
        )


@dataclass
class _GroupOfTarget:
    """A KV group of the target's layers. `pages`, `offsets`: of `move_kept_paths`, once KV caches are there.
    `block_table`: of the present batch."""

    kv: KVGroup
    pages: tuple[torch.Tensor, torch.Tensor] | None = None
    offsets: torch.Tensor | None = None
    block_table: torch.Tensor | None = None


class TreeVerification:
    """Trees for the target of one engine.

    Args:
        trees: the speculator's.
        layers: the target's attention layers, by name.
        largest_padded: rows that vLLM pads smaller batches to at most.
        dtype, device: of the target.
    """

    def __init__(
        self,
        trees: DraftTrees,
        layers: Mapping[str, Any],
        max_num_reqs: int,
        max_model_len: int,
        largest_padded: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        for layer in layers.values():
            check_layer(layer, "target", "attention_backend", "speculative_config.num_candidates above 1")
        self._trees, self._layers, self._device = trees, layers, device
        self._max_model_len = max_model_len
        self.max_rows = trees.log_q.shape[1] + 1
        most_rows = max(max_num_reqs * self.max_rows, largest_padded)
        readers = prefix_readers(list(layers.values()), self.max_rows, most_rows, max_model_len, dtype, device)
        self._readers = set(readers)
        self._attention = {
            name: TreeAttention(layer, reader, device) for (name, layer), reader in zip(layers.items(), readers)
        }
        self._prefix_lens = torch.zeros(max_num_reqs, dtype=torch.int32, device=device)
        self._ancestry = torch.full((max_num_reqs, self.max_rows, trees.gamma), -1, dtype=torch.int32, device=device)
        self._depths = torch.tensor([0, *node_depths(trees.gamma, trees.num_candidates)], device=device).int()
        self._log = VerificationLog(trees.tally)
        self._plans: dict[tuple[PrefixReader, int, int], torch.Tensor] = {}
        self._num_trees = 0
        self._groups: list[_GroupOfTarget] = []

    def set_attn(self, kv_cache_config: Any) -> None:
        """Find the KV groups of the target's layers. Earlier KV caches are let go."""
        self._groups = [_GroupOfTarget(group) for group in kv_groups_of(kv_cache_config, self._layers)]

    def use_kv_caches(self) -> None:
        """Find each layer's keys and values, whenever the KV caches have been allocated."""
        for group in self._groups:
            pages = []
            for name in group.kv.layers:
                check_page_layout(self._layers[name], "target")
                pages.append(self._attention[name].pages(self._layers[name].kv_cache))
            group.pages = keys, _ = pages[0]
            layouts = {(k.stride(), v.stride(), k.dtype, k.shape[1:]) for k, v in pages}
            assert len(layouts) == 1, "layers of one KV group have one layout"
            offsets = [[(part.data_ptr() - keys.data_ptr()) // keys.itemsize for part in parts] for parts in pages]
            group.offsets = torch.tensor(offsets, device=self._device)

    def metadata_of(
        self, metadata: dict[str, Any], input_batch: InputBatch, block_tables: Sequence[torch.Tensor]
    ) -> dict[str, Any]:
        """vLLM's metadata of a pass of the target, by layer; where it is one over trees, with ours."""
        self._num_trees = num_trees = self._count_trees(input_batch)
        if not num_trees:
            return metadata
        has_others = num_trees < input_batch.num_reqs
        num_reqs = num_trees if has_others else input_batch.num_reqs_after_padding
        lay_out_trees(
            self._trees,
            input_batch.idx_mapping[:num_trees],
            input_batch.query_start_loc,
            input_batch.positions,
            self._prefix_lens[:num_reqs],
            self._ancestry[:num_reqs],
        )
        num_rows = int(input_batch.query_start_loc_np[num_reqs])
        plans: dict[int, dict[PrefixReader, torch.Tensor | None]] = {}  # by size of a page
        for group in self._groups:
            group.block_table = block_tables[group.kv.index][:num_reqs]
            prefixes = Prefixes(
                lens=self._prefix_lens[:num_reqs],
                block_table=group.block_table,
                query_start_loc=input_batch.query_start_loc[: num_reqs + 1],
                max_len=self._max_model_len,
                page_size=group.kv.page_size,
                depths=self._depths,
            )
            if prefixes.page_size not in plans:
                plans[prefixes.page_size] = {reader: self._plan(reader, prefixes) for reader in self._readers}
            of_trees = TreeAttentionMetadata(prefixes, self._ancestry[:num_reqs], plans[prefixes.page_size], num_rows)
            metadata = metadata | {
                name: replace(of_trees, of_others=metadata[name]) if has_others else of_trees
                for name in group.kv.layers
            }
        return metadata

    def _plan(self, reader: PrefixReader, prefixes: Prefixes) -> torch.Tensor | None:
        """A reader's plan, made before a graph is captured or replayed, which reads it where it was at capture."""
        plan = reader.plan(prefixes)
        if plan is None or reader.keeps_plan:
            return plan
        kept = self._plans.setdefault((reader, prefixes.page_size, len(prefixes.lens)), plan)
        return kept if kept is plan else kept.copy_(plan)

    def _count_trees(self, input_batch: InputBatch) -> int:
        """How many of a batch's requests, its first, are verified as trees: those with drafts, if any has more nodes
        than a chain.

        vLLM's dummies, with which it captures graphs, say nothing of drafts: a batch of a tree's width is one.
        """
        drafts, scheduled = input_batch.num_draft_tokens_per_req, input_batch.num_scheduled_tokens
        if drafts is None:
            is_dummy_of_trees = not input_batch.has_prefill and int(scheduled.max()) == self.max_rows
            return input_batch.num_reqs if is_dummy_of_trees else 0
        # Of a draft the target scores one token more.
        num_trees = int(np.argmin(np.append((drafts > 0) & (scheduled == drafts + 1), False)))
        return num_trees if drafts.max() > self._trees.gamma and not drafts[num_trees:].any() else 0

    def with_logical_places(self, input_batch: InputBatch) -> InputBatch:
        """The batch for the sampler: a row's place in its request is its depth, as its position is.

        vLLM subtracts one from the other to find where a request's step begins.
        """
        if not self._num_trees:
            return input_batch
        return replace(input_batch, expanded_local_pos=self._depths[input_batch.expanded_local_pos])

    @property
    def num_nodes(self) -> int:
        """How many nodes of each request the target has scored in the present batch: a tree's, or a chain's gamma."""
        return self.max_rows - 1 if self._num_trees else self._trees.gamma

    def finish(self, input_batch: InputBatch) -> None:
        """Move what was kept: after acceptance, before anything reads the KV or the tokens of this step."""
        self._log.step()
        if not self._num_trees:
            return
        for group in self._groups:
            assert group.block_table is not None
            assert group.pages is not None
            assert group.offsets is not None
            move_kept_paths(
                self._trees,
                input_batch.idx_mapping[: self._num_trees],
                input_batch.query_start_loc,
                input_batch.positions,
                input_batch.input_ids,
                group.block_table,
                *group.pages,
                group.offsets,
            )
        self._num_trees = 0


class TreeModelState(ModelStateAround):
    """vLLM's ModelState, which prepares the target's attention, with the metadata of trees where a batch has some.

    In place of a seam: the runner asks its model state at every pass, captures and dummies among them.
    """

    def __init__(self, state: Any, verification: TreeVerification) -> None:
        super().__init__(state, _verification=verification)

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        self._state.initialize_kv_cache(*args, **kwargs)
        self._verification.use_kv_caches()

    def prepare_attn(
        self, input_batch: InputBatch, cudagraph_mode: Any, block_tables: Any, *args: Any, **kwargs: Any
    ) -> Any:
        metadata = self._state.prepare_attn(input_batch, cudagraph_mode, block_tables, *args, **kwargs)
        return self._verification.metadata_of(metadata, input_batch, block_tables)
