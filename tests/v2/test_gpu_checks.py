"""The GPU checks on toy shapes: what they build and compare, not what they time."""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pytest
import torch

from benchmarks.gpu_checks import correctness
from benchmarks.gpu_checks.aims import CLAIMS, conclude
from benchmarks.gpu_checks.report import FILE, Report
from benchmarks.gpu_checks.serve import findings
from tests.commands import run
from vllm_mtad.tools.harness.machine import ROOT

if torch.cuda.is_available():
    pytest.skip("--tiny is for the interpreter", allow_module_level=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """All parts once, on toy shapes."""
    folder = tmp_path_factory.mktemp("gpu_checks")
    arguments = ["--tiny", "--device", "cpu", "--out", folder]
    done = run(sys.executable, "-m", "benchmarks.gpu_checks", *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    machine, *others = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert machine["part"] == "machine"
    assert machine["versions"]["vllm"] == version("vllm")
    return others


def of(records, part: str, field: str):
    return [record for record in records if record["part"] == part and field in record]


def test_no_part_has_an_error_or_a_failed_check(records):
    assert [r for r in records if "error" in r or r.get("passed") is False] == []


def test_a_server_starts_answers_and_is_searched(records):
    checks = {r["check"].split(": ")[1]: r["detail"] for r in of(records, "serve", "check")}
    assert list(checks) == [
        "starts",
        "answers every request",
        "no step waits for the device",
        "nothing is compiled in service",
        "its log has no errors",
    ]
    assert checks["answers every request"]["drafts"] > 0


def test_joint_greedy_equals_the_reference(records):
    (check,) = of(records, "correctness", "check")
    assert check["detail"]["certain"] == check["detail"]["equal"] >= 2


def test_a_skewed_batch_is_drafted_for_too(records):
    drafting = of(records, "drafting", "variant")
    variants = {"draft_model", "mtad B1 eager", "mtad B2 eager", "mtad B2 eager top-k/p", "mtad B2 eager top-p"}
    assert {r["variant"] for r in drafting} == variants
    assert {(r["requests"], r["context"], r["longest"]) for r in drafting} == {(1, 40, 40), (3, 50, 110)}
    assert not any(r["timed"] or "ms" in r for r in drafting)


def test_trees_equal_dense_attention_under_xformers_masks(records):
    (trees,) = of(records, "trees", "check")
    assert trees["detail"]["largest_difference"] < 1e-5


def test_under_arrivals_most_steps_hold_a_prefill(records):
    (trace,) = of(records, "arrivals", "steps")
    assert trace["served"] == 6
    assert sum(trace["first_passes_with_prefill"].values()) == trace["with_prefill"] > trace["steps"] / 2


def test_every_claim_is_in_the_texts_and_has_its_check(records):
    texts = " ".join(" ".join(path.read_text().split()) for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    for claim in CLAIMS:
        assert claim.words in texts
    said = {record["claim"]: record["holds"] for record in of(records, "claims", "claim")}
    assert said.keys() == {claim.words for claim in CLAIMS}
    assert said["joint greedy equal to the slow reference"] == "yes"
    assert said["at most 16 on a GPU"] == "not looked at"


LOG = """
(APIServer pid=1) INFO MTAD is on: beam_width=4
(EngineCore pid=2) INFO MTAD scratch: 3 MiB
(EngineCore pid=2) WARNING Triton kernel JIT compilation during inference: _a_kernel
RuntimeError: GPU<->CPU sync detected
"""


def test_a_log_is_searched_for_what_must_not_be_there():
    found = findings(LOG, on_gpu=True)
    assert found["missing"] == ["monitor"]
    assert len(found["says"]) == 2
    for what in ("errors", "waits", "compiles"):
        assert len(found[what]) == 1, what


def test_engines_that_measure_memory_run_alone():
    """The first two meet, so that two run at a time; an engine that measures begins when all others have ended."""
    meeting, ended, began_after = threading.Barrier(2), set(), {}
    first_two = list(correctness.ENGINES)[:2]

    def run_one(name):
        began_after[name] = set(ended)
        if name in first_two:
            meeting.wait(timeout=1800)
        ended.add(name)

    with ThreadPoolExecutor(2) as pool:
        names = [name for name, _ in correctness._outcomes(correctness.ENGINES, run_one, pool)]
    assert sorted(names) == sorted(correctness.ENGINES)
    measuring = [name for name, engine in correctness.ENGINES.items() if engine.as_started]
    assert measuring
    for name in measuring:
        assert began_after[name] >= correctness.ENGINES.keys() - set(measuring)


@pytest.mark.parametrize(("kept", "passes"), [(3, True), (0, False)])
def test_several_candidates_must_have_been_kept(kept, passes):
    engine = engine_result(SAME)
    engine["facts"]["other_candidates_kept"] = kept
    check = correctness._and_others_are_kept(correctness._graphs_equal_eager_float32)
    assert check(engine, engine_result(SAME), "cuda")[0] == passes


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


def test_aims_compare_with_one_beam_with_draft_model_and_with_a_balanced_batch(tmp_path, capsys):
    report = Report(tmp_path)
    batches = {(1, 2048, 2048): {"mtad B1 graphs": 4.0, "mtad B4 graphs": 5.0, "draft_model": 11.0}}
    batches |= {(16, 3008, 32_768): {"mtad B4 graphs": 9.0}, (16, 3008, 3008): {"mtad B4 graphs": 3.0}}
    for (requests, context, longest), variants in batches.items():
        for variant, ms in variants.items():
            times = {"ms": [ms] * 3, "device_ms": [ms] * 3, "host_ms": 1.0, "floor_ms": 2.0, "timed": True}
            shape = {"requests": requests, "context": context, "longest": longest, "beam_width": 4}
            report.add("drafting", **shape, variant=variant, passed=True, **times)
    times = {"step_ms": 12.0, "target_ms": 10.0, "acceptance_ms": 0.6, "drafting_ms": 1.0, "timed": True}
    report.add("step", requests=8, sampling="T=1", **times)
    conclude(report)
    aims = [(round(r["value"], 2), r["met"]) for r in report.records() if "aim" in r]
    assert aims == [(1.25, False), (0.45, True), (3.0, False)] * 2 + [(0.06, False)]
    report.print_tables()
    table = capsys.readouterr().out
    assert "MISSED" in table
    assert not report.failed()
    report.add("step", error="Traceback\nRuntimeError: no")
    assert report.failed()
