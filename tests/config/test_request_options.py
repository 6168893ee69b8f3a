"""What one request may ask of mtad."""

import math

import pytest

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.config.request_options import RequestOptionError, RequestOptions

ENGINE = MTADOptions(acceptance_threshold=0.25)


@pytest.mark.parametrize(
    ("extra_args", "tau"),
    [
        (None, 0.25),
        ({}, 0.25),
        ({"somebody_elses": [1]}, 0.25),
        ({"mtad": True}, 0.25),
        ({"mtad": "true", "mtad_acceptance_threshold": 0.7}, 0.7),
        ({"mtad_acceptance_threshold": 0}, 0.0),
    ],
)
def test_the_threshold_is_the_requests_or_else_the_engines(extra_args, tau):
    assert RequestOptions.of(extra_args).log_threshold(ENGINE) == (math.log(tau) if tau else -math.inf)


@pytest.mark.parametrize("value", [False, 0, 0.0, "false", "False"])
def test_without_drafts_nothing_exceeds_the_threshold(value):
    options = RequestOptions.of({"mtad": value, "mtad_acceptance_threshold": 0.1})
    assert options.log_threshold(ENGINE) == math.inf


@pytest.mark.parametrize(
    ("extra_args", "engine", "is_joint"),
    [
        (None, "joint", True),
        ({"mtad_greedy": "lossless"}, "joint", False),
        ({"mtad_greedy": "joint"}, "lossless", True),
        ({"mtad_greedy": "joint", "mtad": False}, "joint", False),
    ],
)
def test_greedy_decoding_is_the_requests_or_else_the_engines(extra_args, engine, is_joint):
    assert RequestOptions.of(extra_args).is_joint_greedy(MTADOptions(greedy=engine)) is is_joint


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"mtad": "no"}, r"extra_args\['mtad'\]='no' is not accepted by mtad: give true or false"),
        ({"mtad": 2}, "give true or false"),
        ({"mtad": [True]}, "give true or false"),
        ({"mtad_acceptance_threshold": 1}, r"=1 is not accepted by mtad: give a number in \[0, 1\)"),
        ({"mtad_acceptance_threshold": "0.5"}, "give a number"),
        ({"mtad_acceptance_threshold": math.nan}, "give a number"),
        ({"mtad_acceptance_threshold": True}, "give a number"),
        ({"mtad_greedy": "fast"}, r"extra_args\['mtad_greedy'\]='fast' .* give 'lossless' or 'joint'"),
        ({"mtad_greedy": ["joint"]}, "give 'lossless' or 'joint'"),
        ({"mtad_tau": 0.5}, r"=0.5 is not accepted by mtad: give some of mtad, mtad_acceptance_threshold, mtad_greedy"),
    ],
)
def test_what_is_not_accepted_is_one_sentence(extra_args, message):
    with pytest.raises(RequestOptionError, match=message) as error:
        RequestOptions.of(extra_args)
    assert error.value.name in extra_args
    assert "\n" not in str(error.value)
