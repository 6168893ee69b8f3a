"""Draft models whose files are damaged are refused in one sentence, before any worker starts."""

import json
import shutil

import pytest

from tests.config.asking import create, refusal


@pytest.fixture
def pair(small_pair, tmp_path):
    """The target, and a copy of the draft to damage."""
    return small_pair[0], shutil.copytree(small_pair[1], tmp_path / "draft")


INDEX = "model.safetensors.index.json"


def asked(draft):
    return {"method": "mtad", "model": str(draft)}


def weights(draft):
    (found,) = draft.glob("*.safetensors")
    return found


def test_a_whole_draft_is_accepted_and_a_dummy_needs_no_files(pair):
    target, draft = pair
    create(target, asked(draft))
    weights(draft).unlink()
    create(target, asked(draft), load_format="dummy")


def test_missing_weights(pair):
    weights(pair[1]).unlink()
    assert f"speculative_config.model='{pair[1]}' has no weights" in refusal(pair[0], asked(pair[1]))


@pytest.mark.parametrize("left", [0, 5, 2000, -1])
def test_weights_that_are_cut_short(pair, left):
    file = weights(pair[1])
    file.write_bytes(file.read_bytes()[:left])
    assert f"{file.name} cannot be read (" in refusal(pair[0], asked(pair[1]))


def test_a_shard_that_is_missing(pair):
    file = weights(pair[1])
    index = {"weight_map": {"a": file.name, "b": "model-00002-of-00002.safetensors"}}
    (pair[1] / INDEX).write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors cannot be read (" in refusal(pair[0], asked(pair[1]))


def test_what_the_index_does_not_name_is_not_looked_at(pair):
    (pair[1] / INDEX).write_text(json.dumps({"weight_map": {"a": weights(pair[1]).name}}))
    (pair[1] / "consolidated.safetensors").write_bytes(b"broken")
    create(pair[0], asked(pair[1]))


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_an_index_that_is_none(pair, text):
    (pair[1] / INDEX).write_text(text)
    assert f"{INDEX} cannot be read (" in refusal(pair[0], asked(pair[1]))
