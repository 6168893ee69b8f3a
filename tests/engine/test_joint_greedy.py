"""Joint greedy decoding in a real engine equals the slow reference, token for token.

It is deterministic without being one-hot: every warped row is a full softmax, so beams, their order, log q,
the joint test and the extra token all decide. Each (B, gamma) runs in an engine that stresses another part.
"""

from dataclasses import replace
from importlib.metadata import version

import pytest
from vllm import SamplingParams

from tests.engine.engines import GAMMA, ON_V2, counters, engine, generate_tokens
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceOutput, ReferenceSettings, hugging_face_model

NEAR_TIE = 1e-5
NUM_TOKENS = 24
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
LOSSLESS = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, extra_args={"mtad_greedy": "lossless"})
PROMPTS = random_prompts([5, 33, 17, 64, 9, 40])

V1_ENGINES = {
    "B1_gamma4_reordering_batches": (1, 4, {"max_num_seqs": 2}),
    "B4_gamma1": (4, 1, {}),
    "B4_gamma4_prefix_caching": (4, 4, {"enable_prefix_caching": True}),
    "B8_gamma3_chunked_prefill": (8, 3, {"max_num_batched_tokens": 48, "max_num_seqs": 6}),
}
# On both runners, which then give the same tokens. On V2 other sizes are for the kernels' own tests.
BOTH = {"B4_gamma3_prefix_caching_chunked_prefill": (4, 3, {"max_num_batched_tokens": 48})}
ENGINES = BOTH if ON_V2 else BOTH | V1_ENGINES


@pytest.fixture(scope="module")
def models(small_pair):
    return tuple(hugging_face_model(path) for path in small_pair)


def reference(models, settings, prompt, **options) -> ReferenceOutput:
    return ReferenceDecoder(*models, settings).generate(prompt, NUM_TOKENS, **options)


def assert_equal_but_for_near_ties(
    engine_tokens: list[list[int]], references: list[ReferenceOutput], near_tie: float = NEAR_TIE
) -> None:
    compared = [(e, r.tokens) for e, r in zip(engine_tokens, references) if r.smallest_margin > near_tie]
    assert len(compared) >= len(references) - 1, "too many near ties to mean anything"
    for got, expected in compared:
        assert got == expected


@pytest.mark.parametrize("name", ENGINES)
def test_equals_the_reference(models, small_pair, name):
    beam_width, gamma, options = ENGINES[name]
    settings = ReferenceSettings(gamma, beam_width, greedy="joint", temperature=0.0)
    expected = [reference(models, settings, prompt) for prompt in PROMPTS]
    mtad = {"beam_width": beam_width, "num_speculative_tokens": gamma, "greedy": "joint"}
    with engine(*small_pair, mtad, **options) as llm:
        assert_equal_but_for_near_ties(generate_tokens(llm, PROMPTS, GREEDY), expected)
        if "prefix_caching" in name:
            assert_equal_but_for_near_ties(generate_tokens(llm, PROMPTS, GREEDY), expected)
            assert counters(llm)["prefix_cache_hits"] > 0
        if name in BOTH:
            # Every other request asks for the target's own greedy decoding.
            params = [GREEDY, LOSSLESS] * (len(PROMPTS) // 2)
            lossless = replace(settings, greedy="lossless")
            expected[1::2] = [reference(models, lossless, prompt) for prompt in PROMPTS[1::2]]
            assert_equal_but_for_near_ties(generate_tokens(llm, PROMPTS, params), expected)
        if gamma > 1:
            assert sum(r.skipped_a_failure for r in expected) > 0, "no longer prefix passed after a failure"


def test_runs_into_max_model_len_without_disturbing_the_others(models, small_pair):
    """The first request ends at the limit while the others decode: their drafts, and the draft KV under them,
    are what they would have been alone."""
    limit = 80
    prompts = random_prompts([limit - 6, 12, 30, limit - 15, 5], seed=4)
    settings = ReferenceSettings(GAMMA, 4, greedy="joint", temperature=0.0)
    expected = [reference(models, settings, prompt, max_model_len=limit) for prompt in prompts]
    assert [len(e.tokens) for e in expected] == [6, 24, 24, 15, 24]
    assert expected[0].accepted[-1] < GAMMA, "no draft was cut short by the limit"
    with engine(*small_pair, {"greedy": "joint"}, max_model_len=limit) as llm:
        assert_equal_but_for_near_ties(generate_tokens(llm, prompts, GREEDY), expected)


@pytest.mark.skipif(
    ON_V2 and not version("vllm").startswith("0.32"),
    reason="from 0.33 on vLLM serves no text on V2 that is longer than the draft's window: it lowers max_model_len",
)
def test_a_draft_with_a_smaller_window_drafts_up_to_it_only(models, small_pair):
    """One request starts past the window, one crosses it, one stays inside."""
    window = 48
    prompts = random_prompts([60, 38, 9], seed=8)
    settings = ReferenceSettings(GAMMA, 4, greedy="joint", temperature=0.0)
    expected = [reference(models, settings, prompt, draft_max_model_len=window) for prompt in prompts]
    assert [sum(e.accepted) > 0 for e in expected] == [False, True, True]
    with engine(*small_pair, {"greedy": "joint", "max_model_len": window}) as llm:
        assert_equal_but_for_near_ties(generate_tokens(llm, prompts, GREEDY), expected)


def test_a_preempted_request_differs_by_where_its_iterations_begin_only(models, small_pair):
    """A resumed request recomputes its text and decodes one token without a draft; where p is not one-hot, the
    iterations after it begin elsewhere. The reference with draft-less steps at those places gives the same."""
    prompts = random_prompts([50, 55, 60, 45], seed=6)
    settings = ReferenceSettings(GAMMA, 4, greedy="joint", temperature=0.0)
    scratch_blocks, blocks_for_requests = 0 if ON_V2 else 4 * 2, 11  # on V1, of one request's beams
    with engine(
        *small_pair,
        {"greedy": "joint"},
        max_num_seqs=4,
        max_model_len=128,
        enable_prefix_caching=False,
        num_gpu_blocks_override=scratch_blocks + blocks_for_requests,
    ) as llm:
        outputs = generate_tokens(llm, prompts, GREEDY)
        assert counters(llm)["num_preemptions"] > 0
    for prompt, output in zip(prompts, outputs):
        assert any(
            reference(models, settings, prompt, extra_token_only_at=frozenset({0, resumed_at})).tokens == output
            for resumed_at in range(NUM_TOKENS)
        )
