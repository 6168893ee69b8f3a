"""Pairs of other architectures than Llama's in an engine, equal to the slow reference on Hugging Face's models.

The target verifies trees, so that its attention is ours too, and prompts are longer than windows. On V2 layers with a
window have KV groups of their own.
"""

from types import SimpleNamespace

import pytest
from vllm import SamplingParams

from tests.engine.engines import ON_V2, engine, generate_tokens
from tests.engine.test_joint_greedy import assert_equal_but_for_near_ties
from tests.engine.test_schedule import tokens_of_calls
from tests.small_models import PADDING, WINDOW, gemma2, gemma3, gpt_oss, mistral, qwen3_moe, save_pair_of
from tests.small_pair import VOCAB_SIZE, random_prompts
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model

GAMMA, NUM_TOKENS = 3, 12
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
PROMPTS = random_prompts([WINDOW - 4, 5, 3 * WINDOW + 1, 2 * WINDOW])
PADDED = VOCAB_SIZE + PADDING
KINDS = {
    "Gemma 3: windows, the draft padded further and of fewer KV heads": (gemma3, (VOCAB_SIZE, PADDED)),
    "Gemma 2: windows and soft-caps": (gemma2, (VOCAB_SIZE, VOCAB_SIZE)),
    "gpt-oss: windows, sinks and experts, the target padded further": (gpt_oss, (PADDED, VOCAB_SIZE)),
    "Mistral: a window in every layer, another in the draft": (mistral, (VOCAB_SIZE, VOCAB_SIZE)),
    "Qwen3 MoE: experts": (qwen3_moe, (VOCAB_SIZE, VOCAB_SIZE)),
}
MTAD = {"greedy": "joint", "num_speculative_tokens": GAMMA, "num_candidates": 2, "max_candidate_rows": 128}


def on_common_tokens(draft, sizes):
    """The draft model as mtad asks it: past the tokens of both vocabularies it is given others, and drafts none."""
    return lambda input_ids: SimpleNamespace(logits=draft(input_ids.clamp(max=sizes[1] - 1)).logits[..., : min(sizes)])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(tmp_path, kind):
    architecture, sizes = KINDS[kind]
    pair = save_pair_of(tmp_path, architecture, sizes)
    target, draft = (hugging_face_model(path) for path in pair)
    # V1 verifies one where layers are of several kinds and the draft's of others.
    candidates = 1 if architecture is gemma3 and not ON_V2 else 2
    settings = ReferenceSettings(GAMMA, 4, greedy="joint", temperature=0.0, num_candidates=candidates)
    decoder = ReferenceDecoder(target, on_common_tokens(draft, sizes), settings)
    prompts = [*PROMPTS, [5, sizes[0] - 1, 7, 8]]
    expected = [decoder.generate(prompt, NUM_TOKENS) for prompt in prompts]
    assert sum(sum(e.accepted) for e in expected) > len(prompts), "nothing to tell a good draft by"
    with engine(*pair, MTAD | {"num_candidates": candidates}, max_num_seqs=4) as llm:
        assert_equal_but_for_near_ties(generate_tokens(llm, prompts, GREEDY), expected)


def test_what_a_draft_with_windows_has_missed_is_read_in_all_its_kv_groups(tmp_path):
    """The draft is the target itself, so joint p / joint q is 1 if nothing is missing. Three requests draft nothing; of
    the two that are left only the second wants drafts, and alone reads what it has missed."""
    target, _ = save_pair_of(tmp_path, gemma3)
    mtad = {"num_speculative_tokens": GAMMA, "num_speculative_tokens_per_batch_size": [(1, 2, GAMMA), (3, 4, 0)]}
    mtad["acceptance_threshold"] = 0.99
    params = [SamplingParams(seed=1, max_tokens=n, ignore_eos=True) for n in (90, WINDOW + 56, WINDOW + 6)]
    params[0].extra_args = {"mtad": False}
    with engine(target, target, mtad) as llm:
        if not ON_V2:  # vLLM's builder must assume no window that only some layers have
            drafter = llm.llm_engine.model_executor.driver_worker.worker.model_runner.drafter
            assert [group.get_metadata_builder().window_size for group in drafter.draft_attn_groups] == [-1]
        calls = tokens_of_calls(llm, random_prompts([20, 2 * WINDOW, 9], seed=7), params, of=1)
    assert [tokens for requests, tokens in calls if requests == 3] == [1] * (WINDOW + 6)
    _, *with_drafts, _ = [tokens for requests, tokens in calls if requests == 2]
    assert with_drafts == [GAMMA + 1] * 12
