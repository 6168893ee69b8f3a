"""The parts of an iteration that grow with the vocabulary: they run, on both runners, and are what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks.vocabulary import measure_vocabulary, pieces_of
from benchmarks.vocabulary_parts import Shape, vanilla_right_on_a_cpu
from tests.commands import run

ROOT = Path(__file__).parents[2]
GAMMA, BEAM_WIDTH, REQUESTS, VOCAB_SIZES = 3, 2, 2, (64, 640)
HIDDEN = {"target": 16, "draft": 8}
SHAPE = (GAMMA, BEAM_WIDTH, REQUESTS)
ON_V2 = f"""
import json, torch
import vllm.v1.worker.cpu.shm
from benchmarks.vocabulary import measure_vocabulary, pieces_of
from benchmarks.vocabulary_parts import Shape
rows = measure_vocabulary({HIDDEN}, *{SHAPE}, "cpu", {VOCAB_SIZES}, repeats=2, dtype=torch.float32, runner="V2")
pieces = pieces_of(Shape(64, *{SHAPE}), {HIDDEN}, torch.device("cpu"), torch.float32, "V2")
print(json.dumps([rows, [(p.part, p.method, p.run().tolist()) for p in pieces if "head" not in p.part]]))
"""


def check_rows(rows: list[dict], runner: str) -> None:
    both = {(vocab_size, "target_head", "both"): (1, REQUESTS * (GAMMA + 1)) for vocab_size in VOCAB_SIZES}
    beam_rows = REQUESTS * (1 + (GAMMA - 1) * BEAM_WIDTH)
    by_method = {
        (vocab_size, part, method): expected
        for vocab_size in VOCAB_SIZES
        for method, draft_rows in (("mtad", beam_rows), ("draft_model", REQUESTS * GAMMA))
        for part, expected in {
            "draft_head": (GAMMA, draft_rows),
            "draft_draw": (GAMMA, draft_rows),
            "acceptance": (1, REQUESTS * (GAMMA + 1)),
        }.items()
    }
    assert {(r["vocab_size"], r["part"], r["method"]): (r["calls"], r["rows"]) for r in rows} == both | by_method
    for row in rows:
        low, high = row["quartiles_ms"]
        assert 0 < low <= row["median_ms"] <= high
        assert row["launches"] == row["calls"] if "head" in row["part"] else row["launches"] > row["calls"]
        assert (row["requests"], row["runner"], row["device_median_ms"]) == (REQUESTS, runner, None)
    launches = {
        vocab_size: [r["launches"] for r in rows if r["vocab_size"] == vocab_size] for vocab_size in VOCAB_SIZES
    }
    assert launches[64] == launches[640]


def check_tokens(runs: list[tuple[str, str, list]], runner: str) -> None:
    for part, _, tokens in runs:
        found = torch.tensor(tokens)
        if part == "draft_draw":
            assert found.shape == (REQUESTS, GAMMA)
            assert ((found >= 0) & (found < 64)).all()
        elif runner == "V1":  # acceptance, of drafts that agree with the target
            assert found.shape == (REQUESTS, GAMMA + 1)
            assert ((found >= 0) & (found < 64)).all()
        else:
            assert tokens == [GAMMA + 1] * REQUESTS


def test_on_model_runner_v1():
    rows = measure_vocabulary(HIDDEN, *SHAPE, "cpu", VOCAB_SIZES, repeats=2)
    check_rows(rows, "V1")
    cpu = torch.device("cpu")
    with torch.inference_mode(), vanilla_right_on_a_cpu(cpu, "V1"):
        pieces = pieces_of(Shape(64, *SHAPE), HIDDEN, cpu, torch.bfloat16, "V1")
        check_tokens([(p.part, p.method, p.run().tolist()) for p in pieces if "head" not in p.part], "V1")


def test_vllm_is_as_before_when_it_is_over():
    from vllm.v1.sample import rejection_sampler

    before = rejection_sampler.expand_batch_to_tokens
    with vanilla_right_on_a_cpu(torch.device("cpu"), "V1"):
        assert rejection_sampler.expand_batch_to_tokens is not before
    assert rejection_sampler.expand_batch_to_tokens is before


def test_on_model_runner_v2_in_the_interpreter():
    done = run(sys.executable, "-m", "tests.interpreter", "-c", ON_V2, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows, runs = json.loads(done.stdout.splitlines()[-1])
    check_rows(rows, "V2")
    check_tokens(runs, "V2")
