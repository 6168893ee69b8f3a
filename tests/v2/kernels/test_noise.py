"""The device's noise is `algorithm.noise`: the same key, the same counter, the same number."""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.algorithm.noise import draft_keys, log_exponential, root_keys
from vllm_mtad.runners.v2.kernels.noise import draft_key, gumbel


@triton.jit(do_not_specialize=["depth"])
def _gumbel_kernel(seeds_ptr, roots_ptr, counters_ptr, out_ptr, n, depth, block: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, block)
    key = draft_key(tl.load(seeds_ptr + row), tl.load(roots_ptr + row), depth)
    counters = tl.load(counters_ptr + row * n + column, mask=column < n, other=0)
    tl.store(out_ptr + row * n + column, gumbel(key, counters), mask=column < n)


def test_equals_the_torch_noise_for_any_seed_position_and_counter(device):
    limits = torch.iinfo(torch.int64)
    seeds = torch.tensor([0, 1, -1, limits.max, limits.min, 123456789], device=device)
    roots = torch.tensor([0, 1, 7, 131071, 5, 2**40], device=device)
    counters = torch.randint(0, 8 * 128256, (len(seeds), 500), device=device)
    counters[:, 0] = 0
    for depth in (0, 1, 4):
        out = torch.empty(counters.shape, device=device)
        _gumbel_kernel[(len(seeds),)](seeds, roots, counters, out, counters.shape[1], depth=depth, block=512)
        expected = -log_exponential(draft_keys(root_keys(seeds, roots), depth), counters)
        # Where the exponential is near 1 its logarithm is near 0: an absolute bound is the meaningful one.
        torch.testing.assert_close(out, expected, atol=5e-6, rtol=2e-6)
