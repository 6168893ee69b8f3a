"""`load_prompt_set` loads a set of prompts by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from benchmarks.prompt_sets.base import PromptSet
from benchmarks.prompt_sets.bundled import MiniSQL, Tales
from benchmarks.prompt_sets.gsm8k import GSM8K
from benchmarks.prompt_sets.humaneval import HumanEval
from benchmarks.prompt_sets.mt_bench import MTBench
from benchmarks.prompt_sets.plain import Plain
from benchmarks.prompt_sets.spider import Spider

_SETS: dict[str, Callable[..., PromptSet]] = {
    "minisql": MiniSQL,
    "tales": Tales,
    "gsm8k": GSM8K,
    "humaneval": HumanEval,
    "spider": Spider,
    "mt_bench": MTBench,
    "plain": Plain,
}
_GENERATED = ("minisql", "tales")
NAMES = tuple(_SETS)


def load_prompt_set(name: str, count: int, source: str | None = None, **options: Any) -> PromptSet:
    """At most `count` prompts of the set `name`, the same ones each time.

    `source`: where the rows are, if not at the set's own hub id: a JSONL, parquet or CSV file, a folder of them, or
    another hub id; for `plain`, the file of prompts. `options`: `allow_execution` (humaneval), `databases` (spider),
    `max_tokens` (plain). Raises ValueError, in one sentence, for what cannot be loaded or, with humaneval, isolated.
    """
    if name not in _SETS:
        raise ValueError(f"There is no prompt set '{name}'; there are: {', '.join(NAMES)}.")
    if count < 1:
        raise ValueError(f"A prompt set needs a count of at least 1, not {count}.")
    _refuse_unknown(name, options)
    if name not in _GENERATED:
        return _SETS[name](count, source, **options)
    if source is not None:
        raise ValueError(f"{name} is generated and has no source; --source was {source}.")
    return _SETS[name](count)


def _refuse_unknown(name: str, options: dict[str, Any]) -> None:
    known = inspect.signature(_SETS[name]).parameters.keys() - {"count", "source"}
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"{name} has no option '{unknown[0]}'; it has: {', '.join(sorted(known)) or 'none'}.")
