"""Starting real vLLM engines on small pairs, and running requests through them.

The same tests run on Model Runner V1, on vLLM's CPU engine, and on V2, in Triton's interpreter (`tests.interpreter`).
The interpreter is slow: there, drafts are of 3 tokens, and batches and texts are smaller.

Engines run in the tests' own process, where one starts six times faster. Several may, if they end together: what ends
one ends the others. Where a module asks for it, one has a process of its own, as users have it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from vllm import LLM, SamplingParams

ON_V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
GAMMA = 3 if ON_V2 else 4
NUM_TOKENS = 12 if ON_V2 else 20

DEFAULTS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 192,
    "max_num_seqs": 4 if ON_V2 else 8,
    "block_size": 32,  # the CPU's default of 128 would make scratch large and prefix-cache hits rare
    "disable_log_stats": False,
}


@contextmanager
def in_this_process() -> Iterator[None]:
    """Engines that start meanwhile run here. What a baseline's worker corrects in vLLM is put back."""
    from vllm.v1.sample import rejection_sampler

    with pytest.MonkeyPatch.context() as patch:
        for name in ("expand_batch_to_tokens", "apply_sampling_constraints"):
            patch.setattr(rejection_sampler, name, getattr(rejection_sampler, name))
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        gc.freeze()  # vLLM collects garbage after each model, half a second where all that is imported is looked at
        yield


@contextmanager
def engine(
    target: str,
    draft: str | None = None,
    mtad: dict[str, Any] | None = None,
    *,
    has_own_process: bool = False,
    **options: Any,
) -> Iterator[LLM]:
    """An LLM with `draft` under mtad (or none), shut down at the end."""
    speculative = (
        None if draft is None else {"method": "mtad", "model": draft, "num_speculative_tokens": GAMMA} | (mtad or {})
    )
    with nullcontext() if has_own_process else in_this_process():
        llm = LLM(target, speculative_config=speculative, **(DEFAULTS | options))
    try:
        yield llm
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gc, "unfreeze", lambda: None)  # vLLM would at once, and collect three times
            llm.llm_engine.engine_core.shutdown()
        del llm
        gc.unfreeze()
        gc.collect()


def generate(llm: LLM, prompts: list[list[int]], params: SamplingParams | list[SamplingParams]) -> list[Any]:
    """The first completion of each prompt (token ids in, CompletionOutput out)."""
    requests: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts]
    return [request.outputs[0] for request in llm.generate(requests, params, use_tqdm=False)]


def generate_tokens(llm: LLM, prompts: list[list[int]], params: SamplingParams | list[SamplingParams]) -> list[Any]:
    return [list(completion.token_ids) for completion in generate(llm, prompts, params)]


def counters(llm: LLM) -> dict[str, float]:
    """vLLM's counters by their short names, e.g. spec_decode_num_drafts, num_preemptions."""
    return {m.name.removeprefix("vllm:"): m.value for m in llm.get_metrics() if hasattr(m, "value")}
