"""`Plain` reads a user's own prompts from a file."""

from __future__ import annotations

from pathlib import Path

from benchmarks.prompt_sets.base import PromptSet
from vllm_mtad.tools.harness.prompts import read_prompts


class Plain(PromptSet):
    name = "plain"
    stop: tuple[str, ...] = ()
    judged_by = ""

    def __init__(self, count: int, source: str | None = None, max_tokens: int = 256) -> None:
        if source is None:
            raise ValueError("plain needs a file of prompts; name it with --source.")
        self.prompts = [prompt.text for prompt in read_prompts(Path(source).expanduser())[:count]]
        self.max_tokens = max_tokens

    def judge(self, index: int, completion: str) -> None:
        return None
