"""Every kernel compiles for sm_80 and sm_90; the interpreter alone would not tell."""

import os
import re
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parents[3] / "vllm_mtad" / "runners" / "v2" / "kernels"


def test_every_kernel_compiles_for_gpus():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.v2.kernels.compile_for_gpu"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    compiled = done.stdout.split("COMPILED", 1)[1].split()
    written = re.findall(r"^def (_\w+_kernel)\(", "\n".join(p.read_text() for p in KERNELS.glob("*.py")), re.MULTILINE)
    assert compiled == sorted(written)
