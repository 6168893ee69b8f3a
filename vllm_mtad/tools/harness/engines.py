"""`start` and `stop` run vLLM engines, one for each way to decode."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vllm_mtad.tools.harness.methods import Method
from vllm_mtad.tools.harness.pair import Pair

CORRECTED_WORKER = "vllm_mtad.tools.harness.corrected_worker.CorrectedCPUWorker"
ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "max_model_len": 256,
    "max_num_seqs": 8,
    "enable_prefix_caching": False,  # a prompt that ran once must not be faster the next time
    "seed": 0,
    "use_tqdm_on_load": False,
}
"""What all ways have in common; enough for the bundled pairs."""
ON_CPU: dict[str, Any] = {"enforce_eager": True, "block_size": 32}  # compiling takes longer than most runs


def quiet_vllm() -> None:
    """Let only errors be printed, here and in the engine processes. To be called before vLLM is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


def whole_prefills(max_model_len: int) -> dict[str, Any]:
    """Engine options that leave prefills whole: on a CPU, vLLM 0.32.0 stops with an error when the prefill of a request
    with a seed is cut into chunks (patches/0.32.0/generator-offset).
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, max_model_len)}


def options_for(max_model_len: int, max_num_seqs: int, together: int = 1) -> dict[str, Any]:
    """Engine options for texts of a length, so many of them in flight. `together`: engines that share a GPU."""
    options: dict[str, Any] = {"max_model_len": max_model_len, "max_num_seqs": max_num_seqs}
    if on_cpu():
        return options | whole_prefills(max_model_len)  # a CPU's engine takes its memory by its environment
    return options | ({"gpu_memory_utilization": round(0.9 / together, 3)} if together > 1 else {})


def on_cpu() -> bool:
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def engine_options(method: Method) -> dict[str, Any]:
    """vLLM's own names and values, without the speculative configuration."""
    options = dict(ENGINE)
    if on_cpu():
        options |= ON_CPU
        if method.family in ("draft_model", "ngram"):  # vLLM's own speculation
            options["worker_cls"] = CORRECTED_WORKER
    return options


def start(method: Method, pair: Pair, **more: Any) -> Any:
    """An `LLM` that decodes as `method`; `more` are engine options that win over its own."""
    from vllm import LLM

    options = engine_options(method) | more
    return LLM(str(pair.target), speculative_config=method.speculative_config(str(pair.draft)), **options)


def stop(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()
    gc.collect()


@contextmanager
def engine_up(method: Method, pair: Pair, **more: Any) -> Iterator[Any]:
    """`start`, and `stop` at the end, whatever happened."""
    llm = start(method, pair, **more)
    try:
        yield llm
    finally:
        stop(llm)


@contextmanager
def engines_up(
    methods: Sequence[Method],
    pair: Pair,
    options: Mapping[str, Any],
    *,
    started: Callable[[], None] = lambda: None,
    refused: Callable[[Method, Exception], None] | None = None,
) -> Iterator[list[tuple[Method, Any]]]:
    """Several engines at once, each with its method. All are stopped at the end, whatever happened.

    Args:
        options: of every engine (`start`).
        started: called after each engine.
        refused: is told of a method whose engine does not start, which is then left out; without it that is raised.
    """
    engines: list[tuple[Method, Any]] = []
    try:
        for method in methods:
            try:
                engines.append((method, start(method, pair, **options)))
            except Exception as error:
                if refused is None:
                    raise
                refused(method, error)
            started()
        yield engines
    finally:
        for _, llm in engines:
            stop(llm)
