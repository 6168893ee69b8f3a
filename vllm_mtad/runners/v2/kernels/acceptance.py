"""Verification takes two launches: one reads what each of the target's rows says, one runs the joint test per request.

First [rows, vocabulary blocks]: softmax in parts, and the argmax under the same noise that vLLM's sampler would use at
that position, so a request that accepts nothing gets the token that it would have got without a draft. Then [num_reqs]:
a handful of numbers per row.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import gumbel_noised_argmax

from vllm_mtad.algorithm.modes import CandidateTest
from vllm_mtad.runners.v2.kernels.online_softmax import merge_parts
from vllm_mtad.runners.v2.trees import DraftTrees

MAX_BLOCK = 8192
_MANY_NODES = 256
"""From here on one warp runs out of registers."""


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


@triton.jit
def _at(values, is_there):
    """The one of `values` where `is_there`."""
    return tl.sum(tl.where(is_there, values, 0.0), axis=0)


@triton.jit(do_not_specialize_on_alignment=["draft_ptr", "request_ptr", "max_nodes_ptr"])
def _joint_acceptance_kernel(
    # [num_reqs, num_columns]
    sampled_ptr,
    num_columns,
    # [num_reqs]
    num_sampled_ptr,
    # [max_num_reqs]
    kept_ptr,
    # [max_num_reqs, 3]
    tally_ptr,
    # [rows, vocab_size]
    logits_ptr,
    logits_stride,
    # [rows]; of a request, row i + 1 holds the token of node i
    draft_ptr,
    # [max_num_reqs, GAMMA * CANDIDATES]
    log_q_ptr,
    parent_ptr,
    # [num_reqs + 1]
    first_row_ptr,
    # [num_reqs]
    max_nodes_ptr,
    request_ptr,
    # [max_num_reqs]
    lossless_ptr,
    log_threshold_ptr,
    # [rows, num_blocks]
    max_ptr,
    sum_ptr,
    best_ptr,
    token_ptr,
    num_blocks,
    GAMMA: tl.constexpr,
    CANDIDATES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    AGAINST_CHOSEN: tl.constexpr,
):
    """A program owns one request: its row of `sampled`, its `num_sampled`, and of its state `kept` and the tally."""
    batch_row = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + batch_row).to(tl.int64)
    first = tl.load(first_row_ptr + batch_row).to(tl.int64)
    num_nodes = (tl.load(first_row_ptr + batch_row + 1) - first - 1).to(tl.int32)
    num_nodes = tl.minimum(num_nodes, tl.load(max_nodes_ptr + batch_row))
    one_hot = tl.load(lossless_ptr + request) != 0
    tree = request * GAMMA * CANDIDATES
    block = tl.arange(0, BLOCKS)
    is_block = block < num_blocks

    log_threshold = tl.load(log_threshold_ptr + request)
    # By row of the request, of which row 0 is the text itself: its path has p and q of 1.
    rows = tl.arange(0, ROWS)
    joint_p, log_ratio = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64)
    unbroken = tl.where(rows == 0, 1, 0)
    kept, kept_depth, kept_p = tl.zeros((), tl.int32), tl.zeros((), tl.int32), tl.zeros((), tl.float64)
    for i in range(num_nodes):
        parent = tl.load(parent_ptr + tree + i)
        is_parent = rows == parent
        depth = tl.where(i < GAMMA, i, (i - GAMMA) // tl.maximum(CANDIDATES - 1, 1)) + 1
        row = first + parent
        token = tl.load(draft_ptr + first + i + 1).to(tl.int64)
        maxima = tl.load(max_ptr + row * num_blocks + block, mask=is_block, other=float("-inf"))
        sums = tl.load(sum_ptr + row * num_blocks + block, mask=is_block, other=0.0)
        largest, mass = merge_parts(maxima, sums, 0)
        logit = tl.load(logits_ptr + row * logits_stride + tl.maximum(token, 0)).to(tl.float32)
        log_p = logit - largest - tl.log(mass)
        best = tl.load(best_ptr + row * num_blocks + block, mask=is_block, other=float("-inf"))
        argmax = tl.load(token_ptr + row * num_blocks + tl.argmax(best, axis=0))
        log_p = tl.where(one_hot, tl.where(argmax == token, 0.0, float("-inf")), log_p)
        log_q = tl.load(log_q_ptr + tree + i)
        # A placeholder, or a token that the grammar refuses: neither it nor what follows has a p.
        alive = (token >= 0) & _is_finite(log_p) & _is_finite(log_q)
        if AGAINST_CHOSEN:
            log_q = tl.load(log_q_ptr + tree + depth - 1)
            alive = alive & _is_finite(log_q)
        alive = alive & (tl.sum(tl.where(is_parent, unbroken, 0), axis=0) > 0)
        ratio = tl.where(alive, log_p.to(tl.float64) - log_q.to(tl.float64), 0.0)
        path_p = _at(joint_p, is_parent) + tl.where(alive, log_p, 0.0).to(tl.float64)
        path_ratio = _at(log_ratio, is_parent) + ratio
        if PER_TOKEN:
            alive = alive & (ratio > log_threshold)
            passes = alive
        else:
            passes = alive & (path_ratio > log_threshold)
        # The deepest that passes, which need not have passed at every depth; of several, the target's favourite.
        is_better = passes & ((depth > kept_depth) | ((depth == kept_depth) & (path_p > kept_p)))
        kept = tl.where(is_better, i + 1, kept)
        kept_depth = tl.where(is_better, depth, kept_depth)
        kept_p = tl.where(is_better, path_p, kept_p)
        is_own = rows == i + 1
        joint_p = tl.where(is_own, path_p, joint_p)
        log_ratio = tl.where(is_own, path_ratio, log_ratio)
        unbroken = tl.where(is_own, alive.to(tl.int32), unbroken)

    best = tl.load(best_ptr + (first + kept) * num_blocks + block, mask=is_block, other=float("-inf"))
    extra = tl.load(token_ptr + (first + kept) * num_blocks + tl.argmax(best, axis=0)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    sampled = tl.where(column == kept_depth, extra, -1)
    node = kept
    for i in range(kept_depth):
        token = tl.load(draft_ptr + first + node).to(tl.int64)
        sampled = tl.where(column == kept_depth - 1 - i, token, sampled)
        node = tl.load(parent_ptr + tree + node - 1)
    tl.store(sampled_ptr + batch_row * num_columns + column, sampled, mask=column < num_columns)
    tl.store(num_sampled_ptr + batch_row, kept_depth + 1)
    tl.store(kept_ptr + request, kept)
    has_draft = (num_nodes > 0) & (tl.load(draft_ptr + first + tl.minimum(num_nodes, 1)) >= 0)
    figure = tl.arange(0, 4)
    figures = tl.where(figure == 0, 1, tl.where(figure == 1, kept_depth, (kept > GAMMA).to(tl.int32)))
    tally_at = tally_ptr + request * 3 + figure
    so_far = tl.load(tally_at, mask=figure < 3, other=0)
    tl.store(tally_at, so_far + figures, mask=(figure < 3) & has_draft)


@dataclass(frozen=True)
class RowStatistics:
    """What up to `max_rows` rows of the target say, by vocabulary block: `maxima`, `sums` (a softmax in parts), `best`
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


def joint_acceptance(
    logits: torch.Tensor,
    drafts: torch.Tensor,
    trees: DraftTrees,
    first_rows: torch.Tensor,
    max_nodes: torch.Tensor,
    requests: torch.Tensor,
    lossless: torch.Tensor,
    log_thresholds: torch.Tensor,
    statistics: RowStatistics,
    sampled: torch.Tensor,
    num_sampled: torch.Tensor,
    *,
    per_token: bool,
    candidate_test: CandidateTest = "own",
) -> None:
    """Accepted draft tokens and the extra token of each request (steps 4 and 5 of docs/algorithm.md).

    Args:
        logits: the rows that `statistics` are of.
        drafts: `[rows]`; a request's row i + 1 holds the token of its node i, negative for a placeholder.
        trees: by request state; `kept` and `tally` are written.
        first_rows: int32 `[num_reqs + 1]`; a request has a row for its newest token, and one for each of some nodes.
        max_nodes: int32 `[num_reqs]`; nodes from there on are not looked at.
        requests: `[num_reqs]`.
        lossless: int32 `[max_num_reqs]`, by request state: rows of those that are not 0 are one-hot at their argmax.
        log_thresholds: float64 `[max_num_reqs]`, log tau by request state: a ratio that equals it fails.
        sampled: int64 `[num_reqs, columns]`, at least gamma + 1 of them, -1 after the extra token.
        num_sampled: int32 `[num_reqs]`, accepted + 1.
    """
    num_blocks = statistics.maxima.shape[1]
    num_reqs, num_columns = sampled.shape
    _joint_acceptance_kernel[(num_reqs,)](
        sampled,
        num_columns,
        num_sampled,
        trees.kept,
        trees.tally,
        logits,
        logits.stride(0),
        drafts,
        trees.log_q,
        trees.parents,
        first_rows,
        max_nodes,
        requests,
        lossless,
        log_thresholds,
        statistics.maxima,
        statistics.sums,
        statistics.best,
        statistics.tokens,
        num_blocks,
        GAMMA=trees.gamma,
        CANDIDATES=trees.num_candidates,
        ROWS=triton.next_power_of_2(trees.log_q.shape[1] + 1),
        BLOCKS=triton.next_power_of_2(num_blocks),
        COLUMNS=triton.next_power_of_2(num_columns),
        PER_TOKEN=per_token,
        AGAINST_CHOSEN=candidate_test == "reference",
        num_warps=1 if trees.log_q.shape[1] < _MANY_NODES else 4,
    )
