"""`python -m tests.interpreter ARGS...` is `python ARGS...` with Triton's kernels interpreted on the CPU.

E.g. `python -m tests.interpreter -m pytest tests/v2`. Worker processes inherit it all through the environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SITE = Path(__file__).parent / "site"

ENVIRONMENT = {
    "MTAD_TEST_INTERPRETER": "1",
    "TRITON_INTERPRET": "1",
    "TORCHINDUCTOR_TRITON_DISABLE_DEVICE_DETECTION": "1",  # or torch.compile asks the backend that is not one
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "OMP_NUM_THREADS": "1",  # numpy holds one core between tiny torch calls; idle OpenMP threads spin on it
}


def main() -> None:
    path = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path)}
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
