"""A beam step, part two: of all beams' candidates, the `beam_width` best become the beams; and the choice of the draft.

One program a request. A beam's weight is kept as the sum of its log q; a dead slot weighs -inf, and so do its children.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.beam_candidates import Candidates

_MANY_CANDIDATES = 2048
"""From here on four warps run out of registers."""


@triton.jit
def _row_normaliser(max_ptr, sum_ptr, row, num_blocks, BLOCKS: tl.constexpr):
    """Logarithm of a row's mass, from its blocks' parts."""
    block = tl.arange(0, BLOCKS)
    mask = block < num_blocks
    maxima = tl.load(max_ptr + row * num_blocks + block, mask=mask, other=float("-inf"))
    sums = tl.load(sum_ptr + row * num_blocks + block, mask=mask, other=0.0)
    largest = tl.max(maxima, axis=0)
    scaled = tl.where(maxima > float("-inf"), sums * tl.exp(maxima - largest), 0.0)
    return largest + tl.log(tl.sum(scaled, axis=0))


@triton.jit
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
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    GAMMA: tl.constexpr,
    HISTORY: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCKS: tl.constexpr,
    LOSSLESS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + row)
    is_real = request >= 0
    temperature = tl.load(temperature_ptr + request, mask=is_real, other=0.0).to(tl.float32)
    one_hot = (temperature == 0.0) & LOSSLESS

    per_beam = num_blocks * BEAM_WIDTH
    candidate = tl.arange(0, CANDIDATES)
    mask = (candidate < WIDTH * per_beam) & is_real
    beam = tl.minimum(candidate // per_beam, WIDTH - 1)
    log_mass = tl.zeros([CANDIDATES], tl.float32)
    score = tl.zeros([CANDIDATES], tl.float32)
    for i in tl.static_range(WIDTH):
        normaliser = _row_normaliser(max_ptr, sum_ptr, row * WIDTH + i, num_blocks, BLOCKS)
        log_mass = tl.where(beam == i, normaliser, log_mass)
        if DEPTH > 0:
            score = tl.where(beam == i, tl.load(score_in_ptr + row * BEAM_WIDTH + i), score)
    first = row * WIDTH * per_beam
    key = tl.load(keys_ptr + first + candidate, mask=mask, other=float("-inf"))
    log_q = tl.load(logit_ptr + first + candidate, mask=mask, other=float("-inf"))
    token = tl.load(token_ptr + first + candidate, mask=mask, other=0)
    # A one-hot row has all its mass on the first of its largest logits; one beam lives. A row of NaN has no children.
    log_q = tl.where(one_hot, 0.0, log_q - log_mass)
    has_mass = mask & (key > float("-inf")) & (log_mass == log_mass)
    key = tl.where(has_mass, key - log_mass + score, float("-inf"))

    depth = tl.arange(0, HISTORY)
    for i in tl.static_range(BEAM_WIDTH):
        # Candidates stand in the order of (beam, token), so of equal keys the lower beam comes first.
        best, column = tl.max(key, axis=0, return_indices=True)
        chosen = candidate == column
        key = tl.where(chosen | one_hot, float("-inf"), key)
        is_live = best > float("-inf")
        parent = tl.where(is_live, tl.sum(tl.where(chosen, beam, 0), axis=0), 0)
        new_token = tl.where(is_live, tl.sum(tl.where(chosen, token, 0), axis=0), 0)
        own_log_q = tl.where(is_live, tl.sum(tl.where(chosen, log_q, 0.0), axis=0), float("-inf"))
        new_score = tl.where(is_live, tl.sum(tl.where(chosen, score, 0.0), axis=0) + own_log_q, float("-inf"))

        source = (row * BEAM_WIDTH + parent) * GAMMA + depth
        target = (row * BEAM_WIDTH + i) * GAMMA + depth
        is_old, is_new = depth < DEPTH, depth == DEPTH
        old_tokens = tl.load(tokens_in_ptr + source, mask=is_old, other=0)
        old_log_q = tl.load(log_q_in_ptr + source, mask=is_old, other=0.0)
        old_ancestry = tl.load(ancestry_in_ptr + source, mask=is_old, other=0)
        tl.store(tokens_out_ptr + target, tl.where(is_new, new_token, old_tokens), mask=is_old | is_new)
        tl.store(log_q_out_ptr + target, tl.where(is_new, own_log_q, old_log_q), mask=is_old | is_new)
        tl.store(ancestry_out_ptr + target, tl.where(is_new, i, old_ancestry), mask=is_old | is_new)
        tl.store(score_out_ptr + row * BEAM_WIDTH + i, new_score)
        tl.store(input_ids_ptr + row * BEAM_WIDTH + i, new_token)


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
    num_candidates = triton.next_power_of_2(width * num_blocks * beam_width)
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
        DEPTH=depth,
        WIDTH=width,
        BEAM_WIDTH=beam_width,
        GAMMA=gamma,
        HISTORY=triton.next_power_of_2(gamma),
        CANDIDATES=num_candidates,
        BLOCKS=triton.next_power_of_2(num_blocks),
        LOSSLESS=lossless,
        num_warps=8 if num_candidates >= _MANY_CANDIDATES else 4,
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
