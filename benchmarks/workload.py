"""A `Workload` is a pair of models with a set of prompts, tokenised once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.pairs import BUNDLED
from benchmarks.plan import Models, Quality
from benchmarks.prompt_sets.base import PromptSet
from benchmarks.prompt_sets.registry import load_prompt_set
from vllm_mtad.tools.harness.pair import Pair
from vllm_mtad.tools.harness.prompts import tokenized


@dataclass(frozen=True)
class Workload:
    pair: Pair
    prompt_set: PromptSet
    prompt_ids: list[list[int]]

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """As vLLM takes them: exactly the tokens whose likelihood is asked for later."""
        return [{"prompt_token_ids": ids} for ids in self.prompt_ids]


def load_workload(models: Models, quality: Quality) -> Workload:
    from transformers import AutoTokenizer

    if quality.chat and quality.prompt_set == "humaneval":
        raise ValueError("humaneval cannot be asked with --chat: an answer continues the prompt's code as it stands.")
    if models.target is None:
        if quality.prompt_set not in BUNDLED:
            raise ValueError(f"The prompt set {quality.prompt_set!r} has no bundled pair: give --target and --draft.")
        pair = BUNDLED[quality.prompt_set]
    else:
        pair = Pair(models.target, models.draft or "")
    prompt_set = load_prompt_set(quality.prompt_set, quality.num_prompts, quality.source, **dict(quality.options))
    tokenizer = AutoTokenizer.from_pretrained(str(pair.target))
    return Workload(pair, prompt_set, tokenized(tokenizer, prompt_set.prompts, quality.chat))
