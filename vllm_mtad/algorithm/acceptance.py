"""How many draft tokens are kept, and the one token that the target adds (paper, Algorithm 1, lines 5-9)."""

from __future__ import annotations

from typing import Literal

import torch

from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.algorithm.warp import WarpedRows

_TINY = torch.finfo(torch.float32).tiny
AcceptanceMode = Literal["joint", "per_token"]
CandidateTest = Literal["own", "reference"]


def accepted_length(
    log_p: torch.Tensor,
    log_q: torch.Tensor,
    num_drafts: torch.Tensor,
    log_threshold: float,
    mode: AcceptanceMode = "joint",
) -> torch.Tensor:
    """`[num_reqs]` int64: eta, the number of draft tokens that are kept.

    joint: the longest prefix with min(1, P_i / Q_i) > tau. A shorter prefix may fail where a longer one
    passes. per_token: the tokens before the first with min(1, p_i / q_i) <= tau.

    A prefix that holds a token with p = 0 or q = 0, or a NaN or infinity in either, fails, and so does every
    longer one. tau = 0 (log -inf) accepts any prefix with P_i > 0.

    Args:
        log_p, log_q: `[num_reqs, gamma]`, each draft token's own log-probability.
        num_drafts: `[num_reqs]`, how many of the columns hold a draft token.
        log_threshold: log tau.
    """
    if log_p.shape[1] == 0:
        return torch.zeros_like(num_drafts)
    index = torch.arange(1, log_p.shape[1] + 1, device=log_p.device)
    usable = log_p.isfinite() & log_q.isfinite() & (index <= num_drafts[:, None])
    unbroken = usable.cumprod(1).bool()
    ratio = torch.where(unbroken, log_p.double() - log_q.double(), 0.0)
    if mode == "per_token":
        return (unbroken & (ratio > log_threshold)).cumprod(1).sum(1)
    passes = unbroken & (ratio.cumsum(1) > log_threshold)
    return (passes * index).amax(1)


def accepted_node(
    tree: DraftTree,
    log_p: torch.Tensor,
    num_nodes: torch.Tensor,
    log_threshold: float,
    mode: AcceptanceMode = "joint",
    candidate_test: CandidateTest = "own",
) -> torch.Tensor:
    """`[num_reqs]` int64: the row of the node whose path is kept, 0 for none.

    Of the nodes that pass, the deepest; of several there, the one with the largest P; of equal ones the first, so
    the chosen draft's before others. own: a node's P is held against its own Q. reference: against the Q of the
    chosen draft's tokens down to that depth. per_token: a node passes if its ratio and all its ancestors' do.

    A node without a token, with p = 0 or q = 0, or with a NaN or infinity in either, fails with all below it.
    With one candidate this is `accepted_length`.

    Args:
        log_p: `[num_reqs, nodes]`, each node's own log p given its ancestors.
        num_nodes: `[num_reqs]`, how many of the nodes the target has scored.
        log_threshold: log tau.
    """
    num_reqs, nodes = log_p.shape
    place = torch.arange(nodes, device=log_p.device)
    log_q = tree.log_q
    if candidate_test == "reference":
        log_q = log_q[:, torch.tensor(tree.depths, device=log_p.device) - 1]
    usable = (tree.tokens >= 0) & tree.log_q.isfinite() & log_q.isfinite() & log_p.isfinite()
    usable &= place < num_nodes[:, None]
    # By row, the text's own first.
    unbroken = torch.ones(num_reqs, nodes + 1, dtype=torch.bool, device=log_p.device)
    joint_p = torch.zeros(num_reqs, nodes + 1, dtype=torch.float64, device=log_p.device)
    log_ratio = torch.zeros_like(joint_p)
    best, best_depth = torch.zeros_like(num_nodes), torch.zeros_like(num_nodes)
    for node, depth in enumerate(tree.depths):
        row, parent = node + 1, tree.parents[:, node : node + 1]
        alive = usable[:, node] & unbroken.gather(1, parent)[:, 0]
        own_p = torch.where(alive, log_p[:, node].double(), 0.0)
        ratio = own_p - torch.where(alive, log_q[:, node].double(), 0.0)
        joint_p[:, row] = joint_p.gather(1, parent)[:, 0] + own_p
        log_ratio[:, row] = log_ratio.gather(1, parent)[:, 0] + ratio
        passes = alive & ((ratio if mode == "per_token" else log_ratio[:, row]) > log_threshold)
        unbroken[:, row] = passes if mode == "per_token" else alive
        best_p = joint_p.gather(1, best[:, None])[:, 0]
        is_better = (depth > best_depth) | ((depth == best_depth) & (joint_p[:, row] > best_p))
        best = torch.where(passes & is_better, row, best)
        best_depth = torch.where(passes & is_better, depth, best_depth)
    return best


def draw_token(target: WarpedRows, exponential: torch.Tensor) -> torch.Tensor:
    """`[rows]` one token from each of the target's warped rows (an exponential race).

    There is no residual correction: MTAD is not vanilla speculative sampling.

    Args:
        exponential: standard exponential variates, shape of `target.log_probs`.
    """
    return target.token_at((target.log_probs - exponential.clamp_min(_TINY).log()).argmax(1))
