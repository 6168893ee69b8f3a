"""`RequestTable` holds what the requests of the current batch asked for, in batch order.

It is rebuilt only when the batch changes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from vllm_mtad.algorithm.warp import GREEDY_TEMPERATURE, WarpParameters
from vllm_mtad.config.request_options import RequestOptions

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from vllm_mtad.config.options import MTADOptions


class RequestTable:
    """Attributes, all in batch order:

    warp: `WarpParameters` of the requests, used for p and, where drafts are chains, for q.
    tree_warp: those of q where drafts are trees: at temperature 0 they are searched at T = 1, unwarped.
    seeds: int64 `[num_reqs]`; of an unseeded request, fresh at every change of the batch.
    lossless, joint_greedy: bool `[num_reqs]`, requests at temperature 0 by their `greedy`; the second None if there is
        none.
    deterministic: bool `[num_reqs]`, requests whose draft is searched and not drawn; None if there is none.
    draws_any: whether any request's draft is drawn.
    chain_only: bool `[num_reqs]`, requests whose target rows are processed as if they were a text.
    log_thresholds: float64 `[num_reqs]`, log tau; +inf of requests that are decoded without drafts.
    """

    warp: WarpParameters
    tree_warp: WarpParameters
    seeds: torch.Tensor
    lossless: torch.Tensor
    joint_greedy: torch.Tensor | None
    deterministic: torch.Tensor | None
    draws_any: bool
    chain_only: torch.Tensor
    log_thresholds: torch.Tensor

    def __init__(self, runner: GPUModelRunner, options: MTADOptions) -> None:
        self._runner, self._options = runner, options
        # Seeded as the worker is: ranks of a tensor-parallel group must draft the same, replicas must not.
        self._rng = np.random.default_rng(runner.model_config.seed + runner.parallel_config.data_parallel_index)
        self._built_for: SamplingMetadata | None = None

    def refresh(self) -> None:
        """Follow the batch. vLLM makes a new SamplingMetadata whenever its constituents or order change."""
        batch = self._runner.input_batch
        if batch.sampling_metadata is self._built_for:
            return
        self._built_for = batch.sampling_metadata
        requests = [self._runner.requests[req_id] for req_id in batch.req_ids]
        params = [request.sampling_params for request in requests]
        device, num_reqs = self._runner.device, len(params)
        temperature = batch.temperature_cpu_tensor[:num_reqs].clone()
        asked = [RequestOptions.of(p.extra_args) for p in params]
        cold = temperature < GREEDY_TEMPERATURE
        joint = cold & torch.tensor([options.is_joint_greedy(self._options) for options in asked])
        build = partial(
            WarpParameters.build,
            temperature,
            self._runner.model_config.get_vocab_size(),
            top_k=batch.top_k_cpu_tensor[:num_reqs],
            top_p=batch.top_p_cpu_tensor[:num_reqs].clone(),
            min_p=torch.tensor([p.min_p for p in params]),
        )
        self.warp = build(greedy_as_joint=joint)
        has_trees = self._options.num_candidates > 1
        self.tree_warp = build(greedy_as_joint=True) if has_trees else self.warp
        fresh = self._rng.integers(2**63, size=num_reqs, dtype=np.int64)
        seeds = [own if p.seed is None else _as_int64(p.seed) for p, own in zip(params, fresh.tolist())]
        self.seeds = torch.tensor(seeds, dtype=torch.int64).to(device)

        self.lossless, self.joint_greedy = (cold & ~joint).to(device), joint.to(device) if joint.any() else None
        # Of one-hot rows every draw is the same; trees are searched from others.
        searched = cold if has_trees else joint
        if self._options.draft_sampling == "beam_search":
            searched = torch.ones_like(cold)
        self.draws_any = not bool(searched.all()) and not self.warp.all_one_hot
        self.deterministic = searched.to(device) if searched.any() and self.draws_any else None
        self.chain_only = torch.tensor([_is_chain_only(p) for p in params]).to(device)
        thresholds = torch.tensor([options.log_threshold(self._options) for options in asked], dtype=torch.float64)
        is_text = torch.tensor([not (request.mm_features or request.prompt_embeds is not None) for request in requests])
        self.log_thresholds = thresholds.masked_fill(~is_text, torch.inf)

    @property
    def undrafted(self) -> np.ndarray:
        """bool `[num_reqs]`: requests that are decoded without drafts."""
        return np.isposinf(self.log_thresholds.numpy())


def _is_chain_only(params: SamplingParams) -> bool:
    """Whether something is applied to the target's rows one after another, as if each row's text were all before it."""
    return bool(
        params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.bad_words
        or params.min_tokens
        or params.logprobs is not None
        or params.structured_outputs is not None
        or params.thinking_token_budget is not None
    )


def _as_int64(seed: int) -> int:
    """A seed of any size, wrapped: vLLM takes up to 2^64 - 1."""
    return (seed + 2**63) % 2**64 - 2**63
