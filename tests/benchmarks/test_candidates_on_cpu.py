"""What the tables of `benchmarks.candidates_on_cpu` say of made-up rounds."""

from types import SimpleNamespace

from benchmarks.candidates_on_cpu import Part, _figures, all_parts
from benchmarks.report.candidates_on_cpu import page
from vllm_mtad.tools.harness.decoding import Decoded, Run


def round_of(gamma, candidates, speed, number=0, pair="tales"):
    return {
        "part": [pair, "bundled", True, gamma],
        "candidates": candidates,
        "temperature": 1.0,
        "in_flight": 1,
        "round": number,
        "tokens_per_second": speed,
        "drafted_tokens": [30, 10],
        "drafted_calls": [10, 10],
        "nats": [5.0, 15.0],
        "lengths": [20, 20],
        "correct": [True, False],
    }


def cells_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_speeds_are_medians_over_their_own_target_and_over_the_fastest_draft_model():
    rows = [round_of(4, None, s, i) for i, s in enumerate((90.0, 100.0, 500.0))]
    rows += [round_of(4, 0, 150.0), round_of(4, 4, 180.0)]
    rows += [round_of(6, None, 50.0), round_of(6, 0, 100.0), round_of(6, 4, 110.0)]
    text = page(rows)
    assert cells_of(text, "MTAD γ = 4, C = 4") == ["MTAD γ = 4, C = 4", "2.00", "0.500", "50", "180", "1.80", "0.90"]
    assert cells_of(text, "MTAD γ = 6, C = 4")[-2:] == ["2.20", "1.10"]
    assert cells_of(text, "draft_model γ = 4")[-2:] == ["1.50", "0.75"]
    assert cells_of(text, "target alone (beside γ = 4)")[-3:] == ["100", "1", "-"]


def test_pairs_do_not_share_a_table():
    rows = [round_of(4, c, 100.0, pair=pair) for pair in ("tales", "minisql") for c in (None, 0, 1)]
    assert page(rows).count("## ") == 2


def test_every_part_stands_once_and_differs_in_candidates_alone():
    parts = all_parts()
    assert len(parts) == len(set(parts))
    methods = Part("tales", "bundled", True, 6).methods
    assert {c: m.num_speculative_tokens for c, m in methods.items()} == {None: 0, 0: 6, 1: 6, 2: 6, 4: 6}


def test_a_round_s_figures_are_of_its_own_prompts():
    """Prefills gave no draft; answers are judged and scored as the prompts that they belong to."""
    prompts = [[1, 2], [3], [4, 5]]
    workload = SimpleNamespace(
        prompt_ids=prompts, prompt_set=SimpleNamespace(judge=lambda index, text: text == str(index))
    )
    likelihood = SimpleNamespace(
        negative_log_likelihoods=lambda prompts, answers: [len(p) * 100.0 + len(a) for p, a in zip(prompts, answers)]
    )
    decoded = [
        Decoded({"prompt_token_ids": [4, 5]}, [[7], [8, 9, 7], [8, 9]], "2"),
        Decoded({"prompt_token_ids": [3]}, [[7], [8]], "0"),
    ]
    assert _figures(workload, Run(decoded, 1.0), likelihood) == {
        "drafted_tokens": [5, 1],
        "drafted_calls": [2, 1],
        "nats": [206.0, 102.0],
        "lengths": [6, 2],
        "correct": [True, False],
    }
