"""The engine that serves the target says how likely the target finds a text.

The target may be of any size, quantised or on several devices.

The engine computes in the precision that it serves in. `benchmarks/hugging_face.py` does the same in float32 without
vLLM, and `tests/tools/harness/test_likelihood.py` holds the one against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def negative_log_likelihoods(
    llm: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[float]:
    """For each answer given its prompt, under the target's own distribution (T = 1, no truncation), in nats: the sum
    over the answer's tokens, end-of-sequence included.

    Args:
        llm: an engine of the target, with or without speculation, that has room for a prompt, its answer and one token.
    """
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    asked = [at for at, answer in enumerate(answers) if answer]
    texts: list[Any] = [{"prompt_token_ids": [*prompts[at], *answers[at]]} for at in asked]
    found = [0.0] * len(answers)
    for at, output in zip(asked, llm.generate(texts, params, use_tqdm=False)):
        of_tokens = output.prompt_logprobs[len(prompts[at]) :]
        found[at] = -sum(logprobs[token].logprob for logprobs, token in zip(of_tokens, answers[at]))
    return found
