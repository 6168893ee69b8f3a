"""Ways to decode, timed with one request in flight: other pairs, or the same at the cost of larger models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vllm_mtad.demo.figures import MAX_TOKENS, WAYS
from vllm_mtad.measure.decoding import Run, decode
from vllm_mtad.measure.engines import start, stop
from vllm_mtad.measure.methods import PAPER, Method
from vllm_mtad.measure.sizes import pair_at
from vllm_mtad.pair import MINISQL, Pair

NUM_ROUNDS, NUM_PROMPTS = 2, 6


def steps_of_timing(ways: Mapping[str, Method]) -> int:
    """How often `time_pair` calls `advance`."""
    return len(ways) * (1 + NUM_ROUNDS * NUM_PROMPTS)


def time_larger_pair(size: str, prompts: Sequence[str], advance: Callable[[], None]) -> list[list[Run]]:
    """`time_pair` of `WAYS` on the MiniSQL pair at a size of `SIZES`."""
    with tempfile.TemporaryDirectory() as folder:
        return time_pair(pair_at(size, MINISQL, Path(folder)), WAYS, prompts, MAX_TOKENS, advance)


def time_pair(
    pair: Pair, ways: Mapping[str, Method], prompts: Sequence[str], max_tokens: int, advance: Callable[[], None]
) -> list[list[Run]]:
    """The timed rounds of each way, one request at a time; ways take turns."""
    engines, params = [], PAPER.params(max_tokens)
    try:
        for way in ways.values():
            engines.append(start(way, pair))
            advance()
        rounds: list[list[Run]] = [[] for _ in ways]
        for number in range(NUM_ROUNDS):
            for i, llm in enumerate(engines):
                rounds[i].append(decode(llm, prompts[:NUM_PROMPTS], params, 1, 7 + number, advance))
    finally:
        for llm in engines:
            stop(llm)
    return rounds
