import math

import pytest
import torch

from benchmarks.hugging_face import TargetLikelihood
from benchmarks.pairs import MINISQL
from vllm_mtad.algorithm.reference import hugging_face_model


class Half:
    """Two of four tokens have one half each."""

    def __call__(self, input_ids):
        logits = torch.full((*input_ids.shape, 4), -math.inf)
        logits[..., 1:3] = 0.0
        return type("Output", (), {"logits": logits})


def test_nats_are_of_the_answers_tokens_alone():
    answers = [[1, 2, 1], [2]]
    nats = TargetLikelihood(Half()).negative_log_likelihoods([[0, 0], [3]], answers)
    assert nats == pytest.approx([3 * math.log(2), math.log(2)])


def test_batches_give_what_each_text_alone_gives():
    model = hugging_face_model(str(MINISQL.target))
    texts = [([1, 5, 9], [30, 31, 2]), ([1, 7], [40]), ([1, 5, 9, 11, 12], [50, 51, 52, 53, 54, 55]), ([1, 7], [40])]
    prompts, answers = zip(*texts)
    batched = TargetLikelihood(model, batch_tokens=24).negative_log_likelihoods(prompts, answers)
    for prompt, answer, nats in zip(prompts, answers, batched):
        alone, text = 0.0, list(prompt)
        for token in answer:
            with torch.inference_mode():
                alone -= model(torch.tensor([text])).logits[0, -1].double().log_softmax(-1)[token].item()
            text.append(token)
        assert nats == pytest.approx(alone, abs=1e-4)


def test_an_empty_answer_has_no_nats():
    assert TargetLikelihood(Half()).negative_log_likelihoods([[0]], [[]]) == [0.0]
