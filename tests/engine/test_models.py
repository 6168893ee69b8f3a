"""Pairs of other architectures than Llama's in an engine, equal to the slow reference on Hugging Face's models."""

import pytest
from vllm import SamplingParams

from tests.engine.engines import engine, generate_tokens
from tests.engine.test_joint_greedy import assert_equal_but_for_near_ties
from tests.small_models import WINDOW, gemma2, gemma3, gpt_oss, qwen3_moe, save_pair_of
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model

GAMMA, NUM_TOKENS = 3, 12
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
PROMPTS = random_prompts([WINDOW - 4, 5, 3 * WINDOW + 1, 2 * WINDOW])
ARCHITECTURES = {
    "Gemma 3: windows": gemma3,
    "Gemma 2: windows and soft-caps": gemma2,
    "gpt-oss: windows, sinks and experts": gpt_oss,
    "Qwen3 MoE: experts": qwen3_moe,
}


def references(pair, num_candidates):
    settings = ReferenceSettings(GAMMA, 4, greedy="joint", temperature=0.0, num_candidates=num_candidates)
    models = [hugging_face_model(path) for path in pair]
    return [ReferenceDecoder(*models, settings).generate(prompt, NUM_TOKENS) for prompt in PROMPTS]


def mtad_with(num_candidates):
    return {
        "greedy": "joint",
        "num_speculative_tokens": GAMMA,
        "num_candidates": num_candidates,
        "max_candidate_rows": 128,
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_reference(tmp_path, name):
    pair = save_pair_of(tmp_path, ARCHITECTURES[name])
    expected = references(pair, num_candidates=2)
    assert sum(sum(e.accepted) for e in expected) > len(PROMPTS), "nothing to tell a good draft by"
    with engine(*pair, mtad_with(2), max_num_seqs=4) as llm:
        assert_equal_but_for_near_ties(generate_tokens(llm, PROMPTS, GREEDY), expected)
