"""`Figures` are the demo's figures of one way to decode."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_mtad.tools.harness.decoding import Decoded, Run
from vllm_mtad.tools.harness.figures import acceptance_rate, mean_acceptance_length, perplexity
from vllm_mtad.tools.harness.methods import Method


@dataclass
class Measured:
    """`answers`, `nats`, `right`: by prompt; `right` is empty without a checker. `rounds`: by requests in flight."""

    method: Method
    answers: list[Decoded] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    rounds: dict[int, list[Run]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """`perplexity`: of the answers up to and including end-of-sequence, under the target at T = 1 without truncation.
    `accuracy`: share of right answers, None without a checker. `tokens_per_second`: the median of the rounds, by
    requests in flight.
    """

    method: str
    num_prompts: int
    mean_acceptance_length: float
    acceptance_rate: float | None
    accuracy: float | None
    perplexity: float
    tokens_per_second: Mapping[int, float]

    @classmethod
    def of(cls, measured: Measured) -> Figures:
        calls = _calls(measured.answers)
        return cls(
            method=measured.method.name,
            num_prompts=len(measured.answers),
            mean_acceptance_length=mean_acceptance_length(calls) or 1.0,
            acceptance_rate=acceptance_rate(calls, measured.method.num_speculative_tokens),
            accuracy=statistics.fmean(measured.right) if measured.right else None,
            perplexity=perplexity(measured.nats, [len(answer.tokens) for answer in measured.answers]),
            tokens_per_second={
                in_flight: statistics.median(run.tokens_per_second for run in runs)
                for in_flight, runs in measured.rounds.items()
            },
        )


def _calls(answers: Sequence[Decoded]) -> list[list[int]]:
    return [[len(call) for call in answer.calls] for answer in answers]
