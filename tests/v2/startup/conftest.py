"""The models of the start-up tests: configurations and tokenizers without weights."""

import pytest

from benchmarks.gpu_checks.models import write_model
from tests.v2.startup.shapes import PAIRS


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Folders of (target, draft) by name."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tuple(write_model(folder / name / role, shape, "bfloat16") for role, shape in zip("td", shapes))
        for name, shapes in PAIRS.items()
    }
