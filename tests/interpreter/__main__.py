"""`python -m tests.interpreter ARGS...` is `python ARGS...` with Triton's kernels interpreted on the CPU.

For example `python -m tests.interpreter -m pytest tests/v2`. Worker processes inherit it through the environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SITE = Path(__file__).parent / "site"

ENVIRONMENT = {
    "MTAD_TEST_INTERPRETER": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    # A second OpenMP thread would only spin while numpy works: six times slower.
    "OMP_NUM_THREADS": "1",
    # Or torch.compile asks Triton's driver, which is not a real one, for its target.
    "TORCHINDUCTOR_TRITON_DISABLE_DEVICE_DETECTION": "1",
}

# Where the caller names no cores: vLLM would give a worker all of them, and as many OpenMP threads.
DEFAULTS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def main() -> None:
    path = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = DEFAULTS | os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path)}
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
