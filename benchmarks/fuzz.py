"""Draw configurations at random: each must give a working engine, or one sentence before a worker starts.

    python -m benchmarks.fuzz --count 500 --start 20        500 configurations, of which 20 accepted ones are started

The exit status is 1 if one did neither.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.pairs import MINISQL

Draw = Callable[[random.Random], Any]
FIELDS: dict[str, tuple[Any, ...]] = {
    "num_speculative_tokens": (1, 2, 3, 4, 6, 8, 0, -1, 33, "four"),
    "beam_width": (1, 2, 4, 8, 16, 0, 17, 3000),
    "acceptance_threshold": (0, 0.1, 0.5, 0.99, 1, -0.5, "0.5"),
    "draft_sampling": ("beam_sample", "beam_search", "greedy"),
    "greedy": ("lossless", "joint", "both"),
    "acceptance": ("joint", "per_token", "typical"),
    "num_candidates": (1, 2, 4, 5, 0),
    "candidate_test": ("own", "reference", "none"),
    "max_candidate_rows": (5, 17, 40, 1000, 0),
    "num_speculative_tokens_per_batch_size": (
        [(1, 2, 4), (3, 8, 0)],
        [(1, 1, 1), (4, 16, 2)],
        [(1, 64, 9)],
        [(2, 4, 1)],
        [(1, 4)],
        [],
        "all",
    ),
    "max_model_len": (64, 4, 5000),
    "kv_cache_dtype": ("auto", "fp8"),
    "attention_backend": ("CPU_ATTN", "FLASHINFER", "none"),
    "parallel_drafting": (True,),
    "beams": (4,),
}
"""Of `speculative_config`: values that are accepted, and values that are not."""
OPTIONS: dict[str, tuple[Any, ...]] = {
    "max_num_seqs": (1, 3, 8, 64, 600),
    "max_num_batched_tokens": (17, 130, 512, 2048),
    "max_model_len": (4, 16, 100, 256, 1024, 5000),
    "block_size": (16, 32, 64, 128),
    "enable_prefix_caching": (True, False),
    "enable_chunked_prefill": (True, False),
    "dtype": ("float32", "bfloat16", "float16"),
    "logprobs_mode": ("raw_logprobs", "processed_logprobs", "processed_logits"),
    "num_gpu_blocks_override": (3, 40, 500),
    "enable_lora": (True,),
    "pipeline_parallel_size": (2,),
    "data_parallel_size": (2,),
    "scheduling_policy": ("priority",),
    "async_scheduling": (True, False),
    "enforce_eager": (True,),
}
"""Of the engine."""


@dataclass(frozen=True)
class Combination:
    """`speculative_config` without the draft, and options of the engine."""

    fields: dict[str, Any]
    options: dict[str, Any]


def draw_combination(generator: random.Random) -> Combination:
    def some(of: dict[str, tuple[Any, ...]], most: int) -> dict[str, Any]:
        names = generator.sample(list(of), generator.randint(0, most))
        return {name: generator.choice(of[name]) for name in names}

    return Combination(some(FIELDS, 4), {"enforce_eager": True} | some(OPTIONS, 4))


def front_end(combination: Combination) -> str | None:
    """What the front end says against a configuration; None if it accepts it.

    Raises:
        Exception: what is not a sentence.
    """
    from vllm.engine.arg_utils import EngineArgs

    try:
        EngineArgs(
            model=str(MINISQL.target),
            speculative_config={"method": "mtad", **combination.fields},
            **combination.options,
        ).create_engine_config()
    except ValueError as error:
        if "\n" in str(error).strip() or not str(error).strip():
            raise
        return str(error)
    return None


def starts(combination: Combination) -> bool:
    """Whether an engine starts and answers.

    Raises:
        Exception: if not.
    """
    from vllm import LLM, SamplingParams

    llm = LLM(str(MINISQL.target), speculative_config={"method": "mtad", **combination.fields}, **combination.options)
    try:
        params = [SamplingParams(temperature=t, max_tokens=8, ignore_eos=True) for t in (0.0, 1.0)]
        room = llm.llm_engine.model_config.max_model_len
        prompts = [{"prompt_token_ids": [5, 6, 7][: max(1, room - 9)]}] * 2
        return all(answer.outputs[0].token_ids for answer in llm.generate(prompts, params, use_tqdm=False))
    finally:
        llm.llm_engine.engine_core.shutdown()


def main() -> None:
    from vllm_mtad.tools.harness.engines import quiet_vllm
    from vllm_mtad.tools.harness.progress import Work

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    quiet_vllm()
    work, generator = Work(), random.Random(args.seed)
    accepted, refused = [], 0
    failures: list[tuple[Combination, Exception]] = []
    for _ in range(args.count):
        combination = draw_combination(generator)
        try:
            sentence = front_end(combination)
        except Exception as error:
            failures.append((combination, error))
            continue
        refused += sentence is not None
        accepted += [combination] if sentence is None else []
    work.say(f"{args.count} configurations: {len(accepted)} accepted, {refused} refused in a sentence")
    for number, combination in enumerate(accepted[: args.start], start=1):
        work.say(f"start {number}: {combination}")
        try:
            if not starts(combination):
                raise RuntimeError("The engine gave no answer.")
        except Exception as error:
            failures.append((combination, error))
    for combination, failure in failures:
        work.say(f"{combination}\n    {type(failure).__name__}: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
