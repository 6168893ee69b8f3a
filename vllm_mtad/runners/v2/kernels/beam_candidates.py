"""A beam step, part one: each vocabulary block of each beam names its best continuations.

One launch over [rows, vocabulary blocks] reads the logits once. It leaves, per block, the partial softmax and the
`beam_width` largest (noised) logits: the largest pairs of the whole step are among them, because the weight of a beam
and the normaliser of its row are the same for all its tokens.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton

from vllm_mtad.runners.v2.kernels.noise import draft_key, gumbel

MAX_BLOCK = 4096


@triton.jit
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
    # [num_reqs * WIDTH, num_blocks, BEAM_WIDTH]
    keys_ptr,
    logit_ptr,
    token_ptr,
    # [num_reqs * WIDTH, num_blocks]
    max_ptr,
    sum_ptr,
    vocab_size,
    num_blocks,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BEAM_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_WARPED: tl.constexpr,
    DRAW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    request = tl.load(request_ptr + row // WIDTH)
    is_real = request >= 0
    temperature = tl.load(temperature_ptr + request, mask=is_real, other=0.0).to(tl.float32)

    columns = tl.arange(0, BLOCK)
    tokens = block * BLOCK + columns
    mask = (tokens < vocab_size) & is_real
    logits = tl.load(logits_ptr + row * logits_stride + tokens, mask=mask, other=float("-inf")).to(tl.float32)
    if not IS_WARPED:
        logits = logits / tl.where(temperature > 0.0, temperature, 1.0)
    largest = tl.max(logits, axis=0)
    shifted = tl.where(largest > float("-inf"), logits - largest, float("-inf"))
    tl.store(max_ptr + row * num_blocks + block, largest)
    tl.store(sum_ptr + row * num_blocks + block, tl.sum(tl.exp(shifted), axis=0))

    keys = logits
    if DRAW:
        seed = tl.load(seed_ptr + request, mask=is_real, other=0)
        root_position = tl.load(root_position_ptr + row // WIDTH)
        counters = (row % WIDTH) * vocab_size + tokens
        noise = gumbel(draft_key(seed, root_position, DEPTH), counters)
        keys = tl.where(temperature > 0.0, logits + noise, logits)
        keys = tl.where(mask, keys, float("-inf"))
    first = (row * num_blocks + block) * BEAM_WIDTH
    for i in tl.static_range(BEAM_WIDTH):
        # Of equal keys the lower token id comes first.
        best, column = tl.max(keys, axis=0, return_indices=True)
        chosen = columns == column
        tl.store(keys_ptr + first + i, best)
        tl.store(logit_ptr + first + i, tl.sum(tl.where(chosen, logits, 0.0), axis=0))
        tl.store(token_ptr + first + i, block * BLOCK + column)
        keys = tl.where(chosen, float("-inf"), keys)


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
        out.keys,
        out.logits,
        out.tokens,
        out.maxima,
        out.sums,
        vocab_size,
        num_blocks,
        DEPTH=depth,
        WIDTH=width,
        BEAM_WIDTH=beam_width,
        BLOCK=out.block,
        IS_WARPED=is_warped,
        DRAW=draw,
    )
