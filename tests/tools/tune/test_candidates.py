import json
import shlex

from tests.tools.tune.rows import LIKELIER, UNCLEAR, candidate, speeds, target, vanilla
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.methods import PAPER, Sampling, mtad
from vllm_mtad.tools.tune.candidates import Grid, baselines, first_stage, second_stage
from vllm_mtad.tools.tune.rows import Row, Speed, command_line
from vllm_mtad.tools.tune.wishes import Wish

FASTEST, LIKELIEST = Wish("fastest"), Wish("likeliest")


def labels(methods):
    return [method.full_name for method in methods]


def test_draft_model_is_measured_at_every_draft_length():
    assert labels(baselines(Grid(), PAPER)) == ["target alone", "draft_model γ=2", "draft_model γ=4", "draft_model γ=6"]


def test_first_stage_is_at_one_threshold():
    first = labels(first_stage(Grid(), PAPER))
    assert len(first) == 6
    assert {name.split()[-1] for name in first} == {"τ=0.5"}
    assert Grid(thresholds=(0.9, 0.1, 0.2)).middle_threshold == 0.2


def test_full_grid_is_all_of_it():
    assert len(set(first_stage(Grid(), PAPER, full_grid=True))) == 3 * 2 * 4


def test_second_stage_varies_the_threshold_where_the_wish_was_served_best():
    rows = [target(), vanilla(1.2), candidate(1.5, LIKELIER, gamma=6), candidate(1.9, UNCLEAR, gamma=2, beam_width=1)]
    names = labels(second_stage(Grid(), PAPER, rows, [FASTEST, LIKELIEST], [1]))
    assert names == ["MTAD γ=6 B=4 τ=0.1", "MTAD γ=6 B=4 τ=0.3", "MTAD γ=6 B=4 τ=0.7"]
    nothing_suits = [rows[0], rows[1], candidate(1.1, UNCLEAR, gamma=6), rows[3]]
    assert {name[:12] for name in labels(second_stage(Grid(), PAPER, nothing_suits, [FASTEST], [1]))} == {
        "MTAD γ=2 B=1"
    }


def test_second_stage_looks_at_each_concurrency():
    fast = speeds(1.5)[1]
    at_1 = candidate(1.5, LIKELIER, gamma=6, speeds={1: fast, 8: speeds(1.0)[1]})
    at_8 = candidate(1.5, LIKELIER, gamma=2, speeds={1: speeds(1.0)[1], 8: fast})
    alone = Row(target().method, speeds={1: speeds(1)[1], 8: speeds(1)[1]})
    assert len(second_stage(Grid(), PAPER, [alone, at_1, at_8], [FASTEST], [1, 8])) == 6


def test_second_stage_is_empty_where_mtad_never_ran():
    failed = Row(mtad(MTADOptions()), failure="no")
    assert second_stage(Grid(), PAPER, [target(), failed], [FASTEST], [1]) == []


def test_sampling_is_the_same_for_all():
    sampling = Sampling(0.7, 0, 1.0)
    methods = [*baselines(Grid(), sampling), *first_stage(Grid(), sampling)]
    assert {method.sampling for method in methods} == {sampling}


def test_the_command_line_survives_a_shell():
    line = command_line(candidate(1.5, LIKELIER, gamma=6, tau=0.1).method, "it's a folder/draft")
    option, value = shlex.split(line)
    assert option == "--speculative-config"
    assert json.loads(value) == {
        "method": "mtad",
        "model": "it's a folder/draft",
        "num_speculative_tokens": 6,
        "beam_width": 4,
        "acceptance_threshold": 0.1,
    }
    assert command_line(candidate(1.5, LIKELIER).method, "d").startswith(
        """--speculative-config '{"method": "mtad", "model": """
    )
    assert command_line(target().method, "d") is None


def test_ratios_are_taken_round_by_round():
    # The machine was twice as fast in the second round, for both.
    assert Speed.of([15.0, 30.0, 15.0], [10.0, 20.0, 10.0]) == Speed(15.0, 1.5, 1.5, 1.5)
