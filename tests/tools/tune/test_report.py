import argparse
import json
from pathlib import Path

from rich.console import Console

from tests.tools.tune.rows import LIKELIER, UNCLEAR, candidate, target, vanilla
from vllm_mtad.tools.harness.checker import Checker
from vllm_mtad.tools.harness.decoding import Decoded
from vllm_mtad.tools.harness.intervals import Interval, Ratio
from vllm_mtad.tools.harness.methods import draft_model, mtad, target_alone
from vllm_mtad.tools.harness.prompts import Prompt
from vllm_mtad.tools.tune.arguments import add_tune
from vllm_mtad.tools.tune.prepare import Inputs
from vllm_mtad.tools.tune.report import Outcome, as_json, notes, print_outcome
from vllm_mtad.tools.tune.rows import Row, Speed
from vllm_mtad.tools.tune.scoring import Scores, row_of
from vllm_mtad.tools.tune.settings import Settings
from vllm_mtad.tools.tune.timing import Measured, Pass, speed
from vllm_mtad.tools.tune.wishes import choose

MACHINE = {"device": "cpu", "versions": {"vllm": "0.32.0"}, "command": "vllm-mtad tune"}


def settings(*arguments):
    parser = argparse.ArgumentParser()
    add_tune(parser.add_subparsers())
    given = ["tune", "--target", "big", "--draft", "small", "--prompts", "p.txt", *arguments]
    return Settings.from_arguments(parser.parse_args(given))


def outcome(rows, *arguments, checker=None):
    asked = settings(*arguments)
    choices = [choose(rows, wish, 1) for wish in asked.wishes]
    measured = [
        Measured(r.method, r.failure, [[Decoded("a", [[1]], "b")]], [[1.0]], [Pass({1: [100.0]}, 1.0)] * 2)
        for r in rows
    ]
    scores = [Scores(Ratio.of([1.0], [2.0]), None) for _ in rows]
    inputs = Inputs([Prompt("a", None, 1)], [[1]], checker, {"max_model_len": 64})
    return Outcome(asked, MACHINE, rows, choices, measured, scores, inputs)


def printed(result):
    console = Console(width=500, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_outcome(console, result)
    return console.export_text()


def test_mtad_where_it_serves_best():
    rows = [target(), vanilla(1.3), candidate(1.5, LIKELIER), candidate(1.2, UNCLEAR, tau=0.1)]
    text = printed(outcome(rows))
    for expected in (
        "For fastest at 1 in flight: MTAD γ=4 B=4 τ=0.5, 1.50x the target alone",
        """--speculative-config '{"method": "mtad", "model": "small", """,
        "-0.100 [-0.120, -0.080]",
        "150, 1.50x (1.48-1.52) *",
        "MTAD is lossy",
        "upper end to be at or below 0",
        "Each engine ran alone in turn, timed in 3 rounds after a warm-up, and at the end once more: target alone",
        "1 prompts are few",
        "two bugs of vLLM 0.32.0 corrected",
    ):
        assert expected in text
    assert "do not use MTAD" not in text
    assert "right" not in text


def test_plainly_when_it_does_not():
    text = printed(outcome([target(), vanilla(1.3), candidate(1.2, LIKELIER)]))
    assert (
        "For fastest at 1 in flight: do not use MTAD here: draft_model γ=4 is the fastest lossless way (1.30x" in text
    )
    assert '"method": "draft_model"' in text
    text = printed(outcome([target(), vanilla(0.9), candidate(0.8, LIKELIER)]))
    assert "do not use MTAD here: target alone is the fastest" in text
    assert "vllm serve without --speculative-config" in text


def test_a_way_that_failed_says_why():
    rows = [target(), Row(draft_model(), failure="[/odd] no room"), candidate(1.2, LIKELIER)]
    text = printed(outcome(rows))
    assert "draft_model γ=4 was not measured: [/odd] no room" in text
    assert "not measured" in text.split("draft_model γ=4", 1)[1].splitlines()[0]


def test_accuracy_stands_beside_likelihood():
    row = candidate(1.5, LIKELIER, accuracy=0.75, accuracy_difference=Interval(0.05, -0.01, 0.11))
    rows = [target(accuracy=0.7, accuracy_difference=Interval(0, 0, 0)), row]
    text = printed(outcome(rows))
    assert "75.0%" in text
    assert "+5.0 [-1.0, +11.0]" in text


def test_what_weakens_a_result_is_said():
    alone = Row(target_alone(), speeds={1: Speed(100, 1, 0.7, 1.3)}, nats=0.5, repetition=0.02)
    checker = Checker(lambda prompt, answer, completion: True, "c", ["line 3: odd", "line 4: odd"])
    said = " ".join(notes(outcome([alone, candidate(1.5, LIKELIER, repetition=0.2)], checker=checker)))
    assert "ran at 0.70x to 1.30x of its own speed" in said
    assert "repeats itself more: 20.0%" in said
    assert "The checker raised 2 times (counted as wrong), first for line 3: odd" in said


def test_json_holds_everything():
    rows = [target(), vanilla(1.3), candidate(1.5, LIKELIER), Row(mtad(), failure="no room")]
    found = json.loads(json.dumps(as_json(outcome(rows, "--wish", "fastest", "likeliest", "--json", "o.json"))))
    assert found["command"] == "vllm-mtad tune"
    assert found["machine"] == MACHINE
    assert found["settings"]["json"] == "o.json"
    assert found["settings"]["engine"] == {"max_model_len": 64}
    assert [row["failure"] for row in found["rows"]] == [None, None, None, "no room"]
    assert found["rows"][2]["nats_difference"] == {"value": -0.1, "low": -0.12, "high": -0.08}
    assert found["rows"][2]["completions"] == [["b"]]
    assert [choice["wish"]["name"] for choice in found["recommendations"]] == ["fastest", "likeliest"]
    assert found["recommendations"][0]["speculative_config"]["acceptance_threshold"] == 0.5


def test_speed_is_held_against_the_same_rounds():
    alone = Measured(target_alone(), passes=[Pass({1: [10.0, 20.0]}, 0.0), Pass({1: [30.0, 20.0]}, 100.0)])
    own = Measured(mtad(), passes=[Pass({1: [40.0, 30.0]}, 50.0)])
    assert speed(own, alone, 1) == Speed(35.0, 1.75, 1.5, 2.0)  # halfway, the target made 20 and 20
    assert speed(alone, alone, 1) == Speed(20.0, 1.0, 0.5, 1.5)
    own.passes = [Pass({1: [40.0, 30.0]}, 50.0, beside={1: [20.0, 30.0]})]
    assert speed(own, alone, 1) == Speed(35.0, 1.5, 1.0, 2.0)


def test_a_machine_that_speeds_up_evenly_favours_nobody():
    alone = Measured(target_alone(), passes=[Pass({1: [10.0]}, 0.0), Pass({1: [20.0]}, 10.0)])
    for at in (2.0, 7.0, 10.0):
        own = Measured(mtad(), passes=[Pass({1: [1.5 * (10 + at)]}, at)])
        assert speed(own, alone, 1).ratio == 1.5


def test_a_row_from_what_was_measured():
    def measured(method, calls):
        answers = [[Decoded("a", calls, "x"), Decoded("b", calls, "y")]]
        return Measured(method, answers=answers, passes=[Pass({1: [10.0]}, 1.0)])

    alone, own = measured(target_alone(), [[1], [2], [3]]), measured(mtad(), [[1], [2, 3, 4]])
    base = Scores(Ratio.of([3.0, 3.0], [3, 3]), Ratio.of([1, 0], [1, 1]))
    scores = Scores(Ratio.of([2.0, 2.0], [4, 4]), Ratio.of([1, 1], [1, 1]))
    row = row_of(own, alone, scores, base)
    assert (row.mean_acceptance_length, row.nats, row.accuracy) == (3.0, 0.5, 1.0)
    assert row.nats_difference == Interval(-0.5, -0.5, -0.5)
    assert row.accuracy_difference.value == 0.5
    assert row.speeds[1].ratio == 1.0
    own.failure = "no room"
    assert row_of(own, alone, None, base).failure == "no room"


def test_settings_keep_what_was_given():
    asked = settings("--wish", "budget", "budget", "--slowdown", "0.2", "--beam-widths", "2", "2", "--top-k", "0")
    assert [(wish.name, wish.slowdown) for wish in asked.wishes] == [("budget", 0.2)]
    assert asked.grid.beam_widths == (2,)
    assert asked.sampling.top_k == 0
    assert asked.prompts == Path("p.txt")
