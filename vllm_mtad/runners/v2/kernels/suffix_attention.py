"""Beams attend to their own few tokens, merge the result with the prefix's by log-sum-exp, and store the newest KV.

The suffix lives in a dense scratch, `[num_reqs, token, slot, num_kv_heads, head_size]` a layer. A beam finds its
ancestors by their slots, so beams that change places move no KV. One launch a layer, one program a (request, KV head):
it owns that head's output of all beams of the request, writes that head's keys and values of the newest tokens into
the scratch, and reads what earlier passes left there.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.online_softmax import add_prefix, attend, num_warps, tile_size

MAX_SPLITS = 32
"""Parts of a prefix whose outputs are merged."""
TILE_KEYS = 32


@triton.jit(
    do_not_specialize=[
        "num_older",
        "splits",
        "prefix_stride_split",
        "lse_stride_split",
        "lse_stride_row",
        "lse_stride_head",
    ],
    do_not_specialize_on_alignment=["lse_ptr"],
)
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
    # [max_num_reqs, MAX_TOKENS, BEAM_WIDTH, NUM_KV_HEADS, HEAD_SIZE]
    key_scratch_ptr,
    value_scratch_ptr,
    # [max_num_reqs, BEAM_WIDTH, GAMMA]
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
    num_older,
    splits,
    scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    MAX_TOKENS: tl.constexpr,
    GAMMA: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    SLOT_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    SPLIT_TILE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A program owns, of one KV head, the output of a request's beams and the newest tokens' place in the scratch."""
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

    # The newest tokens, of which a beam sees its own. They go into the scratch for the steps to come.
    slot = tl.arange(0, SLOT_TILE)
    is_new = (slot < BEAM_WIDTH)[:, None] & is_dim[None, :]
    new_row = request * BEAM_WIDTH + slot
    key = tl.load(
        key_ptr + (new_row * key_stride_row + kv_head * key_stride_head)[:, None] + dim[None, :], mask=is_new, other=0.0
    )
    value = tl.load(
        value_ptr + (new_row * value_stride_row + kv_head * value_stride_head)[:, None] + dim[None, :],
        mask=is_new,
        other=0.0,
    )
    scratch = request * MAX_TOKENS * BEAM_WIDTH
    new_at = ((scratch + num_older * BEAM_WIDTH + slot) * NUM_KV_HEADS + kv_head) * HEAD_SIZE
    tl.store(key_scratch_ptr + new_at[:, None] + dim[None, :], key, mask=is_new)
    tl.store(value_scratch_ptr + new_at[:, None] + dim[None, :], value, mask=is_new)
    if UPCAST:
        query = query.to(tl.float32)
        key = key.to(tl.float32)
        value = value.to(tl.float32)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    out = tl.zeros([QUERY_TILE, HEAD_TILE], tl.float32)
    is_own = is_query[:, None] & (beam[:, None] == slot[None, :])
    largest, total, out = attend(query, key, value, is_own, scale, largest, total, out, SOFT_CAP)

    # Older tokens, in the order (token, slot): of each token's slots a beam sees its ancestor.
    for first in range(0, num_older * BEAM_WIDTH, KEY_TILE):
        n = first + tl.arange(0, KEY_TILE)
        is_old = n < num_older * BEAM_WIDTH
        old_at = ((scratch + n) * NUM_KV_HEADS + kv_head) * HEAD_SIZE
        old_mask = is_old[:, None] & is_dim[None, :]
        old_key = tl.load(key_scratch_ptr + old_at[:, None] + dim[None, :], mask=old_mask, other=0.0)
        old_value = tl.load(value_scratch_ptr + old_at[:, None] + dim[None, :], mask=old_mask, other=0.0)
        if UPCAST:
            old_key = old_key.to(tl.float32)
            old_value = old_value.to(tl.float32)
        ancestor = tl.load(
            ancestry_ptr + (request * BEAM_WIDTH + beam)[:, None] * GAMMA + (n // BEAM_WIDTH)[None, :],
            mask=is_query[:, None] & is_old[None, :],
            other=-1,
        )
        is_seen = ancestor == (n % BEAM_WIDTH)[None, :]
        largest, total, out = attend(query, old_key, old_value, is_seen, scale, largest, total, out, SOFT_CAP)

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
    num_older: int,
    scale: float,
    upcast: bool,
    soft_cap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> None:
    """Attention to prefix and suffix together, of beams that feed their newest token.

    Args:
        query: `[num_reqs * beam_width, num_heads, head_size]`; like `key`, `value` and `out`, contiguous in the last
            dimension only.
        key, value: `[num_reqs * beam_width, num_kv_heads, head_size]` of the tokens fed now; they are stored.
        key_scratch, value_scratch: `[max_num_reqs, max_tokens, beam_width, num_kv_heads, head_size]`, contiguous.
        ancestry: int32 `[max_num_reqs, beam_width, gamma]`, valid for the older tokens and the newest.
        num_older: tokens that each beam has fed before.
        prefix, lse: `[splits, rows, num_heads, head_size]` and `[splits, rows, num_heads]`, any strides, at most
            `MAX_SPLITS` splits; an lse of -inf or +inf says that a split has no keys, and its prefix is not read.
        out: `[num_reqs * beam_width, num_heads, head_size]`.
        upcast: compute in float32 (the interpreter multiplies bfloat16 wrongly).
        soft_cap: see `attend`; 0 for none.
        sinks: `[num_heads]`, see `add_prefix`.
    """
    rows, num_heads, head_size = query.shape
    _, max_tokens, beam_width, num_kv_heads, _ = key_scratch.shape
    query_tile, head_tile = tile_size(beam_width * num_heads // num_kv_heads), tile_size(head_size)
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
        sinks,
        out,
        *out.stride()[:2],
        num_older,
        len(prefix),
        scale,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_SIZE=head_size,
        HEAD_TILE=head_tile,
        BEAM_WIDTH=beam_width,
        MAX_TOKENS=max_tokens,
        GAMMA=ancestry.shape[2],
        QUERY_TILE=query_tile,
        SLOT_TILE=tile_size(beam_width),
        KEY_TILE=TILE_KEYS,
        SPLIT_TILE=MAX_SPLITS,
        SOFT_CAP=soft_cap,
        UPCAST=upcast,
        num_warps=num_warps(query_tile, head_tile, query.dtype),
    )
