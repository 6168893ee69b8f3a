"""The demo's parts on made-up values, and the whole of it once, small."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.pairs import FOLDER
from tests.commands import run
from vllm_mtad.config.candidate_schedule import ROWS_ON_CPU
from vllm_mtad.tools.cli import main
from vllm_mtad.tools.demo.figures import Figures, Measured
from vllm_mtad.tools.demo.task import bundled_folders, read_task
from vllm_mtad.tools.harness.decoding import Decoded, Run
from vllm_mtad.tools.harness.errors import InputError
from vllm_mtad.tools.harness.methods import DEFAULT, mtad, target_alone


def test_figures_from_what_each_call_gave():
    answers = [
        Decoded("", [[1], [5, 6, 7], [8, 9]], "one"),
        Decoded("", [[1], [5, 6, 7, 8, 9]], "two"),
    ]
    rounds = {1: [Run(answers, seconds) for seconds in (1.0, 2.0, 4.0)], 8: [Run(answers, 1.0)]}
    figures = Figures.of(Measured(mtad(), answers, [1.2, 2.4], [True, False], rounds))
    assert figures.mean_acceptance_length == pytest.approx(10 / 3)  # the prefill's calls had no draft
    assert figures.acceptance_rate == pytest.approx((10 / 3 - 1) / 4)
    assert figures.accuracy == 0.5
    assert figures.perplexity == pytest.approx(2.718281828 ** (3.6 / 12))
    assert figures.tokens_per_second == {1: 6.0, 8: 12.0}
    alone = Figures.of(Measured(target_alone(), answers, [1.2, 2.4], [], rounds))
    assert (alone.acceptance_rate, alone.accuracy) == (None, None)


def test_the_bundled_pairs_ask_for_what_their_files_hold():
    sql, tales = (read_task(folder) for folder in bundled_folders())
    assert len(sql.prompts) == sql.asked.num_prompts == 200
    assert [method.name for method in tales.methods] == ["target alone", "draft_model", "MTAD", "MTAD C=4"]
    assert len(read_task(FOLDER / "minisql", num_prompts=5).prompts) == 5


@pytest.mark.parametrize("folder", bundled_folders(), ids=lambda folder: folder.name)
def test_what_the_bundled_pairs_ask_for_is_verified_as_trees_on_a_cpu(folder):
    """Answers are decoded with the largest `in_flight`: with more rows, several candidates would be cut to one."""
    asked = read_task(folder).asked
    rows = max(asked.in_flight) * (1 + DEFAULT.num_speculative_tokens * max(asked.num_candidates))
    assert max(asked.num_candidates) == 1 or rows <= ROWS_ON_CPU


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "draft"), "has no model folder 'draft'"),
        (lambda folder: (folder / "prompts.jsonl").unlink(), "cannot be read"),
        (lambda folder: (folder / "demo.json").write_text("{"), "demo.json is not JSON"),
        (lambda folder: (folder / "demo.json").write_text('{"rounded": 1}'), "'rounded' is not accepted: give some of"),
        (lambda folder: (folder / "demo.json").write_text('{"num_candidates": 4}'), "give a list of integers >= 1"),
        (lambda folder: (folder / "demo.json").write_text('{"num_candidates": [8]}'), "give at most 4"),
        (lambda folder: (folder / "demo.json").write_text('{"rounds": 0}'), "rounds=0 is not accepted"),
        (lambda folder: (folder / "check.py").write_text("def check(prompt): ..."), "must take"),
        (lambda folder: (folder / "check.py").write_text("def check(p, a, c): 1 / 0"), "raised ZeroDivisionError"),
    ],
)
def test_a_folder_that_is_no_pair_is_one_sentence(tmp_path, capsys, change, message):
    folder = shutil.copytree(FOLDER / "tales", tmp_path / "tales")
    change(folder)
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--pair", str(folder)])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vllm-mtad demo: ")]
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--num-prompts", "0"], "--num-prompts=0 is not accepted"), (["--json", "/no/such/a.json"], "make it first")],
)
def test_an_argument_that_cannot_be_is_one_sentence(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_elsewhere_the_demo_says_where_a_pair_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--pair is not given: name a folder with .*benchmarks/pairs/minisql"):
        bundled_folders()


def test_the_whole_demo_small(tmp_path):
    folder = shutil.copytree(FOLDER / "minisql", tmp_path / "pair")
    asked = {"title": "questions", "max_tokens": 72, "num_prompts": 12, "num_candidates": [4], "rounds": 1}
    (folder / "demo.json").write_text(json.dumps(asked | {"in_flight": [1, 2]}))
    out, program = tmp_path / "figures.json", Path(sys.executable).parent / "vllm-mtad"
    done = run(program, "demo", "--pair", folder, "--json", out)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = json.loads(out.read_text())["pairs"]
    alone, vanilla, mtad = found["ways"]
    assert [way["method"] for way in found["ways"]] == ["target alone", "draft_model", "MTAD C=4"]
    for way in found["ways"]:
        assert way["num_prompts"] == 12
        assert 0 < way["accuracy"] <= 1
        assert way["perplexity"] > 1
        assert {*way["tokens_per_second"]} == {"1", "2"}
        assert all(speed > 0 for speed in way["tokens_per_second"].values())
    assert alone["mean_acceptance_length"] == 1
    # Uncorrected, vLLM's sampled draft_model accepts next to nothing on a CPU.
    assert vanilla["acceptance_rate"] > 0.4
    assert mtad["mean_acceptance_length"] > 3
    for text in ("12 questions, 3 ways", "acceptance length", "bugs of vLLM 0.32.0 are corrected", "⟦"):
        assert text in done.stdout
