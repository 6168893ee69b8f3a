"""Requests that ask for other things of mtad than the engine does, in one batch with those that do not.

The draft has the target's own weights: every draft of a sampled request passes, unless its request says otherwise.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy import stats
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind

from tests.engine.engines import GAMMA, NUM_TOKENS, ON_V2, counters, engine, generate_tokens
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import hugging_face_model

takes_minutes_on_v2 = pytest.mark.skipif(
    ON_V2,
    reason="takes minutes in the interpreter; on V2 tests/v2/kernels/test_acceptance.py shows it of the kernel"
    " (test_each_request_has_its_own_threshold, test_the_extra_token_follows_the_targets_row)",
)
PROMPTS = random_prompts([9, 30, 17, 41], seed=5)
OFF, NEVER = {"mtad": False}, {"mtad_acceptance_threshold": 0.999999}


def sampled(**values) -> SamplingParams:
    given = {"max_tokens": 1 + 2 * (GAMMA + 1), "ignore_eos": True, "output_kind": RequestOutputKind.DELTA}
    return SamplingParams(**(given | values))


@pytest.fixture(scope="module")
def llm(small_pair):
    with engine(small_pair[0], small_pair[0], {"beam_width": 2}, enable_prefix_caching=False) as llm:
        yield llm


def calls(llm, params: list[SamplingParams]) -> list[list[int]]:
    """Tokens of each target call, by request; all are in flight together."""
    for i, (prompt, own) in enumerate(zip(PROMPTS, params)):
        llm.llm_engine.add_request(str(i), {"prompt_token_ids": prompt}, own)
    found: list[list[int]] = [[] for _ in params]
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if tokens := output.outputs[0].token_ids:
                found[int(output.request_id)].append(len(tokens))
    return found


def test_a_request_without_drafts_gets_a_token_a_call_beside_others(llm):
    drafted, off, on, other = calls(
        llm, [sampled(), sampled(extra_args=OFF), sampled(extra_args={"mtad": 1}), sampled()]
    )
    assert drafted == on == other == [1, GAMMA + 1, GAMMA + 1]
    assert off == [1] * (1 + 2 * (GAMMA + 1))


def test_v1_makes_no_drafts_for_those_who_want_none(llm):
    before = counters(llm)["spec_decode_num_draft_tokens"]
    calls(llm, [sampled(extra_args=OFF)] * 4)
    made = counters(llm)["spec_decode_num_draft_tokens"] - before
    assert made > 0 if ON_V2 else made == 0  # V2's rounds are one for all requests: it makes them, and keeps none


def test_greedy_decoding_is_the_targets_own_either_way(llm):
    params = [SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, extra_args=OFF)] * len(PROMPTS)
    plain = [SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)] * len(PROMPTS)
    assert generate_tokens(llm, PROMPTS, params) == generate_tokens(llm, PROMPTS, plain)


@pytest.mark.parametrize(
    ("extra_args", "named"),
    [
        ({"mtad": "perhaps"}, "give true or false"),
        ({"mtad_threshold": 0.5}, "give some of mtad, mtad_acceptance_threshold"),
        ({"mtad_acceptance_threshold": 1.5}, "=1.5 is not accepted"),
    ],
)
def test_what_is_not_accepted_is_one_sentence_and_harms_nobody(llm, extra_args, named):
    with pytest.raises(VLLMValidationError, match=named):
        generate_tokens(llm, PROMPTS[:1], sampled(extra_args=extra_args, output_kind=RequestOutputKind.CUMULATIVE))
    assert len(calls(llm, [sampled()] * 4)[0]) == 3


# From here on with engines of their own, which end the module's.


@takes_minutes_on_v2
def test_each_request_has_its_own_threshold(small_pair):
    """With another draft, a threshold of 0 keeps every draft of positive p, and one near 1 few."""
    with engine(*small_pair, {"acceptance_threshold": 0.0}, enable_prefix_caching=False) as llm:
        strict = sampled(extra_args=NEVER)
        first, second, third, fourth = calls(llm, [sampled(), strict, sampled(), strict])
    assert first == third == [1, GAMMA + 1, GAMMA + 1]
    assert min(len(second), len(fourth)) > 3


@torch.inference_mode()
def expected_pairs(target: str, prompt: list[int], top_k: int) -> dict[tuple[int, int], float]:
    """Probability of each pair of first and second tokens, by Hugging Face."""
    model, found = hugging_face_model(target), {}

    def truncated(text):
        values, tokens = model(torch.tensor([text])).logits[0, -1].double().topk(top_k)
        return zip(tokens.tolist(), values.softmax(0).tolist())

    for first, p in truncated(prompt):
        for second, q in truncated([*prompt, first]):
            found[first, second] = p * q
    return found


@takes_minutes_on_v2
def test_without_drafts_a_request_samples_from_the_targets_own_distribution(small_pair):
    """The engine's draft is another model and its threshold keeps nearly all: with drafts the pairs are the draft's."""
    count, prompt, top_k = 600, PROMPTS[0], 3
    expected = expected_pairs(small_pair[0], prompt, top_k)
    with engine(*small_pair, {"acceptance_threshold": 0.0, "beam_width": 1}, enable_prefix_caching=False) as llm:

        def p_value(extra_args):
            params = SamplingParams(top_k=top_k, max_tokens=2, ignore_eos=True, extra_args=extra_args)
            seen = Counter(map(tuple, generate_tokens(llm, [prompt] * count, [params] * count)))
            assert set(seen) <= set(expected)
            return stats.chisquare([seen[p] for p in expected], [count * expected[p] for p in expected]).pvalue

        assert p_value(OFF) > 1e-3
        assert p_value(None) < 1e-3
