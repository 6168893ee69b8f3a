"""Real servers of the bundled pair, asked by `vllm bench serve`."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil
import pytest

from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import evaluation_examples
from benchmarks.serving import Server
from vllm_mtad.tools.harness.methods import PAPER, Method, mtad

TOKENS, PROMPTS = 24, 8


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [example.prompt for example in evaluation_examples("held_out", PROMPTS)]


def running_in_group(group: int) -> list[str]:
    found = []
    for process in psutil.process_iter(["status", "name"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["name"])
    return found


def test_benches_a_server_twice_and_leaves_no_process(prompts, tmp_path):
    asked = {"concurrency": 4, "num_prompts": PROMPTS, "max_tokens": TOKENS}
    with Server(mtad(), MINISQL, tmp_path) as server:
        group = server._process.pid
        assert running_in_group(group)
        first, second = server.bench(prompts, **asked), server.bench(prompts[:2], **asked)
    assert running_in_group(group) == []
    for found in (first, second):
        assert found["completed"] == PROMPTS
        assert 0 < found["total_output_tokens"] <= PROMPTS * TOKENS
        assert found["output_throughput"] == pytest.approx(found["total_output_tokens"] / found["duration"])
        assert found["request_throughput"] == pytest.approx(PROMPTS / found["duration"])
        for of in ("ttft", "tpot", "itl", "e2el"):
            assert 0 < found[f"median_{of}_ms"] <= found[f"p99_{of}_ms"]
        acceptance = found["vllm_spec_decode"]
        assert 0 < acceptance["acceptance_rate"] <= 1
        assert acceptance["num_draft_tokens"] == 4 * acceptance["num_drafts"]
        assert len(acceptance["acceptance_per_position"]) == 4
    assert first["total_input_tokens"] != second["total_input_tokens"]


def test_refuses_more_requests_at_a_time_than_the_server_takes(prompts, tmp_path):
    with pytest.raises(ValueError, match="max_num_seqs"):
        Server(mtad(), MINISQL, tmp_path).bench(prompts, concurrency=9, num_prompts=9, max_tokens=TOKENS)


def test_a_server_that_does_not_come_up_says_why(tmp_path):
    wrong = Method("mtad", "MTAD τ=2", (("acceptance_threshold", 2.0), ("method", "mtad")), PAPER)
    with pytest.raises(RuntimeError, match=r"'MTAD τ=2' ended with exit code \d.*\n(.*\n)*.*acceptance_threshold"):
        Server(wrong, MINISQL, tmp_path, {}).__enter__()
