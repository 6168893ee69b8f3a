"""Draft models whose files are damaged are refused in one sentence, before any worker starts."""

import json
import shutil

import pytest

from tests.config.asking import create, refusal


@pytest.fixture
def pair(small_pair, tmp_path):
    """The target, and a copy of the draft to damage."""
    return small_pair[0], shutil.copytree(small_pair[1], tmp_path / "draft")


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
    (pair[1] / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors cannot be read (" in refusal(pair[0], asked(pair[1]))
