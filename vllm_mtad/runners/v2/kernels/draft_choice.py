"""A drafting round ends with a choice: one beam is the draft, others may go to the target beside it (`algorithm.tree`).

One launch, one program a request. The chosen draft's tokens are nodes 0 to gamma - 1; then come, depth by depth, the
others: a beam goes if its parent does, the heaviest first.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.beam_selection import BeamLevels
from vllm_mtad.runners.v2.trees import DraftTrees


@triton.jit
def _draft_choice_kernel(
    # [max_num_reqs, GAMMA, BEAM_WIDTH]
    score_ptr,
    tokens_ptr,
    log_q_ptr,
    parent_ptr,
    # [max_num_reqs, BEAM_WIDTH, GAMMA]
    ancestry_ptr,
    # [num_reqs]
    request_ptr,
    root_position_ptr,
    # [max_num_reqs]
    lossless_ptr,
    # [max_num_reqs, NODES]
    draft_tokens_ptr,
    tree_log_q_ptr,
    tree_parent_ptr,
    num_drafts,
    window,
    BEAM_WIDTH: tl.constexpr,
    BEAMS: tl.constexpr,
    GAMMA: tl.constexpr,
    HISTORY: tl.constexpr,
    NODES: tl.constexpr,
    OTHERS: tl.constexpr,
    IS_TREE: tl.constexpr,
):
    """A program owns one request: its drafts by batch row, and its tree by request state, which no two share."""
    row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + row)
    is_real = request >= 0
    root_position = tl.load(root_position_ptr + row)
    beam = tl.arange(0, BEAMS)
    is_beam = beam < BEAM_WIDTH
    levels = row * GAMMA * BEAM_WIDTH
    last = levels + (num_drafts - 1) * BEAM_WIDTH
    score = tl.load(score_ptr + last + beam, mask=is_beam, other=float("-inf"))
    _, best = tl.max(score, axis=0, return_indices=True)
    if IS_TREE:
        is_lossless = tl.load(lossless_ptr + request, mask=is_real, other=0) != 0
        best = tl.where(is_lossless, 0, best)  # where the argmax chain is

    depth = tl.arange(0, HISTORY)
    mask = depth < num_drafts
    chain = tl.load(ancestry_ptr + (row * BEAM_WIDTH + best) * GAMMA + depth, mask=mask, other=0)
    source = levels + depth * BEAM_WIDTH + chain
    tokens = tl.load(tokens_ptr + source, mask=mask, other=0)
    log_q = tl.load(log_q_ptr + source, mask=mask, other=0.0)
    # Past the draft model's window a token has no q: +inf fails the joint test.
    log_q = tl.where(root_position + 1 + depth > window, float("inf"), log_q)
    tl.store(draft_tokens_ptr + row * NODES + depth, tokens.to(tl.int64), mask=mask)
    tl.store(tree_log_q_ptr + request * NODES + depth, log_q, mask=mask & is_real)

    if OTHERS > 0:
        # By slot: the row of the beam there, -1 if it does not go. The root stands in slot 0.
        rows = tl.where(beam == 0, 0, -1)
        for d in range(num_drafts):
            level = levels + d * BEAM_WIDTH
            score = tl.load(score_ptr + level + beam, mask=is_beam, other=float("-inf"))
            parent = tl.load(parent_ptr + level + beam, mask=is_beam, other=0)
            parent_row = tl.sum(tl.where(parent[:, None] == beam[None, :], rows[None, :], 0), axis=1)
            chosen = tl.load(ancestry_ptr + (row * BEAM_WIDTH + best) * GAMMA + d)
            key = tl.where((parent_row >= 0) & (beam != chosen), score, float("-inf"))
            rows = tl.where(beam == chosen, d + 1, -1)
            is_known = root_position + 1 + d <= window
            for other in range(OTHERS):
                value, slot = tl.max(key, axis=0, return_indices=True)
                goes = value > float("-inf")
                node = GAMMA + d * OTHERS + other
                # A node that is not there is a token that nothing can accept.
                token = tl.load(tokens_ptr + level + slot, mask=goes, other=0)
                own_log_q = tl.load(log_q_ptr + level + slot, mask=goes & is_known, other=float("inf"))
                own_parent = tl.sum(tl.where((beam == slot) & goes, parent_row, 0), axis=0)
                tl.store(draft_tokens_ptr + row * NODES + node, token.to(tl.int64))
                tl.store(tree_log_q_ptr + request * NODES + node, own_log_q, mask=is_real)
                tl.store(tree_parent_ptr + request * NODES + node, own_parent, mask=is_real)
                rows = tl.where((beam == slot) & goes, node + 1, rows)
                key = tl.where(beam == slot, float("-inf"), key)


def choose_drafts(
    levels: BeamLevels,
    requests: torch.Tensor,
    root_positions: torch.Tensor,
    lossless: torch.Tensor,
    draft_tokens: torch.Tensor,
    trees: DraftTrees,
    *,
    num_drafts: int,
    num_candidates: int,
    window: int,
) -> None:
    """The live beam with the largest weight becomes the draft, and others go beside it.

    Args:
        requests: int64 `[num_reqs]`, -1 where padded.
        lossless: int32 `[max_num_reqs]`, by request state: of a tree, those that are not 0 take their argmax chain.
        draft_tokens: int64 `[max_num_reqs, nodes]`, in batch order; nodes that are not asked for are not written.
        trees: by request state; padding is not written.
        num_drafts: tokens of a draft; less than gamma with one candidate only.
        num_candidates: 1, or as many as `trees` has room for.
        window: positions that the draft model has.
    """
    beam_width, gamma = levels.ancestry[0].shape[1:]
    _draft_choice_kernel[(len(requests),)](
        levels.scores,
        levels.tokens,
        levels.log_q,
        levels.parents,
        levels.ancestry_at(num_drafts),
        requests,
        root_positions,
        lossless,
        draft_tokens,
        trees.log_q,
        trees.parents,
        num_drafts,
        window,
        BEAM_WIDTH=beam_width,
        BEAMS=triton.next_power_of_2(beam_width),
        GAMMA=gamma,
        HISTORY=triton.next_power_of_2(gamma),
        NODES=trees.log_q.shape[1],
        OTHERS=num_candidates - 1,
        IS_TREE=trees.num_candidates > 1,
        num_warps=1,
    )
