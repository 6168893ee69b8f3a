"""These functions compute figures of decoded text: per target call, per draft token, per answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Calls = Sequence[int]
"""Tokens that each target call of one answer gave; the first is the prefill's, which has no draft."""


def mean_acceptance_length(answers: Sequence[Calls]) -> float | None:
    """Tokens per target call over the calls that had a draft, tokens after the stop not counted; None without any.

    vLLM's word for it; papers say block efficiency.
    """
    drafted = [call for calls in answers for call in calls[1:]]
    return sum(drafted) / len(drafted) if drafted else None


def acceptance_rate(answers: Sequence[Calls], num_speculative_tokens: int) -> float | None:
    """Accepted share of the draft tokens; None without a draft."""
    length = mean_acceptance_length(answers)
    return (length - 1) / num_speculative_tokens if length and num_speculative_tokens else None


def acceptance_per_position(answers: Sequence[Calls], num_speculative_tokens: int) -> list[float]:
    """`[num_speculative_tokens]`: the share of the calls with a draft that kept at least so many of its tokens."""
    drafted = [call for calls in answers for call in calls[1:]]
    return [
        sum(call > position for call in drafted) / max(len(drafted), 1)
        for position in range(1, num_speculative_tokens + 1)
    ]


def perplexity(negative_log_likelihoods: Sequence[float], lengths: Sequence[int]) -> float:
    """exp of the mean negative log-likelihood per token."""
    return math.exp(sum(negative_log_likelihoods) / sum(lengths))


def repetition_rate(tokens: Sequence[int], n: int = 4) -> float:
    """Share of an answer's n-grams that stood in it before."""
    grams = _grams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all answers by the number of n-grams (Li et al., 2016)."""
    counts: Counter[tuple[int, ...]] = Counter()
    for tokens in answers:
        counts.update(_grams(tokens, n))
    return len(counts) / max(counts.total(), 1)


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
