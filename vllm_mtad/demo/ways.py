"""The three ways that the demo compares, as vLLM engines on the bundled pair."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.pair import draft_path, target_path

OPTIONS = MTADOptions()
ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "enforce_eager": True,  # compiling would take longer than the demo
    "max_model_len": 256,
    "max_num_seqs": 8,
    "block_size": 32,
    "enable_prefix_caching": False,  # a prompt that ran once must not be faster the next time
    "seed": 0,
    "use_tqdm_on_load": False,
}


@dataclass(frozen=True)
class Pair:
    """Folders of two models."""

    target: Path
    draft: Path


BUNDLED = Pair(target_path(), draft_path())


@dataclass(frozen=True)
class Way:
    method: str
    label: str
    speculative_config: dict[str, Any] | None
    """But for the draft model."""
    on_cpu: dict[str, Any]
    """More engine options on a CPU."""

    @property
    def num_speculative_tokens(self) -> int:
        return self.speculative_config["num_speculative_tokens"] if self.speculative_config else 0


WAYS = (
    Way("target", "target alone", None, {}),
    Way(
        "draft_model",
        "vLLM draft_model",
        {
            "method": "draft_model",
            "num_speculative_tokens": OPTIONS.num_speculative_tokens,
            "draft_sample_method": "probabilistic",
        },
        {"worker_cls": "vllm_mtad.demo.corrected_worker.CorrectedCPUWorker"},
    ),
    Way(
        "mtad",
        "MTAD",
        {
            "method": "mtad",
            "num_speculative_tokens": OPTIONS.num_speculative_tokens,
            "beam_width": OPTIONS.beam_width,
            "acceptance_threshold": OPTIONS.acceptance_threshold,
        },
        {},
    ),
)


def quiet_vllm() -> None:
    """Only errors, here and in the engine processes. To be called before vLLM is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


def start(way: Way, pair: Pair = BUNDLED, **more: Any) -> Any:
    """An `LLM` for `way`; `more` are engine options that win over the demo's."""
    from vllm import LLM
    from vllm.platforms import current_platform

    options = ENGINE | (way.on_cpu if current_platform.is_cpu() else {}) | more
    speculative = way.speculative_config and way.speculative_config | {"model": str(pair.draft)}
    return LLM(str(pair.target), speculative_config=speculative, **options)


def stop(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
