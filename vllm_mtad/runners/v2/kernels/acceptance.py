"""Verification in two launches: what each of the target's rows says, then the joint test per request.

First [rows, vocabulary blocks]: softmax in parts, and the argmax under the same noise that vLLM's sampler would use at
that position, so a request that accepts nothing gets the token that it would have got without a draft. Then [num_reqs]:
a handful of numbers per row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import gumbel_noised_argmax

MAX_BLOCK = 8192


# A large batch is verified in chunks, which may begin at any row.
@triton.jit(do_not_specialize_on_alignment=["request_ptr", "position_ptr"])
def _target_statistics_kernel(
    # [rows, vocab_size]
    logits_ptr,
    logits_stride,
    # [rows]
    request_ptr,
    position_ptr,
    # [max_num_reqs]
    temperature_ptr,
    seed_ptr,
    # [rows, num_blocks]
    max_ptr,
    sum_ptr,
    best_ptr,
    token_ptr,
    vocab_size,
    num_blocks,
    BLOCK: tl.constexpr,
    USE_FP64: tl.constexpr,
):
    """A program owns one row's entries for one vocabulary block in the four outputs."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    request = tl.load(request_ptr + row)
    temperature = tl.load(temperature_ptr + request).to(tl.float32)
    seed = tl.load(seed_ptr + request)
    position = tl.load(position_ptr + row)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    mask = tokens < vocab_size
    logits = tl.load(logits_ptr + row * logits_stride + tokens, mask=mask, other=float("-inf")).to(tl.float32)
    largest = tl.max(logits, axis=0)
    shifted = tl.where(largest > float("-inf"), logits - largest, float("-inf"))
    best, column = gumbel_noised_argmax(
        logits, tokens, mask, seed, position, temperature, IS_DRAFTING=False, USE_FP64=USE_FP64, APPLY_TEMPERATURE=False
    )
    at = row * num_blocks + block
    tl.store(max_ptr + at, largest)
    tl.store(sum_ptr + at, tl.sum(tl.exp(shifted), axis=0))
    tl.store(best_ptr + at, best)
    tl.store(token_ptr + at, block * BLOCK + column)


@triton.jit
def _is_finite(x):
    return (x == x) & (x > float("-inf")) & (x < float("inf"))


@triton.jit(do_not_specialize_on_alignment=["draft_ptr", "request_ptr"])
def _joint_acceptance_kernel(
    # [num_reqs, num_columns]
    sampled_ptr,
    num_columns,
    # [num_reqs]
    num_sampled_ptr,
    # [rows, vocab_size]
    logits_ptr,
    logits_stride,
    # [rows]; row i holds the draft token that row i - 1 predicts
    draft_ptr,
    # [max_num_reqs, GAMMA]
    log_q_ptr,
    # [num_reqs + 1]
    first_row_ptr,
    # [num_reqs]
    request_ptr,
    # [max_num_reqs]
    temperature_ptr,
    # [rows, num_blocks]
    max_ptr,
    sum_ptr,
    best_ptr,
    token_ptr,
    num_blocks,
    log_threshold_high,
    log_threshold_low,
    GAMMA: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    LOSSLESS: tl.constexpr,
):
    """A program owns one request: its row of `sampled`, and its `num_sampled`."""
    batch_row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + batch_row).to(tl.int64)
    first = tl.load(first_row_ptr + batch_row).to(tl.int64)
    num_drafts = (tl.load(first_row_ptr + batch_row + 1) - first - 1).to(tl.int32)
    one_hot = (tl.load(temperature_ptr + request) == 0.0) & LOSSLESS
    block = tl.arange(0, BLOCKS)
    is_block = block < num_blocks

    log_threshold = tl.cast(log_threshold_high, tl.float64) + tl.cast(log_threshold_low, tl.float64)
    accepted = tl.zeros((), tl.int32)
    log_ratio = tl.zeros((), tl.float64)
    unbroken = tl.full((), 1, tl.int1)
    for i in range(num_drafts):
        row = first + i
        token = tl.load(draft_ptr + row + 1).to(tl.int64)
        # A placeholder, or a token that the grammar refuses: neither it nor what follows has a p.
        unbroken = unbroken & (token >= 0)
        maxima = tl.load(max_ptr + row * num_blocks + block, mask=is_block, other=float("-inf"))
        sums = tl.load(sum_ptr + row * num_blocks + block, mask=is_block, other=0.0)
        largest = tl.max(maxima, axis=0)
        mass = tl.sum(tl.where(maxima > float("-inf"), sums * tl.exp(maxima - largest), 0.0), axis=0)
        logit = tl.load(logits_ptr + row * logits_stride + tl.maximum(token, 0)).to(tl.float32)
        log_p = logit - largest - tl.log(mass)
        best = tl.load(best_ptr + row * num_blocks + block, mask=is_block, other=float("-inf"))
        argmax = tl.load(token_ptr + row * num_blocks + tl.argmax(best, axis=0))
        log_p = tl.where(one_hot, tl.where(argmax == token, 0.0, float("-inf")), log_p)
        log_q = tl.load(log_q_ptr + request * GAMMA + i)
        unbroken = unbroken & _is_finite(log_p) & _is_finite(log_q)
        ratio = tl.where(unbroken, log_p.to(tl.float64) - log_q.to(tl.float64), 0.0)
        if PER_TOKEN:
            unbroken = unbroken & (ratio > log_threshold)
            accepted = tl.where(unbroken, i + 1, accepted)
        else:
            # The longest prefix that passes, which need not be the one before the first failure.
            log_ratio += ratio
            accepted = tl.where(unbroken & (log_ratio > log_threshold), i + 1, accepted)

    best = tl.load(best_ptr + (first + accepted) * num_blocks + block, mask=is_block, other=float("-inf"))
    extra = tl.load(token_ptr + (first + accepted) * num_blocks + tl.argmax(best, axis=0)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    draft = tl.load(draft_ptr + first + 1 + column, mask=column < accepted, other=-1).to(tl.int64)
    tl.store(
        sampled_ptr + batch_row * num_columns + column,
        tl.where(column == accepted, extra, draft),
        mask=column < num_columns,
    )
    tl.store(num_sampled_ptr + batch_row, accepted + 1)


@dataclass(frozen=True)
class RowStatistics:
    """Of up to `max_rows` rows of the target, by vocabulary block: `maxima`, `sums` (a softmax in parts), `best`
    float32 and `tokens` int32 (the argmax under noise), each `[max_rows, num_blocks]`."""

    maxima: torch.Tensor
    sums: torch.Tensor
    best: torch.Tensor
    tokens: torch.Tensor
    block: int

    @classmethod
    def allocate(
        cls, max_rows: int, vocab_size: int, device: torch.device, *, use_fp64: bool = False, block: int | None = None
    ) -> "RowStatistics":
        block = block or min(MAX_BLOCK, triton.next_power_of_2(vocab_size))
        shape = (max_rows, triton.cdiv(vocab_size, block))
        maxima = torch.empty(shape, device=device)
        best = torch.empty(shape, device=device, dtype=torch.float64 if use_fp64 else torch.float32)
        return cls(maxima, torch.empty_like(maxima), best, torch.empty(shape, device=device, dtype=torch.int32), block)


def target_statistics(
    logits: torch.Tensor,
    requests: torch.Tensor,
    positions: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    out: RowStatistics,
) -> None:
    """Statistics of each row.

    Args:
        logits: `[rows, vocab]`, warped; any float type, any row stride.
        requests: `[rows]`, each row's request state.
        positions: int64 `[rows]`, the position that the noise is keyed by.
        temperature, seeds: `[max_num_reqs]`; where the temperature is 0 there is no noise.
    """
    rows, vocab_size = logits.shape
    num_blocks = out.maxima.shape[1]
    _target_statistics_kernel[(rows, num_blocks)](
        logits,
        logits.stride(0),
        requests,
        positions,
        temperature,
        seeds,
        out.maxima,
        out.sums,
        out.best,
        out.tokens,
        vocab_size,
        num_blocks,
        BLOCK=out.block,
        USE_FP64=out.best.dtype == torch.float64,
        num_warps=8,
    )


def _in_two_float32(x: float) -> tuple[float, float]:
    """A double as the sum of two float32: a kernel's arguments are rounded, and a ratio that equals tau must fail."""
    high = float(np.float32(x))
    return high, x - high if np.isfinite(high) else 0.0


def joint_acceptance(
    logits: torch.Tensor,
    drafts: torch.Tensor,
    log_q: torch.Tensor,
    first_rows: torch.Tensor,
    requests: torch.Tensor,
    temperature: torch.Tensor,
    statistics: RowStatistics,
    sampled: torch.Tensor,
    num_sampled: torch.Tensor,
    *,
    log_threshold: float,
    per_token: bool,
    lossless: bool,
) -> None:
    """Accepted draft tokens and the extra token of each request (ALGORITHM.md, "One iteration", 4 and 5).

    Args:
        logits: the rows that `statistics` are of.
        drafts: `[rows]`; a request's row i + 1 holds its draft token i, negative for a placeholder.
        log_q: float32 `[max_num_reqs, gamma]`, by request state.
        first_rows: int32 `[num_reqs + 1]`.
        requests: `[num_reqs]`.
        sampled: int64 `[num_reqs, gamma + 1]`, -1 after the extra token.
        num_sampled: int32 `[num_reqs]`, accepted + 1.
        log_threshold: log tau.
        lossless: rows at temperature 0 are one-hot at their argmax.
    """
    num_blocks = statistics.maxima.shape[1]
    num_reqs, num_columns = sampled.shape
    _joint_acceptance_kernel[(num_reqs,)](
        sampled,
        num_columns,
        num_sampled,
        logits,
        logits.stride(0),
        drafts,
        log_q,
        first_rows,
        requests,
        temperature,
        statistics.maxima,
        statistics.sums,
        statistics.best,
        statistics.tokens,
        num_blocks,
        *_in_two_float32(log_threshold),
        GAMMA=log_q.shape[1],
        BLOCKS=triton.next_power_of_2(num_blocks),
        COLUMNS=triton.next_power_of_2(num_columns),
        PER_TOKEN=per_token,
        LOSSLESS=lossless,
        num_warps=1,
    )
