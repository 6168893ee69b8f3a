"""This package holds the prompts of the benchmark suite, and the judges of their answers."""

from benchmarks.prompt_sets.base import PromptSet
from benchmarks.prompt_sets.registry import NAMES, load_prompt_set

__all__ = ["NAMES", "PromptSet", "load_prompt_set"]
