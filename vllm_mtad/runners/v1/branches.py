"""This module says in which blocks of the KV cache each row of a tree finds its ancestors.

vLLM's CPU attention has no mask, and it packs a page as its instructions like them. So every path through a tree has a
block table of its own. The chosen draft, the *trunk*, has that of the request. Every other path, a *branch*, ends in a
leaf and has private blocks from the one on that holds the request's newest token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from vllm_mtad.runners.v1.beam_cache import as_one, copy_blocks
from vllm_mtad.runners.v1.scratch import ScratchPlan


@dataclass
class VerifiedTree:
    """The rows of one request in a step: 0 is its newest token's, then those of the nodes that are there.

    `nodes`: for each row from 1 on, which node of its `DraftTree` it is. `parents`, `depths`: of each row.
    """

    nodes: list[int]
    parents: list[int]
    depths: list[int]

    @classmethod
    def of(cls, tokens: list[int], parents: list[int], num_drafts: int) -> VerifiedTree:
        """The first `num_drafts` of a `DraftTree`'s nodes that have a token; `parents` as there."""
        nodes = [node for node, token in enumerate(tokens) if token >= 0][:num_drafts]
        row_of = {0: 0} | {node + 1: row for row, node in enumerate(nodes, start=1)}
        found = cls(nodes, [0], [0])
        for node in nodes:
            found.parents.append(row_of[parents[node]])
            found.depths.append(found.depths[found.parents[-1]] + 1)
        return found

    def trunk(self, gamma: int) -> int:
        """The chosen draft's last row. Its rows stand first: fewer than gamma after a cut, or where q was NaN."""
        return sum(node < gamma for node in self.nodes)

    def path(self, row: int) -> list[int]:
        """From row 0 to `row`, both among them."""
        rows = [row]
        while rows[-1]:
            rows.append(self.parents[rows[-1]])
        return rows[::-1]


@dataclass
class Branches:
    """Where a request's rows stand.

    `root`: its newest token's position. `trunk`: the last of the chosen draft's rows, which stand first. `of_row`: each
    row's branch, -1 on the trunk. `paths`: of each branch, the rows from row 0 to its leaf.
    """

    tree: VerifiedTree
    root: int
    trunk: int
    of_row: list[int]
    paths: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: VerifiedTree, root: int, gamma: int, first: int) -> Branches:
        """`first`: the number of the first branch that is free."""
        num_rows = len(tree.parents)
        found = cls(tree, root, tree.trunk(gamma), [-1] * num_rows)
        for row in range(num_rows - 1, found.trunk, -1):  # children before parents
            if found.of_row[row] < 0:  # a leaf
                found.of_row[row] = first + len(found.paths)
                found.paths[found.of_row[row]] = tree.path(row)
            if (parent := tree.parents[row]) > found.trunk:
                found.of_row[parent] = found.of_row[row]
        return found

    def position(self, row: int) -> int:
        return self.root + self.tree.depths[row]


class BranchCache:
    """The blocks of all branches of a step.

    Args:
        plan: how much scratch there is.
        kv_caches: the target layers' KV, each `[num_blocks, ...]`.
        block_size: tokens of a block.
    """

    def __init__(self, plan: ScratchPlan, kv_caches: list[torch.Tensor], block_size: int) -> None:
        self._kv, self._block_size, self._tail = as_one(kv_caches), block_size, plan.blocks_per_branch
        num_blocks, device = kv_caches[0].shape[0], kv_caches[0].device
        self._blocks = plan.scratch_of(num_blocks, plan.branches, self._tail, device).tolist()

    def start(self, branches: Mapping[int, Branches], block_table: torch.Tensor) -> None:
        """Copy what is committed in the block of each request's newest token to all of its branches.

        Args:
            branches: by request.
            block_table: `[num_reqs, blocks]` of the batch.
        """
        source, destination = [], []
        for request, own in branches.items():
            block, before_root = divmod(own.root, self._block_size)
            if before_root:
                source += [int(block_table[request, block])] * len(own.paths)
                destination += [self._blocks[branch][0] for branch in own.paths]
        if source:
            copy_blocks(self._kv, torch.tensor(source), torch.tensor(destination))

    def put_into(self, table: torch.Tensor, roots: Sequence[int], branches: Sequence[int]) -> None:
        """Let rows of a block table read branches. By row, `roots` has the position of its request's newest token, and
        `branches` the number of a branch, below 0 for none.
        """
        for row, (root, branch) in enumerate(zip(roots, branches)):
            if branch >= 0:
                first = root // self._block_size
                table[row, first : first + self._tail] = torch.tensor(self._blocks[branch], dtype=table.dtype)

    def slots(self, branches: Branches) -> tuple[list[int], list[int]]:
        """(rows, slots): where on its branches a request's rows stand; a row may be on several."""
        rows, slots = [], []
        first = branches.root // self._block_size
        for branch, path in branches.paths.items():
            for row in path:
                block, offset = divmod(branches.position(row), self._block_size)
                rows.append(row)
                slots.append(self._blocks[branch][block - first] * self._block_size + offset)
        return rows, slots

    def adopt(self, branches: Mapping[int, Branches], kept: Sequence[int], block_table: torch.Tensor) -> None:
        """Make the path to each request's kept row the request's own; `kept` by request of the batch."""
        source: list[int] = []
        destination: list[torch.Tensor] = []
        for request, own in branches.items():
            if (branch := own.of_row[kept[request]]) >= 0:
                first, last = own.root // self._block_size, own.position(kept[request]) // self._block_size
                source += self._blocks[branch][: last - first + 1]
                destination.append(block_table[request, first : last + 1])
        if source:
            copy_blocks(self._kv, torch.tensor(source), torch.cat(destination).long())
