"""What an engine says of a text's likelihood, against Hugging Face in float32."""

import pytest

from benchmarks.hugging_face import TargetLikelihood
from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import evaluation_examples
from tests.engine.engines import in_this_process
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.decoding import decode
from vllm_mtad.tools.harness.engines import engine_up, quiet_vllm
from vllm_mtad.tools.harness.likelihood import negative_log_likelihoods
from vllm_mtad.tools.harness.methods import PAPER, draft_model, mtad, target_alone
from vllm_mtad.tools.harness.prompts import tokenized


@pytest.mark.parametrize(
    "method", [target_alone(), draft_model(), mtad(), mtad(MTADOptions(num_candidates=4))], ids=lambda m: m.name
)
def test_every_engine_scores_as_hugging_face_does(method):
    from transformers import AutoTokenizer

    quiet_vllm()
    texts = [example.prompt for example in evaluation_examples("held_out", 12)]
    prompt_ids = tokenized(AutoTokenizer.from_pretrained(MINISQL.target), texts, chat=False)
    with in_this_process(), engine_up(method, MINISQL, dtype="float32") as llm:
        asked = [{"prompt_token_ids": ids} for ids in prompt_ids]
        answers = [d.tokens for d in decode(llm, asked, PAPER.params(72), 8, 1).decoded]
        answers[3] = []
        found = negative_log_likelihoods(llm, prompt_ids, answers)
    assert found[3] == 0.0
    of_hugging_face = TargetLikelihood.of(MINISQL.target).negative_log_likelihoods(prompt_ids, answers)
    assert found == pytest.approx(of_hugging_face, abs=2e-3)
    assert sum(found) > 5  # the answers were sampled: they are not certain
