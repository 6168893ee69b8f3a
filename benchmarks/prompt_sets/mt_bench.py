"""MT-Bench asks open questions of eight categories.

Only first turns are asked: a second one depends on the answer to the first.

Zheng et al. 2023, https://huggingface.co/datasets/HuggingFaceH4/mt_bench_prompts: columns `prompt` (the list of turns),
`category`, `reference`, `prompt_id`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.prompt_sets.base import PromptSet
from benchmarks.prompt_sets.rows import Rows


class MTBench(PromptSet):
    name = "mt_bench"
    max_tokens = 512
    stop: tuple[str, ...] = ()
    judged_by = ""

    def __init__(self, count: int, source: str | None = None) -> None:
        columns = ("prompt_id", "category", "prompt", "reference")
        rows = Rows(self.name, source or "HuggingFaceH4/mt_bench_prompts", "train").sample(count, columns)
        self.records: list[dict[str, Any]] = [{c: row[c] for c in columns} for row in rows]
        """What an external judge needs beside the answers, in the order of the prompts."""
        self.prompts = [row["prompt"][0] for row in rows]

    def judge(self, index: int, completion: str) -> None:
        return None
