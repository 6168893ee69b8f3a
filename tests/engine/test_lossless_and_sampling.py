"""Lossless greedy decoding equals decoding without a draft, in batches of any mix; and what sampling promises.

One engine without a draft records what it gives; one engine with mtad, with prompts split over several steps
(`max_num_batched_tokens`), must give the same for every request at temperature 0.
"""

import re
from itertools import cycle

import pytest
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

from tests.engine.engines import NUM_TOKENS, ON_V2, counters, engine, generate, generate_tokens
from tests.small_pair import random_prompts

OPTIONS = {"max_num_batched_tokens": 64}
PROMPTS = random_prompts([5, 33, 90, 17, 64, 9, 40, 120, 3, 25, 70, 11] * 2, seed=2)[: 17 if ON_V2 else 24]
FEW = 4 if ON_V2 else 8


def greedy(**values) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True} | values))


def sampled(**values) -> SamplingParams:
    return SamplingParams(**({"max_tokens": NUM_TOKENS, "ignore_eos": True} | values))


GRAMMAR = "(t10|t11|t12)(t20|t21)(t10|t13|t14)+"  # t1 and t2 are no words: none begins another
GREEDY_REQUESTS = [
    greedy(),
    greedy(repetition_penalty=1.4),
    greedy(presence_penalty=1.5, frequency_penalty=0.7),
    greedy(logprobs=3),
    greedy(allowed_token_ids=list(range(40, 140))),
    greedy(bad_words=["t77", "t101 t5"]),
    greedy(min_tokens=NUM_TOKENS // 2, stop_token_ids=list(range(3, 130)), ignore_eos=False),
    greedy(top_k=7, top_p=0.3),
    greedy(max_tokens=1),
    greedy(max_tokens=3, logprobs=0),
    greedy(structured_outputs=StructuredOutputsParams(regex=GRAMMAR)),
]
SAMPLED_REQUESTS = [
    sampled(),
    sampled(temperature=0.7, top_p=0.9),
    sampled(top_k=10, top_p=0.9, seed=5),
    sampled(min_p=0.2, repetition_penalty=1.2),
    sampled(temperature=1.5, seed=7, logprobs=2),
]


def mixed_batch(with_seeds: bool = True) -> list[SamplingParams]:
    """One request per prompt; every third samples.

    Without mtad, a seeded request with a chunked prefill ends vLLM 0.32's CPU engine (patches/0.32.0).
    """
    out, greedy_kinds, sampled_kinds = [], cycle(GREEDY_REQUESTS), cycle(SAMPLED_REQUESTS)
    for i in range(len(PROMPTS)):
        params = next(sampled_kinds if i % 3 == 2 else greedy_kinds).clone()
        if not with_seeds:
            params.seed = None
        out.append(params)
    return out


def test_structured_output_holds_when_sampling(llm):
    params = sampled(structured_outputs=StructuredOutputsParams(regex=GRAMMAR), ignore_eos=False)
    for output in generate(llm, PROMPTS[:4], params):
        assert re.fullmatch(GRAMMAR, output.text.replace(" ", ""))


def stopping_requests(outputs) -> list[SamplingParams]:
    """Stop where a known output is in its middle: by token, and by string."""
    stops = []
    for i, output in enumerate(outputs):
        token = output.token_ids[len(output.token_ids) // 2]
        stops.append(greedy(stop_token_ids=[token]) if i % 2 else greedy(stop=[f"t{token}"]))
    return stops


@pytest.fixture(scope="module")
def without_draft(small_pair):
    with engine(small_pair[0], **OPTIONS) as llm:
        mixed = generate(llm, PROMPTS, mixed_batch(with_seeds=False))
        plain = generate(llm, PROMPTS[:FEW], greedy())
        stopped = generate(llm, PROMPTS[:FEW], stopping_requests(plain))
    return {"mixed": mixed, "plain": plain, "stopped": stopped}


@pytest.fixture(scope="module")
def llm(small_pair, without_draft):
    with engine(*small_pair, **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def mixed(llm):
    """(parameters, completion) of each request of a mixed batch."""
    params = mixed_batch()
    return list(zip(params, generate(llm, PROMPTS, params)))


def test_greedy_requests_in_mixed_batches_equal_decoding_without_a_draft(mixed, without_draft):
    is_greedy = [params.temperature == 0 for params, _ in mixed]
    assert sum(is_greedy) > len(GREEDY_REQUESTS), "a kind of request is missing"
    for (_, output), expected, checked in zip(mixed, without_draft["mixed"], is_greedy):
        if checked:
            assert list(output.token_ids) == list(expected.token_ids)
    for params_of, output in mixed:
        if params_of.allowed_token_ids:
            assert set(output.token_ids) <= set(params_of.allowed_token_ids)


def test_plain_greedy_equals_decoding_without_a_draft_and_drafts_are_accepted(llm, without_draft):
    before = counters(llm)
    outputs = generate_tokens(llm, PROMPTS[:FEW], greedy())
    assert outputs == [list(o.token_ids) for o in without_draft["plain"]]
    after = counters(llm)
    assert after["spec_decode_num_accepted_tokens"] > before["spec_decode_num_accepted_tokens"]


def test_logprobs_equal_those_without_a_draft(mixed, without_draft):
    compared = 0
    for (params_of, output), expected in zip(mixed, without_draft["mixed"]):
        if params_of.logprobs is None or params_of.temperature > 0:
            continue
        assert len(output.logprobs) == len(output.token_ids)
        for got, wanted in zip(output.logprobs, expected.logprobs):
            assert got.keys() == wanted.keys()
            assert [got[t].rank for t in got] == [wanted[t].rank for t in got]
            assert [got[t].logprob for t in got] == pytest.approx([wanted[t].logprob for t in got], abs=1e-4)
            compared += 1
    assert compared > NUM_TOKENS


def test_stops_inside_an_accepted_prefix(llm, without_draft):
    outputs = generate(llm, PROMPTS[:FEW], stopping_requests(without_draft["plain"]))
    for output, expected in zip(outputs, without_draft["stopped"]):
        assert list(output.token_ids) == list(expected.token_ids)
        assert output.text == expected.text
        assert output.finish_reason == expected.finish_reason == "stop"


SEEDED = [
    sampled(seed=1),
    sampled(seed=2, top_k=10, top_p=0.9),
    sampled(seed=3, temperature=0.6, min_p=0.05),
    sampled(seed=4, top_p=0.8),
]


def test_seeded_requests_repeat_chunked_prefill_included(llm):
    """The prompt of 120 tokens takes two steps: a partial prefill must not advance the request's generator."""
    prompts = [PROMPTS[7], PROMPTS[0], PROMPTS[2], PROMPTS[4]]
    first = generate_tokens(llm, prompts, SEEDED)
    llm.reset_prefix_cache()
    assert generate_tokens(llm, prompts, SEEDED) == first
    other = [p.clone() for p in SEEDED]
    for params in other:
        params.seed += 100
    llm.reset_prefix_cache()
    assert all(a != b for a, b in zip(generate_tokens(llm, prompts, other), first))


def test_a_seeded_request_does_not_depend_on_its_batch(llm):
    llm.reset_prefix_cache()
    alone = generate_tokens(llm, [PROMPTS[0]], SEEDED[1])
    llm.reset_prefix_cache()
    assert generate_tokens(llm, PROMPTS[:4], [SEEDED[1], sampled(), greedy(), sampled(top_k=3)])[:1] == alone


def test_min_p_of_one_is_greedy(llm, without_draft):
    """Only the most likely token has min_p = 1 of itself: at all gamma + 1 rows, or the text would differ."""
    outputs = generate_tokens(llm, PROMPTS[:FEW], sampled(min_p=1.0))
    assert outputs == [list(o.token_ids) for o in without_draft["plain"]]


def test_logit_bias_acts_at_every_row_on_v2_and_is_refused_on_v1(llm, without_draft):
    if not ON_V2:
        with pytest.raises(VLLMValidationError, match="logit_bias"):
            generate(llm, PROMPTS[:1], sampled(logit_bias={5: 1.0}))
        return
    biased = generate_tokens(llm, PROMPTS[:FEW], greedy(logit_bias={5: 100.0, 77: 100.0}))
    assert all(set(tokens) <= {5, 77} for tokens in biased)
    before = counters(llm)["spec_decode_num_accepted_tokens"]
    unbiased = generate_tokens(llm, PROMPTS[:FEW], greedy(logit_bias={5: 0.0}))
    assert unbiased == [list(o.token_ids) for o in without_draft["plain"]]
    assert counters(llm)["spec_decode_num_accepted_tokens"] > before


def test_two_requests_of_one_name_after_each_other_keep_their_own_parameters(llm, without_draft):
    """The request table follows the batch, not the names in it."""
    by_max = sampled(min_p=1.0)
    for _ in range(2):
        assert generate_tokens(llm, PROMPTS[:1], by_max) == [list(without_draft["plain"][0].token_ids)]
        generate_tokens(llm, PROMPTS[:1], sampled(temperature=2.0))


def test_a_draft_that_is_the_target_is_accepted_whole(small_pair):
    target = small_pair[0]
    with engine(target, target, {"greedy": "joint"}, enable_prefix_caching=False) as llm:
        requests = [sampled(), sampled(temperature=0.7, top_p=0.9), sampled(top_k=20), sampled(top_k=2), *SEEDED][:FEW]
        generate(llm, PROMPTS[:FEW], requests)
        generate(llm, PROMPTS[:FEW], greedy())  # joint greedy
        seen = counters(llm)
    assert seen["spec_decode_num_draft_tokens"] > 5 * NUM_TOKENS
    assert seen["spec_decode_num_accepted_tokens"] == seen["spec_decode_num_draft_tokens"]
