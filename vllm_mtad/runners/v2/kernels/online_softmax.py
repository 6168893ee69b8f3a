"""These functions merge the parts of a softmax, and attend over tiles of keys (as FlashAttention does)."""

import torch
from vllm.triton_utils import tl, triton

_MIN_DOT = 16
_MAX_TILE_BYTES = 64 * 128 * 2
"""Bytes of a tile of queries: more does not fit into the registers of eight warps beside much else, or in float32 into
shared memory."""
_WIDE_TILE_BYTES = 128 * 128 * 2
"""Bytes of one in half precision, for a kernel that does little but attend."""


def tile_size(n: int) -> int:
    """The least tile of `tl.dot` that holds n rows."""
    return max(_MIN_DOT, triton.next_power_of_2(n))


def query_tiling(n: int, head_tile: int, dtype: torch.dtype, *, wide: bool = False) -> tuple[int, int]:
    """(size, number) of the tiles that n queries of one KV head come in. `wide`: half precision gets larger ones, for
    keys to be read less often."""
    most = _WIDE_TILE_BYTES if wide and dtype.itemsize == 2 and head_tile <= 128 else _MAX_TILE_BYTES
    size = min(tile_size(n), max(_MIN_DOT, most // (max(head_tile, 64) * dtype.itemsize)))
    return size, triton.cdiv(n, size)


def num_warps(query_tile: int, head_tile: int, dtype: torch.dtype) -> int:
    """Four warps hold the keys, weights and output of 64 x 64 in bfloat16 in their registers; twice as many, more."""
    return 4 if query_tile * head_tile * dtype.itemsize <= 64 * 64 * 2 else 8


@triton.jit
def merge_parts(maxima, sums, AXIS: tl.constexpr):
    """(largest logit, sum of exp(logit - largest)) along AXIS, of parts of a softmax that each have theirs.

    A part without logits has a maximum of -inf.
    """
    largest = tl.max(maxima, axis=AXIS, keep_dims=True)
    scaled = tl.where(maxima > float("-inf"), sums * tl.exp(maxima - largest), 0.0)
    return tl.max(maxima, axis=AXIS), tl.sum(scaled, axis=AXIS)


@triton.jit
def attend(query, key, value, is_seen, scale, largest, total, out, SOFT_CAP: tl.constexpr):
    """(largest, total, out) after one more tile of keys.

    `query` [queries, dim], `key` and `value` [keys, dim], `is_seen` [queries, keys]. `largest`: the largest logit so
    far, -inf before the first; `total`: sum of exp(logit - largest); `out` [queries, dim]: the same sum, of values.
    `SOFT_CAP`: logits become SOFT_CAP * tanh(logit / SOFT_CAP) (Gemma 2); 0 leaves them.
    """
    logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    if SOFT_CAP > 0:
        logits = SOFT_CAP * (1 - 2 / (1 + tl.exp(logits * (2 / SOFT_CAP))))
    logits = tl.where(is_seen, logits, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(logits, axis=1))
    # A query that has seen no key yet has weights of 0, and no difference of infinities.
    base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    correction = tl.exp(largest - base)
    weights = tl.exp(logits - base[:, None])
    total = total * correction + tl.sum(weights, axis=1)
    out = out * correction[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    return new_largest, total, out


@triton.jit
def add_prefix(
    prefix_ptr,
    prefix_stride_split,
    prefix_at,
    lse_ptr,
    lse_stride_split,
    lse_at,
    splits,
    sink_ptr,
    head,
    is_query,
    is_dim,
    largest,
    total,
    out,
    SPLIT_TILE: tl.constexpr,
):
    """The output [queries, dim] of the keys that `attend` has seen and of a prefix's splits, by their log-sum-exps.

    `prefix_at` and `lse_at` [queries]: where a query's part of the first split stands. All weights are known before the
    first output is needed, so no load waits for another. `sink_ptr`: each head's sink, a logit without a value that
    takes its share (gpt-oss), or None; `head` [queries].
    """
    split, dim = tl.arange(0, SPLIT_TILE), tl.arange(0, out.shape[1])
    lse = tl.load(
        lse_ptr + split[:, None] * lse_stride_split + lse_at[None, :],
        mask=(split < splits)[:, None] & is_query[None, :],
        other=float("-inf"),
    )
    lse = tl.where(lse == float("inf"), float("-inf"), lse)  # FlashAttention's sign for a row without keys
    new_largest = tl.maximum(largest, tl.max(lse, axis=0))
    if sink_ptr is not None:
        sink = tl.load(sink_ptr + head, mask=is_query, other=0.0).to(tl.float32)
        new_largest = tl.maximum(new_largest, sink)
    new_largest = tl.where(is_query, new_largest, 0.0)
    correction = tl.where(is_query, tl.exp(largest - new_largest), 0.0)
    total = total * correction + tl.sum(tl.exp(lse - new_largest[None, :]), axis=0)
    if sink_ptr is not None:
        total += tl.exp(sink - new_largest)
    out = out * correction[:, None]
    for i in range(splits):
        lse_of_split = tl.load(lse_ptr + i * lse_stride_split + lse_at, mask=is_query, other=float("-inf"))
        has_keys = (lse_of_split > float("-inf")) & (lse_of_split < float("inf"))
        prefix = tl.load(
            prefix_ptr + i * prefix_stride_split + prefix_at[:, None] + dim[None, :],
            mask=(is_query & has_keys)[:, None] & is_dim[None, :],
            other=0.0,
        ).to(tl.float32)
        out += prefix * tl.where(has_keys, tl.exp(lse_of_split - new_largest), 0.0)[:, None]
    return out / tl.where(is_query, total, 1.0)[:, None]
