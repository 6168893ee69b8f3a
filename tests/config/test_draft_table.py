"""Which draft the table gives for which target."""

import json
import re

import pytest

from tests.config.asking import create
from tests.small_pair import save_tokenizer
from vllm_mtad.config.draft_table import FAMILIES, family_of, find_draft, known_draft, other_draft

LLAMA_8B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256}
QWEN25_7B = {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "vocab_size": 152064}
QWEN3_30B = {"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "vocab_size": 151936}
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34},
}
QUANTIZED = {"quantization_config": {"quant_method": "awq", "bits": 4}}


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-3.2-1B"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.2-1B"),
        ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-2-13b-chat-hf", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("/models/llama-3.1-8b-instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-0.6B-Base"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-4B-Thinking-2507-FP8", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-30B-A3B-Base", "Qwen/Qwen3-0.6B-Base"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-0.5B"),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        ("Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-0.5B"),
        ("google/gemma-3-27b-it", "google/gemma-3-1b-it"),
        ("google/gemma-3-4b-pt", "google/gemma-3-1b-pt"),
        ("google/gemma-2-9b-it", "google/gemma-2-2b-it"),
        ("google/gemma-2-27b", "google/gemma-2-2b"),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_known_targets(target, draft):
    assert known_draft(target, {}) == draft


@pytest.mark.parametrize(
    "suffix",
    [
        *("-FP8", "-FP8-dynamic", "-FP8-KV", "-NVFP4", "-AWQ", "-AWQ-INT4", "-GPTQ-Int4", "-GPTQ-Int8", "-INT8"),
        *("-quantized.w4a16", "-quantized.w8a8", "-bnb-4bit", "-unsloth-bnb-4bit", "-W8A8-INT8", "-fp8-block"),
    ],
)
def test_a_name_may_end_in_how_the_model_is_quantized(suffix):
    assert known_draft(f"someone/Meta-Llama-3.1-8B-Instruct{suffix}", {}) == "meta-llama/Llama-3.2-1B-Instruct"


@pytest.mark.parametrize(
    "target",
    [
        "meta-llama/Llama-3.2-1B",  # is the draft
        "meta-llama/Llama-3.2-11B-Vision",
        "someone/Llama-3.1-8B-finetuned",
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "gpt2",
    ],
)
def test_unknown_targets(target):
    assert known_draft(target, {}) is None


@pytest.mark.parametrize(
    ("name", "config", "draft"),
    [
        ("someone/Hermes-3-Llama-3.1-8B-w4", LLAMA_8B, "meta-llama/Llama-3.2-1B"),
        ("someone/my-llama-instruct-4b", LLAMA_8B, "meta-llama/Llama-3.2-1B-Instruct"),
        ("someone/assistant-chat", QWEN25_7B, "Qwen/Qwen2.5-0.5B-Instruct"),
        ("someone/fast-qwen", QWEN25_7B, "Qwen/Qwen2.5-0.5B"),
        ("someone/my-coder-instruct", QWEN25_7B, "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        ("someone/my-coder", QWEN25_7B, "Qwen/Qwen2.5-Coder-0.5B"),
        ("someone/q3-moe", QWEN3_30B, "Qwen/Qwen3-0.6B"),
        ("someone/q3-moe-base-int4", QWEN3_30B, "Qwen/Qwen3-0.6B-Base"),
        ("someone/gemma-small-it-w4", GEMMA_3_4B, "google/gemma-3-1b-it"),
    ],
)
def test_a_quantized_upload_is_known_by_its_shape_whatever_its_name(name, config, draft):
    assert known_draft(name, config | QUANTIZED) == draft


def test_a_fine_tune_that_is_not_quantized_stays_unknown():
    """It has the shape too, but no one says that it writes as the known one does."""
    assert known_draft("someone/Hermes-3-Llama-3.1-8B", LLAMA_8B) is None
    assert known_draft("someone/gemma-poems", GEMMA_3_4B) is None


def test_a_quantized_model_of_another_shape_stays_unknown():
    for other in ({"hidden_size": 4097}, {"num_hidden_layers": 33}, {"vocab_size": 32000}, {"model_type": "mistral"}):
        assert known_draft("someone/my-model", LLAMA_8B | other | QUANTIZED) is None
    assert known_draft("someone/my-model", QUANTIZED) is None


def test_quantization_may_be_said_of_the_text_model():
    wrapper = GEMMA_3_4B | {"text_config": GEMMA_3_4B["text_config"] | QUANTIZED}
    assert known_draft("someone/my-model", wrapper) == "google/gemma-3-1b-pt"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name}: {family.draft}")
def test_no_draft_is_its_own_target(family):
    assert family_of(family.draft.partition("/")[2], {}) is None


def test_a_row_s_shapes_are_of_as_many_sizes_as_its_names():
    """Each size that a pattern names has one shape; 4B of Qwen3 and both 30B-A3B are one model each."""
    for family in FAMILIES:
        sizes = set(re.findall(r"(?<![\w.])\d+(?:\\\.\d+)?[Bb](?:-A\d+B)?", family.targets))
        assert len(family.shapes) == len(sizes), family.targets


def test_a_local_target_takes_the_draft_that_lies_beside_it(tmp_path):
    target, draft = tmp_path / "Llama-3.1-8B", tmp_path / "Llama-3.2-1B"
    target.mkdir()
    assert known_draft(str(target), {}) == "meta-llama/Llama-3.2-1B"
    draft.mkdir()
    assert known_draft(str(target), {}) == str(draft)


def test_a_server_finds_the_draft_of_a_quantized_target_by_its_shape(tmp_path):
    """Of a target whose name says nothing, from vLLM's own reading of its config.json."""
    target, draft = tmp_path / "my-chat", tmp_path / "Llama-3.2-1B-Instruct"
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "architectures": ["LlamaForCausalLM"]}
    fp8 = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
    for folder, config in (
        (target, LLAMA_8B | heads | fp8),
        (draft, LLAMA_8B | heads | {"hidden_size": 2048, "num_hidden_layers": 16}),
    ):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_tokenizer(folder)
    assert create(str(target), "mtad", load_format="dummy").speculative_config.model == str(draft)


def test_what_a_target_names_itself_wins(tmp_path):
    assert find_draft("meta-llama/Llama-3.1-8B", {"mtad_draft": "me/my-draft"}) == "me/my-draft"
    assert find_draft(str(tmp_path / ".."), {"mtad_draft": "./draft"}) == str(tmp_path.parent / "draft")
    assert find_draft(str(tmp_path), {"mtad_draft": "../draft"}) == str(tmp_path.parent / "draft")


@pytest.mark.parametrize("named", [3, {"model": "me/my-draft"}, ""])
def test_what_a_target_names_must_be_a_draft(named):
    with pytest.raises(ValueError, match=rf"'me/my-target' has mtad_draft={re.escape(repr(named))}, .* give a hub id"):
        find_draft("me/my-target", {"mtad_draft": named})


def test_a_path_is_of_no_use_without_the_targets_folder():
    with pytest.raises(ValueError, match=r"mtad_draft='\.\./draft', but the target is no local folder"):
        find_draft("me/my-target", {"mtad_draft": "../draft"})


@pytest.mark.parametrize(
    ("target", "refused", "other"),
    [
        ("meta-llama/Llama-3.1-8B", "gpt2", "meta-llama/Llama-3.2-1B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B", None),
        ("meta-llama/Llama-3.1-8B", "/models/llama-3.2-1b", None),
        ("gpt2", "distilgpt2", None),
    ],
)
def test_another_draft_than_the_refused_one(target, refused, other):
    assert other_draft(target, {}, refused) == other
