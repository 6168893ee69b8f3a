"""How many draft tokens are kept, and the one token that the target adds (paper, Algorithm 1, lines 5-9)."""

from __future__ import annotations

from typing import Literal

import torch

from vllm_mtad.algorithm.warp import WarpedRows

_TINY = torch.finfo(torch.float32).tiny
AcceptanceMode = Literal["joint", "per_token"]


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


def draw_token(target: WarpedRows, exponential: torch.Tensor) -> torch.Tensor:
    """`[rows]` one token from each of the target's warped rows (an exponential race).

    There is no residual correction: MTAD is not vanilla speculative sampling.

    Args:
        exponential: standard exponential variates, shape of `target.log_probs`.
    """
    return target.token_at((target.log_probs - exponential.clamp_min(_TINY).log()).argmax(1))
