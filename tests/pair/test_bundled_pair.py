"""The weights in the package are what the model card says."""

import json

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from vllm_mtad.pair import BUNDLED, MINISQL
from vllm_mtad.pair.evaluate import WAYS, complete, execution_accuracy
from vllm_mtad.pair.minisql.task import evaluation_examples

MODELS = {"target": MINISQL.target, "draft": MINISQL.draft}


@pytest.mark.parametrize(("name", "low", "high"), [("target", 6e6, 12e6), ("draft", 0.5e6, 1e6)])
def test_shape(name, low, high):
    config = json.loads((MODELS[name] / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert BUNDLED[config["mtad_pair"]] is MINISQL
    assert config["head_dim"] in (32, 64)
    assert config["rope_parameters"]["rope_type"] == "default"
    with safe_open(MODELS[name] / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(key) for key in weights.keys()]  # noqa: SIM118
    assert {str(t.dtype) for t in tensors} == {"torch.bfloat16"}
    assert low <= sum(t.numel() for t in tensors) <= high


def test_the_whole_pair_is_small_and_shares_a_tokenizer():
    files = [f for folder in MODELS.values() for f in folder.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 30e6
    assert (MINISQL.target / "tokenizer.json").read_bytes() == (MINISQL.draft / "tokenizer.json").read_bytes()


def test_tokenizer_gives_text_back():
    tokenizer = AutoTokenizer.from_pretrained(MINISQL.target)
    for example in evaluation_examples("held_out", 20):
        text = f"{example.prompt} {example.sql}"
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_target_is_good_greedily_and_sampling_and_the_draft_are_clearly_worse():
    """150 questions: wide margins around the card's figures, which are over 1000."""
    examples = evaluation_examples("held_out", 150)
    target = execution_accuracy(examples, complete(MINISQL.target, examples, WAYS["greedy"]))
    sampled = execution_accuracy(examples, complete(MINISQL.target, examples, WAYS["sampled_T1"]))
    draft = execution_accuracy(examples, complete(MINISQL.draft, examples, WAYS["greedy"]))
    assert target > 0.65
    assert sampled < target - 0.05
    assert draft < target - 0.1
