"""Schedules of draft lengths, and batches in which nobody wants drafts: the draft model catches up with what it missed.

The draft has the target's own weights, so that joint p / joint q is 1 if its KV cache has no holes, and all is accepted
at a threshold just below.
"""

import pytest
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tests.engine.engines import GAMMA, NUM_TOKENS, ON_V2, counters, engine, generate_tokens
from tests.small_pair import random_prompts

ALONE_ONLY = {"num_speculative_tokens_per_batch_size": [(1, 1, GAMMA), (2, 8, 0)], "acceptance_threshold": 0.99}


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


def test_a_request_without_drafts_leaves_holes_as_well(llm):
    prompt = random_prompts([90], seed=9)
    off = sampled(NUM_TOKENS, extra_args={"mtad": False})
    (answer,), drafted, accepted = drafted_and_accepted(llm, lambda: generate_tokens(llm, prompt, off))
    assert (drafted > 0) is ON_V2, "V2's scheduler hands out places for drafts, in which nothing stands"
    assert accepted == 0
    again = [prompt[0] + answer]
    _, drafted, accepted = drafted_and_accepted(llm, lambda: generate_tokens(llm, again, sampled(2 * GAMMA + 3)))
    assert accepted == drafted >= 2 * GAMMA


# From here on with engines of their own, which end the module's.


def tokens_of_calls(llm, prompts, params, of: int = 0) -> list[tuple[int, int]]:
    """(requests in flight, tokens) of each of the target's calls for one of the requests."""
    for i, (prompt, own) in enumerate(zip(prompts, params)):
        own.output_kind = RequestOutputKind.DELTA
        llm.llm_engine.add_request(str(i), {"prompt_token_ids": prompt}, own)
    found = []
    while llm.llm_engine.has_unfinished_requests():
        outputs = {output.request_id: output.outputs[0].token_ids for output in llm.llm_engine.step()}
        if str(of) in outputs:
            found.append((len(outputs), len(outputs[str(of)])))
    return found


def test_what_is_read_in_passes_of_a_bounded_size(small_pair):
    with engine(small_pair[0], small_pair[0], ALONE_ONLY, max_num_batched_tokens=16, max_num_seqs=2) as llm:
        # A prompt of five chunks has been read when it ends.
        calls = tokens_of_calls(llm, random_prompts([70], seed=12), [sampled(1 + 2 * (GAMMA + 1))])
        assert [tokens for _, tokens in calls if tokens] == [1, GAMMA + 1, GAMMA + 1]
        calls = tokens_of_calls(llm, random_prompts([5, 6], seed=11), [sampled(70), sampled(44)])
    alone = [tokens for in_flight, tokens in calls if in_flight == 1]
    while alone[0] > 1:  # before the second request came
        alone.pop(0)
    # Until it has read all that was missed, none of its drafts is accepted; then all are.
    accepted = alone.index(GAMMA + 1)
    assert alone[:accepted] == [1] * accepted
    assert accepted >= 3
    assert set(alone[accepted:-1]) == {GAMMA + 1}


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
