"""Nothing of vLLM's that a drafting round launches is left to be compiled in service."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.v1.worker.gpu.spec_decode.standalone_ar import speculator as vllms

from vllm_mtad.runners.v2.warm_up import compile_first_pass_inputs


@pytest.fixture
def launched(monkeypatch):
    """Block sizes and types of arguments with which vLLM's kernel was launched."""
    seen = []

    class Recorder:
        def __getitem__(self, grid):
            def launch(*args, **constants):
                types = tuple(str(arg.dtype) if isinstance(arg, torch.Tensor) else arg for arg in args)
                seen.append((*constants.values(), types))

            return launch

    monkeypatch.setattr(vllms, "_prepare_prefill_inputs_kernel", Recorder())
    return seen


@pytest.mark.parametrize("max_num_tokens", [3000, 200])
def test_chunks_of_every_length_find_their_kernel_compiled(launched, max_num_tokens):
    speculator = SimpleNamespace(
        device=torch.device("cpu"),
        max_num_tokens=max_num_tokens,
        max_num_reqs=4,
        max_model_len=4096,
        input_buffers=SimpleNamespace(
            query_start_loc=torch.zeros(5, dtype=torch.int32), seq_lens=torch.zeros(4, dtype=torch.int32)
        ),
        expanded_input_ids=torch.zeros(max_num_tokens + 4, dtype=torch.int32),
        expanded_positions=torch.zeros(max_num_tokens + 4, dtype=torch.int64),
        last_token_indices=torch.zeros(4, dtype=torch.int64),
    )
    compile_first_pass_inputs(speculator)
    compiled = set(launched)
    launched.clear()
    for length in range(1, max_num_tokens + 1):
        vllms.prepare_prefill_inputs(
            speculator.input_buffers,
            SimpleNamespace(
                num_reqs=2,
                num_tokens=length + 1,
                input_ids=torch.zeros(length + 1, dtype=torch.int32),
                positions=torch.zeros(length + 1, dtype=torch.int64),
                idx_mapping=torch.zeros(2, dtype=torch.int64),
                query_start_loc=torch.zeros(3, dtype=torch.int32),
                query_start_loc_np=np.array([0, 1, length + 1], dtype=np.int32),
                seq_lens=torch.zeros(2, dtype=torch.int32),
            ),
            torch.zeros(4, dtype=torch.int64),
            torch.zeros(2, dtype=torch.int64),
            speculator.expanded_input_ids,
            speculator.expanded_positions,
            speculator.last_token_indices,
            speculator.max_num_reqs,
            speculator.max_model_len,
        )
    assert set(launched) == compiled
