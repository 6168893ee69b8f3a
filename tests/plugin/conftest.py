import pytest


@pytest.fixture(scope="module", autouse=True)
def _registered():
    from vllm.plugins import load_general_plugins

    load_general_plugins()  # by the entry point, and only once in a process
