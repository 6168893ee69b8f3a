"""This module says how many draft tokens are kept, and draws the one token that the target adds.

It is lines 5-9 of the paper's Algorithm 1.
"""

from __future__ import annotations

import math

import torch

from vllm_mtad.algorithm.modes import AcceptanceMode, CandidateTest
from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.algorithm.warp import WarpedRows

_TINY = torch.finfo(torch.float32).tiny


def accepted_length(
    log_p: torch.Tensor,
    log_q: torch.Tensor,
    num_drafts: torch.Tensor,
    log_threshold: float | torch.Tensor,
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
        log_threshold: log tau, one or `[num_reqs]` float64; +inf keeps nothing.
    """
    if log_p.shape[1] == 0:
        return torch.zeros_like(num_drafts)
    index = torch.arange(1, log_p.shape[1] + 1, device=log_p.device)
    usable = log_p.isfinite() & log_q.isfinite() & (index <= num_drafts[:, None])
    unbroken = usable.cumprod(1).bool()
    ratio = torch.where(unbroken, log_p.double() - log_q.double(), 0.0)
    threshold = torch.as_tensor(log_threshold, dtype=torch.float64, device=log_p.device).reshape(-1, 1)
    if mode == "per_token":
        return (unbroken & (ratio > threshold)).cumprod(1).sum(1)
    passes = unbroken & (ratio.cumsum(1) > threshold)
    return (passes * index).amax(1)


def accepted_node(
    tree: DraftTree,
    log_p: torch.Tensor,
    num_nodes: torch.Tensor,
    log_threshold: float | torch.Tensor,
    mode: AcceptanceMode = "joint",
    candidate_test: CandidateTest = "own",
) -> torch.Tensor:
    """`[num_reqs]` int64: the row of the node whose path is kept, 0 for none.

    The deepest node that passes is kept; of several there, the one with the largest P; of equal ones the first, so
    the chosen draft's before others. own: a node's P is held against its own Q. reference: against the Q of the
    chosen draft's tokens down to that depth. per_token: a node passes if its ratio and all its ancestors' do.

    A node without a token, with p = 0 or q = 0, or with a NaN or infinity in either, fails with all below it.
    With one candidate this is `accepted_length`.

    Args:
        log_p: `[num_reqs, nodes]`, each node's own log p given its ancestors.
        num_nodes: `[num_reqs]`, how many of the nodes the target has scored.
        log_threshold: log tau, one or `[num_reqs]` float64; +inf keeps nothing.
    """
    nodes = zip(
        tree.tokens.tolist(),
        tree.log_q.tolist(),
        tree.parents.tolist(),
        log_p.tolist(),
        num_nodes.tolist(),
        strict=True,
    )
    thresholds = torch.as_tensor(log_threshold, dtype=torch.float64).expand(len(num_nodes)).tolist()
    best = [
        _best_node(tree.depths, *of_request, threshold, mode, candidate_test)
        for of_request, threshold in zip(nodes, thresholds, strict=True)
    ]
    return torch.tensor(best)


def _best_node(
    depths: list[int],
    tokens: list[int],
    log_q: list[float],
    parents: list[int],
    log_p: list[float],
    num_nodes: int,
    log_threshold: float,
    mode: AcceptanceMode,
    candidate_test: CandidateTest,
) -> int:
    """`accepted_node` of one request."""
    best, best_depth = 0, 0
    # By row, the text's own first: (joint log p, joint log ratio) of those that may be kept or extended.
    joint: dict[int, tuple[float, float]] = {0: (0.0, 0.0)}
    for node in range(num_nodes):
        row, depth = node + 1, depths[node]
        against = log_q[node] if candidate_test == "own" else log_q[depth - 1]
        is_usable = tokens[node] >= 0 and all(map(math.isfinite, (log_p[node], log_q[node], against)))
        if not is_usable or parents[node] not in joint:
            continue
        joint_p, log_ratio = joint[parents[node]]
        ratio = log_p[node] - against
        passes = (ratio if mode == "per_token" else log_ratio + ratio) > log_threshold
        if passes or mode == "joint":
            joint[row] = joint_p + log_p[node], log_ratio + ratio
        if passes and (depth > best_depth or (depth == best_depth and joint[row][0] > joint[best][0])):
            best, best_depth = row, depth
    return best


def draw_token(target: WarpedRows, exponential: torch.Tensor) -> torch.Tensor:
    """`[rows]` one token from each of the target's warped rows (an exponential race).

    There is no residual correction: MTAD is not vanilla speculative sampling.

    Args:
        exponential: standard exponential variates, shape of `target.log_probs`.
    """
    return target.token_at((target.log_probs - exponential.clamp_min(_TINY).log()).argmax(1))
