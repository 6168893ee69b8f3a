"""What `benchmarks.candidates` keeps of a setting, and what its tables say."""

import pytest

from benchmarks.candidates import Setting, all_settings, decode
from benchmarks.candidates_in_engine import decode as decode_in_engine
from benchmarks.report.candidates import page


@pytest.fixture(scope="module")
def rows():
    """One prompt each; the greedy ones are short enough for every number to be looked at."""
    sampled = [decode(Setting("minisql", 1.0, 4, candidates, "own"), 2) for candidates in (0, 1, 4)]
    return sampled, [decode(Setting("minisql", 0.0, 4, candidates, "own"), 2) for candidates in (0, 1, 4)]


def test_the_calls_give_the_answers(rows):
    for row in (*rows[0], *rows[1]):
        assert [sum(calls) for calls in row["calls"]] == row["lengths"]
        assert all(nats > 0 for nats in row["nats"])


def test_a_call_scores_the_newest_token_and_at_most_gamma_nodes_a_candidate(rows):
    for row in (*rows[0], *rows[1]):
        candidates = row["setting"][3]
        for calls, scored in zip(row["calls"], row["rows"]):
            drafted = (len(calls) - 1) * min(candidates, 1)
            if candidates <= 1:
                assert scored == drafted * 5
            else:
                assert drafted * 5 < scored <= drafted * (1 + 4 * candidates)


def test_greedy_answers_are_the_targets_own(rows):
    alone, one, four = rows[1]
    assert alone["digests"] == one["digests"] == four["digests"]


def test_the_page_compares_each_setting_with_one_candidate(rows):
    text = page([*rows[0], *rows[1]], [])
    sampled, greedy = text.split("## minisql")[1:]
    (four,) = [line for line in sampled.splitlines() if line.startswith("| 4 | 4 | own |")]
    assert four.count("[") == 4  # the figure and three differences
    (four,) = [line for line in greedy.splitlines() if line.startswith("| 4 | 4 |")]
    assert four.endswith("| 2 |")


def test_every_setting_stands_once():
    settings = all_settings()
    assert len(settings) == len(set(settings))


def test_engines_stand_beside_the_reference_and_tokens_a_call_become_a_ratio(rows):
    """By hand: draft_model gives 3 tokens in each of two calls at gamma = 4; four candidates what the reference has."""
    four = rows[0][2]
    engines = [
        {"setting": ["minisql", 4, 0], "prompts": 1, "calls": [[1, 3, 3]]},
        {"setting": ["minisql", 4, 4], "prompts": 2, "calls": four["calls"]},
    ]
    text = page(rows[0], engines)
    (engine,) = [line for line in text.splitlines() if line.startswith("| minisql, MTAD, C = 4 | 4 | 2 | 17 |")]
    assert "+0.00 [+0.00, +0.00]" in engine
    (worth,) = [line for line in text.splitlines() if line.startswith("| MTAD, C = 4 | 4 |")]
    tokens = sum(sum(calls[1:]) for calls in four["calls"]) / sum(len(calls) - 1 for calls in four["calls"])
    cells = [f"{tokens / (4 * 0.165 + v) / (3 / (4 * 0.165 + 1)):.2f}" for v in (1.0, 1.1, 1.25)]
    assert worth == f"| MTAD, C = 4 | 4 | {tokens:.2f} | 17 | {' | '.join(cells)} |"


def test_an_engine_s_calls_are_kept():
    row = decode_in_engine(["minisql", 4, 0], 2)
    assert len(row["calls"]) == 2
    assert all(calls[0] == 1 and all(1 <= n <= 5 for n in calls[1:]) for calls in row["calls"])
