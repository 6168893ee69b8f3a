"""Attention of a request's beams to the paged prefix that they share, read once for all of them.

One program a (request, KV head, split of the prefix); its query tile holds all beams' heads of that KV head. Each split
writes the output and the log-sum-exp of its own softmax, which `suffix_attention` merges.
"""

import torch
from vllm.triton_utils import tl, triton

TILE_KEYS = 64
_MIN_DOT = 16


def tile_size(n: int) -> int:
    """The least tile of `tl.dot` that holds n rows."""
    return max(_MIN_DOT, triton.next_power_of_2(n))


@triton.jit
def _prefix_attention_kernel(
    # [rows, NUM_HEADS, HEAD_SIZE]
    query_ptr,
    query_stride_row,
    query_stride_head,
    # [num_pages, NUM_KV_HEADS, PAGE, HEAD_SIZE]
    key_ptr,
    key_stride_page,
    key_stride_head,
    key_stride_slot,
    key_stride_dim,
    value_ptr,
    value_stride_page,
    value_stride_head,
    value_stride_slot,
    value_stride_dim,
    # [num_reqs, max_pages]
    block_table_ptr,
    block_table_stride,
    # [num_reqs]
    prefix_len_ptr,
    # [SPLITS, rows, NUM_HEADS, HEAD_SIZE]
    out_ptr,
    # [SPLITS, rows, NUM_HEADS]
    lse_ptr,
    rows,
    scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    m = tl.arange(0, QUERY_TILE)
    row = request * BEAM_WIDTH + m // GROUP
    head = kv_head * GROUP + m % GROUP
    is_query = m < BEAM_WIDTH * GROUP
    dim = tl.arange(0, HEAD_TILE)
    is_dim = dim < HEAD_SIZE
    query = tl.load(
        query_ptr + (row * query_stride_row + head * query_stride_head)[:, None] + dim[None, :],
        mask=is_query[:, None] & is_dim[None, :],
        other=0.0,
    )
    if UPCAST:
        query = query.to(tl.float32)

    length = tl.load(prefix_len_ptr + request)
    tiles = tl.cdiv(length, KEY_TILE)
    per_split = tl.cdiv(tiles, SPLITS)
    n = tl.arange(0, KEY_TILE)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    out = tl.zeros([QUERY_TILE, HEAD_TILE], tl.float32)
    for tile in range(split * per_split, tl.minimum((split + 1) * per_split, tiles)):
        position = tile * KEY_TILE + n
        is_key = position < length
        page = tl.load(block_table_ptr + request * block_table_stride + position // PAGE, mask=is_key, other=0)
        page = page.to(tl.int64)
        slot = position % PAGE
        key = tl.load(
            key_ptr
            + (page * key_stride_page + kv_head * key_stride_head + slot * key_stride_slot)[:, None]
            + dim[None, :] * key_stride_dim,
            mask=is_key[:, None] & is_dim[None, :],
            other=0.0,
        )
        value = tl.load(
            value_ptr
            + (page * value_stride_page + kv_head * value_stride_head + slot * value_stride_slot)[:, None]
            + dim[None, :] * value_stride_dim,
            mask=is_key[:, None] & is_dim[None, :],
            other=0.0,
        )
        if UPCAST:
            key = key.to(tl.float32)
            value = value.to(tl.float32)
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        logits = tl.where(is_key[None, :], logits, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(logits, axis=1))
        correction = tl.exp(largest - new_largest)
        weights = tl.exp(logits - new_largest[:, None])
        total = total * correction + tl.sum(weights, axis=1)
        out = out * correction[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        largest = new_largest

    is_empty = total == 0.0
    divisor = tl.where(is_empty, 1.0, total)
    lse = tl.where(is_empty, float("-inf"), largest + tl.log(divisor))
    at = (split * rows + row) * NUM_HEADS + head
    tl.store(
        out_ptr + at[:, None] * HEAD_SIZE + dim[None, :],
        out / divisor[:, None],
        mask=is_query[:, None] & is_dim[None, :],
    )
    tl.store(lse_ptr + at, lse, mask=is_query)


def prefix_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    prefix_lens: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    scale: float,
    beam_width: int,
    upcast: bool,
) -> None:
    """Each split's output and log-sum-exp; a split without keys has lse -inf.

    Args:
        query: `[num_reqs * beam_width, num_heads, head_size]`, last dimension contiguous.
        key_cache, value_cache: `[num_pages, num_kv_heads, page, head_size]`, any strides.
        block_table: int32 `[num_reqs, max_pages]`.
        prefix_lens: int32 `[num_reqs]`, tokens of the prefix; 0 is allowed.
        out: float32 `[splits, rows, num_heads, head_size]`, contiguous.
        lse: float32 `[splits, rows, num_heads]`, contiguous.
        upcast: compute in float32 (the interpreter multiplies bfloat16 wrongly).
    """
    rows, num_heads, head_size = query.shape
    _, num_kv_heads, page, _ = key_cache.shape
    splits, num_reqs = len(out), len(prefix_lens)
    _prefix_attention_kernel[(num_reqs, num_kv_heads, splits)](
        query,
        query.stride(0),
        query.stride(1),
        key_cache,
        *key_cache.stride(),
        value_cache,
        *value_cache.stride(),
        block_table,
        block_table.stride(0),
        prefix_lens,
        out,
        lse,
        rows,
        scale,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_SIZE=head_size,
        HEAD_TILE=tile_size(head_size),
        BEAM_WIDTH=beam_width,
        QUERY_TILE=tile_size(beam_width * num_heads // num_kv_heads),
        KEY_TILE=TILE_KEYS,
        PAGE=page,
        SPLITS=splits,
        UPCAST=upcast,
    )
