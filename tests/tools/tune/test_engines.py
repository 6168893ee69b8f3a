"""The whole command once, small, and engines that take turns."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import evaluation_examples
from tests.commands import run
from tests.engine.engines import in_this_process
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.methods import mtad, target_alone

NUM_PROMPTS = 24
CHECKER = """
def check(prompt, answer, completion):
    return completion.lower().startswith(" select") and answer is not None
"""


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    examples = evaluation_examples("held_out", NUM_PROMPTS)
    path.write_text("".join(json.dumps({"prompt": e.prompt, "answer": e.gold}) + "\n" for e in examples))
    return path


def command(*arguments):
    """Its engines run in its own process, where they start sooner."""
    program = Path(sys.executable).parent / "vllm-mtad"
    return run(program, "tune", *arguments, env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})


def test_the_whole_command_small(tmp_path, prompts):
    checker, out = tmp_path / "checker.py", tmp_path / "out.json"
    checker.write_text(CHECKER)
    grid = ["--num-speculative-tokens", "4", "--beam-widths", "4", "--thresholds", "0.5", "--max-tokens", "72"]
    given = ["--target", str(MINISQL.target), "--prompts", str(prompts)]  # the target names its draft
    asked = ["--wish", "fastest", "budget", "--rounds", "1", "--samples", "2", "--concurrency", "8"]
    done = command(*given, *grid, *asked, "--checker", f"{checker}:check", "--json", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    rows = {row["way"]: row for row in found["rows"]}
    assert list(rows) == ["target alone", "draft_model γ=4", "MTAD γ=4 B=4 τ=0.5"]
    assert all(row["failure"] is None for row in rows.values())
    for way in ("target alone", "MTAD γ=4 B=4 τ=0.5"):  # timed again at the end
        assert len(rows[way]["passes_tokens_per_second"]) == 2
    # Lossless and corrected: close to plain sampling, whatever the seeds. Uncorrected it is above 0.3 nats.
    assert abs(rows["draft_model γ=4"]["nats_difference"]["value"]) < 0.08
    assert rows["MTAD γ=4 B=4 τ=0.5"]["nats_difference"]["value"] < 0
    assert rows["MTAD γ=4 B=4 τ=0.5"]["mean_acceptance_length"] > 2.5
    for row in rows.values():
        assert row["accuracy"] == pytest.approx(1, abs=0.1)
        assert len(row["completions"]) == 2
        assert len(row["completions"][0]) == len(row["nats_by_prompt"]) == NUM_PROMPTS
    for choice in found["recommendations"]:
        chosen = rows[choice["way"]]
        assert choice["use_mtad"] == (chosen["family"] == "mtad")
        if choice["command_line"] is not None:
            assert choice["command_line"] in done.stdout
            assert json.loads(shlex.split(choice["command_line"])[1]) == chosen["speculative_config"]
    assert found["machine"]["versions"]["vllm"].startswith("0.32")
    assert found["command"].startswith("vllm-mtad tune --target")
    for text in ("MTAD is lossy", "For fastest at 8 in flight", "For budget at 8 in flight", "alone in turn"):
        assert text in done.stdout


def test_engines_that_take_turns_and_one_that_cannot_start():
    from transformers import AutoTokenizer

    from vllm_mtad.tools.harness.engines import whole_prefills
    from vllm_mtad.tools.harness.prompts import tokenized
    from vllm_mtad.tools.tune.timing import Bench, Measured, measure_together, speed

    texts = [example.prompt for example in evaluation_examples("held_out", 8)]
    bench = Bench(
        pair=MINISQL,
        # No room for all prompts in one step: their prefills must not be cut.
        engine=whole_prefills(192) | {"max_num_batched_tokens": 192, "max_model_len": 192},
        prompt_ids=tokenized(AutoTokenizer.from_pretrained(MINISQL.target), texts, chat=False),
        max_tokens=16,
        concurrency=(2,),
        samples=1,
        rounds=2,
        bar=lambda description, total: lambda: None,
    )
    target, fits = Measured(target_alone()), Measured(mtad(MTADOptions(beam_width=2)))
    too_wide = Measured(mtad(MTADOptions(beam_width=193)))
    with in_this_process():
        measure_together(bench, target, [too_wide, fits], together=3)
    assert "beam_width=193 is larger than max_num_batched_tokens=192" in too_wide.failure
    assert fits.failure is None
    assert [len(nats) for nats in fits.nats] == [8]
    assert [len(answers) for answers in fits.answers] == [8]
    assert fits.passes[0].beside == target.passes[0].rounds
    assert len(fits.passes[0].rounds[2]) == 2
    assert speed(fits, target, 2).ratio > 0


def test_a_target_that_cannot_start_is_one_message(tmp_path, prompts):
    given = ["--target", str(MINISQL.target), "--draft", str(MINISQL.draft), "--prompts", str(prompts)]
    done = command(*given, "--dtype", "float99")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("vllm-mtad tune: ")]
    assert len(said) == 1
    assert said[0].startswith("vllm-mtad tune: The target alone cannot be run: ")
    assert "float99" in said[0]
    assert "Traceback" not in done.stderr
