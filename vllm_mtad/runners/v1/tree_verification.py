"""The target's side of several candidates on the CPU: the rows of a tree, and the KV cache that each of them reads.

vLLM's CPU attention has no mask, and it packs a page as its instructions like them. So a node must find its ancestors
in a block table of its own. The chosen draft, the *trunk*, stands in the request's own blocks. Every other path ends in
a leaf and has a *branch*: private blocks from the request's last committed block on. Each row goes through the model
once; its keys and values are written to every branch that it is on.

    propose     the trees of the round are kept for the next step (`expect`)
    a step      vLLM lays a request's rows out as a text; `lay_out` gives them the positions of their depths, and makes
                the trunk one sequence and every other node one of a single row, on a branch that it is on
                the forward pass: `_write` writes keys and values, vLLM attends
                the rejection sampler keeps a node; `keep`: its branch's blocks become the request's own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from vllm.v1.attention.backend import CommonAttentionMetadata

from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.runners.v1.beam_cache import as_one, copy_blocks
from vllm_mtad.runners.v1.scratch import ScratchPlan


@dataclass
class _Branches:
    """One request's rows of a step: 0 is its newest token's, the first `trunk` after it are the chosen draft's.

    `parents`, `depths`: of each row. `branch`: of each row, -1 on the trunk. `members`: the rows of each branch, from
    row 0 to its leaf.
    """

    root: int
    parents: list[int]
    depths: list[int]
    trunk: int
    branch: list[int]
    members: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: int, parents: list[int], gamma: int, first_branch: int) -> _Branches:
        """`parents`: of rows 1 and on. `first_branch`: the number of the first branch that is free."""
        parents = [0, *parents]
        depths = [0]
        for parent in parents[1:]:
            depths.append(depths[parent] + 1)
        found = cls(root, parents, depths, min(gamma, len(parents) - 1), [-1] * len(parents))
        free = first_branch
        for row in range(len(parents) - 1, found.trunk, -1):  # children before parents
            if found.branch[row] < 0:  # a leaf
                found.branch[row] = free
                found.members[free] = [0, *found.path(row)]
                free += 1
            if (parent := parents[row]) > found.trunk:
                found.branch[parent] = found.branch[row]
        return found

    def path(self, row: int) -> list[int]:
        """From the first draft token's row to `row`."""
        rows: list[int] = []
        while row:
            rows.append(row)
            row = self.parents[row]
        return rows[::-1]


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
        self._kv: list[torch.Tensor] | None = None
        self._forget_step()

    def _forget_step(self) -> None:
        self.trees: DraftTree | None = None
        """Of the batch that is verified now, in its order; None if its drafts are chains."""
        self._branches: dict[int, _Branches] = {}
        self._kept: dict[int, list[int]] = {}
        self._writes: tuple[torch.Tensor, torch.Tensor] | None = None

    def expect(self, req_ids: list[str], trees: DraftTree | None) -> None:
        """What the round that just ended has drafted for these requests; None: chains."""
        self._expected = None if trees is None else (req_ids, trees)

    # -- before the target's forward pass -------------------------------------------------------------

    def _build(
        self, build: Any, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, *args: Any, **kw: Any
    ) -> Any:
        """In place of the metadata builder's `build`, which the runner calls once a step."""
        return build(common_prefix_len, self.lay_out(common_attn_metadata), *args, **kw)

    def lay_out(self, common: CommonAttentionMetadata) -> CommonAttentionMetadata:
        """vLLM's metadata of a step, or those of its trees' rows; the runner's positions with them."""
        self._forget_step()
        if self._expected is None:
            return common
        batch, drafts = self._runner.input_batch, self._runner.num_decode_draft_tokens.np
        row_of = {req_id: row for row, req_id in enumerate(self._expected[0])}
        order = [row_of.get(req_id, -1) for req_id in batch.req_ids]
        self.trees = trees = self._expected[1].of_requests(torch.tensor(order))
        places = trees.sent_rows()
        parents = places.gather(1, trees.parents).tolist()
        num_branches = 0
        for request, place in enumerate(places.tolist()):
            scheduled = min(int(drafts[request]), max(place))
            if scheduled <= self._gamma:
                continue
            sent = [parent for parent, at in zip(parents[request], place[1:]) if 0 < at <= scheduled]
            root = int(batch.num_computed_tokens_cpu[request])
            self._branches[request] = branches = _Branches.of(root, sent, self._gamma, num_branches)
            num_branches += len(branches.members)
        return self._as_sequences(common) if self._branches else common

    def _as_sequences(self, common: CommonAttentionMetadata) -> CommonAttentionMetadata:
        """The trunk of a request, and a request without a tree, are one sequence; so is every other node."""
        starts = common.query_start_loc_cpu.tolist()
        ends, lengths, requests, branches = [0], [], [], []
        seq_lens = common.seq_lens.tolist()
        for request in range(common.num_reqs):
            tree = self._branches.get(request)
            num_rows = starts[request + 1] - starts[request] if tree is None else tree.trunk + 1
            ends.append(ends[-1] + num_rows)
            lengths.append(seq_lens[request] if tree is None else tree.root + num_rows)
            requests.append(request)
            branches.append(-1)
            if tree is not None:
                others = range(num_rows, len(tree.depths))
                ends += [ends[-1] + 1 + i for i in range(len(others))]
                lengths += [tree.root + tree.depths[row] + 1 for row in others]
                requests += [request] * len(others)
                branches += [tree.branch[row] for row in others]
        self._own_blocks = common.block_table_tensor
        table = self._table_of_sequences(common, torch.tensor(requests), torch.tensor(branches), max(lengths))
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

    def _table_of_sequences(
        self, common: CommonAttentionMetadata, requests: torch.Tensor, branches: torch.Tensor, longest: int
    ) -> torch.Tensor:
        """Int32 `[sequences, columns]`; what is committed in a branch's first block is copied there."""
        tail = self._plan.blocks_per_branch
        columns = longest // self._block_size + 1
        own = common.block_table_tensor[:, :columns]
        table = torch.nn.functional.pad(own, (0, columns + tail - own.shape[1]))[requests]
        roots = torch.tensor([self._branches[r].root if r in self._branches else 0 for r in range(common.num_reqs)])
        first = roots // self._block_size
        on_branch = (branches >= 0).nonzero()[:, 0]
        private = first[requests[on_branch], None] + torch.arange(tail)
        scratch = self._scratch()
        table[on_branch[:, None], private] = scratch[branches[on_branch]].int()
        source, destination = [], []
        for request, tree in self._branches.items():
            if tree.root % self._block_size:
                source += [int(own[request, tree.root // self._block_size])] * len(tree.members)
                destination += list(tree.members)
        if source:
            copy_blocks(self._kv_caches(), torch.tensor(source), scratch[torch.tensor(destination), 0])
        return table

    def _place(self, common: CommonAttentionMetadata, starts: list[int]) -> None:
        """Positions by depth, and where the keys and values of each row go."""
        block_size = self._block_size
        num_rows = starts[common.num_reqs]
        slots = common.slot_mapping[:num_rows].clone()
        rows: list[int] = []
        more_slots: list[int] = []
        others: list[int] = []
        positions: list[int] = []
        at: list[int] = []
        blocks = self._scratch().tolist()
        for request, tree in self._branches.items():
            start, first = starts[request], tree.root // block_size
            at += range(start, start + len(tree.depths))
            positions += [tree.root + depth for depth in tree.depths]
            others += range(start + tree.trunk + 1, start + len(tree.depths))
            for branch, members in tree.members.items():
                for depth, row in enumerate(members):
                    block, offset = divmod(tree.root + depth, block_size)
                    rows.append(start + row)
                    more_slots.append(blocks[branch][block - first] * block_size + offset)
        slots[torch.tensor(others)] = -1
        self._runner.positions[torch.tensor(at)] = torch.tensor(positions)
        self._writes = (
            torch.cat([torch.arange(num_rows), torch.tensor(rows)]),
            torch.cat([slots, torch.tensor(more_slots)]),
        )

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
        """Of each request, in the order of the batch, the row of the node whose path is kept, 0 for none: what is on a
        branch becomes the request's own.
        """
        source, destination = [], []
        scratch = self._scratch()
        for request, tree in self._branches.items():
            row = kept[request]
            self._kept[request] = [0, *tree.path(row)]
            if row > tree.trunk:
                first, last = tree.root // self._block_size, (tree.root + tree.depths[row]) // self._block_size
                source.append(scratch[tree.branch[row], : last - first + 1])
                destination.append(self._own_blocks[request, first : last + 1])
        if source:
            copy_blocks(self._kv_caches(), torch.cat(source), torch.cat(destination).long())

    def kept_rows(self, starts: list[int], num_rejected: list[int]) -> list[list[int]] | None:
        """The rows of the step, of each request, whose tokens are committed now; None if all are texts.

        Args:
            starts: each request's first row, and the end.
            num_rejected: of each request, how many of its rows are not kept.
        """
        if not self._branches:
            return None
        return [
            [starts[request] + row for row in self._kept[request]]
            if request in self._kept
            else list(range(starts[request], starts[request + 1] - num_rejected[request]))
            for request in range(len(num_rejected))
        ]

    # -- the KV cache ---------------------------------------------------------------------------------

    def _kv_caches(self) -> list[torch.Tensor]:
        if self._kv is None:  # bound after the metadata builders are made
            self._kv = as_one([layer.kv_cache for layer in self._layers])
        return self._kv

    def _scratch(self) -> torch.Tensor:
        """`[branches, blocks_per_branch]` block ids."""
        plan, kv_cache = self._plan, self._layers[0].kv_cache
        return plan.scratch_of(kv_cache.shape[0], plan.branches, plan.blocks_per_branch, kv_cache.device)
