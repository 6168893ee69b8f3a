"""The demo's parts on made-up values, and the whole of it once, small."""

import json
import sys
from pathlib import Path

import pytest

from tests.commands import run
from vllm_mtad.demo.figures import WAYS, measure
from vllm_mtad.measure.decoding import Decoded, Run
from vllm_mtad.pair.minisql.task import evaluation_examples


def test_figures_from_what_each_call_gave():
    examples = evaluation_examples("held_out", 2)
    answers = [
        Decoded("", [[1], [5, 6, 7], [8, 9]], " " + examples[0].gold),
        Decoded("", [[1], [5, 6, 7, 8, 9]], "nonsense"),
    ]
    runs = [Run(answers, seconds) for seconds in (1.0, 2.0, 4.0)]
    figures = measure("MTAD", examples, answers, alone=runs, at_8=runs[:1], perplexity=1.5)
    assert figures.block_efficiency == pytest.approx(10 / 3)  # the prefill's calls had no draft
    assert figures.acceptance_rate == pytest.approx((10 / 3 - 1) / 4)
    assert figures.execution_accuracy == 0.5
    assert figures.tokens_per_second == 6.0
    assert figures.tokens_per_second_at_8 == 12.0
    assert measure("target alone", examples, answers, runs, runs, 1.0).acceptance_rate is None


def command(*arguments: str):
    program = Path(sys.executable).parent / "vllm-mtad"
    return run(program, *arguments)


def test_pair_prints_two_model_folders():
    lines = command("pair").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["target", "draft"]
    for line in lines:
        assert (Path(line.split()[1]) / "config.json").is_file()


def test_the_whole_demo_small(tmp_path):
    done = command("demo", "--num-prompts", "24", "--larger", "50m", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["method"]: row for row in json.loads((tmp_path / "figures.json").read_text())}
    assert list(rows) == list(WAYS)
    for row in rows.values():
        assert row["num_prompts"] == 24
        assert 0 < row["execution_accuracy"] <= 1
        assert row["perplexity"] > 1
        assert row["tokens_per_second"] > 0
        assert row["tokens_per_second_at_50m"] > 0
    assert rows["target alone"]["block_efficiency"] == 1
    # Uncorrected, vLLM's sampled draft_model accepts next to nothing on a CPU.
    assert rows["vLLM draft_model"]["acceptance_rate"] > 0.4
    assert rows["MTAD"]["block_efficiency"] > 2.5
    for text in (
        "open-ended tales",
        "MTAD, 4 candidates",
        "tokens/call",
        "SQL correct",
        "bugs of vLLM 0.32.0 are corrected",
        "cost of a 50M target",
        "⟦",
    ):
        assert text in done.stdout
