"""`draft_tree` picks the beams that go to the target as a tree of several candidates (the authors' revision).

A node is a beam of some depth; the beam that it extends is its parent. Nodes stand in a fixed order, so that a node's
depth follows from its place: first the chosen draft's, from the first token to the last; then the others, depth by
depth, the likeliest first. A parent stands before its children, so cutting off the last nodes leaves a tree, and takes
the others first. With one candidate a depth, the tree is the chosen draft.

Trees are small and made of decisions, so they are built on the host; where a device must not wait for it,
`runners.v2.kernels.draft_choice` does the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
        """The rows from the first token's to `row`; empty for row 0."""
        rows: list[int] = []
        while row:
            rows.insert(0, row)
            row = int(self.parents[request, row - 1])
        return rows

    def of_requests(self, index: torch.Tensor) -> DraftTree:
        """The trees of the requests that `index` names, in its order; an index below 0 gives one without a token."""
        is_there = (index >= 0)[:, None]
        return DraftTree(
            tokens=self.tokens[index].masked_fill(~is_there, -1),
            log_q=self.log_q[index],
            parents=self.parents[index],
            gamma=self.gamma,
        )


def draft_tree(levels: Sequence[Beams], num_candidates: int, chosen: torch.Tensor) -> DraftTree:
    """The tree of a drafting round.

    It has, at each depth, the ancestor of the chosen draft, and beside it the `num_candidates - 1` live beams with the
    largest weight whose parents are in it too (ties: the lower slot).

    Args:
        levels: the beams after each of the gamma steps.
        chosen: int64 `[num_reqs]`, the chosen draft's slot in the last of them.
    """
    num_reqs, gamma = len(chosen), len(levels)
    tree = DraftTree.empty(num_reqs, gamma, num_candidates, torch.device("cpu"))
    tokens, log_q, parents = tree.tokens.tolist(), tree.log_q.tolist(), tree.parents.tolist()
    steps = [_Step.of(level) for level in levels]
    for request, slot in enumerate(chosen.tolist()):
        chain = _chain_slots(steps, request, slot)
        rows = {0: 0}  # of the slots of the depth before that go
        for depth, (step, on_chain) in enumerate(zip(steps, chain)):
            scores, extended = step.scores[request], step.parents[request]
            may_go = [s for s, score in enumerate(scores) if score > -math.inf and extended[s] in rows]
            others = sorted((s for s in may_go if s != on_chain), key=lambda s: -scores[s])[: num_candidates - 1]
            first = gamma + depth * (num_candidates - 1)
            places = dict(zip(others, range(first, first + len(others))))
            if on_chain in may_go:
                places[on_chain] = depth
            for s, node in places.items():
                tokens[request][node] = step.tokens[request][s]
                log_q[request][node] = step.log_q[request][s]
                parents[request][node] = rows[extended[s]]
            rows = {s: node + 1 for s, node in places.items()}
    return DraftTree(torch.tensor(tokens), torch.tensor(log_q), torch.tensor(parents), gamma)


class _Step(NamedTuple):
    """`Beams` after a step, on the host; each by request and slot."""

    scores: list[list[float]]
    parents: list[list[int]]
    tokens: list[list[int]]
    log_q: list[list[float]]

    @classmethod
    def of(cls, level: Beams) -> _Step:
        tokens, log_q = level.tokens[:, :, -1], level.log_q[:, :, -1]
        return cls(level.scores.tolist(), level.parents.tolist(), tokens.tolist(), log_q.tolist())


def _chain_slots(steps: list[_Step], request: int, chosen: int) -> list[int]:
    """The slot of the chosen draft's ancestor at each depth."""
    slots = [chosen]
    for step in reversed(steps[1:]):
        slots.insert(0, step.parents[request][slots[0]])
    return slots
