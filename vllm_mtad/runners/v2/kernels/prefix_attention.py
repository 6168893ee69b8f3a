"""A request's rows (beams, or the nodes of a tree) attend to the paged prefix that they share.

One program a (request, KV head, split of the prefix and tile of queries); if one tile holds all rows' heads of a KV
head, the prefix is read once for all of them. A program owns its part of the output and of the log-sum-exp, which
`suffix_attention` and `tree_attention` merge. How long a split is comes from the whole batch, so that one long prefix
among short ones is read by many programs.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.online_softmax import attend, num_warps, query_tiling, tile_size

TILE_KEYS = 64
_REQUESTS_AT_A_TIME = 256


@triton.jit
def _first_tile(length, WINDOW: tl.constexpr, KEY_TILE: tl.constexpr):
    """The first tile of keys that a row may see, which stands at the prefix's end at the earliest."""
    first = length * 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0) // KEY_TILE
    return first


@triton.jit(do_not_specialize=["num_reqs", "programs_per_head", "least_tiles"])
def _split_planning_kernel(
    # [num_reqs]
    prefix_len_ptr,
    # [1]
    tiles_per_split_ptr,
    num_reqs,
    programs_per_head,
    least_tiles,
    WINDOW: tl.constexpr,
    REQUESTS: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """The only program owns the only element."""
    tiles = tl.zeros([REQUESTS], tl.int32)
    for first in range(0, num_reqs, REQUESTS):
        request = first + tl.arange(0, REQUESTS)
        length = tl.load(prefix_len_ptr + request, mask=request < num_reqs, other=0)
        tiles += tl.cdiv(length, KEY_TILE) - _first_tile(length, WINDOW, KEY_TILE)
    tl.store(tiles_per_split_ptr, tl.maximum(tl.cdiv(tl.sum(tiles, axis=0), programs_per_head), least_tiles))


@triton.jit(do_not_specialize=["rows", "splits"], do_not_specialize_on_alignment=["depth_ptr"])
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
    # [num_reqs + 1]
    first_row_ptr,
    # [num_reqs]
    prefix_len_ptr,
    # [max_rows], or None without a window
    depth_ptr,
    # [1]
    tiles_per_split_ptr,
    # [splits, rows, NUM_HEADS, HEAD_SIZE]
    out_ptr,
    # [splits, rows, NUM_HEADS]
    lse_ptr,
    rows,
    splits,
    scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    QUERY_TILES: tl.constexpr,
    KEY_TILE: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program owns, of one split, output and log-sum-exp of a tile of one KV head's query heads of a request."""
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = (tl.program_id(2) // QUERY_TILES).to(tl.int64)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    first_row = tl.load(first_row_ptr + request).to(tl.int64)
    num_rows = tl.load(first_row_ptr + request + 1) - first_row
    m = tl.program_id(2) % QUERY_TILES * QUERY_TILE + tl.arange(0, QUERY_TILE)
    row = first_row + m // GROUP
    head = kv_head * GROUP + m % GROUP
    is_query = m < num_rows * GROUP
    at = (split * rows + row) * NUM_HEADS + head

    length = tl.load(prefix_len_ptr + request)
    tiles = tl.cdiv(length, KEY_TILE)
    first_seen = _first_tile(length, WINDOW, KEY_TILE)
    per_split = tl.maximum(tl.load(tiles_per_split_ptr), tl.cdiv(tiles - first_seen, splits))
    first_tile = first_seen + split.to(tl.int32) * per_split
    if (first_tile >= tiles) | (tl.program_id(2) % QUERY_TILES * QUERY_TILE >= num_rows * GROUP):
        # Without keys there is a log-sum-exp and no output: the merge asks for none. Without queries there is neither.
        tl.store(lse_ptr + at, tl.full([QUERY_TILE], float("-inf"), tl.float32), mask=is_query)
        return

    dim = tl.arange(0, HEAD_TILE)
    is_dim = dim < HEAD_SIZE
    query = tl.load(
        query_ptr + (row * query_stride_row + head * query_stride_head)[:, None] + dim[None, :],
        mask=is_query[:, None] & is_dim[None, :],
        other=0.0,
    )
    if UPCAST:
        query = query.to(tl.float32)
    if WINDOW > 0:  # a row sees so many tokens, itself among them
        first_key = length + tl.load(depth_ptr + m // GROUP, mask=is_query, other=0) - WINDOW
    n = tl.arange(0, KEY_TILE)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    out = tl.zeros([QUERY_TILE, HEAD_TILE], tl.float32)
    for tile in range(first_tile, tl.minimum(first_tile + per_split, tiles)):
        position = tile * KEY_TILE + n
        is_key = position < length
        if WINDOW > 0:  # further back, the block table may name other requests' pages
            is_key = is_key & (position >= length - WINDOW)
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
        is_seen = is_key[None, :]
        if WINDOW > 0:
            is_seen = is_seen & (position[None, :] >= first_key[:, None])
        largest, total, out = attend(query, key, value, is_seen, scale, largest, total, out, SOFT_CAP)

    tl.store(
        out_ptr + at[:, None] * HEAD_SIZE + dim[None, :],
        out / total[:, None],
        mask=is_query[:, None] & is_dim[None, :],
    )
    tl.store(lse_ptr + at, largest + tl.log(total), mask=is_query)


def plan_splits(
    prefix_lens: torch.Tensor,
    tiles_per_split: torch.Tensor,
    *,
    num_kv_heads: int,
    programs: int,
    least_tiles: int = 1,
    window: int = 0,
) -> None:
    """How many tiles of keys a split has, for about `programs` splits over all requests and KV heads to have keys.

    Args:
        prefix_lens: int32 `[num_reqs]`.
        tiles_per_split: int32 `[1]`, written.
        least_tiles: of a split, at least 1; where a prefix has fewer it is one split.
        window: as of `prefix_attention`.
    """
    _split_planning_kernel[(1,)](
        prefix_lens,
        tiles_per_split,
        len(prefix_lens),
        max(1, programs // num_kv_heads),
        least_tiles,
        WINDOW=window,
        REQUESTS=_REQUESTS_AT_A_TIME,
        KEY_TILE=TILE_KEYS,
        num_warps=1,
    )


def prefix_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    first_rows: torch.Tensor,
    prefix_lens: torch.Tensor,
    tiles_per_split: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    scale: float,
    max_rows: int,
    upcast: bool,
    window: int = 0,
    depths: torch.Tensor | None = None,
    soft_cap: float = 0.0,
) -> None:
    """Each split's output and log-sum-exp; of a split without keys the log-sum-exp is -inf and `out` is not written.

    Args:
        query: `[rows, num_heads, head_size]`, last dimension contiguous.
        key_cache, value_cache: `[num_pages, num_kv_heads, page, head_size]`, any strides.
        block_table: int32 `[num_reqs, max_pages]`.
        first_rows: int32 `[num_reqs + 1]`, where each request's rows begin.
        prefix_lens: int32 `[num_reqs]`, tokens of the prefix; 0 is allowed.
        tiles_per_split: int32 `[1]`, of `plan_splits`; a prefix too long for it in `splits` parts gets longer ones.
        out: float32 `[splits, rows, num_heads, head_size]`, contiguous.
        lse: float32 `[splits, rows, num_heads]`, contiguous.
        max_rows: of a request.
        upcast: compute in float32 (the interpreter multiplies bfloat16 wrongly).
        window: tokens that a row sees, itself among them; 0 for all.
        depths: int32 `[max_rows]`, how far behind the prefix's last token each of a request's rows stands; only a
            window asks for them.
        soft_cap: see `attend`; 0 for none.
    """
    rows, num_heads, head_size = query.shape
    _, num_kv_heads, page, _ = key_cache.shape
    splits, num_reqs = len(out), len(prefix_lens)
    head_tile = tile_size(head_size)
    query_tile, query_tiles = query_tiling(max_rows * num_heads // num_kv_heads, head_tile, query.dtype, wide=True)
    _prefix_attention_kernel[(num_reqs, num_kv_heads, splits * query_tiles)](
        query,
        query.stride(0),
        query.stride(1),
        key_cache,
        *key_cache.stride(),
        value_cache,
        *value_cache.stride(),
        block_table,
        block_table.stride(0),
        first_rows,
        prefix_lens,
        depths if window else None,
        tiles_per_split,
        out,
        lse,
        rows,
        splits,
        scale,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_SIZE=head_size,
        HEAD_TILE=head_tile,
        QUERY_TILE=query_tile,
        QUERY_TILES=query_tiles,
        KEY_TILE=TILE_KEYS,
        PAGE=page,
        WINDOW=window,
        SOFT_CAP=soft_cap,
        UPCAST=upcast,
        num_warps=num_warps(query_tile, head_tile, query.dtype),
    )
