"""The second half of a beam step: the `beam_width` best of all beams' candidates become the beams.

One program a request, which owns that request's beams in all outputs. A beam's weight is kept as the sum of its log q;
a dead slot weighs -inf, and so do its children. The beams of every depth stay, for `draft_choice` to choose from.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.beam_candidates import Candidates
from vllm_mtad.runners.v2.kernels.online_softmax import merge_parts

_MANY_CANDIDATES = 2048
"""From here on four warps run out of registers."""


@triton.jit
def _log_mass(max_ptr, sum_ptr, row, is_row, num_blocks, BLOCKS: tl.constexpr):
    """Logarithm of the mass of each of `row`, from its blocks' parts."""
    block = tl.arange(0, BLOCKS)
    at = row[:, None] * num_blocks + block[None, :]
    mask = is_row[:, None] & (block < num_blocks)[None, :]
    maxima = tl.load(max_ptr + at, mask=mask, other=float("-inf"))
    sums = tl.load(sum_ptr + at, mask=mask, other=0.0)
    largest, mass = merge_parts(maxima, sums, 1)
    return largest + tl.log(mass)


@triton.jit
def _of_parent(values, parent, beam):
    """`values[parent]`, of values by beam."""
    return tl.sum(tl.where(parent[:, None] == beam[None, :], values[None, :], 0.0), axis=1)


@triton.jit(do_not_specialize=["depth"])
def _beam_selection_kernel(
    # [num_reqs * WIDTH, num_blocks, BEAM_WIDTH]
    keys_ptr,
    logit_ptr,
    token_ptr,
    # [num_reqs * WIDTH, num_blocks]
    max_ptr,
    sum_ptr,
    num_blocks,
    # [num_reqs]
    request_ptr,
    # [max_num_reqs]
    lossless_ptr,
    # [max_num_reqs, GAMMA, BEAM_WIDTH]
    score_ptr,
    tokens_ptr,
    log_q_ptr,
    parent_ptr,
    # [max_num_reqs, BEAM_WIDTH, GAMMA]
    ancestry_in_ptr,
    ancestry_out_ptr,
    # [max_num_reqs * BEAM_WIDTH]
    input_ids_ptr,
    depth,
    WIDTH: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    GAMMA: tl.constexpr,
    WIDTHS: tl.constexpr,
    BEAMS: tl.constexpr,
    HISTORY: tl.constexpr,
    PER_BEAM: tl.constexpr,
    BLOCKS: tl.constexpr,
    IS_TREE: tl.constexpr,
):
    """A program owns one request's beams of this depth and their input ids; it reads the depth before."""
    row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + row)
    is_real = request >= 0
    is_lossless = tl.load(lossless_ptr + request, mask=is_real, other=0) != 0
    one_hot = is_lossless & (not IS_TREE)

    beam, rank = tl.arange(0, WIDTHS), tl.arange(0, PER_BEAM)
    is_beam = (beam < WIDTH) & is_real
    log_mass = _log_mass(max_ptr, sum_ptr, row * WIDTH + beam, is_beam, num_blocks, BLOCKS)
    level = (row * GAMMA + depth) * BEAM_WIDTH
    score = tl.load(score_ptr + level - BEAM_WIDTH + beam, mask=is_beam & (depth > 0), other=0.0)
    per_beam = num_blocks * BEAM_WIDTH
    at = ((row * WIDTH + beam) * per_beam)[:, None] + rank[None, :]
    mask = is_beam[:, None] & (rank < per_beam)[None, :]
    key = tl.load(keys_ptr + at, mask=mask, other=float("-inf"))
    # A row of NaN has no children.
    has_mass = (key > float("-inf")) & (log_mass == log_mass)[:, None]
    key = tl.where(has_mass, key - log_mass[:, None] + score[:, None], float("-inf"))

    # Candidates stand in the order of (beam, token), so of equal keys the lower beam comes first.
    key = tl.reshape(key, [WIDTHS * PER_BEAM])
    candidate, slot = tl.arange(0, WIDTHS * PER_BEAM), tl.arange(0, BEAMS)
    if IS_TREE:
        # A lossless tree has the draft model's argmax chain in slot 0, whatever it weighs.
        value, column = tl.max(tl.where(candidate < PER_BEAM, key, float("-inf")), axis=0, return_indices=True)
        key = tl.where((candidate == column) & is_lossless & (value > float("-inf")), float("inf"), key)
    chosen = tl.zeros([BEAMS], tl.int32)
    best = tl.full([BEAMS], float("-inf"), tl.float32)
    for i in range(BEAM_WIDTH):
        value, column = tl.max(key, axis=0, return_indices=True)
        chosen = tl.where(slot == i, column, chosen)
        best = tl.where(slot == i, value, best)
        # A one-hot row has all its mass on the first of its largest logits; one beam lives.
        key = tl.where((candidate == column) | one_hot, float("-inf"), key)

    is_slot, is_live = slot < BEAM_WIDTH, best > float("-inf")
    parent = tl.where(is_live, chosen // PER_BEAM, 0)
    at = (row * WIDTH + parent) * per_beam + chosen % PER_BEAM
    token = tl.load(token_ptr + at, mask=is_live, other=0)
    log_q = tl.load(logit_ptr + at, mask=is_live, other=float("-inf"))
    log_q = tl.where(one_hot, 0.0, log_q - _of_parent(log_mass, parent, beam))
    log_q = tl.where(is_live, log_q, float("-inf"))
    new_score = tl.where(is_live, _of_parent(score, parent, beam) + log_q, float("-inf"))
    out = level + slot
    tl.store(score_ptr + out, new_score, mask=is_slot)
    tl.store(tokens_ptr + out, token, mask=is_slot)
    tl.store(log_q_ptr + out, log_q, mask=is_slot)
    tl.store(parent_ptr + out, parent, mask=is_slot)
    tl.store(input_ids_ptr + row * BEAM_WIDTH + slot, token, mask=is_slot)

    column = tl.arange(0, HISTORY)
    source = ((row * BEAM_WIDTH + parent) * GAMMA)[:, None] + column[None, :]
    target = ((row * BEAM_WIDTH + slot) * GAMMA)[:, None] + column[None, :]
    old = tl.load(ancestry_in_ptr + source, mask=is_slot[:, None] & (column < depth)[None, :], other=0)
    ancestry = tl.where((column == depth)[None, :], slot[:, None], old)
    tl.store(ancestry_out_ptr + target, ancestry, mask=is_slot[:, None] & (column <= depth)[None, :])


@dataclass(frozen=True)
class BeamLevels:
    """The beams of every depth, for up to `max_num_reqs` requests.

    By depth and slot, `[max_num_reqs, gamma, beam_width]`: `scores`, float32, joint log q, -inf where dead; `tokens`
    int32; `log_q` float32, each token's own; `parents` int32, slots of the depth before. `ancestry`: two of int32
    `[max_num_reqs, beam_width, gamma]` that take turns, the first for beams of an even number of tokens: `[r, b, t]` is
    the slot whose token t beam b descends from.
    """

    scores: torch.Tensor
    tokens: torch.Tensor
    log_q: torch.Tensor
    parents: torch.Tensor
    ancestry: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def allocate(cls, max_num_reqs: int, beam_width: int, gamma: int, device: torch.device) -> "BeamLevels":
        scores = torch.zeros(max_num_reqs, gamma, beam_width, device=device)
        tokens = torch.zeros(scores.shape, dtype=torch.int32, device=device)
        ancestry = torch.zeros(max_num_reqs, beam_width, gamma, dtype=torch.int32, device=device)
        parents = torch.zeros_like(tokens)
        return cls(scores, tokens, torch.zeros_like(scores), parents, (ancestry, torch.zeros_like(ancestry)))

    def ancestry_at(self, depth: int) -> torch.Tensor:
        """int32 `[max_num_reqs, beam_width, gamma]` of the beams that have `depth` tokens."""
        return self.ancestry[depth % 2]


def select_beams(
    candidates: Candidates,
    requests: torch.Tensor,
    lossless: torch.Tensor,
    levels: BeamLevels,
    input_ids: torch.Tensor,
    *,
    depth: int,
    width: int,
    is_tree: bool = False,
) -> None:
    """The beams after this step, and the token that each feeds to the draft model next.

    Args:
        requests: int64 `[num_reqs]`; -1 marks padding, which gets dead beams of token 0.
        lossless: int32 `[max_num_reqs]`, by request state: those that are not 0 keep their largest logit alone, with
            log q = 0; or, for a tree, the beams of the largest weight beside the argmax chain.
        levels: read at the depth before, written at this one.
        input_ids: int32 `[max_num_reqs * beam_width]`, written for `num_reqs` requests.
        depth: tokens that the beams have before this step.
        width: beams that each request has before this step.
        is_tree: whether more than one candidate may be verified.
    """
    beam_width, gamma = levels.ancestry[0].shape[1:]
    num_blocks = candidates.keys.shape[1]
    widths, per_beam = triton.next_power_of_2(width), triton.next_power_of_2(num_blocks * beam_width)
    _beam_selection_kernel[(len(requests),)](
        candidates.keys,
        candidates.logits,
        candidates.tokens,
        candidates.maxima,
        candidates.sums,
        num_blocks,
        requests,
        lossless,
        levels.scores,
        levels.tokens,
        levels.log_q,
        levels.parents,
        levels.ancestry_at(depth),
        levels.ancestry_at(depth + 1),
        input_ids,
        depth,
        WIDTH=width,
        BEAM_WIDTH=beam_width,
        GAMMA=gamma,
        WIDTHS=widths,
        BEAMS=triton.next_power_of_2(beam_width),
        HISTORY=triton.next_power_of_2(gamma),
        PER_BEAM=per_beam,
        BLOCKS=triton.next_power_of_2(num_blocks),
        IS_TREE=is_tree,
        num_warps=8 if widths * per_beam >= _MANY_CANDIDATES else 4,
    )
