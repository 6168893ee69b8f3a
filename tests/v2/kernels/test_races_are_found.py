"""In this folder every test looks for races, without asking."""

import os

import pytest
import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.acceptance import _joint_acceptance_kernel

in_the_interpreter = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter")


@triton.jit
def _racing_kernel(out_ptr):
    tl.store(out_ptr, tl.program_id(0))


@in_the_interpreter
def test_a_racing_kernel_fails_here():
    with pytest.raises(AssertionError, match=r"_racing_kernel: program \d writes out_ptr\[0\]"):
        _racing_kernel[(4,)](torch.zeros(1, dtype=torch.int32))
    assert torch.empty(3).isnan().all()


@in_the_interpreter
def test_the_first_launch_of_a_kernel_is_repeated_here(race_finder):
    assert race_finder.repeats(_joint_acceptance_kernel.fn)
    assert not race_finder.repeats(_joint_acceptance_kernel.fn)


@in_the_interpreter
@pytest.mark.launched_once
def test_no_launch_is_repeated_where_a_test_says_so(race_finder):
    assert not race_finder.repeats(_joint_acceptance_kernel.fn)
