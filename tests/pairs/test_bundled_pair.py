"""The weights in the package are what the model card says."""

import json

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from benchmarks.hugging_face import TargetLikelihood
from benchmarks.pairs import BUNDLED, FOLDER, MINISQL, TALES, prompts
from benchmarks.pairs.evaluate import WAYS, complete, execution_accuracy
from benchmarks.pairs.minisql.task import evaluation_examples
from benchmarks.pairs.tales.task import evaluation_tales

SIZES = {
    MINISQL.target: (6e6, 12e6),
    MINISQL.draft: (0.5e6, 1e6),
    TALES.target: (2e6, 3e6),
    TALES.draft: (0.2e6, 0.4e6),
}


@pytest.mark.parametrize("folder", SIZES, ids=lambda folder: "-".join(folder.parts[-2:]))
def test_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config.get("mtad_draft") == ("../draft" if folder.name == "target" else None)
    assert config["head_dim"] in (32, 64)
    assert config["rope_parameters"]["rope_type"] == "default"
    with safe_open(folder / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(key) for key in weights.keys()]  # noqa: SIM118
    assert {str(t.dtype) for t in tensors} == {"torch.bfloat16"}
    low, high = SIZES[folder]
    assert low <= sum(t.numel() for t in tensors) <= high


def test_all_is_small_and_the_models_of_a_pair_share_a_tokenizer():
    files = [f for folder in SIZES for f in folder.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 30e6
    for pair in BUNDLED.values():
        assert (pair.target / "tokenizer.json").read_bytes() == (pair.draft / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("pair", "texts"),
    [
        (MINISQL, [f"{example.prompt} {example.sql}" for example in evaluation_examples("held_out", 20)]),
        (TALES, [f"{tale.prompt} {tale.text}" for tale in evaluation_tales("held_out", 20)]),
    ],
    ids=["minisql", "tales"],
)
def test_tokenizer_gives_text_back(pair, texts):
    tokenizer = AutoTokenizer.from_pretrained(pair.target)
    for text in texts:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_tales_target_knows_its_text_better_than_the_draft():
    tokenizer, tales = AutoTokenizer.from_pretrained(TALES.target), evaluation_tales("held_out", 20)
    prompts = [tokenizer(tale.prompt).input_ids for tale in tales]
    texts = [tokenizer(f" {tale.text}", add_special_tokens=False).input_ids for tale in tales]
    target, draft = (
        sum(TargetLikelihood.of(folder).negative_log_likelihoods(prompts, texts)) / sum(map(len, texts))
        for folder in (TALES.target, TALES.draft)
    )
    assert target < 0.7
    assert draft > target + 0.2


def test_the_target_is_good_greedily_and_sampling_and_the_draft_are_clearly_worse():
    """150 questions: wide margins around the card's figures, which are over 1000."""
    examples = evaluation_examples("held_out", 150)
    target = execution_accuracy(examples, complete(MINISQL.target, examples, WAYS["greedy"]))
    sampled = execution_accuracy(examples, complete(MINISQL.target, examples, WAYS["sampled_T1"]))
    draft = execution_accuracy(examples, complete(MINISQL.draft, examples, WAYS["greedy"]))
    assert target > 0.65
    assert sampled < target - 0.05
    assert draft < target - 0.1


@pytest.mark.parametrize("task", BUNDLED)
def test_the_prompts_beside_the_models_are_the_generators_own(task):
    assert (FOLDER / task / "prompts.jsonl").read_text() == "".join(prompts.lines(task))
