"""This script writes held-out prompts of the bundled pairs, as `vllm-mtad demo` and `vllm-mtad tune` read them.

python -m benchmarks.pairs.prompts
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.pairs import FOLDER
from benchmarks.pairs.minisql.task import evaluation_examples
from benchmarks.pairs.tales.task import evaluation_tales

MINISQL_PROMPTS, TALES_PROMPTS = 300, 60


def lines(task: str) -> Iterator[str]:
    """The lines of a task's `prompts.jsonl`."""
    if task == "minisql":
        for example in evaluation_examples("held_out", MINISQL_PROMPTS):
            yield json.dumps({"prompt": example.prompt, "answer": example.answer}) + "\n"
    else:
        for tale in evaluation_tales("held_out", TALES_PROMPTS):
            yield json.dumps({"prompt": tale.prompt}) + "\n"


def main() -> None:
    for task in ("minisql", "tales"):
        (FOLDER / task / "prompts.jsonl").write_text("".join(lines(task)))


if __name__ == "__main__":
    main()
