"""The first half of a beam step: each vocabulary block of each beam names its best continuations.

One launch over [rows, vocabulary blocks] reads the logits once. A program owns its block's part of each output: the
partial softmax, and the `beam_width` largest (noised) logits. The largest pairs of the whole step are among them,
because the weight of a beam and the normaliser of its row are the same for all its tokens. Where a request asks for a
top-k of at most `MAX_TOP_K`, the block names its `top_k` largest logits instead, from which `truncation` goes on.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.noise import draft_key, gumbel

MAX_BLOCK = 4096
MAX_TOP_K = 64
"""The largest top-k that one pass over the logits serves."""


@triton.jit
def _pack(keys, column):
    """int64 in the order of float32 `keys`; of equal ones the lower of int32 `column`, which is not negative, wins."""
    bits = (keys + 0.0).to(tl.int32, bitcast=True)  # -0.0 + 0.0 is 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - column)


@triton.jit
def _unpack(packed):
    """(key, column) of a scalar that `_pack` has made."""
    ordered = (packed >> 32).to(tl.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True), 0x7FFFFFFF - (packed & 0x7FFFFFFF).to(tl.int32)


@triton.jit(do_not_specialize=["depth"])
def _beam_candidates_kernel(
    # [num_reqs * WIDTH, vocab_size]
    logits_ptr,
    logits_stride,
    # [num_reqs]; -1 where a row is padding
    request_ptr,
    # [num_reqs]
    root_position_ptr,
    # [max_num_reqs]
    temperature_ptr,
    seed_ptr,
    top_k_ptr,
    # [num_reqs * WIDTH, num_blocks, BEAM_WIDTH]
    keys_ptr,
    logit_ptr,
    token_ptr,
    # [num_reqs * WIDTH, num_blocks, TOP_K]
    top_logit_ptr,
    top_token_ptr,
    # [num_reqs * WIDTH, num_blocks]
    max_ptr,
    sum_ptr,
    vocab_size,
    num_blocks,
    depth,
    WIDTH: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_WARPED: tl.constexpr,
    DRAW: tl.constexpr,
):
    """A program owns one row's entries for one vocabulary block in all outputs."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    request = tl.load(request_ptr + row // WIDTH)
    is_real = request >= 0
    temperature = tl.load(temperature_ptr + request, mask=is_real, other=0.0).to(tl.float32)
    divisor = tl.full((), 1.0, tl.float32)
    if not IS_WARPED:
        divisor = tl.where(temperature > 0.0, temperature, divisor)
    wanted = tl.full((), BEAM_WIDTH, tl.int32)
    is_cut = tl.full((), 0, tl.int1)
    if TOP_K > 0:
        top_k = tl.load(top_k_ptr + request, mask=is_real, other=TOP_K + 1)
        is_cut = top_k <= TOP_K
        wanted = tl.where(is_cut, top_k, wanted)

    column = tl.arange(0, BLOCK)
    tokens = block * BLOCK + column
    is_there = (tokens < vocab_size) & is_real
    row_ptr = logits_ptr + row * logits_stride
    logits = tl.load(row_ptr + tokens, mask=is_there, other=float("-inf")).to(tl.float32) / divisor
    largest = tl.max(logits, axis=0)
    shifted = tl.where(largest > float("-inf"), logits - largest, float("-inf"))
    tl.store(max_ptr + row * num_blocks + block, largest)
    tl.store(sum_ptr + row * num_blocks + block, tl.sum(tl.exp(shifted), axis=0))

    keys = logits
    if DRAW and (temperature > 0.0) & (is_cut == 0):
        seed, root_position = tl.load(seed_ptr + request), tl.load(root_position_ptr + row // WIDTH)
        counters = (row % WIDTH) * vocab_size + tokens
        keys = logits + gumbel(draft_key(seed, root_position, depth), counters)
        keys = tl.where(is_there, keys, float("-inf"))
    packed = _pack(keys, column)
    used = _pack(tl.full([BLOCK], float("-inf"), tl.float32), column)
    for i in range(wanted):
        best = tl.max(packed, axis=0)
        packed = tl.where(packed == best, used, packed)
        key, best_column = _unpack(best)
        token = block * BLOCK + best_column
        # Where a block has no more to name, the key says so.
        logit = tl.load(row_ptr + token, mask=key > float("-inf"), other=float("-inf")).to(tl.float32) / divisor
        if TOP_K > 0:
            at = (row * num_blocks + block) * TOP_K + i
            tl.store(top_logit_ptr + at, logit, mask=is_cut)
            tl.store(top_token_ptr + at, token, mask=is_cut)
        at = (row * num_blocks + block) * BEAM_WIDTH + i
        tl.store(keys_ptr + at, key, mask=is_cut == 0)
        tl.store(logit_ptr + at, logit, mask=is_cut == 0)
        tl.store(token_ptr + at, token, mask=is_cut == 0)


@dataclass(frozen=True)
class Candidates:
    """What the candidates kernel leaves for `rows` rows.

    `keys`, `logits`: float32 `[rows, num_blocks, beam_width]`, the largest (noised) logits of each block and the bare
    ones. `tokens`: int32, same shape. `maxima`, `sums`: float32 `[rows, num_blocks]`, a softmax in parts.
    """

    keys: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor
    maxima: torch.Tensor
    sums: torch.Tensor
    block: int

    @classmethod
    def allocate(
        cls, rows: int, vocab_size: int, beam_width: int, device: torch.device, block: int | None = None
    ) -> "Candidates":
        block = block or min(MAX_BLOCK, triton.next_power_of_2(vocab_size))
        num_blocks = triton.cdiv(vocab_size, block)
        keys = torch.empty(rows, num_blocks, beam_width, device=device)
        partial = torch.empty(rows, num_blocks, device=device)
        tokens = torch.empty(keys.shape, dtype=torch.int32, device=device)
        return cls(keys, torch.empty_like(keys), tokens, partial, torch.empty_like(partial), block)

    def rows(self, some: slice) -> "Candidates":
        return Candidates(
            self.keys[some], self.logits[some], self.tokens[some], self.maxima[some], self.sums[some], self.block
        )


@dataclass(frozen=True)
class TopLogits:
    """The largest logits of each block, of rows with a small top-k, in descending order; equal ones by token id.

    `logits` float32 and `tokens` int32, each `[rows, num_blocks, MAX_TOP_K]`.
    """

    logits: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def allocate(cls, rows: int, candidates: Candidates) -> "TopLogits":
        logits = candidates.keys.new_empty(rows, candidates.keys.shape[1], MAX_TOP_K)
        return cls(logits, torch.empty(logits.shape, dtype=torch.int32, device=logits.device))


def beam_candidates(
    logits: torch.Tensor,
    requests: torch.Tensor,
    root_positions: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    out: Candidates,
    *,
    depth: int,
    width: int,
    is_warped: bool,
    draw: bool,
    top_k: torch.Tensor | None = None,
    top_logits: TopLogits | None = None,
) -> None:
    """Candidates of every beam.

    Args:
        logits: `[num_reqs * width, vocab]`, beam-major per request; any float type, any row stride.
        requests: int64 `[num_reqs]`, index of each request's state; -1 marks padding.
        root_positions: int64 `[num_reqs]`, position of the last committed token.
        temperature, seeds: float32 and int64 `[max_num_reqs]`, by request state.
        depth: tokens that the beams have already.
        is_warped: whether `logits` have been warped; if not, temperature is applied here.
        draw: add noise where the temperature is not 0 (`draft_sampling="beam_sample"`).
        top_k: int32 `[max_num_reqs]`. If given, rows of requests with at most `MAX_TOP_K` write the softmax parts and
            `top_logits`, and `truncation.truncate` writes their candidates.
    """
    rows, vocab_size = logits.shape
    num_blocks, beam_width = out.keys.shape[1:]
    _beam_candidates_kernel[(rows, num_blocks)](
        logits,
        logits.stride(0),
        requests,
        root_positions,
        temperature,
        seeds,
        top_k,
        out.keys,
        out.logits,
        out.tokens,
        None if top_logits is None else top_logits.logits,
        None if top_logits is None else top_logits.tokens,
        out.maxima,
        out.sums,
        vocab_size,
        num_blocks,
        depth,
        WIDTH=width,
        BEAM_WIDTH=beam_width,
        TOP_K=0 if top_k is None else MAX_TOP_K,
        BLOCK=out.block,
        IS_WARPED=is_warped,
        DRAW=draw,
    )
