"""`DraftBeams` holds a drafting round's beams on the device: persistent tensors, and the launches that grow them.

A step costs two launches, over `[rows, vocab]` and `[num_reqs]`. Small top-k's cost one more, over `[rows]`; other
truncation costs what vLLM's costs. Nothing is allocated per step but the logits and their truncated copy.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.gpu.sample.gumbel import apply_temperature
from vllm.v1.worker.gpu.sample.min_p import apply_min_p
from vllm.v1.worker.gpu.sample.states import SamplingStates

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.runners.v2.kernels.beam_candidates import MAX_TOP_K, Candidates, TopLogits, beam_candidates
from vllm_mtad.runners.v2.kernels.beam_selection import BeamLevels, select_beams
from vllm_mtad.runners.v2.kernels.draft_choice import choose_drafts
from vllm_mtad.runners.v2.kernels.truncation import truncate
from vllm_mtad.runners.v2.trees import DraftTrees

MAX_LOGITS_ROWS = 256
"""Rows of logits at a time: a graph holds them for life (66 MB in bfloat16 at 128,256 tokens), and more save little."""
ALIGNED_REQUESTS = 4
"""Pieces begin at multiples of so many requests: at any other their pointers would be less aligned, and the kernels
compiled again."""
MAX_SWEPT_ROWS = 64
"""Rows that vLLM truncates at a time: for more, it gives up its parallel search for the nucleus."""


class Truncation(enum.Enum):
    """What a batch asks for, and so which kernels a beam step needs. The host knows."""

    NONE = enum.auto()
    SMALL_TOP_K = enum.auto()
    """Who asks for top-p or min-p asks for a top-k of at most `MAX_TOP_K` too: one pass over the logits."""
    NO_TOP_K = enum.auto()
    """Top-p or min-p alone: vLLM's sweeps over a float32 copy of the logits."""
    ANY = enum.auto()

    @classmethod
    def of(cls, states: SamplingStates, requests: np.ndarray) -> Truncation:
        """What a batch asks for whose request states are `requests`, int `[num_reqs]`."""
        top_k, top_p, min_p = (tensor.np[requests] for tensor in (states.top_k, states.top_p, states.min_p))
        has_top_k = top_k != states.vocab_size
        truncates = has_top_k | (top_p != 1.0) | (min_p != 0.0)
        if not truncates.any():
            return cls.NONE
        if (top_k[truncates] <= MAX_TOP_K).all():
            return cls.SMALL_TOP_K
        return cls.ANY if has_top_k.any() else cls.NO_TOP_K


@dataclass(frozen=True)
class DraftRequests:
    """What the drafter knows of the requests; persistent, so that a CUDA graph reads each step's values.

    In batch order: `states`, int64 `[max_num_reqs]`, the index of each request's state, -1 where padded;
    `root_positions`, int64 `[max_num_reqs]`, the position of the last committed token, -1 where padded. By request
    state, `[max_num_reqs]`: `temperature`, `top_p`, `min_p` float32, `seeds` int64, `top_k`, `lossless` int32
    (`NotedRequests`).
    """

    states: torch.Tensor
    root_positions: torch.Tensor
    temperature: torch.Tensor
    seeds: torch.Tensor
    lossless: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    @classmethod
    def allocate(
        cls, states: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor, lossless: torch.Tensor
    ) -> DraftRequests:
        """Allocate the others, beside the tensors that are there already."""
        top_k = torch.ones(states.shape, dtype=torch.int32, device=states.device)
        top_p = torch.ones_like(temperature)
        roots = torch.zeros_like(states)
        return cls(states, roots, temperature, seeds, lossless, top_k, top_p, torch.zeros_like(top_p))

    def copy_truncation(self, states: SamplingStates, vocab_size: int) -> None:
        """`states`: the target's; `vocab_size`: of the draft's logits."""
        for own, theirs in ((self.top_k, states.top_k), (self.top_p, states.top_p), (self.min_p, states.min_p)):
            own.copy_(theirs.gpu, non_blocking=True)
        if vocab_size < states.vocab_size:  # a request without a top-k has all of the target's there
            self.top_k.clamp_(max=vocab_size)


class DraftBeams:
    """Grows `beam_width` beams for up to `max_num_reqs` requests.

    Attributes:
        input_ids: int32 `[max_num_reqs * beam_width]`, the token that each beam feeds next.
        trees: what the target is asked to verify.
    """

    def __init__(
        self, options: MTADOptions, max_num_reqs: int, vocab_size: int, requests: DraftRequests, window: int
    ) -> None:
        device = requests.states.device
        self._options, self._requests, self._window = options, requests, window
        beam_width, gamma = options.beam_width, options.num_speculative_tokens
        self.trees = DraftTrees.allocate(max_num_reqs, gamma, options.num_candidates, device)
        self._candidates = Candidates.allocate(max_num_reqs * beam_width, vocab_size, beam_width, device)
        largest_piece = max(MAX_LOGITS_ROWS, ALIGNED_REQUESTS * beam_width)
        self._top_logits = TopLogits.allocate(min(max_num_reqs * beam_width, largest_piece), self._candidates)
        self._levels = BeamLevels.allocate(max_num_reqs, beam_width, gamma, device)
        self.input_ids = torch.zeros(max_num_reqs * beam_width, dtype=torch.int32, device=device)

    def step(
        self,
        hidden: torch.Tensor,
        compute_logits: Callable[[torch.Tensor], torch.Tensor],
        depth: int,
        num_reqs: int,
        truncation: Truncation,
    ) -> None:
        """One beam step.

        Args:
            hidden: of the draft model, `[num_reqs, hidden]` at depth 0, then `[num_reqs * beam_width, hidden]`.
            compute_logits: gives `[rows, vocab]` of `[rows, hidden]`.
            depth: tokens that the beams have already.
            truncation: of the batch, or of any batch that asks for more.
        """
        width = 1 if depth == 0 else self._options.beam_width
        for some in _pieces(0, num_reqs, MAX_LOGITS_ROWS // width):
            logits = compute_logits(hidden[some.start * width : some.stop * width])
            if truncation in (Truncation.NONE, Truncation.SMALL_TOP_K):
                self._candidates_of(logits, some, depth, width, truncation)
                continue
            for few in _pieces(some.start, some.stop, MAX_SWEPT_ROWS // width):
                rows = slice((few.start - some.start) * width, (few.stop - some.start) * width)
                warped = self._warp(logits[rows], few, width, uses_top_k=truncation is Truncation.ANY)
                self._candidates_of(warped, few, depth, width, truncation)
        select_beams(
            self._candidates,
            self._requests.states[:num_reqs],
            self._requests.lossless,
            self._levels,
            self.input_ids,
            depth=depth,
            width=width,
            is_tree=self._options.num_candidates > 1,
        )

    def _candidates_of(self, logits: torch.Tensor, some: slice, depth: int, width: int, truncation: Truncation) -> None:
        """Candidates of the beams of the requests `some`, whose logits these are."""
        requests, draw = self._requests, self._options.draft_sampling == "beam_sample"
        states, roots = requests.states[some], requests.root_positions[some]
        out = self._candidates.rows(slice(some.start * width, some.stop * width))
        is_small = truncation is Truncation.SMALL_TOP_K
        beam_candidates(
            logits,
            states,
            roots,
            requests.temperature,
            requests.seeds,
            out,
            depth=depth,
            width=width,
            is_warped=truncation in (Truncation.NO_TOP_K, Truncation.ANY),
            draw=draw,
            top_k=requests.top_k if is_small else None,
            top_logits=self._top_logits if is_small else None,
        )
        if is_small:
            truncate(
                self._top_logits,
                states,
                roots,
                requests.temperature,
                requests.seeds,
                requests.top_k,
                requests.top_p,
                requests.min_p,
                out,
                vocab_size=logits.shape[1],
                depth=depth,
                width=width,
                draw=draw,
            )

    def _warp(self, logits: torch.Tensor, some: slice, width: int, *, uses_top_k: bool) -> torch.Tensor:
        """As vLLM's V2 sampler warps the target, with its functions: `[rows, vocab]` of the requests `some`."""
        requests = self._requests
        states = requests.states[some].clamp(min=0).repeat_interleave(width, output_size=len(logits))
        logits = torch.empty_like(logits, dtype=torch.float32).copy_(logits)
        apply_temperature(logits, states, requests.temperature)
        apply_min_p(logits, states, requests.min_p)
        return apply_top_k_top_p(logits, requests.top_k[states] if uses_top_k else None, requests.top_p[states])

    def ancestry(self, depth: int) -> torch.Tensor:
        """int32 `[max_num_reqs, beam_width, gamma]` of the beams that have `depth` tokens."""
        return self._levels.ancestry_at(depth)

    def choose(self, num_reqs: int, num_nodes: int, draft_tokens: torch.Tensor) -> None:
        """The best beam of each request, and others beside it, into `draft_tokens` int64 `[max_num_reqs, nodes]` and
        `trees`. `num_nodes`: all of a tree's, or at most gamma for the best alone."""
        num_drafts = min(num_nodes, self.trees.gamma)
        choose_drafts(
            self._levels,
            self._requests.states[:num_reqs],
            self._requests.root_positions,
            self._requests.lossless,
            draft_tokens,
            self.trees,
            num_drafts=num_drafts,
            num_candidates=self.trees.num_candidates if num_nodes > num_drafts else 1,
            window=self._window,
        )


def _pieces(start: int, stop: int, at_a_time: int) -> Iterator[slice]:
    """Slices of at most so many from `start` to `stop`, or of `ALIGNED_REQUESTS` if that is more."""
    step = max(1, at_a_time // ALIGNED_REQUESTS) * ALIGNED_REQUESTS
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))
