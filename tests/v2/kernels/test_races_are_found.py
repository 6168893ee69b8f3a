"""In this folder every test looks for races, without asking."""

import os

import pytest
import torch
from vllm.triton_utils import tl, triton


@triton.jit
def _racing_kernel(out_ptr):
    tl.store(out_ptr, tl.program_id(0))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter")
def test_a_racing_kernel_fails_here():
    with pytest.raises(AssertionError, match=r"_racing_kernel: program \d writes out_ptr\[0\]"):
        _racing_kernel[(4,)](torch.zeros(1, dtype=torch.int32))
    assert torch.empty(3).isnan().all()
