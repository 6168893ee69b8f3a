"""One launch finds where the nodes of a batch's trees stand for the target: positions, prefixes and ancestors.

vLLM lays a request's rows out as a text: their KV goes into consecutive slots. Once these are known, a node's position
becomes its newest token's plus its depth, which is what rotary embeddings and sampling parameters shall see.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.trees import DraftTrees

_MANY_NODES = 128
"""From here on one warp is slow."""


@triton.jit(do_not_specialize=["num_reqs"], do_not_specialize_on_alignment=["request_ptr"])
def _tree_layout_kernel(
    # [num_reqs]
    request_ptr,
    # [num_reqs + 1]
    first_row_ptr,
    # [max_num_reqs, NODES]
    parent_ptr,
    # [rows]
    position_ptr,
    # [num_reqs]
    prefix_len_ptr,
    # [num_reqs, 1 + NODES, GAMMA]
    ancestry_ptr,
    num_reqs,
    NODES: tl.constexpr,
    NODE_TILE: tl.constexpr,
    GAMMA: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """A program owns one request: the positions of its nodes, the length of its prefix, its rows' ancestors."""
    batch_row = tl.program_id(0).to(tl.int64)
    if batch_row >= num_reqs:
        tl.store(prefix_len_ptr + batch_row, 0)
        return
    request = tl.load(request_ptr + batch_row).to(tl.int64)
    first = tl.load(first_row_ptr + batch_row).to(tl.int64)
    num_rows = (tl.load(first_row_ptr + batch_row + 1) - first).to(tl.int32)
    root_position = tl.load(position_ptr + first)
    tl.store(prefix_len_ptr + batch_row, (root_position + 1).to(tl.int32))

    # Rows of the request; row 0 is its newest token, which has no ancestors among the others.
    row = tl.arange(0, NODE_TILE)
    is_row = row <= NODES
    at = tl.where(is_row, row, 0)
    out = ancestry_ptr + (batch_row * (NODES + 1) + row) * GAMMA
    for i in range(GAMMA):
        depth = GAMMA - 1 - i
        is_here = (at > 0) & (tl.where(at <= GAMMA, at - 1, (at - 1 - GAMMA) // tl.maximum(OTHERS, 1)) == depth)
        tl.store(out + depth, tl.where(is_here, at, -1), mask=is_row)
        at = tl.load(parent_ptr + request * NODES + at - 1, mask=is_here, other=0) + tl.where(is_here, 0, at)
    # The chosen draft's rows stand where a text's would.
    is_other = (row > GAMMA) & (row < num_rows)
    depth_of_row = (row - 1 - GAMMA) // tl.maximum(OTHERS, 1)
    tl.store(position_ptr + first + row, root_position + 1 + depth_of_row, mask=is_other)


def lay_out_trees(
    trees: DraftTrees,
    requests: torch.Tensor,
    first_rows: torch.Tensor,
    positions: torch.Tensor,
    prefix_lens: torch.Tensor,
    ancestry: torch.Tensor,
) -> None:
    """Positions in place, prefixes, and ancestors.

    Args:
        trees: by request state.
        requests: `[num_reqs]`, each request's state; none is padding.
        first_rows: int32 `[num_reqs + 1]`; a request has a row for its newest token and one for each of some nodes.
        positions: int64 `[rows]`, consecutive in a request.
        prefix_lens: int32 `[num_reqs_padded]`, written: tokens up to the newest, which is among them; 0 for padding.
        ancestry: int32 `[num_reqs_padded, 1 + nodes, gamma]`, written but for padding: at [r, i, d] the row of row i's
            ancestor (or of itself) that has d + 1 tokens of a draft, -1 if there is none.
    """
    nodes, others = trees.log_q.shape[1], trees.num_candidates - 1
    _tree_layout_kernel[(len(prefix_lens),)](
        requests,
        first_rows,
        trees.parents,
        positions,
        prefix_lens,
        ancestry,
        len(requests),
        NODES=nodes,
        NODE_TILE=triton.next_power_of_2(nodes + 1),
        GAMMA=trees.gamma,
        OTHERS=others,
        num_warps=1 if nodes < _MANY_NODES else 4,
    )
