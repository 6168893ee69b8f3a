"""Two tensor-parallel ranks: both draft the same beams, or their KV would differ and the text with it."""

import pytest
from vllm import SamplingParams

from tests.engine.engines import GAMMA, counters, engine, generate_tokens
from tests.engine.test_joint_greedy import assert_equal_but_for_near_ties
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model

NUM_TOKENS, NEAR_TIE = 12, 1e-4
"""Two ranks add their halves in another order than one model: ties are wider."""
PROMPTS = random_prompts([9, 40, 21], seed=11)


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_equals_the_reference_and_repeats_seeded_samples(small_pair, num_candidates):
    settings = ReferenceSettings(GAMMA, 4, greedy="joint", temperature=0.0, num_candidates=num_candidates)
    decoder = ReferenceDecoder(*map(hugging_face_model, small_pair), settings)
    expected = [decoder.generate(prompt, NUM_TOKENS) for prompt in PROMPTS]
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    sampled = [SamplingParams(seed=i, top_k=20, top_p=0.9, max_tokens=NUM_TOKENS, ignore_eos=True) for i in range(3)]
    mtad = {"greedy": "joint", "num_candidates": num_candidates}
    with engine(*small_pair, mtad, tensor_parallel_size=2, enable_prefix_caching=False) as llm:
        assert_equal_but_for_near_ties(generate_tokens(llm, PROMPTS, greedy), expected, NEAR_TIE)
        assert counters(llm)["spec_decode_num_accepted_tokens"] > 0
        assert generate_tokens(llm, PROMPTS, sampled) == generate_tokens(llm, PROMPTS, sampled)
