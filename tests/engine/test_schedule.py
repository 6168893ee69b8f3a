"""Schedules of draft lengths, and batches in which nobody wants drafts: the draft model catches up with what it missed.

The draft has the target's own weights: it is accepted whole only if its KV cache has no holes.
"""

import pytest
from vllm import SamplingParams

from tests.engine.engines import GAMMA, NUM_TOKENS, ON_V2, counters, engine, generate_tokens
from tests.small_pair import random_prompts

draft_reads_on_v2 = pytest.mark.skipif(
    ON_V2, reason="on V2 the draft model reads in every step, so nothing is ever missing: the first test shows it"
)
ALONE_ONLY = {"num_speculative_tokens_per_batch_size": [(1, 1, GAMMA), (2, 8, 0)], "greedy": "joint"}


@pytest.fixture(scope="module")
def llm(small_pair):
    with engine(small_pair[0], small_pair[0], ALONE_ONLY) as llm:
        yield llm


def sampled(num_tokens: int, **values) -> SamplingParams:
    return SamplingParams(seed=1, max_tokens=num_tokens, ignore_eos=True, **values)


def drafted_and_accepted(llm, generate):
    before = counters(llm)
    result = generate()
    after = counters(llm)
    names = (f"spec_decode_num_{name}_tokens" for name in ("draft", "accepted"))
    return result, *(after[name] - before[name] for name in names)


def test_drafts_after_a_time_without_are_as_good_as_ever(llm):
    """Two requests together draft nothing; when one has ended the other drafts."""
    params = [sampled(30), sampled(60)]
    prompts = random_prompts([9, 14], seed=7)
    _, drafted, accepted = drafted_and_accepted(llm, lambda: generate_tokens(llm, prompts, params))
    assert accepted == drafted >= 9
    assert drafted < 44, "most of the longer text was drafted for: the two were never together"


@draft_reads_on_v2
def test_a_text_found_in_the_prefix_cache_may_lack_the_drafts_keys_and_values(llm):
    """The second request is decoded beside the first, and so without drafts; the first may begin alone."""
    prompts, params = random_prompts([70, 75], seed=8), [sampled(3 * NUM_TOKENS), sampled(NUM_TOKENS)]
    answers, drafted, _ = drafted_and_accepted(llm, lambda: generate_tokens(llm, prompts, params))
    assert drafted < 3 * NUM_TOKENS
    hits = counters(llm)["prefix_cache_hits"]
    again = [prompts[1] + answers[1]]
    _, drafted, accepted = drafted_and_accepted(llm, lambda: generate_tokens(llm, again, sampled(2 * GAMMA + 3)))
    assert counters(llm)["prefix_cache_hits"] > hits
    assert accepted == drafted >= 2 * GAMMA


@draft_reads_on_v2
def test_a_request_without_drafts_leaves_holes_as_well(llm):
    prompt = random_prompts([90], seed=9)
    off = sampled(NUM_TOKENS, extra_args={"mtad": False})
    (answer,), drafted, _ = drafted_and_accepted(llm, lambda: generate_tokens(llm, prompt, off))
    assert drafted == 0
    again = [prompt[0] + answer]
    _, drafted, accepted = drafted_and_accepted(llm, lambda: generate_tokens(llm, again, sampled(2 * GAMMA + 3)))
    assert accepted == drafted >= 2 * GAMMA


@pytest.mark.skipif(ON_V2, reason="minutes in the interpreter; tests/v2/test_graphs.py has schedules on V2")
def test_greedy_decoding_is_the_targets_own_at_every_length(small_pair):
    """Requests end one after another, so that the batch passes through every entry of the schedule and back."""
    schedule = [(1, 1, GAMMA), (2, 3, 2), (4, 5, 0), (6, 8, 1)]
    fields = {"num_speculative_tokens_per_batch_size": schedule, "num_candidates": 2}
    prompts = random_prompts([9, 30, 17, 41, 12, 50, 33], seed=10)
    params = [SamplingParams(temperature=0, max_tokens=6 * (i + 1), ignore_eos=True) for i in (3, 0, 5, 1, 6, 2, 4)]
    with engine(small_pair[0]) as llm:
        expected = generate_tokens(llm, prompts, params)
    with engine(*small_pair, fields) as llm:
        assert generate_tokens(llm, prompts, params) == expected
        assert generate_tokens(llm, prompts, params) == expected  # from the prefix cache
