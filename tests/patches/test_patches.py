"""Each patch applies to the installed vLLM and fixes what its README says; each stock bug is still there."""

import inspect
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from tests.commands import run
from tests.patches.patched_vllm import build, fixes

RELEASE = version("vllm").split("+")[0]


def test_the_table_of_patches_names_each_of_them():
    listed = (Path(__file__).parents[2] / "patches" / "README.md").read_text()
    assert len(fixes(RELEASE)) == 4
    for diff in fixes(RELEASE):
        assert f"({RELEASE}/{diff.parent.name})" in listed
        assert (diff.parent / "README.md").exists()


def test_stock_expand_batch_does_not_write_floats():
    from vllm.platforms import current_platform
    from vllm.utils.cpu_triton_utils import _expand_kernel_impl

    current_platform.import_kernels()
    output = torch.full((3,), -7.0)
    _expand_kernel_impl(output, torch.tensor([0.5, 0.9]), torch.tensor([1, 3], dtype=torch.int32), 0, 1)
    assert output.tolist() == [-7.0] * 3, f"fixed in vLLM: remove patches/{RELEASE}/expand-batch-on-cpu"


def test_stock_top_k_of_no_rows_raises():
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_only

    with pytest.raises((RuntimeError, IndexError)):
        apply_top_k_only(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int32))


def test_stock_rewinds_a_generator_that_has_no_offset_on_a_cpu():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    stock = inspect.getsource(inspect.unwrap(CPUModelRunner._bookkeeping_sync))
    assert "gen.set_offset(gen.get_offset() - 4)" in stock, f"fixed in vLLM: remove patches/{RELEASE}/generator-offset"
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().get_offset()


def test_a_patched_vllm_samples_draft_model_right(small_pair, tmp_path):
    """All at once, in an engine of the patched tree: stock, it dies in the first step."""
    tree, root = build(tmp_path, fixes(RELEASE)), Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{root}"}
    done = run(sys.executable, "-m", "tests.patches.run_draft_model", small_pair[0], env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["runner"].startswith(str(tree))
    assert seen["lengths"] == [40] * 4
    assert seen["accepted"] > 0.8  # not all: vLLM warps the draft by temperature only, the target by top-k too


def graphs_by_batch(target: str, path: str) -> dict[str, int | None]:
    done = run(sys.executable, "-m", "tests.patches.run_dispatch", target, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["module"].startswith(path.split(os.pathsep)[0]) or os.pathsep not in path
    return seen["graphs"]


def test_a_batch_finds_the_graph_of_its_own_length(small_pair, tmp_path):
    root = Path(__file__).parents[2]
    stock = graphs_by_batch(small_pair[0], str(root))
    assert stock["5 x 17"] is None, f"fixed in vLLM: remove patches/{RELEASE}/graphs-of-several-decode-lengths"
    fixed = graphs_by_batch(small_pair[0], f"{build(tmp_path, fixes(RELEASE))}{os.pathsep}{root}")
    assert fixed["5 x 17"] == 90
    assert {batch: tokens for batch, tokens in fixed.items() if stock[batch] is not None} == {
        batch: tokens for batch, tokens in stock.items() if tokens is not None
    }, "what had a graph has the same one"
    assert [batch for batch, tokens in fixed.items() if tokens is None and batch.startswith("5 x")] == []
