"""What a target may be besides a plain model: adapted, quantized, made for more than text, recurrent, in replicas.

At temperature 0 its text must be what it is without drafts. The draft is a plain model of the same tokenizer.
"""

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from tests.engine.engines import NUM_TOKENS, ON_V2, counters, engine, generate_tokens
from tests.small_models import AUDIO, qwen2, qwen3_moe, qwen3_next, save_audio_target, save_pair_of, save_unlike_pair
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import hugging_face_model

GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
PROMPTS = random_prompts([9, 30, 12, 40], seed=11)
IS_TOO_SLOW_THERE = "each takes two engines, minutes in the interpreter, of which nothing differs by the runner"


def greedy_text(model, prompt: list[int], num_tokens: int) -> list[int]:
    """What a Hugging Face model says at temperature 0."""
    ids = torch.tensor([prompt])
    for _ in range(num_tokens):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(prompt) :].tolist()


def assert_as_alone(target: str, draft: str, mtad=None, **options) -> float:
    """Returns the share of drafts that were accepted."""
    with engine(target, **options) as llm:
        expected = generate_tokens(llm, PROMPTS, GREEDY)
    with engine(target, draft, mtad, **options) as llm:
        assert generate_tokens(llm, PROMPTS, GREEDY) == expected
        found = counters(llm)
    return found["spec_decode_num_accepted_tokens"] / found["spec_decode_num_draft_tokens"]


# -- adapters --------------------------------------------------------------------------------------------------------

ADAPTED = {"q_proj": (128, 128), "v_proj": (128, 64)}
"""Of `small_pair`'s target: rows and columns."""


def save_adapter(folder: Path, target: str, seed: int):
    """(folder, the target with the adapter in its weights)."""
    generator, model = torch.Generator().manual_seed(seed), hugging_face_model(target)
    weights = {}
    for i, layer in enumerate(model.model.layers):
        for name, (inputs, outputs) in ADAPTED.items():
            a, b = torch.randn(8, inputs, generator=generator) * 0.1, torch.randn(outputs, 8, generator=generator) * 0.3
            prefix = f"base_model.model.model.layers.{i}.self_attn.{name}"
            weights |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
            getattr(layer.self_attn, name).weight.data += b @ a
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
    config |= {"bias": "none", "target_modules": list(ADAPTED), "base_model_name_or_path": target}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder), model


@torch.no_grad()
def test_adapters_are_the_targets(small_pair, tmp_path):
    """Two adapters, and none, in one batch. (Of more adapters than there are, vLLM's CPU engine would take the last for
    requests without one.)"""
    target, draft = small_pair
    adapters = [save_adapter(tmp_path / name, target, seed) for seed, name in enumerate("ab")]
    models = [adapters[0][1], adapters[1][1], hugging_face_model(target), adapters[0][1]]
    expected = [greedy_text(model, prompt, NUM_TOKENS) for model, prompt in zip(models, PROMPTS)]
    asked = [LoRARequest(name, i + 1, folder) for i, (name, (folder, _)) in enumerate(zip("ab", adapters))]
    options = {"enable_lora": True, "max_loras": 3, "max_lora_rank": 8, "lora_target_modules": list(ADAPTED)}
    with engine(target, draft, **options) as llm:
        prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
        outputs = llm.generate(prompts, GREEDY, lora_request=[*asked, None, asked[0]], use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected


# -- quantized -------------------------------------------------------------------------------------------------------


def save_in_int8(source: str, folder: Path) -> str:
    """As compressed-tensors keeps int8 weights by channel, for activations that are quantized by token."""
    shutil.copytree(source, folder)
    weights = {}
    for name, weight in load_file(Path(source) / "model.safetensors").items():
        weights[name] = weight
        if weight.ndim == 2 and "proj" in name:
            weights[f"{name}_scale"] = scale = weight.abs().amax(1, keepdim=True) / 127
            weights[name] = (weight / scale).round().to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    kept = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {"targets": ["Linear"], "weights": {**kept, "strategy": "channel", "dynamic": False}}
    group["input_activations"] = {**kept, "strategy": "token", "dynamic": True}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.skipif(ON_V2, reason=IS_TOO_SLOW_THERE)
@pytest.mark.parametrize("quantized", ["target", "draft"])
def test_either_model_may_be_quantized(small_pair, tmp_path, quantized):
    target, draft = small_pair
    if quantized == "target":
        target = save_in_int8(target, tmp_path / "int8")
    else:
        draft = save_in_int8(draft, tmp_path / "int8")
    assert assert_as_alone(target, draft) > 0.1


def test_the_targets_kv_cache_may_be_quantized_beside_the_drafts(small_pair):
    if not torch.cpu._is_avx512_supported():
        pytest.skip("vLLM's CPU engine keeps KV in fp8 with AVX-512 only")
    mtad = {"kv_cache_dtype": "auto"}
    assert assert_as_alone(*small_pair, mtad, kv_cache_dtype="fp8") > 0.1


# -- more than text --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_target_made_for_audio_serves_text(tmp_path):
    """With `--language-model-only`. The draft has the weights of its text model: all is accepted."""
    text, _ = save_pair_of(tmp_path, qwen2)
    target, model = save_audio_target(tmp_path / "audio", text), hugging_face_model(text)
    expected = [greedy_text(model, prompt, NUM_TOKENS) for prompt in PROMPTS]
    with engine(target, text, language_model_only=True) as llm:
        assert generate_tokens(llm, PROMPTS, GREEDY) == expected
        found = counters(llm)
    assert found["spec_decode_num_accepted_tokens"] == found["spec_decode_num_draft_tokens"] > 20


def test_a_prompt_with_sound_is_decoded_without_drafts(tmp_path):
    """Beside one of text. When sampling, nearly any draft would be accepted."""
    text, _ = save_pair_of(tmp_path, qwen2)
    target = save_audio_target(tmp_path / "audio", text)
    waves = np.sin(np.arange(16_000) * 0.1).astype(np.float32)
    heard = {"prompt_token_ids": [7, AUDIO, *PROMPTS[0]], "multi_modal_data": {"audio": waves}}
    both = [heard, {"prompt_token_ids": PROMPTS[1]}]
    sampled = SamplingParams(temperature=1, max_tokens=NUM_TOKENS, ignore_eos=True)

    def answers(llm):
        return [list(output.outputs[0].token_ids) for output in llm.generate(both, GREEDY, use_tqdm=False)]

    with engine(target) as llm:
        expected = answers(llm)
    with engine(target, text, {"acceptance_threshold": 0.0}) as llm:
        llm.generate([heard], [sampled], use_tqdm=False)
        assert counters(llm)["spec_decode_num_accepted_tokens"] == 0
        assert answers(llm) == expected
        assert counters(llm)["spec_decode_num_accepted_tokens"] > 5


@pytest.mark.skipif(not ON_V2, reason="embeddings are refused on V1; there, tests/runners/test_verification.py has it")
@torch.no_grad()
def test_a_prompt_that_is_not_text_is_decoded_without_drafts(small_pair):
    """A prompt of embeddings, as one with an image, is none that the draft model could read. When sampling, nearly any
    draft would be accepted."""
    target, _ = small_pair
    model = hugging_face_model(target)
    embeddings = model.model.embed_tokens(torch.tensor(PROMPTS[1]))
    expected = [greedy_text(model, prompt, NUM_TOKENS) for prompt in PROMPTS]
    sampled = SamplingParams(temperature=1, max_tokens=NUM_TOKENS, ignore_eos=True)
    with engine(target, target, {"acceptance_threshold": 0.0}, enable_prompt_embeds=True) as llm:
        (embedded,) = llm.generate([{"prompt_embeds": embeddings}], GREEDY, use_tqdm=False)
        assert list(embedded.outputs[0].token_ids) == expected[1]
        llm.generate([{"prompt_embeds": embeddings}], sampled, use_tqdm=False)
        assert counters(llm)["spec_decode_num_accepted_tokens"] == 0
        prompts = [{"prompt_token_ids": PROMPTS[0]}, {"prompt_embeds": embeddings}]
        both = llm.generate(prompts, GREEDY, use_tqdm=False)
        assert [list(output.outputs[0].token_ids) for output in both] == expected[:2]
        assert 0 < counters(llm)["spec_decode_num_accepted_tokens"] < NUM_TOKENS


# -- of other architectures than the draft ----------------------------------------------------------------------------


@pytest.mark.skipif(ON_V2, reason=IS_TOO_SLOW_THERE)
def test_a_mixture_of_experts_beside_a_dense_draft(tmp_path):
    assert 0.1 < assert_as_alone(*save_unlike_pair(tmp_path, qwen3_moe)) < 0.9


# -- recurrent -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ON_V2, reason="refused on V1 (tests/config/test_targets.py)")
def test_gated_delta_nets(tmp_path):
    """Their state follows what is kept. The draft's layers have KV groups of their own. (In bfloat16, which vLLM's CPU
    engine asks for there.)"""
    pair = save_unlike_pair(tmp_path, qwen3_next, torch.bfloat16)
    accepted = assert_as_alone(*pair, dtype="bfloat16")
    assert 0.1 < accepted < 0.9


@pytest.mark.skipif(not ON_V2, reason="refused on V1 (tests/config/test_targets.py)")
def test_gated_delta_nets_whose_state_is_in_the_prefix_cache(tmp_path):
    """vLLM keeps it at the ends of blocks; one is of 288 tokens here. (Other texts of so many tokens part where two
    tokens are as likely, in bfloat16.)"""
    pair = save_unlike_pair(tmp_path, qwen3_next, torch.bfloat16)
    options = {"dtype": "bfloat16", "enable_prefix_caching": True, "max_model_len": 448, "max_num_batched_tokens": 448}
    _, text = random_prompts([300, 310], seed=12)
    prompts = [text + end for end in ([5], [6], [7, 8, 9], [5])]
    with engine(pair[0], **options) as llm:
        expected = [generate_tokens(llm, [prompt], GREEDY) for prompt in prompts]
    with engine(*pair, **options) as llm:
        assert [generate_tokens(llm, [prompt], GREEDY) for prompt in prompts] == expected
        found = counters(llm)
    assert found["prefix_cache_hits"] == 3 * 288
    assert found["spec_decode_num_accepted_tokens"] > 0


# -- replicas --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(ON_V2, reason="replicas of a dense model are engines that know nothing of each other")
@torch.no_grad()
def test_replicas(small_pair):
    """Each of two answers all prompts. Several candidates follow a schedule, which vLLM would drop."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    target, draft = small_pair
    mtad = {"method": "mtad", "model": draft, "num_candidates": 2}
    model = hugging_face_model(target)
    expected = [greedy_text(model, prompt, NUM_TOKENS) for prompt in PROMPTS]
    params = GREEDY.clone()
    params.output_kind = RequestOutputKind.FINAL_ONLY

    async def answers() -> list[list[int]]:
        options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 192, "max_num_seqs": 8, "block_size": 32}
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(target, speculative_config=mtad, data_parallel_size=2, **options)
        )

        async def answer(i: int, replica: int) -> list[int]:
            prompt = {"prompt_token_ids": PROMPTS[i]}
            stream = llm.generate(prompt, params, f"{i} of {replica}", data_parallel_rank=replica)
            (output,) = [output async for output in stream]
            return list(output.outputs[0].token_ids)

        try:
            return await asyncio.gather(*(answer(i, replica) for replica in (0, 1) for i in range(len(PROMPTS))))
        finally:
            llm.shutdown()

    assert asyncio.run(answers()) == 2 * expected
