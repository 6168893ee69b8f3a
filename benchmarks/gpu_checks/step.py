"""This check measures how much of an engine's step acceptance and drafting take.

The shapes are those of Llama-3.1-8B and Llama-3.2-1B.

The engine is real and in this process, and `arrivals` uses it too; events are read when all steps are done. The weights
are random, so `acceptance_threshold` is 0, at which every draft passes whose tokens have mass under the target: all of
them at T = 1, few with top-k and top-p. How much is accepted changes neither shapes nor launches.
"""

from __future__ import annotations

import os
import statistics
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks import arrivals
from benchmarks.gpu_checks.models import LLAMA_1B, LLAMA_8B, TINY_DRAFT, TINY_TARGET, spread_weights, write_model
from benchmarks.gpu_checks.report import append
from benchmarks.gpu_checks.step_events import StepEvents

BATCHES, TINY_BATCHES = (1, 8, 32, 64), (1, 2)
PIECES = range(32, 513, 32)
"""Sizes at which batches with prefills have graphs; vLLM's default ends there too."""
SAMPLING: dict[str, dict[str, Any]] = {"T=1": {}, "top-k/p": {"top_k": 10, "top_p": 0.9}}


def measure(file: str, folder: str, tiny: bool, mode: int, parts: list[str]) -> bool:
    """Appends the records of `parts`, step and arrivals, to `file`; an error in one of them is a record too."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    gamma = 3 if tiny else 4
    llm = _start(Path(folder), tiny, mode, gamma)
    runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    if not tiny:
        for model in (runner.model, runner.speculator.model):
            spread_weights(model)
    events = StepEvents(runner, gamma, timed=not tiny)
    for part in parts:
        try:
            records = _shares(llm, events, tiny, gamma) if part == "step" else arrivals.traces(llm, events, tiny)
            for record in records:
                append(Path(file), {"part": part, "mode": mode, "timed": not tiny} | record)
        except Exception:
            append(Path(file), {"part": part, "error": traceback.format_exc(limit=-6)})
    return True


def _shares(llm: Any, events: StepEvents, tiny: bool, gamma: int) -> Iterator[dict[str, Any]]:
    """A record for each number of requests and kind of sampling."""
    prompt_tokens, steps = (20, 2) if tiny else (2048, 24)
    _generate(llm, 2, 20, 4 * gamma, {})
    _generate(llm, 2, 20, 4, SAMPLING["top-k/p"])
    for requests in TINY_BATCHES if tiny else BATCHES:
        for sampling, values in SAMPLING.items():
            events.take()
            # With all of a draft accepted a step gives gamma + 1 tokens.
            tokens = steps * (gamma + 1 if sampling == "T=1" else 1)
            generated = _generate(llm, requests, prompt_tokens, tokens, values)
            found = [s for s in events.take() if s["requests"] == requests and {"acceptance", "drafting"} <= s.keys()]
            record = {"requests": requests, "sampling": sampling, "steps": len(found), "generated": generated}
            yield record | ({} if tiny or not found else _medians(found))


def _start(folder: Path, tiny: bool, mode: int, gamma: int) -> Any:
    from vllm import LLM

    dtype = "float32" if tiny else "bfloat16"
    target = write_model(folder / "target", TINY_TARGET if tiny else LLAMA_8B, dtype)
    draft = write_model(folder / "draft", TINY_DRAFT if tiny else LLAMA_1B, dtype)
    if tiny:
        options: dict[str, Any] = {
            "max_model_len": 128,
            "max_num_seqs": 4,
            "max_num_batched_tokens": 64,
            "block_size": 32,
            "enforce_eager": True,
        }
    else:
        decodes = {n * width for n in BATCHES for width in (gamma + 1, gamma + 2)}
        options = {
            "max_model_len": 4096,
            "max_num_seqs": max(BATCHES),
            "max_num_batched_tokens": 8192,
            "kv_cache_memory_bytes": 28 << 30,
            "gpu_memory_utilization": 0.5,  # so much must be free
            "attention_backend": "FLASH_ATTN",
            "compilation_config": {
                "mode": mode,
                "cudagraph_mode": "FULL_AND_PIECEWISE" if mode == 3 else "FULL_DECODE_ONLY",
                "cudagraph_capture_sizes": sorted(decodes | set(PIECES)),
            },
        }
    return LLM(
        target,
        dtype=dtype,
        load_format="dummy",
        skip_tokenizer_init=True,
        seed=0,
        speculative_config={
            "method": "mtad",
            "model": draft,
            "num_speculative_tokens": gamma,
            "beam_width": 2 if tiny else 4,
            "acceptance_threshold": 0.0,
        },
        **options,
    )


def _generate(llm: Any, requests: int, prompt_tokens: int, max_tokens: int, values: dict[str, Any]) -> int:
    """Tokens generated. The prompts of fewer requests are among those of more, so the prefix cache has them."""
    from vllm import SamplingParams

    prompts: Any = [
        {"prompt_token_ids": [3 + (i * 7919 + j * 104_729) % 500 for j in range(prompt_tokens)]}
        for i in range(requests)
    ]
    sampling = SamplingParams(temperature=1.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, **values)
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def _medians(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Medians in ms, on the device's clock. `target`: from the step's start to acceptance, so inputs, forward pass and
    logits. `step`: to the end of drafting."""
    import torch

    torch.cuda.synchronize()

    def median(pairs: list[tuple[Any, Any]]) -> float:
        return statistics.median(start.elapsed_time(end) for start, end in pairs)

    return {
        "step_ms": median([(s["start"], s["drafting"][1]) for s in steps]),
        "target_ms": median([(s["start"], s["acceptance"][0]) for s in steps]),
        "acceptance_ms": median([s["acceptance"] for s in steps]),
        "drafting_ms": median([s["drafting"] for s in steps]),
    }
