"""What a person sees when an engine starts: the line that says mtad is on, and a KV cache that is too small."""

import os
import sys

import pytest
from vllm.distributed import cleanup_dist_env_and_memory

from tests.commands import run
from tests.engine.engines import engine
from vllm_mtad.config.errors import RefusalError
from vllm_mtad.plugin.front_end_seams import logger

WITH_NOTHING_ELSE = """
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    # Of the memory less than vLLM's default, as other tests need some too.
    llm = LLM({target!r}, speculative_config=dict(method="mtad", model={draft!r}), gpu_memory_utilization=0.15)
    print("ANSWERED", len(llm.generate("Hello", SamplingParams(max_tokens=8, ignore_eos=True))[0].outputs[0].token_ids))
"""


@pytest.fixture
def start(small_pair, monkeypatch):
    """Starts an engine with so many KV blocks, and gives what MTAD has said."""
    said: list[str] = []
    monkeypatch.setattr(logger, "info", lambda message, *values: said.append(message % values))

    def started(blocks: int) -> list[str]:
        options = {"max_model_len": 128, "max_num_seqs": 8, "num_gpu_blocks_override": blocks}
        with engine(*small_pair, **options):
            return said

    return started


def test_says_that_it_is_on_and_lossy_and_what_the_scratch_costs(start):
    said = start(blocks=256)
    (on,) = (message for message in said if message.startswith("MTAD is on"))
    for part in ("beam_width=4", "num_speculative_tokens=4", "acceptance_threshold=0.5", "lossy"):
        assert part in on
    (scratch,) = (message for message in said if message.startswith("MTAD scratch"))
    assert "64 of 256 KV blocks" in scratch


def test_in_a_small_kv_cache_fewer_requests_are_drafted_at_a_time(start):
    """A quarter of 67 blocks are 2 requests x 4 beams x 2 blocks."""
    (scratch,) = (message for message in start(blocks=67) if message.startswith("MTAD scratch"))
    assert "16 of 67 KV blocks" in scratch


def test_a_kv_cache_too_small_for_the_scratch_ends_the_start_with_what_to_change(start):
    """One request's 4 beams x 2 blocks leave 4 of 12; one request of max_model_len needs 5."""
    with pytest.raises(RefusalError, match="The KV cache has 12 blocks") as refusal:
        start(blocks=12)
    cleanup_dist_env_and_memory()
    assert "enlarge the KV cache" in str(refusal.value)
    assert "speculative_config.beam_width" in str(refusal.value)


def test_starts_with_nothing_else_compiled_and_without_a_size_for_the_kv_cache(small_pair, tmp_path):
    script = tmp_path / "start.py"
    script.write_text(WITH_NOTHING_ELSE.format(target=small_pair[0], draft=small_pair[1]))
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    done = run(sys.executable, script, env=environment | {"VLLM_LOGGING_LEVEL": "INFO"})
    assert "ANSWERED 8" in done.stdout, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "MTAD takes block_size=32" in said
    assert "enforce_eager=False" in said
