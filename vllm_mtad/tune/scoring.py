"""From what engines wrote to rows: likelihood, accuracy and speed, each with its difference to the target alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vllm_mtad.measure.figures import block_efficiency, repetition_rate
from vllm_mtad.measure.intervals import Ratio, paired_difference
from vllm_mtad.measure.likelihood import TargetLikelihood
from vllm_mtad.tune.checker import Checker
from vllm_mtad.tune.prompts import Prompt
from vllm_mtad.tune.rows import Row
from vllm_mtad.tune.timing import Measured, speed


@dataclass(frozen=True)
class Scores:
    """By prompt, summed over its samples: `nats` by tokens, and right answers by answers if there is a checker."""

    nats: Ratio
    right: Ratio | None


@contextmanager
def target_likelihood(target: str) -> Iterator[TargetLikelihood]:
    """In float32, on the GPU if there is one; its memory is given back, for engines that start afterwards."""
    likelihood = TargetLikelihood.of(target)
    try:
        yield likelihood
    finally:
        del likelihood.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def score(
    measured: Measured,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    likelihood: TargetLikelihood,
    checker: Checker | None,
) -> Scores:
    """`prompt_ids`: `[num_prompts]` lists of tokens, as the engine has them."""
    nats, lengths, right = ([0.0] * len(prompts) for _ in range(3))
    for answers in measured.answers:
        tokens = [answer.tokens for answer in answers]
        for at, value in enumerate(likelihood.negative_log_likelihoods(prompt_ids, tokens)):
            nats[at] += value
            lengths[at] += len(tokens[at])
            right[at] += checker is not None and checker.is_right(prompts[at], answers[at].text)
    accuracy = Ratio.of(right, [len(measured.answers)] * len(prompts)) if checker else None
    return Scores(Ratio.of(nats, lengths), accuracy)


def row_of(measured: Measured, target: Measured, scores: Scores | None, of_target: Scores) -> Row:
    """`scores` of `measured`, None if it failed."""
    if measured.failure is not None or scores is None:
        return Row(measured.method, failure=measured.failure or "not measured")
    answers = [answer for sample in measured.answers for answer in sample]
    figures: dict[str, Any] = {}
    if scores.right is not None and of_target.right is not None:
        figures["accuracy"] = scores.right.value()
        figures["accuracy_difference"] = paired_difference(scores.right, of_target.right)
    return Row(
        measured.method,
        tokens_per_call=block_efficiency([[len(call) for call in answer.calls] for answer in answers]),
        speeds={in_flight: speed(measured, target, in_flight) for in_flight in measured.passes[0].rounds},
        nats=scores.nats.value(),
        nats_difference=paired_difference(scores.nats, of_target.nats),
        repetition=sum(repetition_rate(answer.tokens) for answer in answers) / len(answers),
        **figures,
    )
