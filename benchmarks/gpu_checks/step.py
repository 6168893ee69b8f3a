"""What acceptance and drafting take of an engine's step, on the shapes of Llama-3.1-8B and Llama-3.2-1B.

The engine is real and in this process; CUDA events around four methods are read when all steps are done. The weights
are random, so `acceptance_threshold` is 0, at which every draft passes whose tokens have mass under the target: all of
them at T = 1, few with top-k and top-p. How much is accepted changes neither shapes nor launches.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks.models import LLAMA_1B, LLAMA_8B, TINY_DRAFT, TINY_TARGET, spread_weights, write_model
from benchmarks.gpu_checks.report import append

SAMPLING: dict[str, dict[str, Any]] = {"T=1": {}, "top-k/p": {"top_k": 10, "top_p": 0.9}}


class StepEvents:
    """Puts events around a runner's `execute_model`, its rejection sampler and its speculator's `propose`."""

    def __init__(self, runner: Any, gamma: int, timed: bool) -> None:
        self._runner, self._decode_tokens, self._timed = runner, gamma + 1, timed
        self.steps: list[dict[str, Any]] = []
        runner.execute_model = self._mark_step(runner.execute_model)
        runner.speculator.propose = self._mark(runner.speculator.propose, "drafting")
        runner.rejection_sampler = _Callable(self._mark(runner.rejection_sampler, "acceptance"))

    def _event(self) -> Any:
        if not self._timed:
            return None
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _mark_step(self, execute_model: Any) -> Any:
        def marked(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            tokens = list(scheduler_output.num_scheduled_tokens.values())
            is_decode = bool(tokens) and all(n == self._decode_tokens for n in tokens)
            self.steps.append({"requests": len(tokens) if is_decode else 0, "start": self._event()})
            return execute_model(scheduler_output, *args, **kwargs)

        return marked

    def _mark(self, function: Any, name: str) -> Any:
        def marked(*args: Any, **kwargs: Any) -> Any:
            before = self._event()
            result = function(*args, **kwargs)
            if self.steps:
                self.steps[-1][name] = (before, self._event())
            return result

        return marked

    def take(self, requests: int) -> list[dict[str, Any]]:
        """The steps so far in which exactly so many requests decoded, and forgets all."""
        steps, self.steps = self.steps, []
        return [s for s in steps if s["requests"] == requests and "acceptance" in s and "drafting" in s]


class _Callable:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def measure(file: str, folder: str, tiny: bool, mode: int) -> bool:
    """Appends a record for each number of requests and kind of sampling to `file`."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    batches, prompt_tokens = ((1, 2), 20) if tiny else ((1, 8, 32, 64), 2048)
    gamma, beam_width, steps = (3, 2, 2) if tiny else (4, 4, 24)
    llm = _start(Path(folder), tiny, mode, batches, gamma, beam_width)
    runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    if not tiny:
        for model in (runner.model, runner.speculator.model):
            spread_weights(model)
    events = StepEvents(runner, gamma, timed=not tiny)
    _generate(llm, 2, 20, 4 * gamma, {})
    _generate(llm, 2, 20, 4, SAMPLING["top-k/p"])
    for requests in batches:
        for sampling, values in SAMPLING.items():
            events.take(requests)
            # With all of a draft accepted a step gives gamma + 1 tokens.
            tokens = steps * (gamma + 1 if sampling == "T=1" else 1)
            generated = _generate(llm, requests, prompt_tokens, tokens, values)
            found = events.take(requests)
            record = {"part": "step", "requests": requests, "sampling": sampling, "steps": len(found), "mode": mode}
            record |= {"generated": generated, "acceptance_threshold": 0, "timed": not tiny}
            append(Path(file), record | ({} if tiny or not found else _medians(found)))
    return True


def _start(folder: Path, tiny: bool, mode: int, batches: tuple[int, ...], gamma: int, beam_width: int) -> Any:
    from vllm import LLM

    dtype = "float32" if tiny else "bfloat16"
    target = write_model(folder / "target", TINY_TARGET if tiny else LLAMA_8B, dtype)
    draft = write_model(folder / "draft", TINY_DRAFT if tiny else LLAMA_1B, dtype)
    if tiny:
        options: dict[str, Any] = {"max_model_len": 128, "max_num_seqs": 4, "block_size": 32, "enforce_eager": True}
    else:
        sizes = sorted({n * width for n in batches for width in (gamma + 1, gamma + 2)})
        options = {
            "max_model_len": 4096,
            "max_num_seqs": max(batches),
            "max_num_batched_tokens": 8192,
            "kv_cache_memory_bytes": 28 << 30,
            "gpu_memory_utilization": 0.5,  # so much must be free
            "attention_backend": "FLASH_ATTN",
            "compilation_config": {
                "mode": mode,
                "cudagraph_mode": "FULL_DECODE_ONLY",
                "cudagraph_capture_sizes": sizes,
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
            "beam_width": beam_width,
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
    """In ms, on the device's clock. `target`: from the step's start to acceptance, so inputs, forward pass and logits.
    `step`: to the end of drafting."""
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
