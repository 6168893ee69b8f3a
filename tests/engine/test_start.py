"""What a person sees when an engine starts: the line that says mtad is on, and a KV cache that is too small."""

import os
import sys

from tests.commands import run

START = """
from vllm import LLM
if __name__ == "__main__":
    LLM({target!r}, speculative_config=dict(method="mtad", model={draft!r}), dtype="float32", enforce_eager=True,
        max_model_len=128, max_num_seqs=8, block_size=32, num_gpu_blocks_override={blocks})
    print("STARTED")
"""


WITH_NOTHING_ELSE = """
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    # Of the memory less than vLLM's default, as other tests need some too.
    llm = LLM({target!r}, speculative_config=dict(method="mtad", model={draft!r}), gpu_memory_utilization=0.15)
    print("ANSWERED", len(llm.generate("Hello", SamplingParams(max_tokens=8, ignore_eos=True))[0].outputs[0].token_ids))
"""


def start(small_pair, tmp_path, blocks: int):
    script = tmp_path / "start.py"
    script.write_text(START.format(target=small_pair[0], draft=small_pair[1], blocks=blocks))
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return run(sys.executable, script, env=environment)


def test_says_that_it_is_on_and_lossy_and_what_the_scratch_costs(small_pair, tmp_path):
    done = start(small_pair, tmp_path, blocks=256)
    assert "STARTED" in done.stdout
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "MTAD" in line and "] MTAD" in line]
    on = [line for line in lines if "MTAD is on" in line]
    assert len(on) == 1
    for part in ("beam_width=4", "num_speculative_tokens=4", "acceptance_threshold=0.5", "lossy"):
        assert part in on[0]
    scratch = [line for line in lines if "MTAD scratch" in line]
    assert len(scratch) == 1
    assert "64 of 256 KV blocks" in scratch[0]


def test_starts_with_nothing_else_compiled_and_without_a_size_for_the_kv_cache(small_pair, tmp_path):
    script = tmp_path / "start.py"
    script.write_text(WITH_NOTHING_ELSE.format(target=small_pair[0], draft=small_pair[1]))
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    done = run(sys.executable, script, env=environment | {"VLLM_LOGGING_LEVEL": "INFO"})
    assert "ANSWERED 8" in done.stdout, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "MTAD takes block_size=32" in said
    assert "enforce_eager=False" in said


def test_in_a_small_kv_cache_fewer_requests_are_drafted_at_a_time(small_pair, tmp_path):
    """A quarter of 67 blocks are 2 requests x 4 beams x 2 blocks."""
    done = start(small_pair, tmp_path, blocks=67)
    assert "STARTED" in done.stdout
    assert "MTAD scratch: 16 of 67 KV blocks" in done.stdout + done.stderr


def test_a_kv_cache_too_small_for_the_scratch_ends_the_start_with_what_to_change(small_pair, tmp_path):
    """One request's 4 beams x 2 blocks leave 4 of 12; one request of max_model_len needs 5."""
    done = start(small_pair, tmp_path, blocks=12)
    assert done.returncode != 0
    errors = [
        line for line in (done.stdout + done.stderr).splitlines() if "RefusalError: The KV cache has 12 blocks" in line
    ]
    assert errors
    assert "enlarge the KV cache" in errors[-1]
    assert "speculative_config.beam_width" in errors[-1]
