import math

import pytest

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.figures import (
    acceptance_per_position,
    acceptance_rate,
    distinct,
    mean_acceptance_length,
    perplexity,
    repetition_rate,
)
from vllm_mtad.tools.harness.methods import Sampling, draft_model, mtad, target_alone
from vllm_mtad.tools.harness.pareto import pareto_front

CALLS = [[1, 3, 2], [1, 5]]


def test_the_prefills_call_had_no_draft():
    assert mean_acceptance_length(CALLS) == pytest.approx(10 / 3)
    assert mean_acceptance_length([[1], [1]]) is None
    assert acceptance_rate(CALLS, 4) == pytest.approx((10 / 3 - 1) / 4)
    assert acceptance_rate(CALLS, 0) is None


def test_acceptance_per_position_sums_to_the_accepted_tokens():
    per_position = acceptance_per_position(CALLS, 4)
    assert per_position == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert sum(per_position) == pytest.approx(10 / 3 - 1)


def test_perplexity_is_over_the_answers_tokens():
    assert perplexity([3 * math.log(2), math.log(2)], [3, 1]) == pytest.approx(2.0)


def test_repetition_counts_what_stood_before_in_the_same_answer():
    assert repetition_rate([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(1 - 2 / 5)
    assert repetition_rate([1, 2, 3, 4], n=2) == 0
    assert repetition_rate([1], n=2) == 0


def test_distinct_is_over_all_answers():
    assert distinct([[1, 2], [1, 2, 3]], n=2) == pytest.approx(2 / 3)


def test_the_front_holds_what_nothing_else_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (1.5, 4.0), (3.0, 1.0), (3.0, 0.5), (2.0, 4.0)]
    assert pareto_front(points) == [0, 1, 5, 3]


def test_a_methods_name_says_what_differs_from_the_defaults():
    assert mtad().name == "MTAD"
    assert mtad(MTADOptions(beam_width=1, acceptance="per_token")).name == "MTAD B=1 acceptance=per_token"
    assert mtad(MTADOptions(acceptance_threshold=0.1), Sampling(0.7)).name == "MTAD τ=0.1 T=0.7"
    assert draft_model(6).name == "draft_model γ=6"
    assert target_alone(Sampling(0)).name == "target alone T=0"
    assert mtad(MTADOptions(num_candidates=4)).name == "MTAD C=4"


def test_a_methods_full_name_says_what_is_tuned_too():
    assert mtad(MTADOptions(acceptance_threshold=0.1)).full_name == "MTAD γ=4 B=4 τ=0.1"
    assert mtad(MTADOptions(num_candidates=2)).full_name == "MTAD γ=4 B=4 τ=0.5 C=2"
    assert draft_model().full_name == "draft_model γ=4"
    assert target_alone().full_name == "target alone"


def test_only_methods_with_a_draft_model_are_given_one():
    assert target_alone().speculative_config("draft") is None
    assert mtad().speculative_config("draft")["model"] == "draft"
