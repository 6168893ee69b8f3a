"""Which draft the table gives for which target."""

import pytest

from vllm_mtad.config.draft_table import find_draft, known_draft


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
        ("/models/llama-3.1-8b-instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_known_targets(target, draft):
    assert known_draft(target) == draft


@pytest.mark.parametrize(
    "target",
    [
        "Qwen/Qwen2.5-7B",  # padded to another vocabulary size than the 0.5B
        "google/gemma-2-9b",  # its small sibling slides and caps
        "meta-llama/Llama-3.2-1B",  # is the draft
        "someone/Llama-3.1-8B-finetuned",
        "gpt2",
    ],
)
def test_unknown_targets(target):
    assert known_draft(target) is None


def test_a_local_target_takes_the_draft_that_lies_beside_it(tmp_path):
    target, draft = tmp_path / "Llama-3.1-8B", tmp_path / "Llama-3.2-1B"
    target.mkdir()
    assert known_draft(str(target)) == "meta-llama/Llama-3.2-1B"
    draft.mkdir()
    assert known_draft(str(target)) == str(draft)


def test_what_a_target_names_itself_wins(tmp_path):
    assert find_draft("meta-llama/Llama-3.1-8B", "me/my-draft") == "me/my-draft"
    assert find_draft(str(tmp_path / ".."), "./draft") == str(tmp_path.parent / "draft")
    assert find_draft(str(tmp_path), "../draft") == str(tmp_path.parent / "draft")


def test_a_path_is_of_no_use_without_the_targets_folder():
    with pytest.raises(ValueError, match=r"mtad_draft='\.\./draft', but the target is no local folder"):
        find_draft("me/my-target", "../draft")
