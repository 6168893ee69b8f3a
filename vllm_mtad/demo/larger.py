"""The same pair at the cost of larger models, timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from vllm_mtad.demo.figures import MAX_TOKENS, WAYS
from vllm_mtad.measure.decoding import Run, decode
from vllm_mtad.measure.engines import start, stop
from vllm_mtad.measure.methods import PAPER
from vllm_mtad.measure.sizes import pair_at
from vllm_mtad.pair import MINISQL

NUM_ROUNDS, NUM_PROMPTS = 2, 8


def steps_of_timing() -> int:
    """How often `time_larger_pair` calls `advance`."""
    return len(WAYS) * (1 + NUM_ROUNDS * NUM_PROMPTS)


def time_larger_pair(size: str, prompts: list[str], advance: Callable[[], None]) -> list[list[Run]]:
    """The timed rounds of each way, one request at a time, at a size of `SIZES`; ways take turns."""
    with tempfile.TemporaryDirectory() as folder:
        pair = pair_at(size, MINISQL, Path(folder))
        engines, params = [], PAPER.params(MAX_TOKENS)
        try:
            for way in WAYS:
                engines.append(start(way, pair))
                advance()
            rounds: list[list[Run]] = [[] for _ in WAYS]
            for number in range(NUM_ROUNDS):
                for i, llm in enumerate(engines):
                    rounds[i].append(decode(llm, prompts[:NUM_PROMPTS], params, 1, 7 + number, advance))
        finally:
            for llm in engines:
                stop(llm)
    return rounds
