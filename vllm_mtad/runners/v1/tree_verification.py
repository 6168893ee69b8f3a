"""`TreeVerification` places the rows of trees for the target on the CPU, and keeps the candidate that is accepted.

propose     the trees of the round are kept for the next step (`expect`)
a step      vLLM lays a request's rows out as a text; `lay_out` gives them the positions of their depths, and makes
            the chosen draft one sequence and every other node one of a single row, on a branch (`branches`)
            the forward pass: each row goes through the model once; `_write` writes its keys and values to every
            branch that it is on, and vLLM attends
            the rejection sampler keeps a node; `keep`: its path becomes the request's own
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from vllm.v1.attention.backend import CommonAttentionMetadata

from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.runners.v1.branches import BranchCache, Branches, VerifiedTree
from vllm_mtad.runners.v1.scratch import ScratchPlan


class TreeVerification:
    """Trees for the target of one engine.

    Args:
        runner: vLLM's, whose batch is verified.
        group: the attention group of the target's layers.
        layer_names: the target's.
        gamma: draft tokens of one candidate.
    """

    def __init__(self, runner: Any, group: Any, layer_names: Sequence[str], plan: ScratchPlan, gamma: int) -> None:
        self._runner, self._plan, self._gamma = runner, plan, gamma
        self._block_size: int = group.kv_cache_spec.block_size
        layers = runner.compilation_config.static_forward_context
        self._layers = [layers[name] for name in layer_names]
        for layer in self._layers:
            layer.impl.do_kv_cache_update = partial(self._write, layer.impl.do_kv_cache_update)
        (builder,) = group.metadata_builders
        builder.build = partial(self._build, builder.build)
        self._expected: tuple[list[str], DraftTree] | None = None
        self._branch_cache: BranchCache | None = None
        self._forget_step()

    def _forget_step(self) -> None:
        self.trees: DraftTree | None = None
        """Those of the batch that is verified now, in its order; None if its drafts are chains."""
        self.verified: list[VerifiedTree] = []
        """What the target sees of each of them."""
        self._branches: dict[int, Branches] = {}
        self._writes: tuple[torch.Tensor, torch.Tensor] | None = None
        self._kept: list[int] = []

    def expect(self, req_ids: list[str], trees: DraftTree | None) -> None:
        """Remember what the round that just ended has drafted for these requests; None: chains."""
        self._expected = None if trees is None else (req_ids, trees)

    # -- before the target's forward pass -------------------------------------------------------------

    def _build(
        self, build: Any, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, *args: Any, **kw: Any
    ) -> Any:
        """In place of the metadata builder's `build`, which the runner calls once a step."""
        return build(common_prefix_len, self.lay_out(common_attn_metadata), *args, **kw)

    def lay_out(self, common: CommonAttentionMetadata) -> CommonAttentionMetadata:
        """vLLM's metadata of a step, or, with trees, those of their rows, whose positions are set in the runner too."""
        self._forget_step()
        if self._expected is None:
            return common
        batch, drafts = self._runner.input_batch, self._runner.num_decode_draft_tokens.np
        row_of = {req_id: row for row, req_id in enumerate(self._expected[0])}
        order = [row_of.get(req_id, -1) for req_id in batch.req_ids]
        self.trees = trees = self._expected[1].of_requests(torch.tensor(order))
        num_branches = 0
        for request, (tokens, parents) in enumerate(zip(trees.tokens.tolist(), trees.parents.tolist())):
            tree = VerifiedTree.of(tokens, parents, max(0, int(drafts[request])))
            self.verified.append(tree)
            if len(tree.nodes) > tree.trunk(self._gamma):
                root = int(batch.num_computed_tokens_cpu[request])
                self._branches[request] = branches = Branches.of(tree, root, self._gamma, num_branches)
                num_branches += len(branches.paths)
        return self._as_sequences(common) if self._branches else common

    def _as_sequences(self, common: CommonAttentionMetadata) -> CommonAttentionMetadata:
        """The trunk of a request, and a request without a tree, are one sequence; so is every other node."""
        starts = common.query_start_loc_cpu.tolist()
        ends, lengths, requests, branches = [0], [], [], []
        seq_lens = common.seq_lens.tolist()
        for request in range(common.num_reqs):
            own = self._branches.get(request)
            num_rows = starts[request + 1] - starts[request] if own is None else own.trunk + 1
            ends.append(ends[-1] + num_rows)
            lengths.append(seq_lens[request] if own is None else own.root + num_rows)
            requests.append(request)
            branches.append(-1)
            if own is not None:
                others = range(num_rows, len(own.of_row))
                ends += [ends[-1] + 1 + i for i in range(len(others))]
                lengths += [own.position(row) + 1 for row in others]
                requests += [request] * len(others)
                branches += own.of_row[num_rows:]
        self._own_blocks = common.block_table_tensor
        self._cache().start(self._branches, self._own_blocks)
        columns = max(lengths) // self._block_size + 1 + self._plan.blocks_per_branch
        own = self._own_blocks[:, :columns]
        table = torch.nn.functional.pad(own, (0, columns - own.shape[1]))[torch.tensor(requests)]
        roots = [self._branches[request].root if request in self._branches else 0 for request in requests]
        self._cache().put_into(table, roots, branches)
        self._place(common, starts)
        query_start_loc = torch.tensor(ends, dtype=torch.int32)
        return common.replace(
            query_start_loc=query_start_loc,
            query_start_loc_cpu=query_start_loc,
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            seq_lens_cpu_upper_bound=None,
            num_reqs=len(lengths),
            max_query_len=int(query_start_loc.diff().max()),
            block_table_tensor=table,
            is_prefilling=None,
            _num_computed_tokens_cache=None,
            _token_to_req_indices_cache=None,
        )

    def _place(self, common: CommonAttentionMetadata, starts: list[int]) -> None:
        """Positions by depth, and where the keys and values of each row go: where vLLM would have them (past the trunk,
        in vain), and onto branches.
        """
        rows = list(range(starts[common.num_reqs]))
        slots = common.slot_mapping[: len(rows)].tolist()
        for request, own in self._branches.items():
            start, end = starts[request], starts[request] + len(own.of_row)
            positions = [own.position(row) for row in range(len(own.of_row))]
            self._runner.positions[start:end] = torch.tensor(positions)
            on_branches, slots_there = self._cache().slots(own)
            rows += [start + row for row in on_branches]
            slots += slots_there
        self._writes = torch.tensor(rows), torch.tensor(slots)

    def _write(
        self,
        update: Any,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """In place of the implementation's `do_kv_cache_update`, on a layer of the target."""
        if self._writes is not None:
            rows, slot_mapping = self._writes
            key, value = key[rows], value[rows]
        update(layer, key, value, kv_cache, slot_mapping)

    # -- after acceptance -----------------------------------------------------------------------------

    def keep(self, kept: list[int]) -> None:
        """Make what is kept the request's own where it is on a branch. `kept`: of each request, in the order of the
        batch, the row of the node whose path is kept, 0 for none.
        """
        self._kept = kept
        if self._branches:
            self._cache().adopt(self._branches, kept, self._own_blocks)

    def kept_rows(self, of_texts: Sequence[range]) -> list[Sequence[int]]:
        """Each request's rows of the step whose tokens are kept; `of_texts`: as if there were no trees."""
        rows: list[Sequence[int]] = list(of_texts)
        for request in self._branches:
            first = of_texts[request][0]
            rows[request] = [first + row for row in self.verified[request].path(self._kept[request])]
        return rows

    def _cache(self) -> BranchCache:
        if self._branch_cache is None:  # the KV cache is bound after the metadata builders are made
            kv_caches = [layer.kv_cache for layer in self._layers]
            self._branch_cache = BranchCache(self._plan, kv_caches, self._block_size)
        return self._branch_cache
