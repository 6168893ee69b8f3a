"""`score` and `row_of` turn what engines wrote into rows: likelihood, accuracy and speed.

Each has its difference to the target alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtad.tools.harness.checker import Checker
from vllm_mtad.tools.harness.figures import mean_acceptance_length, repetition_rate
from vllm_mtad.tools.harness.intervals import Ratio, paired_difference
from vllm_mtad.tools.harness.prompts import Prompt
from vllm_mtad.tools.tune.rows import Row
from vllm_mtad.tools.tune.timing import Measured, speed


@dataclass(frozen=True)
class Scores:
    """By prompt, summed over its samples: `nats` by tokens, and right answers by answers if there is a checker."""

    nats: Ratio
    right: Ratio | None


def score(measured: Measured, prompts: Sequence[Prompt], checker: Checker | None) -> Scores:
    nats, lengths, right = ([0.0] * len(prompts) for _ in range(3))
    for answers, of_answers in zip(measured.answers, measured.nats):
        for at, (answer, value) in enumerate(zip(answers, of_answers)):
            nats[at] += value
            lengths[at] += len(answer.tokens)
            right[at] += checker is not None and checker.is_right(prompts[at], answer.text)
    accuracy = Ratio.of(right, [len(measured.answers)] * len(prompts)) if checker else None
    return Scores(Ratio.of(nats, lengths), accuracy)


def row_of(measured: Measured, target: Measured, scores: Scores | None, of_target: Scores) -> Row:
    """The row of `measured`. `scores` are its own, None if it failed."""
    if measured.failure is not None or scores is None:
        return Row(measured.method, failure=measured.failure or "not measured")
    answers = [answer for sample in measured.answers for answer in sample]
    figures: dict[str, Any] = {}
    if scores.right is not None and of_target.right is not None:
        figures["accuracy"] = scores.right.value()
        figures["accuracy_difference"] = paired_difference(scores.right, of_target.right)
    return Row(
        measured.method,
        mean_acceptance_length=mean_acceptance_length([[len(call) for call in answer.calls] for answer in answers]),
        speeds={in_flight: speed(measured, target, in_flight) for in_flight in measured.passes[0].rounds},
        nats=scores.nats.value(),
        nats_difference=paired_difference(scores.nats, of_target.nats),
        repetition=sum(repetition_rate(answer.tokens) for answer in answers) / len(answers),
        **figures,
    )
