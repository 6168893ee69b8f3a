"""Everything here runs on Triton's kernels: on a CPU, in its interpreter."""

from pathlib import Path

import pytest
import torch
from vllm.triton_utils import HAS_TRITON

HOW = "needs Triton: python -m tests.interpreter -m pytest tests/v2"


def pytest_collection_modifyitems(items):
    if not HAS_TRITON:
        for item in items:  # of the whole session
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=HOW))


if not torch.cuda.is_available():
    import vllm.v1.worker.cpu.shm  # noqa: F401  # vLLM's own stand-ins for pinned memory and streams


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
