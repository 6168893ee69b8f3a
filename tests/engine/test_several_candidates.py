"""Several candidates in a real engine: equal to the slow reference and, at temperature 0, to the target alone."""

import pytest
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from tests.engine.engines import ON_V2, counters, engine, generate, generate_tokens
from tests.engine.test_joint_greedy import assert_equal_but_for_near_ties
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model

GAMMA, NUM_TOKENS = 3, 12
TREES = {"num_speculative_tokens": GAMMA, "max_candidate_rows": 128}
BLOCKS_OF_SCRATCH = 0 if ON_V2 else 4 * 6 * 2
"""Of V1: four requests of six nodes beside the chosen draft, each on a branch of two blocks at most."""
GRAMMAR = StructuredOutputsParams(regex="(t1[0-9])+")


def greedy(**values):
    return SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, **values)


@pytest.fixture(scope="module")
def models(small_pair):
    return tuple(hugging_face_model(path) for path in small_pair)


@pytest.mark.parametrize(("num_candidates", "candidate_test"), [(4, "own"), (2, "reference")])
def test_joint_greedy_equals_the_reference(models, small_pair, num_candidates, candidate_test):
    """The last prompt comes in chunks beside requests that decode; the last but one has a grammar, its own affair."""
    prompts = random_prompts([5, 17, 9, 70])
    settings = ReferenceSettings(
        GAMMA, 4, greedy="joint", temperature=0.0, num_candidates=num_candidates, candidate_test=candidate_test
    )
    expected = [ReferenceDecoder(*models, settings).generate(prompt, NUM_TOKENS) for prompt in prompts]
    assert sum(e.other_won for e in expected) > 3, "the chosen draft alone would give the same"
    mtad = TREES | {"greedy": "joint", "num_candidates": num_candidates, "candidate_test": candidate_test}
    params = [greedy()] * len(prompts)
    params[2] = greedy(structured_outputs=GRAMMAR)
    options = {"max_num_batched_tokens": 60, "max_num_seqs": 4}
    with engine(*small_pair, mtad, **options) as llm:
        found = generate_tokens(llm, prompts, params)
    del found[2], expected[2]
    assert_equal_but_for_near_ties(found, expected)


# -- at temperature 0, whatever the steps hold -----------------------------------------------------------------------

PROMPTS = random_prompts([5, 90, 17, 40, 9, 64], seed=2)
PARAMS = [
    greedy(),
    greedy(repetition_penalty=1.3),
    greedy(logprobs=2),
    greedy(min_tokens=5),
    greedy(structured_outputs=GRAMMAR),
    greedy(),
]
"""The second, third and fifth are verified as chains. The fourth's minimum is looked up by position."""
SMALL = {
    "max_num_batched_tokens": 36,
    "enable_prefix_caching": True,
    "max_model_len": 96,
    "max_num_seqs": 4,
}
BLOCKS = 6
"""Prompts come in chunks, beside requests that decode; four requests' rows do not fit into a step; one request ends at
the models' length; and requests are preempted, for the first four need 8 blocks."""


@pytest.fixture(scope="module")
def alone(small_pair):
    with engine(small_pair[0], num_gpu_blocks_override=BLOCKS, **SMALL) as llm:
        return generate(llm, PROMPTS, PARAMS)


@pytest.fixture(scope="module")
def llm(small_pair, alone):  # whose engine has ended
    mtad = TREES | {"num_candidates": 3}
    with engine(*small_pair, mtad, num_gpu_blocks_override=BLOCKS + BLOCKS_OF_SCRATCH, **SMALL) as llm:
        yield llm


def test_lossless_greedy_equals_the_target_alone(llm, alone):
    found = generate(llm, PROMPTS, PARAMS)
    assert [f.token_ids for f in found] == [a.token_ids for a in alone]
    for got, expected in zip(found[2].logprobs, alone[2].logprobs):
        assert got.keys() == expected.keys()
        assert all(abs(got[token].logprob - expected[token].logprob) < 1e-3 for token in got)
    assert len(found[1].token_ids) == SMALL["max_model_len"] - len(PROMPTS[1])
    assert counters(llm)["num_preemptions"] > 0


def test_what_was_kept_is_what_a_later_request_finds_in_the_cache(llm, alone):
    """Texts again, one after another, with their answers as a part of the prompt."""
    longer = [{"prompt_token_ids": [*PROMPTS[i], *alone[i].token_ids]} for i in (3, 5)]
    few = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    cached = llm.generate(longer, few, use_tqdm=False)
    assert sum(request.num_cached_tokens for request in cached) > 32
    llm.reset_prefix_cache()
    fresh = llm.generate(longer, few, use_tqdm=False)
    assert sum(request.num_cached_tokens for request in fresh) == 0
    assert [f.outputs[0].token_ids for f in fresh] == [c.outputs[0].token_ids for c in cached]
