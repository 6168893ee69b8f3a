"""Attention of beams to their own few tokens, merged by log-sum-exp with the prefix's; stores the newest KV.

The suffix lives in a dense scratch, `[num_reqs, depth, slot, num_kv_heads, head_size]` a layer. A beam finds its
ancestors by their slots, so beams that change places move no KV. One launch a layer, one program a (request, KV head).
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.prefix_attention import tile_size


@triton.jit
def _suffix_attention_kernel(
    # [rows, NUM_HEADS, HEAD_SIZE]
    query_ptr,
    query_stride_row,
    query_stride_head,
    # [rows, NUM_KV_HEADS, HEAD_SIZE], of the newest tokens
    key_ptr,
    key_stride_row,
    key_stride_head,
    value_ptr,
    value_stride_row,
    value_stride_head,
    # [max_num_reqs, MAX_DEPTH, BEAM_WIDTH, NUM_KV_HEADS, HEAD_SIZE]
    key_scratch_ptr,
    value_scratch_ptr,
    # [max_num_reqs, BEAM_WIDTH, GAMMA]
    ancestry_ptr,
    # [SPLITS, rows, NUM_HEADS, HEAD_SIZE] and [SPLITS, rows, NUM_HEADS] of the prefix
    prefix_ptr,
    prefix_stride_split,
    prefix_stride_row,
    prefix_stride_head,
    lse_ptr,
    lse_stride_split,
    lse_stride_row,
    lse_stride_head,
    # [rows, NUM_HEADS, HEAD_SIZE]
    out_ptr,
    out_stride_row,
    out_stride_head,
    scale,
    DEPTH: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    MAX_DEPTH: tl.constexpr,
    GAMMA: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    m = tl.arange(0, QUERY_TILE)
    beam = m // GROUP
    row = request * BEAM_WIDTH + beam
    head = kv_head * GROUP + m % GROUP
    is_query = m < BEAM_WIDTH * GROUP
    dim = tl.arange(0, HEAD_TILE)
    is_dim = dim < HEAD_SIZE
    query_mask = is_query[:, None] & is_dim[None, :]
    query = tl.load(
        query_ptr + (row * query_stride_row + head * query_stride_head)[:, None] + dim[None, :],
        mask=query_mask,
        other=0.0,
    )

    # Keys stand in the order (depth, slot): older ones in the scratch, the newest in the model's own output.
    n = tl.arange(0, KEY_TILE)
    depth = n // BEAM_WIDTH
    slot = n % BEAM_WIDTH
    is_old = (depth < DEPTH)[:, None] & is_dim[None, :]
    is_new = (depth == DEPTH)[:, None] & is_dim[None, :]
    in_scratch = (((request * MAX_DEPTH + depth) * BEAM_WIDTH + slot) * NUM_KV_HEADS + kv_head) * HEAD_SIZE
    in_scratch = in_scratch[:, None] + dim[None, :]
    new_row = request * BEAM_WIDTH + slot
    new_key = tl.load(
        key_ptr + (new_row * key_stride_row + kv_head * key_stride_head)[:, None] + dim[None, :],
        mask=is_new,
        other=0.0,
    )
    new_value = tl.load(
        value_ptr + (new_row * value_stride_row + kv_head * value_stride_head)[:, None] + dim[None, :],
        mask=is_new,
        other=0.0,
    )
    tl.store(key_scratch_ptr + in_scratch, new_key, mask=is_new)
    tl.store(value_scratch_ptr + in_scratch, new_value, mask=is_new)
    key = tl.where(is_new, new_key, tl.load(key_scratch_ptr + in_scratch, mask=is_old, other=0.0))
    value = tl.where(is_new, new_value, tl.load(value_scratch_ptr + in_scratch, mask=is_old, other=0.0))
    if UPCAST:
        query = query.to(tl.float32)
        key = key.to(tl.float32)
        value = value.to(tl.float32)

    is_suffix = is_query[:, None] & (depth <= DEPTH)[None, :]
    ancestor = tl.load(
        ancestry_ptr + (request * BEAM_WIDTH + beam)[:, None] * GAMMA + depth[None, :], mask=is_suffix, other=-1
    )
    logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    logits = tl.where(is_suffix & (ancestor == slot[None, :]), logits, float("-inf"))
    largest = tl.where(is_query, tl.max(logits, axis=1), 0.0)
    weights = tl.exp(logits - largest[:, None])
    total = tl.sum(weights, axis=1)
    out = tl.dot(weights.to(value.dtype), value, input_precision="ieee")

    for split in tl.static_range(SPLITS):
        lse = tl.load(
            lse_ptr + split * lse_stride_split + row * lse_stride_row + head * lse_stride_head,
            mask=is_query,
            other=float("-inf"),
        )
        lse = tl.where(lse == float("inf"), float("-inf"), lse)  # FlashAttention's sign for a row without keys
        prefix = tl.load(
            prefix_ptr
            + split * prefix_stride_split
            + (row * prefix_stride_row + head * prefix_stride_head)[:, None]
            + dim[None, :],
            mask=query_mask & (lse > float("-inf"))[:, None],
            other=0.0,
        ).to(tl.float32)
        new_largest = tl.maximum(largest, lse)
        correction = tl.exp(largest - new_largest)
        weight = tl.exp(lse - new_largest)
        out = out * correction[:, None] + prefix * weight[:, None]
        total = total * correction + weight
        largest = new_largest
    out = out / tl.where(is_query, total, 1.0)[:, None]
    tl.store(
        out_ptr + (row * out_stride_row + head * out_stride_head)[:, None] + dim[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=query_mask,
    )


def suffix_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_scratch: torch.Tensor,
    value_scratch: torch.Tensor,
    ancestry: torch.Tensor,
    prefix: torch.Tensor,
    lse: torch.Tensor,
    out: torch.Tensor,
    *,
    depth: int,
    scale: float,
    upcast: bool,
) -> None:
    """Attention to prefix and suffix together, of beams that feed their token of this depth.

    Args:
        query: `[num_reqs * beam_width, num_heads, head_size]`; like `key`, `value` and `out`, contiguous in the last
            dimension only.
        key, value: `[num_reqs * beam_width, num_kv_heads, head_size]` of the tokens fed now; stored at `depth`.
        key_scratch, value_scratch: `[max_num_reqs, max_depth, beam_width, num_kv_heads, head_size]`, contiguous.
        ancestry: int32 `[max_num_reqs, beam_width, gamma]`, valid up to and including `depth`.
        prefix, lse: `[splits, rows, num_heads, head_size]` and `[splits, rows, num_heads]`, any strides; an lse of -inf
            or +inf says that a split has no keys.
        out: `[num_reqs * beam_width, num_heads, head_size]`.
        upcast: compute in float32 (the interpreter multiplies bfloat16 wrongly).
    """
    rows, num_heads, head_size = query.shape
    _, max_depth, beam_width, num_kv_heads, _ = key_scratch.shape
    _suffix_attention_kernel[(rows // beam_width, num_kv_heads)](
        query,
        *query.stride()[:2],
        key,
        *key.stride()[:2],
        value,
        *value.stride()[:2],
        key_scratch,
        value_scratch,
        ancestry,
        prefix,
        *prefix.stride()[:3],
        lse,
        *lse.stride(),
        out,
        *out.stride()[:2],
        scale,
        DEPTH=depth,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_SIZE=head_size,
        HEAD_TILE=tile_size(head_size),
        BEAM_WIDTH=beam_width,
        MAX_DEPTH=max_depth,
        GAMMA=ancestry.shape[2],
        QUERY_TILE=tile_size(beam_width * num_heads // num_kv_heads),
        KEY_TILE=tile_size((depth + 1) * beam_width),
        SPLITS=len(prefix),
        UPCAST=upcast,
    )
