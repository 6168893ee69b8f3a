"""`compile_first_pass_inputs` compiles at start what vLLM's own kernels would compile in service."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator import prepare_prefill_inputs

if TYPE_CHECKING:
    from vllm_mtad.runners.v2.speculator import MTADSpeculator

_LARGEST_BLOCK = 512
"""The largest block of `prepare_prefill_inputs`, whose blocks are the powers of two up to here that a batch's longest
chunk asks for."""


def compile_first_pass_inputs(speculator: MTADSpeculator) -> None:
    """Launch vLLM's `prepare_prefill_inputs` once for each of its block sizes, for a request of so many tokens."""
    device, longest = speculator.device, min(_LARGEST_BLOCK, speculator.max_num_tokens)
    ids = torch.zeros(longest, dtype=torch.int32, device=device)
    positions = torch.zeros(longest, dtype=torch.int64, device=device)
    of_requests = torch.zeros(speculator.max_num_reqs, dtype=torch.int64, device=device)
    for log2 in range(_LARGEST_BLOCK.bit_length()):
        length = min((1 << log2) - 2, longest)  # it makes room for two more
        if length < 1:
            continue
        starts = np.array([0, length], dtype=np.int32)
        batch = SimpleNamespace(
            num_reqs=1,
            num_tokens=length,
            input_ids=ids,
            positions=positions,
            idx_mapping=of_requests[:1],
            query_start_loc=torch.from_numpy(starts).to(device),
            query_start_loc_np=starts,
            seq_lens=torch.tensor([length], dtype=torch.int32, device=device),
        )
        prepare_prefill_inputs(
            input_buffers=speculator.input_buffers,
            input_batch=batch,  # type: ignore[arg-type]
            last_sampled=of_requests,
            num_rejected=of_requests[:1],
            expanded_input_ids=speculator.expanded_input_ids,
            expanded_positions=speculator.expanded_positions,
            last_token_indices=speculator.last_token_indices,
            max_num_reqs=speculator.max_num_reqs,
            max_model_len=speculator.max_model_len,
        )
