"""Everything here runs on Triton's kernels: on a CPU, in its interpreter."""

import os
from pathlib import Path

import pytest
import torch
from vllm.triton_utils import HAS_TRITON

HOW = "needs Triton: python -m tests.interpreter -m pytest tests/v2"
FINDING_RACES = {"test_beams.py", "test_beam_attention.py", "test_draft_log_q.py"}
"""Beside all tests of `kernels`: what else launches our kernels, and an engine in this process."""


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


@pytest.fixture(scope="module", autouse=True)
def race_finder(request):
    """Looks for races from before a module's own fixtures are made; None where nothing is looked for."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not is_interpreted or not (request.path.parent.name == "kernels" or request.path.name in FINDING_RACES):
        yield None
        return
    from tests.interpreter.races import finding_races

    with finding_races() as finder:
        draw_orders(finder, request)
        yield finder


@pytest.fixture(autouse=True)
def order_of_programs(request, race_finder):
    """A test's own, whichever tests ran before."""
    if race_finder:
        draw_orders(race_finder, request)
        race_finder.is_repeating = request.node.get_closest_marker("launched_once") is None


def draw_orders(finder, request):
    finder.draw_orders_of(request.node.nodeid)
    print(f"Programs run in a random order, which MTAD_TEST_SEED={finder.seed} gives again.")  # seen if a test fails
