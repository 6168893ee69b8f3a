"""What a round and a verification launch and move stays within what `benchmarks/results/kernel-costs` says.

A change that costs less, or more for a reason, comes with new results: `python -m benchmarks.kernel_costs`.
"""

import json
import os

import pytest
import torch
from vllm.triton_utils import tl, triton

from benchmarks.kernel_costs import (
    DEFAULT,
    PARTS,
    REQUESTS,
    REQUESTS_WITH_TREES,
    TARGET_LAYERS,
    TREE_PARTS,
    count_parts,
    count_tree_parts,
    limits,
    table,
    tree_limits,
    tree_table,
)
from benchmarks.kernels_on_paper.pieces import LIMITS

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="counts in Triton's interpreter")


@triton.jit
def _copy_kernel(source_ptr, target_ptr, width, BLOCK: tl.constexpr):  # noqa: N803
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    at, mask = row * width + column, column < width
    tl.store(target_ptr + at, tl.load(source_ptr + at, mask=mask), mask=mask)


@triton.jit
def _copy_in_turns_kernel(source_ptr, target_ptr, rows, width, BLOCK: tl.constexpr):  # noqa: N803
    column = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at, mask = row * width + column, column < width
        tl.store(target_ptr + at, tl.load(source_ptr + at, mask=mask), mask=mask)


@pytest.fixture(scope="module")
def committed():
    rows = json.loads((DEFAULT / "costs.json").read_text())
    return {(row["requests"], row["truncation"]): row["parts"] for row in rows}


def test_operators_cost_what_they_read_and_write_and_views_nothing():
    from benchmarks.kernels_on_paper.counted import counting

    values, picked = torch.ones(8, 100), torch.tensor([1, 5])
    with counting(None) as count:
        values.view(80, 10).add_(1.0)
        torch.empty_like(values).copy_(values)
        values[picked]
    sizes = {launch.name: launch.bytes for launch in count.launches}
    assert sizes == {"add_": 2 * 3200, "copy_": 2 * 3200, "index": 2 * 800 + 16}


def test_a_kernel_costs_what_the_programs_of_all_rows_load_and_store():
    from benchmarks.kernels_on_paper.counted import counting

    source, target = torch.rand(6, 50), torch.zeros(6, 50)
    with counting(rows=6) as count:
        _copy_kernel[(6,)](source, target, 50, BLOCK=64)
    assert [(launch.name, launch.bytes) for launch in count.launches] == [("_copy_kernel", 2 * 6 * 50 * 4)]
    assert torch.equal(target[0], source[0])
    assert target[1:].eq(0).all(), "one row's programs run"


@pytest.mark.parametrize("programs", [1, 2, 4, 5, 6])
def test_programs_that_share_rows_out_cost_no_more_than_the_rows(programs):
    from benchmarks.kernels_on_paper.counted import counting

    source, target = torch.rand(6, 50), torch.zeros(6, 50)
    with counting(rows=6) as count:
        _copy_in_turns_kernel[(programs,)](source, target, 6, 50, BLOCK=64)
    assert [launch.bytes for launch in count.launches] == [2 * 6 * 50 * 4]


@pytest.mark.parametrize("truncation", LIMITS)
@pytest.mark.parametrize("num_reqs", REQUESTS)
def test_launches_are_what_is_committed(committed, num_reqs, truncation):
    parts = count_parts(num_reqs, truncation, with_bytes=False)
    found = {name: parts[name]["of"] for name in PARTS}
    assert found == {name: committed[num_reqs, truncation][name]["of"] for name in PARTS}


@pytest.mark.parametrize("truncation", LIMITS)
def test_bytes_are_what_is_committed(committed, truncation):
    parts = count_parts(1, truncation)
    assert {name: parts[name]["bytes"] for name in PARTS} == {
        name: committed[1, truncation][name]["bytes"] for name in PARTS
    }


def test_without_truncation_the_logits_are_read_once(committed):
    for num_reqs in REQUESTS:
        parts, limit = committed[num_reqs, "none"], limits(num_reqs)
        assert limit["logits"] < parts["step"]["bytes"] < 1.05 * limit["logits"]
        assert limit["verification"] < parts["verification"]["bytes"] < 1.05 * limit["verification"]


def test_the_table_is_that_of_the_counts(trees):
    rows = json.loads((DEFAULT / "costs.json").read_text())
    of_trees = [{"requests": requests, "parts": parts} for requests, parts in trees.items()]
    assert (DEFAULT / "table.md").read_text() == table(rows) + tree_table(of_trees)


# -- several candidates ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trees():
    return {row["requests"]: row["parts"] for row in json.loads((DEFAULT / "trees.json").read_text())}


@pytest.mark.parametrize("num_reqs", REQUESTS_WITH_TREES)
def test_launches_for_trees_are_what_is_committed(trees, num_reqs):
    parts = count_tree_parts(num_reqs, with_bytes=False)
    assert {name: parts[name]["of"] for name in TREE_PARTS} == {
        name: trees[num_reqs][name]["of"] for name in TREE_PARTS
    }


def test_bytes_for_trees_are_what_is_committed(trees):
    parts = count_tree_parts(1)
    assert {name: parts[name]["bytes"] for name in TREE_PARTS} == {name: trees[1][name]["bytes"] for name in TREE_PARTS}


def test_the_target_reads_a_prefix_once_for_all_rows_and_moves_what_was_kept(trees):
    """The outputs of a prefix's splits weigh no more than its keys and values."""
    for num_reqs, parts in trees.items():
        limit = tree_limits(num_reqs)
        assert limit["move"] < parts["move"]["bytes"] < 1.05 * limit["move"]
        assert limit["verification"] < parts["verification"]["bytes"] < 1.05 * limit["verification"]
        assert limit["attention"] < TARGET_LAYERS * parts["layer"]["bytes"] < 2.1 * limit["attention"]
