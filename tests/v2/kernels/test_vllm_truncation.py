"""vLLM's Triton kernels for top-k and top-p, which warp the target and (where `truncation` does not) the drafts.

On a GPU rows with top-p alone take the split kernels, if there are at most 64; every other row takes one program.
"""

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_triton import _apply_topp_split, apply_top_k_top_p_triton

from tests.v2.kernels.rounds import Limits

VOCAB, COMPUTE_UNITS = 512, 8


def expected(logits, top_k, top_p):
    limits = Limits(top_k, top_p, torch.zeros(len(top_k)))
    return torch.stack([limits.cut(row, i) for i, row in enumerate(logits)])


def in_one_program(logits, top_k, top_p):
    return apply_top_k_top_p_triton(logits.clone(), top_k, top_p)


def split(logits, top_k, top_p):
    logits = logits.clone()
    _apply_topp_split(logits, None, top_p, -torch.inf, COMPUTE_UNITS)
    return logits


@pytest.fixture
def logits(device):
    return (torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1)) * 3).to(device)


TOP_P = [0.05, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("top_k", [[1, 10, 64, 511], [2, 3, 100, VOCAB]])
def test_top_k(logits, top_k):
    top_k = torch.tensor(top_k, dtype=torch.int32, device=logits.device)
    no_top_p = torch.ones(4, device=logits.device)
    assert torch.equal(in_one_program(logits, top_k, None), expected(logits, top_k, no_top_p))


@pytest.mark.parametrize("top_k", [[1, 10, 64, 511], [VOCAB, VOCAB, 20, VOCAB]])
def test_top_p_of_what_top_k_leaves(logits, top_k):
    top_k = torch.tensor(top_k, dtype=torch.int32, device=logits.device)
    top_p = torch.tensor(TOP_P, device=logits.device)
    assert torch.equal(in_one_program(logits, top_k, top_p), expected(logits, top_k, top_p))


@pytest.mark.parametrize("cut", [in_one_program, split])
def test_top_p_alone(logits, cut):
    top_p, no_top_k = torch.tensor(TOP_P, device=logits.device), torch.full((4,), VOCAB, device=logits.device)
    got = cut(logits, None, top_p)
    assert torch.equal(got, expected(logits, no_top_k, top_p))


def test_of_equal_logits_at_the_cut_those_of_lower_token_ids_stay(logits):
    """`truncation` does the same."""
    top_k = torch.tensor([1, 7, 50, 200], dtype=torch.int32, device=logits.device)
    rounded = logits.round()
    no_top_p = torch.ones(4, device=logits.device)
    assert torch.equal(in_one_program(rounded, top_k, None), expected(rounded, top_k, no_top_p))


@pytest.mark.parametrize("cut", [in_one_program, split])
def test_a_row_without_mass_or_with_nan_harms_no_other(logits, cut):
    logits[1] = -torch.inf
    logits[2, 5] = torch.nan
    top_p, no_top_k = torch.full((4,), 0.7, device=logits.device), torch.full((4,), VOCAB, device=logits.device)
    got = cut(logits, None, top_p)
    for row in (0, 3):
        assert torch.equal(got[row], expected(logits[row : row + 1], no_top_k, top_p)[0])
    assert not got[1].isnan().any()
