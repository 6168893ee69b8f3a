"""`DraftTrees` holds, on the device, what the target is asked to verify.

That is each request's draft as a tree (`algorithm.tree`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DraftTrees:
    """Trees by request state, of `nodes = gamma * num_candidates` each.

    The target scores a request's newest token in its row 0, and node i in its row i + 1. `log_q`: float32
    `[max_num_reqs, nodes]`, each node's own log q. `parents`: int32 `[max_num_reqs, nodes]`, the row that a node
    extends. `kept`: int32 `[max_num_reqs]`, the row of the node that the last verification kept, 0 for none. `tally`:
    int64 `[max_num_reqs, 3]`, of all verifications of drafts so far: how many, tokens that they kept, and how many kept
    another candidate than the chosen one.
    """

    log_q: torch.Tensor
    parents: torch.Tensor
    kept: torch.Tensor
    tally: torch.Tensor
    gamma: int

    @classmethod
    def allocate(cls, max_num_reqs: int, gamma: int, num_candidates: int, device: torch.device) -> DraftTrees:
        """Trees of nothing but the chosen draft's chain, without a q: they accept nothing."""
        log_q = torch.full((max_num_reqs, gamma * num_candidates), torch.inf, device=device)
        parents = torch.zeros(log_q.shape, dtype=torch.int32, device=device)
        parents[:, :gamma] = torch.arange(gamma, device=device)
        kept = torch.zeros(max_num_reqs, dtype=torch.int32, device=device)
        return cls(log_q, parents, kept, torch.zeros(max_num_reqs, 3, dtype=torch.int64, device=device), gamma)

    @property
    def num_candidates(self) -> int:
        return self.log_q.shape[1] // self.gamma
