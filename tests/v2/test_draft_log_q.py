"""What the speculator hands over: every draft token's log q is the draft model's own, warped as its request asked.

Recomputed from the whole text by the Hugging Face model, over chunked prefills, prefix-cache hits and mixed batches.
"""

import pytest
import torch
from vllm import SamplingParams

from tests.engine.engines import GAMMA, engine, generate_tokens
from tests.small_pair import VOCAB_SIZE, random_prompts
from vllm_mtad.algorithm.reference import hugging_face_model
from vllm_mtad.algorithm.warp import WarpParameters, warp

PROMPTS = random_prompts([5, 100, 100, 40], seed=13)
PARAMS = [
    SamplingParams(temperature=0.8, top_k=3, seed=1, max_tokens=8, ignore_eos=True),
    SamplingParams(temperature=1.0, top_p=0.5, seed=2, max_tokens=8, ignore_eos=True),
    SamplingParams(temperature=1.2, min_p=0.1, seed=3, max_tokens=8, ignore_eos=True),
    SamplingParams(temperature=1.0, seed=4, max_tokens=8, ignore_eos=True),
]


@pytest.fixture(scope="module")
def rounds(small_pair):
    """(text, drafts, log q, seed) of every request in every drafting round of two identical runs."""
    seen = []
    with pytest.MonkeyPatch.context() as patch, engine(*small_pair, max_num_batched_tokens=64) as llm:
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        record_rounds(runner, seen, patch)
        for _ in range(2):
            generate_tokens(llm, PROMPTS, PARAMS)
    return seen


def record_rounds(runner, seen, patch):
    propose, requests = runner.speculator.propose, runner.req_states

    def recorded(input_batch, *args, **kwargs):
        drafts = propose(input_batch, *args, **kwargs)
        if kwargs["num_speculative_tokens"] == 0:
            return drafts  # 0.33 asks for none where every request ends
        for row, state in enumerate(input_batch.idx_mapping.tolist()):
            length = int(requests.total_len.gpu[state])
            if int(requests.num_computed_tokens.gpu[state]) < length - 1:
                continue  # in the middle of its prompt: nobody will use this draft
            text = requests.all_token_ids.gpu[state, :length].tolist()
            seed = int(runner.sampler.sampling_states.seeds.gpu[state])
            seen.append((text, drafts[row].tolist(), runner.speculator.beams.trees.log_q[state].clone(), seed))
        return drafts

    patch.setattr(runner.speculator, "propose", recorded)


def test_equals_the_draft_models_own_warped_log_q(rounds, small_pair):
    model = hugging_face_model(small_pair[1])
    by_seed = {params.seed: params for params in PARAMS}
    differs_from_bare = 0
    for text, drafts, log_q, seed in rounds:
        with torch.inference_mode():
            logits = model(torch.tensor([text + drafts])).logits[0, len(text) - 1 : -1]
        params = by_seed[seed]
        parameters = WarpParameters.build(
            torch.full((GAMMA,), params.temperature),
            VOCAB_SIZE,
            top_k=torch.full((GAMMA,), params.top_k),
            top_p=torch.full((GAMMA,), params.top_p),
            min_p=torch.full((GAMMA,), params.min_p),
        )
        expected = warp(logits.clone(), parameters).log_prob_of(torch.tensor(drafts))
        torch.testing.assert_close(log_q, expected, atol=1e-4, rtol=1e-4)
        bare = (logits / params.temperature).log_softmax(1).gather(1, torch.tensor(drafts)[:, None])[:, 0]
        differs_from_bare += bool((bare - expected).abs().max() > 0.01)
    assert len(rounds) > 20
    assert differs_from_bare > 10
