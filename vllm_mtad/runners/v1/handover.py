"""`DraftHandover` is what the proposer hands to the rejection sampler for one verification step, in batch order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vllm_mtad.algorithm.warp import WarpParameters
from vllm_mtad.runners.v1.tree_verification import TreeVerification


@dataclass(frozen=True)
class DraftHandover:
    """`log_q`: float32 `[num_reqs, gamma]`, each draft token's own log q; +inf where it is unknown, which
    fails the joint test. `extra_token_as_argmax`: bool `[num_reqs]`, requests whose extra token is the argmax
    of its row, or None. `discarded`: bool numpy `[num_reqs]`, requests whose sample the runner throws away
    (partial prefills); nothing is drawn from their generators. `verification`: of trees, if the drafts
    are not chains. `log_thresholds`: float64 `[num_reqs]` (`RequestTable`).
    """

    log_q: torch.Tensor
    warp: WarpParameters
    extra_token_as_argmax: torch.Tensor | None
    discarded: np.ndarray
    log_thresholds: torch.Tensor
    verification: TreeVerification | None = None
