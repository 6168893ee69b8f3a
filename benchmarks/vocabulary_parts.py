"""`TorchParts` and `KernelParts` run what of an iteration grows with the vocabulary, on made-up logits.

They are the runners' own code, for `vocabulary`. The draft agrees with the target: its tokens are the target's
likeliest, so all are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch

from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, choose_draft
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.warp import WarpParameters, warp
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.methods import PAPER


@dataclass(frozen=True)
class Shape:
    vocab_size: int
    gamma: int
    beam_width: int
    requests: int

    @property
    def draft_rows(self) -> dict[str, list[int]]:
        """Rows of the draft's logits in each of its gamma passes; the first of mtad has one beam per request."""
        wide = [self.requests * self.beam_width] * (self.gamma - 1)
        return {"mtad": [self.requests, *wide], "draft_model": [self.requests] * self.gamma}

    @property
    def target_rows(self) -> int:
        return self.requests * (self.gamma + 1)


class Parts(Protocol):
    """A runner's code on the logits of one iteration; `drafts`: `[rows, vocab]` of each pass, not overwritten.

    Drawing gives `[requests, gamma]` tokens; acceptance what the runner's sampler gives: on V1 `[requests, gamma + 1]`
    tokens, -1 where there is none, on V2 their number `[requests]`.
    """

    def mtad_draw(self, drafts: list[torch.Tensor]) -> torch.Tensor: ...

    def vanilla_draw(self, drafts: list[torch.Tensor]) -> torch.Tensor: ...

    def mtad_acceptance(self, target: torch.Tensor) -> torch.Tensor: ...

    def vanilla_acceptance(self, target: torch.Tensor) -> torch.Tensor: ...


# -- Model Runner V1 ----------------------------------------------------------------------------------


class TorchParts:
    """As V1's proposers and rejection samplers do it."""

    def __init__(self, shape: Shape, target: torch.Tensor) -> None:
        from vllm.v1.sample.rejection_sampler import RejectionSampler
        from vllm.v1.sample.sampler import Sampler

        from vllm_mtad.runners.v1.handover import DraftHandover
        from vllm_mtad.runners.v1.rejection_sampler import MTADRejectionSampler

        self.shape, self.device = shape, target.device
        n, gamma, device = shape.requests, shape.gamma, target.device
        self.options = MTADOptions(gamma, shape.beam_width)
        self.parameters = WarpParameters.build(
            torch.full((n,), PAPER.temperature, device=device),
            shape.vocab_size,
            top_k=torch.full((n,), PAPER.top_k, device=device),
            top_p=torch.full((n,), PAPER.top_p, device=device),
        )
        self.seeds, self.positions = torch.arange(n, device=device), torch.full((n,), 100, device=device)
        self.request_of_row = torch.arange(n, device=device).repeat_interleave(shape.beam_width)
        self.sampling = _sampling_metadata(shape, device)
        drafts = target.view(n, gamma + 1, -1)[:, :gamma].flatten(0, 1)
        self.metadata = _spec_decode_metadata(shape, drafts.argmax(1).int())
        self.draft_probs = drafts.float().softmax(1)
        warped = warp(target.clone(), self.parameters.rows(_requests_of_target_rows(shape, device)))
        log_q = warped.log_probs[:, 0].view(n, gamma + 1)[:, :gamma]  # candidates are sorted: the drafts' own
        self.handover = DraftHandover(
            log_q,
            self.parameters,
            None,
            np.zeros(n, dtype=bool),
            torch.full((n,), self.options.log_threshold, dtype=torch.float64),
        )
        config = SimpleNamespace(options=self.options, rejection_sample_method="standard", method="mtad")
        self.mtad_sampler = MTADRejectionSampler(Sampler(), config, device)
        self.vanilla_sampler = RejectionSampler(Sampler())

    def mtad_draw(self, drafts: list[torch.Tensor]) -> torch.Tensor:
        width, roots = self.shape.beam_width, root_keys(self.seeds, self.positions)
        beams = Beams.root(self.shape.requests, self.device)
        parameters = self.parameters
        for depth, logits in enumerate(drafts):
            noise = DrawNoise(draft_keys(roots, depth), self.shape.vocab_size)
            beams = beam_step(beams, warp(logits, parameters), width, noise)
            if depth == 0:
                parameters = self.parameters.rows(self.request_of_row)
        return choose_draft(beams)[0]

    def vanilla_draw(self, drafts: list[torch.Tensor]) -> torch.Tensor:
        from vllm.v1.spec_decode.llm_base_proposer import compute_probs_and_sample_next_token

        # At T = 1 its division in place changes nothing.
        drawn = [compute_probs_and_sample_next_token(logits, self.sampling) for logits in drafts]
        torch.stack([probs for _, probs in drawn], dim=1).contiguous()
        return torch.stack([tokens for tokens, _ in drawn], dim=1)

    def mtad_acceptance(self, target: torch.Tensor) -> torch.Tensor:
        return self.mtad_sampler(self.metadata, self.handover, target, self.sampling).sampled_token_ids

    def vanilla_acceptance(self, target: torch.Tensor) -> torch.Tensor:
        return self.vanilla_sampler(self.metadata, self.draft_probs, target, self.sampling).sampled_token_ids


def _requests_of_target_rows(shape: Shape, device: torch.device) -> torch.Tensor:
    return torch.arange(shape.requests, device=device).repeat_interleave(shape.gamma + 1)


def _sampling_metadata(shape: Shape, device: torch.device) -> Any:
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata

    n = shape.requests
    no_penalty = torch.zeros(n, device=device)
    return SamplingMetadata(
        temperature=torch.full((n,), PAPER.temperature, device=device),
        all_greedy=False,
        all_random=True,
        top_p=torch.full((n,), PAPER.top_p, device=device),
        top_k=torch.full((n,), PAPER.top_k, dtype=torch.int32, device=device),
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=no_penalty,
        presence_penalties=no_penalty,
        repetition_penalties=no_penalty,
        output_token_ids=[[] for _ in range(n)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )


def _spec_decode_metadata(shape: Shape, drafts: torch.Tensor) -> Any:
    """As `GPUModelRunner._calc_spec_decode_metadata` lays the rows out; `drafts`: int32 `[requests * gamma]`."""
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

    requests = torch.arange(1, shape.requests + 1, dtype=torch.int32, device=drafts.device)
    rows = torch.arange(shape.target_rows, device=drafts.device)
    return SpecDecodeMetadata(
        draft_token_ids=drafts,
        num_draft_tokens=[shape.gamma] * shape.requests,
        cu_num_draft_tokens=requests * shape.gamma,
        cu_num_sampled_tokens=requests * (shape.gamma + 1),
        target_logits_indices=rows[rows % (shape.gamma + 1) < shape.gamma].int(),
        bonus_logits_indices=(requests * (shape.gamma + 1) - 1).int(),
        logits_indices=rows,
    )


@cache
def _register_kernels_of_the_cpu() -> None:
    """Register them as a CPU worker does at its start; once, for vLLM warns when they are registered again."""
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    current_platform.register_triton_kernel_overrides()


@contextmanager
def vanilla_right_on_a_cpu(device: torch.device, runner: str) -> Iterator[None]:
    """vLLM 0.32.0's vanilla verification reads uninitialised memory there (`harness.corrected_worker`)."""
    if device.type != "cpu" or runner != "V1":
        yield
        return
    _register_kernels_of_the_cpu()
    from vllm.v1.sample import rejection_sampler

    from vllm_mtad.tools.harness import corrected_worker

    names = ("expand_batch_to_tokens", "apply_sampling_constraints")
    stock = {name: getattr(rejection_sampler, name) for name in names}
    try:
        for name in names:
            setattr(rejection_sampler, name, getattr(corrected_worker, name))
        yield
    finally:
        for name, function in stock.items():
            setattr(rejection_sampler, name, function)


# -- Model Runner V2 ----------------------------------------------------------------------------------


class KernelParts:
    """As V2's speculators and rejection samplers do it, eagerly."""

    def __init__(self, shape: Shape, target: torch.Tensor) -> None:
        from vllm import SamplingParams
        from vllm.v1.worker.gpu.sample.states import SamplingStates

        from vllm_mtad.runners.v2.beams import DraftBeams, DraftRequests, Truncation
        from vllm_mtad.runners.v2.kernels.acceptance import RowStatistics
        from vllm_mtad.runners.v2.trees import DraftTrees

        self.shape, self.options = shape, MTADOptions(shape.gamma, shape.beam_width)
        n, gamma, vocab_size, device = shape.requests, shape.gamma, shape.vocab_size, target.device
        self.states = SamplingStates(n, vocab_size)
        params = SamplingParams(temperature=PAPER.temperature, top_k=PAPER.top_k, top_p=PAPER.top_p)
        for request in range(n):
            self.states.add_request(request, params)
        self.states.apply_staged_writes()
        self.temperature, self.seeds = self.states.temperature.gpu.clone(), self.states.seeds.gpu.clone()
        self.requests, self.requests_np = torch.arange(n, device=device), np.arange(n)
        self.lossless = torch.zeros(n, dtype=torch.int32, device=device)
        drafted = DraftRequests.allocate(self.requests, self.temperature, self.seeds, self.lossless)
        drafted.root_positions.fill_(100)
        drafted.copy_truncation(self.states, self.states.vocab_size)
        self.truncation = Truncation.of(self.states, self.requests_np)
        self.beams = DraftBeams(self.options, n, vocab_size, drafted, window=1 << 20)
        self.draft_tokens = torch.zeros(n, gamma, dtype=torch.int64, device=device)
        rows = torch.arange(shape.target_rows, device=device)
        self.request_of_row = _requests_of_target_rows(shape, device)
        self.first_rows = (torch.arange(n + 1, device=device) * (gamma + 1)).int()
        self.local_pos = (rows % (gamma + 1)).int()
        self.positions = 100 + rows % (gamma + 1)
        self.verified = target.argmax(1).roll(1)  # row i + 1 holds the draft that row i predicts
        drafts = target.view(n, gamma + 1, vocab_size)[:, :gamma]
        self.draft_logits = drafts.contiguous()
        self.drafted_logits = torch.empty_like(self.draft_logits)  # what drawing caches; acceptance reads the other
        self.trees = DraftTrees.allocate(n, gamma, 1, device)
        self.max_nodes = torch.full((n,), gamma, dtype=torch.int32, device=device)
        self.log_thresholds = torch.full((n,), self.options.log_threshold, dtype=torch.float64, device=device)
        self.trees.log_q.copy_(drafts.float().log_softmax(2).amax(2))
        self.statistics = RowStatistics.allocate(shape.target_rows, vocab_size, device)
        self.sampled = torch.empty(n, gamma + 1, dtype=torch.int64, device=device)
        self.num_sampled = torch.empty(n, dtype=torch.int32, device=device)
        self.steps = torch.arange(gamma, device=device)

    def mtad_draw(self, drafts: list[torch.Tensor]) -> torch.Tensor:
        for depth, logits in enumerate(drafts):
            self.beams.step(logits, lambda rows: rows, depth, self.shape.requests, self.truncation)
        self.beams.choose(self.shape.requests, self.shape.gamma, self.draft_tokens)
        return self.draft_tokens

    def vanilla_draw(self, drafts: list[torch.Tensor]) -> torch.Tensor:
        from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

        for step, logits in enumerate(drafts):
            self.draft_tokens[:, step] = gumbel_sample(
                logits,
                self.requests,
                self.temperature,
                self.seeds,
                self.positions[: self.shape.requests],
                apply_temperature=True,
                is_drafting=True,
                logits_cache=self.drafted_logits,
                logits_cache_col=self.steps[step],
            )
        return self.draft_tokens

    def _warped(self, target: torch.Tensor) -> torch.Tensor:
        """As `Sampler.apply_sampling_params` does for these requests."""
        logits = torch.empty_like(target, dtype=torch.float32).copy_(target)
        self.states.apply_temperature(logits, self.request_of_row, self.requests_np)
        return self.states.apply_top_k_top_p(logits, self.request_of_row, self.requests_np)

    def mtad_acceptance(self, target: torch.Tensor) -> torch.Tensor:
        from vllm_mtad.runners.v2.kernels.acceptance import joint_acceptance, target_statistics

        warped = self._warped(target)
        target_statistics(warped, self.request_of_row, self.positions, self.temperature, self.seeds, self.statistics)
        joint_acceptance(
            warped,
            self.verified,
            self.trees,
            self.first_rows,
            self.max_nodes,
            self.requests,
            self.lossless,
            self.log_thresholds,
            self.statistics,
            self.sampled,
            self.num_sampled,
            per_token=False,
        )
        return self.num_sampled

    def vanilla_acceptance(self, target: torch.Tensor) -> torch.Tensor:
        from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

        _, num_sampled = rejection_sample(
            self._warped(target),
            self.draft_logits,
            self.verified,
            self.first_rows,
            self.positions,
            self.requests,
            self.request_of_row,
            self.local_pos,
            self.temperature,
            self.seeds,
            self.shape.gamma,
        )
        return num_sampled
