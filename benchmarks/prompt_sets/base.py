"""A `PromptSet` is what the benchmark suite asks of a set of prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod


class PromptSet(ABC):
    name: str
    prompts: list[str]
    """Complete plain prompts; the target continues them as they stand."""
    max_tokens: int
    stop: tuple[str, ...]
    """Strings at which decoding ends; the judge cuts at them as well."""
    judged_by: str
    """One sentence for the report: what "correct" means. Empty where nothing is judged."""

    @abstractmethod
    def judge(self, index: int, completion: str) -> bool | None:
        """Whether `completion` is a correct answer to `prompts[index]`; None where nothing is judged."""
        ...


def cut_at_stop(completion: str, stop: tuple[str, ...]) -> str:
    """The completion up to the first of `stop`, for an engine that decoded past it."""
    return completion[: min((at for s in stop if (at := completion.find(s)) >= 0), default=len(completion))]
