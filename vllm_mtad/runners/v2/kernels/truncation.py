"""This kernel applies top-k, top-p and min-p to rows whose top-k is small, without a sweep over the vocabulary.

The candidates kernel has left the `top_k` largest logits of each block. One launch, one program a row: it merges them
in descending order, cuts as vLLM does, and draws the row's candidates from what remains. A program owns its row of the
candidates and of the softmax parts, both of which it overwrites; rows without a small top-k stay as they are.
"""

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.beam_candidates import Candidates, TopLogits
from vllm_mtad.runners.v2.kernels.noise import draft_key, gumbel


@triton.jit
def _merge_blocks(top_logit_ptr, top_token_ptr, row, num_blocks, top_k, BLOCKS: tl.constexpr, TOP_K: tl.constexpr):
    """The row's `top_k` largest logits `[TOP_K]`, descending, -inf from there on, and their tokens."""
    block, slot = tl.arange(0, BLOCKS), tl.arange(0, TOP_K)
    lists = (row * num_blocks + block) * TOP_K
    heads = tl.load(top_logit_ptr + lists, mask=block < num_blocks, other=float("-inf"))
    used = tl.zeros([BLOCKS], tl.int32)
    logits = tl.full([TOP_K], float("-inf"), tl.float32)
    tokens = tl.zeros([TOP_K], tl.int32)
    for i in range(top_k):
        # Blocks stand in the order of token ids, so of equal logits the lower token comes first.
        best, best_block = tl.max(heads, axis=0, return_indices=True)
        is_best = block == best_block
        at = (row * num_blocks + best_block) * TOP_K + tl.sum(tl.where(is_best, used, 0), axis=0)
        logits = tl.where(slot == i, best, logits)
        tokens = tl.where(slot == i, tl.load(top_token_ptr + at), tokens)
        used = tl.where(is_best, used + 1, used)
        following = tl.load(top_logit_ptr + lists + used, mask=is_best & (used < top_k), other=float("-inf"))
        heads = tl.where(is_best, following, heads)
    return logits, tokens


@triton.jit(do_not_specialize=["depth"])
def _truncation_kernel(
    # [rows, num_blocks, TOP_K]
    top_logit_ptr,
    top_token_ptr,
    # [num_reqs]; -1 where a row is padding
    request_ptr,
    root_position_ptr,
    # [max_num_reqs]
    temperature_ptr,
    seed_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    # [rows, num_blocks, BEAM_WIDTH]
    keys_ptr,
    logit_ptr,
    token_ptr,
    # [rows, num_blocks]
    max_ptr,
    sum_ptr,
    vocab_size,
    num_blocks,
    depth,
    WIDTH: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCKS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    DRAW: tl.constexpr,
):
    """A program owns its row of the candidates and of the softmax parts, which it reads and then overwrites."""
    row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + row // WIDTH)
    if request < 0:
        return
    top_k = tl.load(top_k_ptr + request)
    if top_k > TOP_K:
        return
    logits, tokens = _merge_blocks(top_logit_ptr, top_token_ptr, row, num_blocks, top_k, BLOCKS, TOP_K)

    largest = tl.max(logits, axis=0)
    is_kept = logits > float("-inf")
    min_p = tl.load(min_p_ptr + request)
    if min_p > 0.0:
        is_kept = is_kept & (logits >= largest + tl.log(min_p))
    weights = tl.where(is_kept, tl.exp(logits - largest), 0.0)
    top_p = tl.load(top_p_ptr + request)
    if top_p < 1.0:
        # The smallest head with that share of the mass: a token stays while the mass before it is below.
        before = tl.cumsum(weights, axis=0) - weights
        is_kept = is_kept & (before < top_p * tl.sum(weights, axis=0))
        weights = tl.where(is_kept, weights, 0.0)

    block = tl.arange(0, BLOCKS)
    parts = row * num_blocks + block
    sums = tl.load(sum_ptr + parts, mask=block < num_blocks, other=0.0)
    is_sound = tl.sum((sums != sums).to(tl.int32), axis=0) == 0  # a row of NaN has no children
    mass = tl.where(is_sound, tl.sum(weights, axis=0), float("nan"))
    tl.store(max_ptr + parts, tl.where(block == 0, largest, float("-inf")), mask=block < num_blocks)
    tl.store(sum_ptr + parts, tl.where(block == 0, mass, 0.0), mask=block < num_blocks)

    keys = logits
    temperature = tl.load(temperature_ptr + request)
    if DRAW and temperature > 0.0:
        seed, root_position = tl.load(seed_ptr + request), tl.load(root_position_ptr + row // WIDTH)
        counters = (row % WIDTH) * vocab_size + tokens
        keys = logits + gumbel(draft_key(seed, root_position, depth), counters)
    keys = tl.where(is_kept, keys, float("-inf"))
    candidate = tl.arange(0, CANDIDATES)
    best_keys = tl.full([CANDIDATES], float("-inf"), tl.float32)
    best_logits = tl.full([CANDIDATES], float("-inf"), tl.float32)
    best_tokens = tl.zeros([CANDIDATES], tl.int32)
    for i in tl.static_range(BEAM_WIDTH):
        best = tl.max(keys, axis=0)
        token = tl.min(tl.where(keys == best, tokens, vocab_size), axis=0)
        is_best = (keys == best) & (tokens == token) & is_kept
        best_keys = tl.where(candidate == i, best, best_keys)
        best_logits = tl.where(candidate == i, tl.max(tl.where(is_best, logits, float("-inf")), axis=0), best_logits)
        best_tokens = tl.where(candidate == i, token, best_tokens)
        keys = tl.where(is_best, float("-inf"), keys)
    # All of them stand in the first block; the others have none.
    at = row * num_blocks * BEAM_WIDTH + candidate
    is_there = candidate < num_blocks * BEAM_WIDTH
    tl.store(keys_ptr + at, best_keys, mask=is_there)
    tl.store(logit_ptr + at, best_logits, mask=is_there)
    tl.store(token_ptr + at, best_tokens, mask=is_there)


def truncate(
    top_logits: TopLogits,
    requests: torch.Tensor,
    root_positions: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    out: Candidates,
    *,
    vocab_size: int,
    depth: int,
    width: int,
    draw: bool,
) -> None:
    """Candidates of the beams of requests whose top-k is at most `MAX_TOP_K`: min-p, then top-k, then top-p on the
    mass that remains. Of equal logits at the cut those with lower token ids stay, as in vLLM's kernel.

    Args:
        top_logits: what `beam_candidates` has left, of the same rows.
        requests, root_positions, temperature, seeds, depth, width, draw: as there.
        top_k, top_p, min_p: int32 and float32 `[max_num_reqs]`, by request state.
    """
    rows, num_blocks, beam_width = out.keys.shape
    blocks = triton.next_power_of_2(num_blocks)
    _truncation_kernel[(rows,)](
        top_logits.logits,
        top_logits.tokens,
        requests,
        root_positions,
        temperature,
        seeds,
        top_k,
        top_p,
        min_p,
        out.keys,
        out.logits,
        out.tokens,
        out.maxima,
        out.sums,
        vocab_size,
        num_blocks,
        depth,
        WIDTH=width,
        BEAM_WIDTH=beam_width,
        TOP_K=top_logits.logits.shape[2],
        BLOCKS=blocks,
        CANDIDATES=triton.next_power_of_2(num_blocks * beam_width),
        DRAW=draw,
        num_warps=1,  # more would need a barrier between reading and overwriting the softmax parts
    )
