"""Several candidates at once: which beams of a drafting round go to the target, as a tree (the authors' revision).

A node is a beam of some depth; the beam that it extends is its parent. Nodes stand in a fixed order, so that a node's
depth follows from its place: first the chosen draft's, from the first token to the last; then the others, depth by
depth, the likeliest first. A parent stands before its children, so a cut leaves a tree, and takes the others first.
With one candidate a depth, this is the chosen draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_mtad.algorithm.beams import Beams


def node_depths(gamma: int, num_candidates: int) -> list[int]:
    """The depth, 1 to gamma, of each of the gamma * num_candidates nodes."""
    chain = range(1, gamma + 1)
    return [*chain, *(depth for depth in chain for _ in range(num_candidates - 1))]


@dataclass(frozen=True)
class DraftTree:
    """The nodes of a batch; each tensor is `[num_reqs, gamma * num_candidates]`.

    `tokens`: int64, -1 where there is no node. `log_q`: float32, each token's own log q. `parents`: int64, the row
    that a node extends: 0 is the committed text's, i + 1 is node i's.
    """

    tokens: torch.Tensor
    log_q: torch.Tensor
    parents: torch.Tensor
    gamma: int

    @classmethod
    def empty(cls, num_reqs: int, gamma: int, num_candidates: int, device: torch.device) -> DraftTree:
        """Trees without a token, whose q nobody knows."""
        shape = num_reqs, gamma * num_candidates
        return cls(
            tokens=torch.full(shape, -1, dtype=torch.int64, device=device),
            log_q=torch.full(shape, torch.inf, device=device),
            parents=torch.zeros(shape, dtype=torch.int64, device=device),
            gamma=gamma,
        )

    @classmethod
    def chain(cls, tokens: torch.Tensor, log_q: torch.Tensor) -> DraftTree:
        """One draft of each request; both `[num_reqs, gamma]`."""
        parents = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return cls(tokens, log_q, parents, tokens.shape[1])

    @property
    def num_candidates(self) -> int:
        return self.tokens.shape[1] // self.gamma

    @property
    def depths(self) -> list[int]:
        return node_depths(self.gamma, self.num_candidates)

    def put(self, index: torch.Tensor | slice, trees: DraftTree) -> None:
        """Write the trees of the requests that `index` names."""
        self.tokens[index], self.log_q[index], self.parents[index] = trees.tokens, trees.log_q, trees.parents

    def path(self, request: int, row: int) -> list[int]:
        """The rows from the first token's to `row`; none of row 0."""
        rows: list[int] = []
        while row:
            rows.insert(0, row)
            row = int(self.parents[request, row - 1])
        return rows

    def paths(self) -> torch.Tensor:
        """`[num_reqs, nodes + 1, gamma]`: at depth d of each row's path the row that stands there, 0 past its end."""
        num_reqs, nodes = self.tokens.shape
        others = nodes // self.gamma - 1
        paths = self.parents.new_zeros(num_reqs, nodes + 1, self.gamma)
        for depth in range(self.gamma):  # parents first
            first = self.gamma + depth * others
            of_depth = torch.tensor([depth, *range(first, first + others)], device=paths.device)
            parents = self.parents[:, of_depth, None].expand(-1, -1, self.gamma)
            extended = paths.gather(1, parents)
            extended[:, :, depth] = of_depth + 1
            paths[:, of_depth + 1] = extended
        return paths

    def sent_rows(self) -> torch.Tensor:
        """`[num_reqs, nodes + 1]`: each row's place among those that are there, where the others are left out; 0 for
        one that is not there.
        """
        is_there = self.tokens >= 0
        return torch.nn.functional.pad(is_there.cumsum(1) * is_there, (1, 0))

    def of_requests(self, index: torch.Tensor) -> DraftTree:
        """The trees of the requests that `index` names, in its order; below 0, one without a token."""
        is_there = (index >= 0)[:, None]
        return DraftTree(
            tokens=self.tokens[index].masked_fill(~is_there, -1),
            log_q=self.log_q[index],
            parents=self.parents[index],
            gamma=self.gamma,
        )


def draft_tree(levels: Sequence[Beams], num_candidates: int, chosen: torch.Tensor) -> DraftTree:
    """The tree of a drafting round.

    Of each depth goes the ancestor of the chosen draft, and beside it the `num_candidates - 1` live beams with the
    largest weight whose parents go too (ties: the lower slot).

    Args:
        levels: the beams after each of the gamma steps.
        chosen: int64 `[num_reqs]`, the chosen draft's slot in the last of them.
    """
    num_reqs, gamma, device = len(chosen), len(levels), chosen.device
    tree = DraftTree.empty(num_reqs, gamma, num_candidates, device)
    # By slot of the depth before: the row of the beam there, -1 if it does not go.
    rows = torch.zeros(num_reqs, 1, dtype=torch.int64, device=device)
    for depth, (level, on_chain) in enumerate(zip(levels, _chain_slots(levels, chosen))):
        parents = rows.gather(1, level.parents)
        may_go = (level.scores > -torch.inf) & (parents >= 0)
        rank = level.scores.masked_fill(~may_go, -torch.inf).scatter(1, on_chain[:, None], -torch.inf)
        best = rank.sort(dim=1, descending=True, stable=True)
        # The chosen one last: it may stand among the others too, where too few of them live.
        slots = torch.cat([best.indices[:, : num_candidates - 1], on_chain[:, None]], 1)
        goes = torch.cat([best.values[:, : num_candidates - 1] > -torch.inf, may_go.gather(1, on_chain[:, None])], 1)
        first = gamma + depth * (num_candidates - 1)
        nodes = torch.tensor([*range(first, first + num_candidates - 1), depth], device=device)
        tree.tokens[:, nodes] = level.tokens[:, :, -1].gather(1, slots).masked_fill(~goes, -1)
        tree.log_q[:, nodes] = level.log_q[:, :, -1].gather(1, slots).masked_fill(~goes, -torch.inf)
        tree.parents[:, nodes] = parents.gather(1, slots).masked_fill(~goes, 0)
        rows_of_nodes = torch.where(goes, nodes + 1, -1)
        rows = torch.full_like(level.parents, -1).scatter_(1, slots[:, :-1], rows_of_nodes[:, :-1])
        rows.scatter_(1, slots[:, -1:], rows_of_nodes[:, -1:])
    return tree


def _chain_slots(levels: Sequence[Beams], chosen: torch.Tensor) -> list[torch.Tensor]:
    """The slot of the chosen draft's ancestor at each depth, `[num_reqs]` each."""
    slots = [chosen]
    for level in reversed(levels[1:]):
        slots.insert(0, level.parents.gather(1, slots[0][:, None])[:, 0])
    return slots
