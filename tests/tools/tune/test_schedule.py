"""The schedule that is recommended, from made-up speeds, and by the whole command."""

import json
import random
import shlex
from itertools import pairwise

import pytest
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from benchmarks.pairs import MINISQL
from tests.engine.engines import in_this_process
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.cli import main
from vllm_mtad.tools.harness.methods import mtad
from vllm_mtad.tools.tune.rows import command_line
from vllm_mtad.tools.tune.schedule import MARGIN, recommend, slower_than_the_target


def test_drafts_get_shorter_and_stop_as_the_batch_grows():
    ratios = {
        1: {0: 1.0, 2: 1.3, 4: 1.5},
        2: {0: 1.0, 2: 1.3, 4: 1.4},
        8: {0: 1.0, 2: 1.2, 4: 1.0},
        32: {0: 1.0, 2: 0.8, 4: 0.6},
    }
    assert recommend(ratios, 64) == [(1, 4, 4), (5, 16, 2), (17, 64, 0)]


@pytest.mark.parametrize("better", [0.0, 0.02, 0.029])
def test_noise_does_not_decide(better):
    """What is within the margin stays as it was at the smaller batch; at the smallest, without drafts."""
    assert recommend({1: {0: 1.0, 4: 1.0 + better}, 8: {0: 1.0, 4: 0.9}}, 8) == [(1, 8, 0)]
    ratios = {1: {0: 1.0, 4: 1.5}, 4: {0: 1.0, 4: 1 / (1 + better)}, 16: {0: 1.0, 4: 0.9}}
    assert recommend(ratios, 16) == [(1, 8, 4), (9, 16, 0)]


def test_any_schedule_is_one_of_vllms_and_as_fast_as_the_best_within_the_margin():
    generator = random.Random(1)
    for _ in range(300):
        most = generator.choice([1, 3, 8, 64])
        levels = sorted(generator.sample(range(1, most + 1), generator.randint(1, min(4, most))))
        lengths = generator.sample(range(1, 9), 3)
        ratios = {n: {0: 1.0} | {length: generator.uniform(0.5, 2) for length in lengths} for n in levels}
        schedule = recommend(ratios, most)
        assert [first for first, _, _ in schedule] == [1, *(last + 1 for _, last, _ in schedule[:-1])]
        assert schedule[-1][1] == most
        assert all(a[2] != b[2] for a, b in pairwise(schedule))
        lookup = build_dynamic_sd_schedule_lookup(schedule, most, max(lengths))
        for level, at_level in ratios.items():
            assert at_level[lookup[level]] * (1 + MARGIN) >= max(at_level.values())


def test_what_is_slower_than_the_target_after_all_is_said():
    assert slower_than_the_target({1: 1.3, 8: 0.98, 16: 1 - MARGIN}) is None
    assert "0.90x at 8, 0.80x at 16 in flight" in slower_than_the_target({1: 1.3, 8: 0.9, 16: 0.8})


def test_what_is_printed_is_what_vllm_takes():
    method = mtad(MTADOptions(num_speculative_tokens=6), schedule=[(1, 5, 6), (6, 64, 0)])
    assert method.full_name == "MTAD γ≤6 by schedule B=4 τ=0.5"
    flag, value = shlex.split(command_line(method, "some/draft"))
    assert flag == "--speculative-config"
    given = json.loads(value)
    assert given["num_speculative_tokens_per_batch_size"] == [[1, 5, 6], [6, 64, 0]]
    assert given["num_speculative_tokens"] == 6


def words(tmp_path, *arguments):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join((MINISQL.target.parent / "prompts.jsonl").read_text().splitlines(keepends=True)[:8]))
    return ["tune", "--target", str(MINISQL.target), "--prompts", str(prompts), "--schedule", *arguments]


def test_the_whole_command(tmp_path, capsys):
    out = tmp_path / "out.json"
    small = ["--rounds", "1", "--max-tokens", "16", "--num-speculative-tokens", "2", "4"]
    with in_this_process():
        main(words(tmp_path, *small, "--concurrency", "1", "8", "--json", str(out)))
    said = capsys.readouterr().out
    found = json.loads(out.read_text())
    ways = [row["way"] for row in found["rows"]]
    assert ways[:3] == ["target alone", "MTAD γ=2 B=4 τ=0.5", "MTAD γ=4 B=4 τ=0.5"]
    assert all(row["failure"] is None and set(row["speeds"]) == {"1", "8"} for row in found["rows"])
    assert found["schedule"][-1][1] >= 8
    if found["speculative_config"] is None:
        assert found["schedule"] == [[1, found["schedule"][-1][1], 0]]
        assert "Do not use MTAD" in said
    else:
        assert found["speculative_config"]["method"] == "mtad"
        assert "Recommended:" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--beam-widths", "1", "4"], "--beam-widths=[1, 4] is not accepted: give one with --schedule"),
        (["--wish", "likeliest"], "--wish=['likeliest'] is not accepted: give it without --schedule"),
        (["--samples", "2"], "--samples=2 is not accepted: give it without --schedule"),
    ],
)
def test_what_is_not_about_a_schedule_is_refused(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        main(words(tmp_path, *arguments))
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
