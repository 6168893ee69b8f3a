"""Every kernel compiles and fits at the corners of the accepted space, and batches of all sizes share its variants.

The interpreter alone would tell neither. `benchmarks/compile_matrix.py` does the whole space.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.commands import run

KERNELS = Path(__file__).parents[3] / "vllm_mtad" / "runners" / "v2" / "kernels"


def kernels() -> set[str]:
    """Names of all that are written."""
    sources = "\n".join(path.read_text() for path in KERNELS.glob("*.py"))
    return set(re.findall(r"^def (_\w+_kernel)\(", sources, re.MULTILINE))


def lines_of(module: str) -> list[dict]:
    """What a module prints, in a process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"VLLM_LOGGING_LEVEL": "ERROR"}
    done = run(sys.executable, "-m", module, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def compiled():
    return lines_of("tests.v2.kernels.compile_for_gpu")


def test_every_kernel_compiles_for_gpus(compiled):
    assert {row["kernel"] for row in compiled} == kernels()
    assert [row for row in compiled if row["error"]] == []


def test_every_kernel_fits_into_shared_memory(compiled):
    assert [row for row in compiled if not row["fits"]] == []


def test_no_thread_spills_registers_but_for_attention_in_float32_of_large_heads_or_with_a_soft_cap(compiled):
    others = [row for row in compiled if row["query"] != "*fp32" and row["constexprs"].get("HEAD_TILE") != 256]
    assert [row for row in others if row["spilled"] and not row["constexprs"].get("SOFT_CAP")] == []


def test_batches_of_any_size_share_a_kernels_variants():
    """What a batch of two requests compiles serves up to 1024, in pieces and chunks: nothing compiles later."""
    found = lines_of("tests.v2.kernels.serve_all_sizes")
    assert {row["kernel"] for row in found} == kernels()
    assert [row for row in found if not row["is_first"]] == []
