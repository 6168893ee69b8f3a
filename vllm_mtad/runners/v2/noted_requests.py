"""`NotedRequests` notes what MTAD must know of each request, where vLLM's sampler shows each new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from typing_extensions import override
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor, UvaBackedTensor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor

from vllm_mtad.algorithm.warp import GREEDY_TEMPERATURE
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.config.request_options import RequestOptions
from vllm_mtad.runners.v2.model_states import ModelStateAround


class NotedRequests(LogitsProcessor):
    """One of the sampler's logits processors, which changes no logits.

    Attributes, by request state:
        has_grammar: bool numpy `[max_num_reqs]`.
        log_thresholds: float64 `[max_num_reqs]`, log tau; +inf of requests that are decoded without drafts.
        lossless: int32 `[max_num_reqs]`, 1 of requests at temperature 0 whose text is greedy decoding's own. Its
            `gpu` stays where it is, as CUDA graphs read it.
    """

    def __init__(self, max_num_reqs: int, options: MTADOptions, device: torch.device) -> None:
        self._options = options
        self.has_grammar = np.zeros(max_num_reqs, dtype=bool)
        self.log_thresholds = UvaBackedTensor(max_num_reqs, dtype=torch.float64)
        self.lossless = StagedWriteTensor(max_num_reqs, dtype=torch.int32, device=device)
        self._was_lossless = np.zeros(max_num_reqs, dtype=bool)
        self._is_text = np.ones(max_num_reqs, dtype=bool)

    def note_inputs(self, req_idx: int, is_text: bool) -> None:
        """What the prompt of a request is that comes next. One with images, or of embeddings, has no drafts: the draft
        model cannot read it."""
        self._is_text[req_idx] = is_text

    @override
    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self.has_grammar[req_idx] = sampling_params.structured_outputs is not None
        asked = RequestOptions.of(sampling_params.extra_args)
        self.log_thresholds.np[req_idx] = asked.log_threshold(self._options) if self._is_text[req_idx] else np.inf
        is_greedy = sampling_params.temperature < GREEDY_TEMPERATURE
        is_lossless = is_greedy and not asked.is_joint_greedy(self._options)
        if is_lossless != self._was_lossless[req_idx]:
            self._was_lossless[req_idx] = is_lossless
            self.lossless.stage_write_elem(req_idx, int(is_lossless))
        return False

    @override
    def apply_staged_writes(self) -> None:
        self.log_thresholds.copy_to_uva()
        self.lossless.apply_write()

    def want_drafts(self, states: np.ndarray) -> np.ndarray:
        """bool, for each of these requests: whether it is decoded with drafts."""
        return ~np.isposinf(self.log_thresholds.np[states])

    @override
    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        return logits


class NotingModelState(ModelStateAround):
    """vLLM's ModelState of a target that reads more than text. In place of a seam: the runner shows it each new request
    as a whole, before the sampler."""

    def __init__(self, state: Any, noted: NotedRequests) -> None:
        super().__init__(state, _noted=noted)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        is_text = not new_req_data.mm_features and new_req_data.prompt_embeds is None
        self._noted.note_inputs(req_index, is_text)
        self._state.add_request(req_index, new_req_data)
