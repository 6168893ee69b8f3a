"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os

import pytest

# Before vLLM is imported: a small KV cache, and no look at a hub.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.small_pair import save_pair

LONGEST = [
    f"test_{name}.py"
    for name in (
        "compiles", "run", "gpu_checks", "neighbours", "demo", "lossless_and_sampling", "beams", "start", "graphs",
        "joint_greedy", "soak", "tensor_parallel", "engines", "models", "against_reference", "targets", "serve",
        "acceptance", "seams", "serving", "compile_matrix", "sizes", "tree_acceptance", "schedule", "patches",
    )
]  # fmt: skip
"""Files of about a minute and more, the longest first. A name that is not here is only later in its turn."""


def pytest_collection_modifyitems(items):
    """With the shortest files at the end, workers that take a file at a time end together."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def models_inspected_here():
    """vLLM asks each model class what it can do in another process, which imports vLLM for it: 15 s a class, the first
    time on a machine. It does so for the sake of a GPU, which must not be touched yet."""
    import torch
    from vllm.model_executor.models import registry

    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(registry, "_run_in_subprocess", lambda inspect: inspect())
        yield


@pytest.fixture(scope="session")
def small_pair(tmp_path_factory):
    """(target, draft): folders of a random pair, float32."""
    return tuple(str(path) for path in save_pair(tmp_path_factory.mktemp("pair")))


@pytest.fixture
def with_triton(monkeypatch):
    """As on a GPU, where Triton is there and Model Runner V2 the default."""
    from vllm.config import vllm as vllm_config

    monkeypatch.setattr(vllm_config, "HAS_TRITON", True)
    monkeypatch.setattr("vllm_mtad.config.candidate_schedule.HAS_TRITON", True)
