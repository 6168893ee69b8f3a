"""Drafts that are not numbers: none is ever accepted, and decoding is the target's own."""

import math
import shutil

import pytest
from safetensors.torch import load_file, save_file
from vllm import SamplingParams

from tests.engine.engines import ON_V2, counters, engine, generate_tokens
from tests.small_pair import random_prompts
from vllm_mtad.runners.not_finite import logger

NUM_TOKENS = 6 if ON_V2 else 20


@pytest.fixture(params=[math.nan] if ON_V2 else [math.nan, math.inf])
def damaged(request, small_pair, tmp_path):
    """The draft with this value in the weights of its first layer."""
    folder = shutil.copytree(small_pair[1], tmp_path / "draft")
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in sorted(weights) if "layers.0" in name and "proj" in name)
    weights[name] = weights[name].fill_(request.param)
    save_file(weights, file, metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def expected(small_pair):
    with engine(small_pair[0]) as llm:
        return generate_tokens(llm, random_prompts([9, 30], seed=3), greedy())


def greedy():
    return SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)


@pytest.mark.parametrize("num_candidates", [1] if ON_V2 else [1, 2])
def test_no_draft_is_accepted(small_pair, damaged, expected, num_candidates, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: warned.append(message % values))
    prompts = random_prompts([9, 30], seed=3)
    sampled = SamplingParams(temperature=1.0, top_k=5, max_tokens=NUM_TOKENS, ignore_eos=True)
    mtad = {"acceptance_threshold": 0.0, "num_candidates": num_candidates}
    with engine(small_pair[0], damaged, mtad) as llm:
        assert generate_tokens(llm, prompts, greedy()) == expected
        assert all(len(tokens) == NUM_TOKENS for tokens in generate_tokens(llm, prompts, sampled))
        assert counters(llm)["spec_decode_num_accepted_tokens"] == 0
    if not ON_V2:  # it looks at weights, which are packed here: tests/runners/test_not_finite.py
        (sentence,) = warned
        assert "that are NaN or infinite" in sentence
