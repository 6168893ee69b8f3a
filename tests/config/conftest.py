"""What the tests of both files need."""

import pytest


@pytest.fixture
def with_triton(monkeypatch):
    """As on a GPU, where Triton is there and Model Runner V2 the default."""
    from vllm.config import vllm as vllm_config

    monkeypatch.setattr(vllm_config, "HAS_TRITON", True)
    monkeypatch.setattr("vllm_mtad.config.candidate_schedule.HAS_TRITON", True)
