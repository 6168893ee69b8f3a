"""Stock draft_model decoding with the draft equal to the target; prints what `test_patches.py` looks at.

python run_draft_model.py TARGET: sampled, seeded requests with top-k, one of them with a chunked prefill.
"""

import json
import sys

from vllm import SamplingParams
from vllm.v1.worker import cpu_model_runner

from tests.engine.engines import counters, engine, generate_tokens
from tests.small_pair import random_prompts


def main(target: str) -> None:
    speculative = {"method": "draft_model", "draft_sample_method": "probabilistic", "num_speculative_tokens": 4}
    prompts = random_prompts([100, 12])
    requests = [SamplingParams(seed=seed, top_k=40, max_tokens=40, ignore_eos=True) for seed in (1, 2)]
    with engine(target, target, speculative, max_num_batched_tokens=64, enable_prefix_caching=False) as llm:
        first, second = (generate_tokens(llm, prompts, requests) for _ in range(2))
        seen = counters(llm)
    share = seen["spec_decode_num_accepted_tokens"] / seen["spec_decode_num_draft_tokens"]
    lengths = [len(tokens) for tokens in first + second]
    print(json.dumps({"accepted": share, "lengths": lengths, "runner": cpu_model_runner.__file__}))


if __name__ == "__main__":
    main(sys.argv[1])
