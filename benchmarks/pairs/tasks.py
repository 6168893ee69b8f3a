"""`TASKS` says what the bundled pairs are trained on.

It gives, by a task's name, endless (prompt, completion) pairs from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.pairs.minisql.task import training_examples
from benchmarks.pairs.tales.task import training_tales


def _minisql(seed: int) -> Iterator[tuple[str, str]]:
    return ((example.prompt, example.sql) for example in training_examples(seed))


def _tales(seed: int) -> Iterator[tuple[str, str]]:
    return ((tale.prompt, tale.text) for tale in training_tales(seed))


TASKS: dict[str, Callable[[int], Iterator[tuple[str, str]]]] = {"minisql": _minisql, "tales": _tales}
