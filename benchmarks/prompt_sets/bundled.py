"""`MiniSQL` and `Tales` are the two bundled sets. They are generated and need nothing but this repository."""

from __future__ import annotations

from benchmarks.pairs.minisql.task import evaluation_examples, is_correct
from benchmarks.pairs.tales.task import evaluation_tales, is_consistent
from benchmarks.prompt_sets.base import PromptSet


class MiniSQL(PromptSet):
    name = "minisql"
    max_tokens = 72
    stop: tuple[str, ...] = ()
    judged_by = "The query, up to its first semicolon, returns the right rows from the question's SQLite database."

    def __init__(self, count: int) -> None:
        self.examples = evaluation_examples("held_out", count)
        self.prompts = [e.prompt for e in self.examples]

    def judge(self, index: int, completion: str) -> bool:
        return is_correct(self.examples[index], completion)


class Tales(PromptSet):
    name = "tales"
    max_tokens = 160
    stop: tuple[str, ...] = ()
    judged_by = "The tale names its opening's hero and thing, nobody and nothing else's, and ends with a full stop."

    def __init__(self, count: int) -> None:
        self.tales = evaluation_tales("held_out", count)
        self.prompts = [t.prompt for t in self.tales]

    def judge(self, index: int, completion: str) -> bool:
        return is_consistent(self.tales[index], completion)
