"""A request's rows, its newest token and the nodes of its tree, attend to the prefix and to their ancestors.

`prefix_attention` has read the prefix, which ends with the newest token. This step's keys and values are read where the
layer's projections left them. One launch a layer, one program a (request, KV head, tile of queries): it owns these
queries' output.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.online_softmax import add_prefix, attend, num_warps, query_tiling, tile_size
from vllm_mtad.runners.v2.kernels.suffix_attention import MAX_SPLITS, TILE_KEYS


@triton.jit(
    do_not_specialize=["splits", "prefix_stride_split", "lse_stride_split", "lse_stride_row", "lse_stride_head"],
    do_not_specialize_on_alignment=["lse_ptr"],
)
def _tree_attention_kernel(
    # [rows, NUM_HEADS, HEAD_SIZE]
    query_ptr,
    query_stride_row,
    query_stride_head,
    # [rows, NUM_KV_HEADS, HEAD_SIZE]
    key_ptr,
    key_stride_row,
    key_stride_head,
    value_ptr,
    value_stride_row,
    value_stride_head,
    # [num_reqs + 1]
    first_row_ptr,
    # [num_reqs, ROWS, GAMMA]
    ancestry_ptr,
    # [splits, rows, NUM_HEADS, HEAD_SIZE] and [splits, rows, NUM_HEADS] of the prefix
    prefix_ptr,
    prefix_stride_split,
    prefix_stride_row,
    prefix_stride_head,
    lse_ptr,
    lse_stride_split,
    lse_stride_row,
    lse_stride_head,
    # [NUM_HEADS], or None
    sink_ptr,
    # [rows, NUM_HEADS, HEAD_SIZE]
    out_ptr,
    out_stride_row,
    out_stride_head,
    splits,
    scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    ROWS: tl.constexpr,
    GAMMA: tl.constexpr,
    OTHERS: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    SPLIT_TILE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program owns the output of a tile of one KV head's query heads of a request."""
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    first_row = tl.load(first_row_ptr + request).to(tl.int64)
    num_rows = (tl.load(first_row_ptr + request + 1) - first_row).to(tl.int32)
    m = tl.program_id(2) * QUERY_TILE + tl.arange(0, QUERY_TILE)
    own = m // GROUP
    head = kv_head * GROUP + m % GROUP
    is_query = m < num_rows * GROUP
    dim = tl.arange(0, HEAD_TILE)
    is_dim = dim < HEAD_SIZE
    query_mask = is_query[:, None] & is_dim[None, :]
    row = first_row + own
    query = tl.load(
        query_ptr + (row * query_stride_row + head * query_stride_head)[:, None] + dim[None, :],
        mask=query_mask,
        other=0.0,
    )
    if UPCAST:
        query = query.to(tl.float32)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    out = tl.zeros([QUERY_TILE, HEAD_TILE], tl.float32)
    for first in range(1, num_rows, KEY_TILE):
        n = first + tl.arange(0, KEY_TILE)
        is_key = n < num_rows
        key_mask = is_key[:, None] & is_dim[None, :]
        at = first_row + n
        key = tl.load(
            key_ptr + (at * key_stride_row + kv_head * key_stride_head)[:, None] + dim[None, :],
            mask=key_mask,
            other=0.0,
        )
        value = tl.load(
            value_ptr + (at * value_stride_row + kv_head * value_stride_head)[:, None] + dim[None, :],
            mask=key_mask,
            other=0.0,
        )
        if UPCAST:
            key = key.to(tl.float32)
            value = value.to(tl.float32)
        # Of the depth of a node a row sees its own ancestor.
        depth = tl.where(n <= GAMMA, n - 1, (n - 1 - GAMMA) // tl.maximum(OTHERS, 1))
        ancestor = tl.load(
            ancestry_ptr + ((request * ROWS + own) * GAMMA)[:, None] + depth[None, :],
            mask=is_query[:, None] & is_key[None, :],
            other=-1,
        )
        largest, total, out = attend(query, key, value, ancestor == n[None, :], scale, largest, total, out, SOFT_CAP)

    out = add_prefix(
        prefix_ptr,
        prefix_stride_split,
        row * prefix_stride_row + head * prefix_stride_head,
        lse_ptr,
        lse_stride_split,
        row * lse_stride_row + head * lse_stride_head,
        splits,
        sink_ptr,
        head,
        is_query,
        is_dim,
        largest,
        total,
        out,
        SPLIT_TILE,
    )
    tl.store(
        out_ptr + (row * out_stride_row + head * out_stride_head)[:, None] + dim[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=query_mask,
    )


def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    first_rows: torch.Tensor,
    ancestry: torch.Tensor,
    prefix: torch.Tensor,
    lse: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float,
    upcast: bool,
    soft_cap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> None:
    """Attention to prefix and ancestors together.

    Args:
        query: `[rows, num_heads, head_size]`; like `key`, `value` and `out`, contiguous in the last dimension only.
        key, value: `[rows, num_kv_heads, head_size]` of the same rows.
        first_rows: int32 `[num_reqs + 1]`; a request has a row for its newest token and one for each of some nodes.
        ancestry: int32 `[num_reqs, 1 + gamma * num_candidates, gamma]`, of `lay_out_trees`.
        prefix, lse: `[splits, rows, num_heads, head_size]` and `[splits, rows, num_heads]`, any strides, at most
            `MAX_SPLITS` splits; an lse of -inf or +inf says that a split has no keys, and its prefix is not read.
        out: `[rows, num_heads, head_size]`.
        upcast: compute in float32 (the interpreter multiplies bfloat16 wrongly).
        soft_cap: see `attend`; 0 for none.
        sinks: `[num_heads]`, see `add_prefix`.
    """
    _, num_heads, head_size = query.shape
    num_kv_heads = key.shape[1]
    num_reqs, max_rows, gamma = ancestry.shape
    head_tile = tile_size(head_size)
    query_tile, query_tiles = query_tiling(max_rows * num_heads // num_kv_heads, head_tile, query.dtype)
    _tree_attention_kernel[(num_reqs, num_kv_heads, query_tiles)](
        query,
        *query.stride()[:2],
        key,
        *key.stride()[:2],
        value,
        *value.stride()[:2],
        first_rows,
        ancestry,
        prefix,
        *prefix.stride()[:3],
        lse,
        *lse.stride(),
        sinks,
        out,
        *out.stride()[:2],
        len(prefix),
        scale,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_SIZE=head_size,
        HEAD_TILE=head_tile,
        ROWS=max_rows,
        GAMMA=gamma,
        OTHERS=(max_rows - 1) // gamma - 1,
        QUERY_TILE=query_tile,
        KEY_TILE=TILE_KEYS,
        SPLIT_TILE=MAX_SPLITS,
        SOFT_CAP=soft_cap,
        UPCAST=upcast,
        num_warps=num_warps(query_tile, head_tile, query.dtype),
    )
