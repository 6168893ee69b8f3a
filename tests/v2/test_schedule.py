"""A schedule that drafts nothing for a while: the draft model must see that text too."""

from vllm import SamplingParams

from tests.engine.engines import counters, engine, generate_tokens
from tests.small_pair import random_prompts


def test_drafts_after_a_time_without_are_as_good_as_ever(small_pair):
    """Two requests together draft nothing. When one has ended the other drafts, and a draft model that is the target is
    accepted whole only if its KV cache has no holes."""
    target = small_pair[0]
    fields = {"num_speculative_tokens_per_batch_size": [(1, 1, 3), (2, 4, 0)], "greedy": "joint"}
    with engine(target, target, fields, enable_prefix_caching=False) as llm:
        params = [SamplingParams(temperature=1.0, seed=1, max_tokens=n, ignore_eos=True) for n in (6, 22)]
        generate_tokens(llm, random_prompts([9, 14], seed=7), params)
        seen = counters(llm)
    drafted, accepted = (seen[f"spec_decode_num_{name}_tokens"] for name in ("draft", "accepted"))
    assert drafted >= 9
    assert accepted == drafted
