"""This CPU worker corrects vLLM 0.32.0's sampled `draft_model` decoding.

Stock, it reads temperature, top-k and top-p from uninitialised memory, and it fails on a step without drafts
when top-k is set (patches/0.32.0 has both fixes as diffs). The worker class is an engine option, so the
correction lives in the baseline's worker process and touches nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample import rejection_sampler
from vllm.v1.worker.cpu_worker import CPUWorker

_stock_constraints = rejection_sampler.apply_sampling_constraints


def expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """vLLM's function, with a result that is written: `[batch_size]` values repeated to `[num_tokens]`."""
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    expanded = x.repeat_interleave(counts, output_size=num_tokens)
    return expanded.masked_fill(expanded == replace_from, replace_to)


def apply_sampling_constraints(logits: torch.Tensor, cu_num_draft_tokens: torch.Tensor, metadata: Any) -> torch.Tensor:
    """vLLM's function, which cannot take the maximum of no top-k values."""
    return logits if len(logits) == 0 else _stock_constraints(logits, cu_num_draft_tokens, metadata)


class CorrectedCPUWorker(CPUWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
        rejection_sampler.apply_sampling_constraints = apply_sampling_constraints
        super().__init__(*args, **kwargs)
