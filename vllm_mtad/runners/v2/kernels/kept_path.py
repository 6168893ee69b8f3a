"""When a verification has kept another candidate than the chosen one, its tokens and KV move to the chosen one's place.

The next pass of either model then finds a request as if its chosen draft had held these tokens. Nothing moves where the
chosen draft was kept. One launch.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.online_softmax import tile_size
from vllm_mtad.runners.v2.trees import DraftTrees


@triton.jit
def _move_row(
    base,
    stride_page,
    stride_head,
    stride_slot,
    stride_dim,
    source_page,
    source_slot,
    target_page,
    target_slot,
    head,
    dim,
    mask,
):
    within = head[:, None] * stride_head + dim[None, :] * stride_dim
    values = tl.load(base + source_page * stride_page + source_slot * stride_slot + within, mask=mask, other=0.0)
    tl.store(base + target_page * stride_page + target_slot * stride_slot + within, values, mask=mask)


@triton.jit(do_not_specialize_on_alignment=["request_ptr"])
def _kept_path_kernel(
    # [num_reqs]
    request_ptr,
    # [num_reqs + 1]
    first_row_ptr,
    # [rows]
    position_ptr,
    input_ids_ptr,
    # [max_num_reqs]
    kept_ptr,
    # [max_num_reqs, NODES]
    parent_ptr,
    # [num_reqs, max_pages]
    block_table_ptr,
    block_table_stride,
    # [num_pages, NUM_KV_HEADS, PAGE, HEAD_SIZE], keys of the first layer
    cache_ptr,
    # [layers, 2]: from there to each layer's keys and values
    offset_ptr,
    key_stride_page,
    key_stride_head,
    key_stride_slot,
    key_stride_dim,
    value_stride_page,
    value_stride_head,
    value_stride_slot,
    value_stride_dim,
    NODES: tl.constexpr,
    GAMMA: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEADS_TILE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    PAGE: tl.constexpr,
):
    """A program owns, of one request and layer, the KV of the chosen draft's rows; that of layer 0 also their tokens.

    It reads other rows: those of the chosen draft are never a source of a move, so nothing is read that was written.
    """
    batch_row = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1)
    request = tl.load(request_ptr + batch_row).to(tl.int64)
    row = tl.load(kept_ptr + request)
    if row <= GAMMA:
        return
    first = tl.load(first_row_ptr + batch_row).to(tl.int64)
    root_position = tl.load(position_ptr + first)
    keys = cache_ptr + tl.load(offset_ptr + 2 * layer)
    values = cache_ptr + tl.load(offset_ptr + 2 * layer + 1)
    head, dim = tl.arange(0, HEADS_TILE), tl.arange(0, HEAD_TILE)
    mask = (head < NUM_KV_HEADS)[:, None] & (dim < HEAD_SIZE)[None, :]
    blocks = block_table_ptr + batch_row * block_table_stride
    for i in range(GAMMA):
        target = GAMMA - i
        # Rows past the chosen draft's hold the others, depth by depth: row - 1 - GAMMA is depth * (C - 1) + other.
        depth = (row - 1 - GAMMA) // (NODES // GAMMA - 1) + 1
        if (row > GAMMA) & (depth == target):
            source_at, target_at = root_position + row, root_position + target
            source_page = tl.load(blocks + source_at // PAGE).to(tl.int64)
            target_page = tl.load(blocks + target_at // PAGE).to(tl.int64)
            _move_row(
                keys, key_stride_page, key_stride_head, key_stride_slot, key_stride_dim,
                source_page, source_at % PAGE, target_page, target_at % PAGE, head, dim, mask,
            )  # fmt: skip
            _move_row(
                values, value_stride_page, value_stride_head, value_stride_slot, value_stride_dim,
                source_page, source_at % PAGE, target_page, target_at % PAGE, head, dim, mask,
            )  # fmt: skip
            if layer == 0:
                tl.store(input_ids_ptr + first + target, tl.load(input_ids_ptr + first + row))
            row = tl.load(parent_ptr + request * NODES + row - 1)


def move_kept_paths(
    trees: DraftTrees,
    requests: torch.Tensor,
    first_rows: torch.Tensor,
    positions: torch.Tensor,
    input_ids: torch.Tensor,
    block_table: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
) -> None:
    """Move the kept candidates' tokens and KV into the chosen drafts' rows.

    Args:
        trees: by request state, with what was kept.
        requests: `[num_reqs]`, each request's state; all have been verified.
        first_rows: int32 `[num_reqs + 1]`.
        positions: int64 `[rows]`, of which each request's first counts.
        input_ids: int32 `[rows]`; row d of a request gets the token that was kept at depth d.
        block_table: int32 `[num_reqs, max_pages]`.
        keys, values: of the first layer, `[num_pages, num_kv_heads, page, head_size]`; all layers have their strides.
        offsets: int64 `[layers, 2]`, elements from `keys` to each layer's keys and values, of one allocation or not.
    """
    _, num_kv_heads, page, head_size = keys.shape
    _kept_path_kernel[(len(requests), len(offsets))](
        requests,
        first_rows,
        positions,
        input_ids,
        trees.kept,
        trees.parents,
        block_table,
        block_table.stride(0),
        keys,
        offsets,
        *keys.stride(),
        *values.stride(),
        NODES=trees.log_q.shape[1],
        GAMMA=trees.gamma,
        NUM_KV_HEADS=num_kv_heads,
        HEADS_TILE=triton.next_power_of_2(num_kv_heads),
        HEAD_SIZE=head_size,
        HEAD_TILE=tile_size(head_size),
        PAGE=page,
        num_warps=4,
    )
