"""Attention over keys that come in tiles, as FlashAttention computes it: one tile, and its place among the others."""

import torch
from vllm.triton_utils import tl, triton

_MIN_DOT = 16


def tile_size(n: int) -> int:
    """The least tile of `tl.dot` that holds n rows."""
    return max(_MIN_DOT, triton.next_power_of_2(n))


def num_warps(query_tile: int, head_tile: int, dtype: torch.dtype) -> int:
    """Four warps hold the keys, weights and output of 64 x 64 in bfloat16 in their registers; twice as many, more."""
    return 4 if query_tile * head_tile * dtype.itemsize <= 64 * 64 * 2 else 8


@triton.jit
def attend(query, key, value, is_seen, scale, largest, total, out):
    """(largest, total, out) after one more tile of keys.

    `query` [queries, dim], `key` and `value` [keys, dim], `is_seen` [queries, keys]. `largest`: the largest logit so
    far, -inf before the first; `total`: sum of exp(logit - largest); `out` [queries, dim]: the same sum, of values.
    """
    logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    logits = tl.where(is_seen, logits, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(logits, axis=1))
    # A query that has seen no key yet has weights of 0, and no difference of infinities.
    base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    correction = tl.exp(largest - base)
    weights = tl.exp(logits - base[:, None])
    total = total * correction + tl.sum(weights, axis=1)
    out = out * correction[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    return new_largest, total, out
