"""The compile matrix goes on where it was, and its tables say what does not fit."""

import json
import os
import sys

import pytest

from benchmarks.kernels_on_paper.compiled import SHARED_LIMITS, Compiled
from benchmarks.kernels_on_paper.matrix_tables import tables
from tests.commands import run

TWICE_WITH_A_STALE_ROW_BETWEEN = """
import json, sys
from pathlib import Path
from benchmarks.compile_matrix import main
main()
file = Path(sys.argv[2]) / "compiled.jsonl"
rows = file.read_text()
print(json.dumps(rows))
stale = json.loads(rows.splitlines()[0]) | {"variant": "of a source that has changed"}
file.write_text(rows + json.dumps(stale) + "\\n")
main()
print(json.dumps(file.read_text()))
"""


def test_what_was_compiled_is_not_compiled_again_and_what_is_stale_is_dropped(tmp_path):
    """In one process, in which the space is worked out once."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    options = ["--out", tmp_path, "--kernels", "planning", "--architectures", 86, 90]
    done = run(sys.executable, "-c", TWICE_WITH_A_STALE_ROW_BETWEEN, *options, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('"'))
    rows = [json.loads(line) for line in first.splitlines()]
    assert [row["kernel"] for row in rows] == ["_split_planning_kernel"] * 4  # with a window, and without
    assert sorted(row["architecture"] for row in rows) == [86, 86, 90, 90]
    assert all(row["fits"] and row["registers"] and row["instructions"] and row["seconds"] for row in rows)
    assert second == first


@pytest.mark.parametrize("architecture", SHARED_LIMITS)
def test_a_program_fits_up_to_the_architectures_limit(architecture):
    limit = SHARED_LIMITS[architecture] * 1024
    assert Compiled(limit, 255, 0, 100, 0, 0.1).fits(architecture)
    assert not Compiled(limit + 1, 255, 0, 100, 0, 0.1).fits(architecture)
    assert not Compiled(0, 0, 0, 0, 0, 0.1, "PassManager::run failed").fits(architecture)


def made_up(architecture, **values):
    constexprs, specialized = {"BEAM_WIDTH": 16}, {"query_ptr": "*fp32 aligned"}
    row = {"kernel": "_some_kernel", "architecture": architecture, "variant": "a", "shared": 2048, "registers": 40}
    row |= {"spilled": 0, "instructions": 90, "looped": 10, "seconds": 0.5, "error": "", "fits": True}
    return row | {"constexprs": constexprs, "specialized": specialized} | values


def test_what_does_not_fit_is_named_with_its_architecture():
    page = tables(
        [made_up(86, shared=180 * 1024, fits=False), made_up(90, spilled=40)], 3, {4: [("_some_kernel", "a")]}
    )
    assert "**2 of 3 are compiled yet.**" in page
    assert "| _some_kernel | 86 | 1 | 0 | 180.0 | 99 |" in page
    assert "| _some_kernel | BEAM_WIDTH=16, fp32 | sm_86 | 180.0 | 40 (sm_90) |" in page
    assert "| _some_kernel | 1 | 0.5 | 90 (10) |" in page


def test_of_a_matrix_that_fits_it_says_so():
    page = tables([made_up(90)], 1, {4: [("_some_kernel", "a")]})
    assert "Nothing: all of it fits" in page
    assert "compiled yet" not in page
