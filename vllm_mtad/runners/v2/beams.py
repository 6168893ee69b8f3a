"""The beams of a drafting round on the device: persistent tensors, and the launches that grow them.

A step costs two launches over `[rows, vocab]` and `[num_reqs]`, and what vLLM's truncation costs where a request asks
for top-k, top-p or min-p. Nothing is allocated per step but the logits and their truncated copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.gpu.sample.gumbel import apply_temperature
from vllm.v1.worker.gpu.sample.min_p import apply_min_p
from vllm.v1.worker.gpu.sample.states import SamplingStates

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.runners.v2.kernels.beam_candidates import Candidates, beam_candidates
from vllm_mtad.runners.v2.kernels.beam_selection import BeamHistory, choose_drafts, select_beams

MAX_LOGITS_ROWS = 256
"""Rows of logits at a time: a graph holds them for life (66 MB in bfloat16 at 128,256 tokens), and more save little."""


@dataclass(frozen=True)
class DraftRequests:
    """What the drafter knows of the requests; persistent, so that a CUDA graph reads each step's values.

    In batch order: `states`, int64 `[max_num_reqs]`, the index of each request's state, -1 where padded;
    `root_positions`, int64 `[max_num_reqs]`, the position of the last committed token, -1 where padded. By request
    state, `[max_num_reqs]`: `temperature`, `top_p`, `min_p` float32, `seeds` int64, `top_k` int32.
    """

    states: torch.Tensor
    root_positions: torch.Tensor
    temperature: torch.Tensor
    seeds: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    @classmethod
    def allocate(cls, states: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor) -> DraftRequests:
        """Beside the three that vLLM's speculator has already."""
        top_k = torch.ones(states.shape, dtype=torch.int32, device=states.device)
        top_p = torch.ones_like(temperature)
        return cls(states, torch.zeros_like(states), temperature, seeds, top_k, top_p, torch.zeros_like(top_p))

    def copy_truncation(self, states: SamplingStates) -> None:
        for own, theirs in ((self.top_k, states.top_k), (self.top_p, states.top_p), (self.min_p, states.min_p)):
            own.copy_(theirs.gpu, non_blocking=True)


def any_truncates(states: SamplingStates, requests: np.ndarray) -> bool:
    """Whether a request of the batch asks for top-k, top-p or min-p. The host knows."""
    top_k, top_p, min_p = (tensor.np[requests] for tensor in (states.top_k, states.top_p, states.min_p))
    return bool(np.any(top_k != states.vocab_size) or np.any(top_p != 1.0) or np.any(min_p != 0.0))


class DraftBeams:
    """Grows `beam_width` beams for up to `max_num_reqs` requests.

    Attributes:
        input_ids: int32 `[max_num_reqs * beam_width]`, the token that each beam feeds next.
        log_q: float32 `[max_num_reqs, gamma]`, the chosen draft's own log q, by request state.
    """

    def __init__(
        self, options: MTADOptions, max_num_reqs: int, vocab_size: int, requests: DraftRequests, window: int
    ) -> None:
        device = requests.states.device
        self._options, self._requests, self._window = options, requests, window
        beam_width, gamma = options.beam_width, options.num_speculative_tokens
        self._candidates = Candidates.allocate(max_num_reqs * beam_width, vocab_size, beam_width, device)
        # A step reads one and writes the other.
        self._history = [BeamHistory.allocate(max_num_reqs, beam_width, gamma, device) for _ in range(2)]
        self.input_ids = torch.zeros(max_num_reqs * beam_width, dtype=torch.int32, device=device)
        self.log_q = torch.full((max_num_reqs, gamma), torch.inf, device=device)

    def step(
        self,
        hidden: torch.Tensor,
        compute_logits: Callable[[torch.Tensor], torch.Tensor],
        depth: int,
        num_reqs: int,
        truncates: bool,
    ) -> None:
        """One beam step.

        Args:
            hidden: of the draft model, `[num_reqs, hidden]` at depth 0, then `[num_reqs * beam_width, hidden]`.
            compute_logits: gives `[rows, vocab]` of `[rows, hidden]`.
            depth: tokens that the beams have already.
            truncates: whether any request asks for top-k, top-p or min-p.
        """
        requests, options = self._requests, self._options
        states = requests.states[:num_reqs]
        width = 1 if depth == 0 else options.beam_width
        at_a_time = max(1, MAX_LOGITS_ROWS // width)
        for first in range(0, num_reqs, at_a_time):
            some = slice(first, min(first + at_a_time, num_reqs))
            rows = slice(some.start * width, some.stop * width)
            logits = compute_logits(hidden[rows])
            if truncates:
                logits = self._warp(logits, states[some].clamp(min=0).repeat_interleave(width, output_size=len(logits)))
            beam_candidates(
                logits,
                states[some],
                requests.root_positions[some],
                requests.temperature,
                requests.seeds,
                self._candidates.rows(rows),
                depth=depth,
                width=width,
                is_warped=truncates,
                draw=options.draft_sampling == "beam_sample",
            )
        select_beams(
            self._candidates,
            states,
            requests.temperature,
            before=self._history[depth % 2],
            after=self._history[1 - depth % 2],
            input_ids=self.input_ids,
            depth=depth,
            width=width,
            lossless=options.greedy == "lossless",
        )

    def _warp(self, logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """As vLLM's V2 sampler warps the target, with its functions; `states` int64 `[rows]`."""
        requests = self._requests
        logits = torch.empty_like(logits, dtype=torch.float32).copy_(logits)
        apply_temperature(logits, states, requests.temperature)
        apply_min_p(logits, states, requests.min_p)
        return apply_top_k_top_p(logits, requests.top_k[states], requests.top_p[states])

    def ancestry(self, depth: int) -> torch.Tensor:
        """int32 `[max_num_reqs, beam_width, gamma]` of the beams that have `depth` tokens."""
        return self._history[depth % 2].ancestry

    def choose(self, num_reqs: int, num_drafts: int, draft_tokens: torch.Tensor) -> None:
        """The best beam of each request into `draft_tokens` int64 `[max_num_reqs, gamma]` and `log_q`."""
        choose_drafts(
            self._history[num_drafts % 2],
            self._requests.states[:num_reqs],
            self._requests.root_positions,
            draft_tokens,
            self.log_q,
            num_drafts=num_drafts,
            window=self._window,
        )
