"""The same pair at the cost of larger models: padded so that each computes what it did (`pair.widen`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from vllm_mtad.demo.figures import MAX_TOKENS, WAYS
from vllm_mtad.measure.decoding import Run, decode
from vllm_mtad.measure.engines import start, stop
from vllm_mtad.measure.methods import PAPER
from vllm_mtad.pair import MINISQL, Pair
from vllm_mtad.pair.widen import SHAPES, widen

SIZES = {"0.5b": ("0.5b", "50m"), "50m": ("50m", "10m")}
"""Shapes of the target and of the draft."""
NUM_ROUNDS, NUM_PROMPTS = 2, 8


def steps_of_timing() -> int:
    """How often `time_larger_pair` calls `advance`."""
    return len(WAYS) * (1 + NUM_ROUNDS * NUM_PROMPTS)


def time_larger_pair(size: str, prompts: list[str], advance: Callable[[], None]) -> list[list[Run]]:
    """The timed rounds of each way, one request at a time, at a size of `SIZES`; ways take turns."""
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder) / "target", Path(folder) / "draft")
        for source, wide, shape in zip(
            (MINISQL.target, MINISQL.draft), (pair.target, pair.draft), (SHAPES[name] for name in SIZES[size])
        ):
            widen(source, wide, shape)
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
