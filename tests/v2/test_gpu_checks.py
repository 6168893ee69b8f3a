"""The GPU checks on toy shapes: what they build and compare, not what they time."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu_checks import correctness
from benchmarks.gpu_checks.aims import add_aims
from benchmarks.gpu_checks.report import FILE, Report
from benchmarks.machine import ROOT


def test_tiny_drafting_and_correctness_write_their_records(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("--tiny is for the interpreter")
    arguments = ["--tiny", "--device", "cpu", "--parts", "correctness,drafting", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.gpu_checks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    machine, *records = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert machine["part"] == "machine"
    assert machine["versions"]["vllm"].startswith("0.32.0")
    assert machine["command"].endswith(" ".join(arguments))
    (check,) = [r for r in records if "check" in r]
    assert check["passed"]
    assert check["detail"]["certain"] == check["detail"]["equal"] >= 2
    drafting = [r for r in records if r["part"] == "drafting"]
    variants = {"draft_model", "mtad B1 eager", "mtad B2 eager", "mtad B2 eager top-k/p"}
    assert {(r["requests"], r["variant"]) for r in drafting} == {(n, v) for n in (1, 2) for v in variants}
    assert all(r["passed"] and not r["timed"] and "ms" not in r for r in drafting)


def engine_result(tokens, async_scheduling=True, replays=1, backend="FLASH_ATTN"):
    graphs = {"captured": 1, "replays": replays}
    facts = {"async_scheduling": async_scheduling, "first_pass_graphs": graphs, "beam_graphs": graphs}
    return {"tokens": tokens, "facts": facts | {"draft_attention": [backend]}}


SAME = {"greedy": [[1, 2], [3]] * 10, "sampled": [[4], [5]] * 10}
ONE_DIFFERS = SAME | {"sampled": [[6], [5], *SAME["sampled"][2:]]}
THREE_DIFFER = SAME | {"sampled": [[6], [6], [6], *SAME["sampled"][3:]]}


@pytest.mark.parametrize(
    ("function", "results", "passes"),
    [
        ("_graphs_equal_eager_float32", (engine_result(SAME), engine_result(SAME)), True),
        ("_graphs_equal_eager_float32", (engine_result(SAME), engine_result(ONE_DIFFERS)), False),
        ("_graphs_equal_eager_float32", (engine_result(SAME, replays=0), engine_result(SAME)), False),
        ("_graphs_equal_eager_bfloat16", (engine_result(SAME), engine_result(ONE_DIFFERS)), True),
        ("_graphs_equal_eager_bfloat16", (engine_result(SAME), engine_result(THREE_DIFFER)), False),
        ("_async_equals_sync", (engine_result(SAME), engine_result(SAME, async_scheduling=False)), True),
        ("_async_equals_sync", (engine_result(SAME, False), engine_result(SAME, False)), False),
        ("_backends_agree", (engine_result(SAME), engine_result(ONE_DIFFERS, backend="TRITON_ATTN")), True),
        ("_backends_agree", (engine_result(SAME), engine_result(SAME)), False),
    ],
)
def test_verdicts(function, results, passes):
    assert getattr(correctness, function)(*results, "cuda")[0] == passes


def test_a_near_tie_excuses_one_request_and_not_many():
    expected = {"tokens": {"greedy": [[1, 2]] * 8}, "margins": {"greedy": [[3.0, 1e-6]] * 4 + [[3.0, 1.0]] * 4}}
    verdict = correctness._lossless_equals_target_alone
    one_near_tie, one_clear = ([[1, 9] if i == at else [1, 2] for i in range(8)] for at in (0, 7))
    assert verdict({"tokens": {"greedy": one_near_tie}}, expected, "cuda")[0]
    assert not verdict({"tokens": {"greedy": one_clear}}, expected, "cuda")[0]
    assert not verdict({"tokens": {"greedy": [[1, 9]] * 4 + [[1, 2]] * 4}}, expected, "cuda")[0]


def test_aims_compare_with_one_beam_and_with_draft_model(tmp_path, capsys):
    report = Report(tmp_path)
    for variant, ms in (("mtad B1 graphs", 4.0), ("mtad B4 graphs", 5.0), ("draft_model", 11.0)):
        times = {"ms": [ms] * 3, "device_ms": [ms] * 3, "host_ms": 1.0, "floor_ms": 2.0, "timed": True, "passed": True}
        report.add("drafting", requests=1, context=2048, variant=variant, **times)
    times = {"step_ms": 12.0, "target_ms": 10.0, "acceptance_ms": 0.6, "drafting_ms": 1.0, "timed": True}
    report.add("step", requests=8, sampling="T=1", **times)
    add_aims(report)
    aims = [record for record in report.records() if "aim" in record]
    assert [(round(a["value"], 2), a["met"]) for a in aims] == [(1.25, False), (0.45, True)] * 2 + [(0.06, False)]
    report.print_tables()
    table = capsys.readouterr().out
    assert "MISSED" in table
    assert not report.failed()
    report.add("step", error="Traceback\nRuntimeError: no")
    assert report.failed()
