"""The demo's figures: per target call, per draft token, per answer, per second."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vllm_mtad.demo.decoding import Decoded, Run
from vllm_mtad.demo.ways import Way
from vllm_mtad.pair.minisql.task import Example, is_correct


@dataclass(frozen=True)
class Figures:
    """`block_efficiency`: tokens per target call over the calls that had a draft, tokens after the stop not
    counted. `acceptance_rate`: the share of the draft tokens that were kept; None without a draft.
    `perplexity`: of the answers up to and including end-of-sequence, under the target at T = 1 without
    truncation, recomputed with Hugging Face. `tokens_per_second`: with one request in flight, the median of
    the rounds.
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
    way: Way, examples: list[Example], answers: list[Decoded], alone: list[Run], at_8: list[Run], perplexity: float
) -> Figures:
    calls = [call for answer in answers for call in answer.calls[1:]]  # the prefill has no draft
    efficiency = sum(map(len, calls)) / len(calls)
    gamma = way.num_speculative_tokens
    return Figures(
        method=way.method,
        block_efficiency=efficiency,
        acceptance_rate=(efficiency - 1) / gamma if gamma else None,
        execution_accuracy=sum(is_correct(e, a.text) for e, a in zip(examples, answers)) / len(answers),
        perplexity=perplexity,
        tokens_per_second=statistics.median(run.tokens_per_second for run in alone),
        tokens_per_second_at_8=statistics.median(run.tokens_per_second for run in at_8),
        num_prompts=len(answers),
    )


@torch.inference_mode()
def perplexity_under(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> float:
    """exp of the mean negative log-likelihood per answer token."""
    total, count = 0.0, 0
    for prompt, answer in zip(prompts, answers):
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        total -= logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item()
        count += len(answer)
    return math.exp(total / count)
