"""A beam step, part two: of all beams' candidates, the `beam_width` best become the beams; and the choice of the draft.

One program a request, which owns that request's beams in all outputs. A beam's weight is kept as the sum of its log q;
a dead slot weighs -inf, and so do its children.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.beam_candidates import Candidates

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
    largest = tl.max(maxima, axis=1)
    scaled = tl.where(maxima > float("-inf"), sums * tl.exp(maxima - largest[:, None]), 0.0)
    return largest + tl.log(tl.sum(scaled, axis=1))


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
    temperature_ptr,
    # [max_num_reqs, BEAM_WIDTH]
    score_in_ptr,
    score_out_ptr,
    # [max_num_reqs, BEAM_WIDTH, GAMMA]
    tokens_in_ptr,
    tokens_out_ptr,
    log_q_in_ptr,
    log_q_out_ptr,
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
    LOSSLESS: tl.constexpr,
):
    """A program owns one request's beams in the `_out` history, and their input ids."""
    row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + row)
    is_real = request >= 0
    temperature = tl.load(temperature_ptr + request, mask=is_real, other=0.0).to(tl.float32)
    one_hot = (temperature == 0.0) & LOSSLESS

    beam, rank = tl.arange(0, WIDTHS), tl.arange(0, PER_BEAM)
    is_beam = (beam < WIDTH) & is_real
    log_mass = _log_mass(max_ptr, sum_ptr, row * WIDTH + beam, is_beam, num_blocks, BLOCKS)
    score = tl.load(score_in_ptr + row * BEAM_WIDTH + beam, mask=is_beam & (depth > 0), other=0.0)
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
    chosen = tl.zeros([BEAMS], tl.int32)
    best = tl.full([BEAMS], float("-inf"), tl.float32)
    for i in tl.static_range(BEAM_WIDTH):
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
    out = row * BEAM_WIDTH + slot
    tl.store(score_out_ptr + out, new_score, mask=is_slot)
    tl.store(input_ids_ptr + out, token, mask=is_slot)

    column = tl.arange(0, HISTORY)
    source = ((row * BEAM_WIDTH + parent) * GAMMA)[:, None] + column[None, :]
    target = (out * GAMMA)[:, None] + column[None, :]
    is_old = is_slot[:, None] & (column < depth)[None, :]
    is_new = (column == depth)[None, :]
    old_tokens = tl.load(tokens_in_ptr + source, mask=is_old, other=0)
    old_log_q = tl.load(log_q_in_ptr + source, mask=is_old, other=0.0)
    old_ancestry = tl.load(ancestry_in_ptr + source, mask=is_old, other=0)
    mask = is_slot[:, None] & (column <= depth)[None, :]
    tl.store(tokens_out_ptr + target, tl.where(is_new, token[:, None], old_tokens), mask=mask)
    tl.store(log_q_out_ptr + target, tl.where(is_new, log_q[:, None], old_log_q), mask=mask)
    tl.store(ancestry_out_ptr + target, tl.where(is_new, slot[:, None], old_ancestry), mask=mask)


@triton.jit
def _draft_choice_kernel(
    # [max_num_reqs, BEAM_WIDTH]
    score_ptr,
    # [max_num_reqs, BEAM_WIDTH, GAMMA]
    tokens_ptr,
    log_q_ptr,
    # [num_reqs]
    request_ptr,
    root_position_ptr,
    # [max_num_reqs, GAMMA]
    draft_tokens_ptr,
    draft_log_q_ptr,
    num_drafts,
    window,
    BEAM_WIDTH: tl.constexpr,
    BEAMS: tl.constexpr,
    GAMMA: tl.constexpr,
    HISTORY: tl.constexpr,
):
    """A program owns one request: its drafts by batch row, and their log q by request state, which no two share."""
    row = tl.program_id(0).to(tl.int64)
    beam = tl.arange(0, BEAMS)
    score = tl.load(score_ptr + row * BEAM_WIDTH + beam, mask=beam < BEAM_WIDTH, other=float("-inf"))
    _, best = tl.max(score, axis=0, return_indices=True)
    depth = tl.arange(0, HISTORY)
    mask = depth < num_drafts
    source = (row * BEAM_WIDTH + best) * GAMMA + depth
    tokens = tl.load(tokens_ptr + source, mask=mask, other=0)
    log_q = tl.load(log_q_ptr + source, mask=mask, other=0.0)
    # Past the draft model's window a token has no q: +inf fails the joint test.
    root_position = tl.load(root_position_ptr + row)
    log_q = tl.where(root_position + 1 + depth > window, float("inf"), log_q)
    request = tl.load(request_ptr + row)
    tl.store(draft_tokens_ptr + row * GAMMA + depth, tokens.to(tl.int64), mask=mask)
    tl.store(draft_log_q_ptr + request * GAMMA + depth, log_q, mask=mask & (request >= 0))


@dataclass(frozen=True)
class BeamHistory:
    """The beams after a step, for up to `max_num_reqs` requests.

    `scores`: float32 `[max_num_reqs, beam_width]`, joint log q. `tokens`: int32, `log_q`: float32, `ancestry`: int32,
    each `[max_num_reqs, beam_width, gamma]`; `ancestry[r, b, t]` is the slot whose token t beam b descends from.
    """

    scores: torch.Tensor
    tokens: torch.Tensor
    log_q: torch.Tensor
    ancestry: torch.Tensor

    @classmethod
    def allocate(cls, max_num_reqs: int, beam_width: int, gamma: int, device: torch.device) -> "BeamHistory":
        scores = torch.zeros(max_num_reqs, beam_width, device=device)
        log_q = torch.zeros(max_num_reqs, beam_width, gamma, device=device)
        tokens = torch.zeros(log_q.shape, dtype=torch.int32, device=device)
        return cls(scores, tokens, log_q, torch.zeros_like(tokens))


def select_beams(
    candidates: Candidates,
    requests: torch.Tensor,
    temperature: torch.Tensor,
    before: BeamHistory,
    after: BeamHistory,
    input_ids: torch.Tensor,
    *,
    depth: int,
    width: int,
    lossless: bool,
) -> None:
    """The beams after this step, and the token that each feeds to the draft model next.

    Args:
        requests: int64 `[num_reqs]`; -1 marks padding, which gets dead beams of token 0.
        input_ids: int32 `[max_num_reqs * beam_width]`, written for `num_reqs` requests.
        depth: tokens that the beams have before this step.
        width: beams that each request has before this step.
        lossless: requests at temperature 0 keep their largest logit alone, with log q = 0.
    """
    beam_width, gamma = after.tokens.shape[1:]
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
        temperature,
        before.scores,
        after.scores,
        before.tokens,
        after.tokens,
        before.log_q,
        after.log_q,
        before.ancestry,
        after.ancestry,
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
        LOSSLESS=lossless,
        num_warps=8 if widths * per_beam >= _MANY_CANDIDATES else 4,
    )


def choose_drafts(
    beams: BeamHistory,
    requests: torch.Tensor,
    root_positions: torch.Tensor,
    draft_tokens: torch.Tensor,
    draft_log_q: torch.Tensor,
    *,
    num_drafts: int,
    window: int,
) -> None:
    """The live beam with the largest weight becomes the draft.

    Args:
        draft_tokens: int64 `[max_num_reqs, gamma]`, in batch order.
        draft_log_q: float32 `[max_num_reqs, gamma]`, by request state; padding is not written.
        num_drafts: columns to write.
        window: positions that the draft model has.
    """
    beam_width, gamma = beams.tokens.shape[1:]
    _draft_choice_kernel[(len(requests),)](
        beams.scores,
        beams.tokens,
        beams.log_q,
        requests,
        root_positions,
        draft_tokens,
        draft_log_q,
        num_drafts,
        window,
        BEAM_WIDTH=beam_width,
        BEAMS=triton.next_power_of_2(beam_width),
        GAMMA=gamma,
        HISTORY=triton.next_power_of_2(gamma),
        num_warps=1,
    )
