"""The demo's figures of one way to decode."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, replace
from typing import Any

from vllm_mtad.measure.decoding import Decoded, Run
from vllm_mtad.measure.figures import acceptance_rate, block_efficiency
from vllm_mtad.measure.methods import DEFAULT, draft_model, mtad, target_alone
from vllm_mtad.pair.minisql.task import Example, is_correct

CANDIDATES = 4
WAYS = {
    "target alone": target_alone(),
    "vLLM draft_model": draft_model(),
    "MTAD": mtad(),
}
"""By the label that the demo prints."""
WAYS_OF_TALES = WAYS | {f"MTAD, {CANDIDATES} candidates": mtad(replace(DEFAULT, num_candidates=CANDIDATES))}
"""Several candidates pay where many continuations are good."""
MAX_TOKENS, MAX_TOKENS_OF_TALES = 72, 160


@dataclass(frozen=True)
class Figures:
    """`perplexity`: of the answers up to and including end-of-sequence, under the target at T = 1 without truncation,
    recomputed with Hugging Face. `tokens_per_second`: with one request in flight, the median of the rounds.
    """

    method: str
    block_efficiency: float
    acceptance_rate: float | None
    execution_accuracy: float
    perplexity: float
    tokens_per_second: float
    tokens_per_second_at_8: float
    num_prompts: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    label: str,
    examples: list[Example],
    answers: list[Decoded],
    alone: list[Run],
    at_8: list[Run],
    perplexity: float,
) -> Figures:
    """`label`: of `WAYS`."""
    calls = [[len(call) for call in answer.calls] for answer in answers]
    return Figures(
        method=label,
        block_efficiency=block_efficiency(calls) or 1.0,
        acceptance_rate=acceptance_rate(calls, WAYS[label].num_speculative_tokens),
        execution_accuracy=sum(is_correct(e, a.text) for e, a in zip(examples, answers)) / len(answers),
        perplexity=perplexity,
        tokens_per_second=statistics.median(run.tokens_per_second for run in alone),
        tokens_per_second_at_8=statistics.median(run.tokens_per_second for run in at_8),
        num_prompts=len(answers),
    )
