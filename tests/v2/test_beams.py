"""DraftBeams: the draft is warped as the target is, whatever each request asks for, and in any number of pieces."""

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.states import SamplingStates

from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, choose_draft
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.warp import WarpParameters, warp
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.runners.v2 import beams as device_beams
from vllm_mtad.runners.v2.beams import DraftBeams, DraftRequests, Truncation

VOCAB, BEAM_WIDTH, GAMMA = 120, 4, 3
PARAMS = [
    SamplingParams(temperature=0.7, top_k=5, seed=1),
    SamplingParams(temperature=1.0, top_p=0.6, seed=2),
    SamplingParams(temperature=1.3, min_p=0.1, seed=3),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.9, top_k=7, top_p=0.8, min_p=0.02, seed=-4),
    SamplingParams(temperature=1.0, seed=5),
]
STATES = [4, 0, 6, 2, 5, 1]
MAX_REQS = 8


@pytest.fixture
def sampling_states():
    states = SamplingStates(MAX_REQS, VOCAB)
    for state, params in zip(STATES, PARAMS):
        states.add_request(state, params)
    states.apply_staged_writes()
    return states


@pytest.fixture
def logits(device):
    generator = torch.Generator().manual_seed(5)
    rows = [len(PARAMS) * (BEAM_WIDTH if depth else 1) for depth in range(GAMMA)]
    return [(torch.randn(n, VOCAB, generator=generator) * 3).to(device) for n in rows]


def draft(states: SamplingStates, logits: list[torch.Tensor], truncation: Truncation):
    """(tokens, log q) `[num_reqs, gamma]`; the model's hidden states stand for its logits."""
    device = logits[0].device
    in_batch_order = torch.tensor(STATES + [-1] * (MAX_REQS - len(STATES)), device=device)
    temperature = states.temperature.gpu.clone()
    requests = DraftRequests.allocate(in_batch_order, temperature, states.seeds.gpu.clone(), (temperature == 0).int())
    requests.root_positions[: len(STATES)] = torch.arange(len(STATES), device=device) * 10
    requests.copy_truncation(states, VOCAB)
    beams = DraftBeams(MTADOptions(GAMMA, BEAM_WIDTH), MAX_REQS, VOCAB, requests, window=1000)
    for depth, rows in enumerate(logits):
        beams.step(rows, lambda hidden: hidden.clone(), depth, len(STATES), truncation)
    tokens = torch.zeros(MAX_REQS, GAMMA, dtype=torch.int64, device=device)
    beams.choose(len(STATES), GAMMA, tokens)
    return tokens[: len(STATES)], beams.trees.log_q[STATES]


def test_every_request_is_warped_with_its_own_parameters(sampling_states, logits):
    tokens, log_q = draft(sampling_states, logits, Truncation.ANY)
    device = tokens.device
    temperature = torch.tensor([p.temperature for p in PARAMS])
    parameters = WarpParameters.build(
        temperature.to(device),
        VOCAB,
        top_k=torch.tensor([p.top_k for p in PARAMS], device=device),
        top_p=torch.tensor([p.top_p for p in PARAMS], device=device),
        min_p=torch.tensor([p.min_p for p in PARAMS], device=device),
    )
    seeds = sampling_states.seeds.gpu[STATES]
    roots = root_keys(seeds, torch.arange(len(PARAMS), device=device) * 10)
    beams = Beams.root(len(PARAMS), device)
    for depth, rows in enumerate(logits):
        by_row = parameters.rows(torch.arange(len(PARAMS), device=device).repeat_interleave(BEAM_WIDTH if depth else 1))
        noise = DrawNoise(draft_keys(roots, depth), VOCAB)
        beams = beam_step(beams, warp(rows.clone(), by_row), BEAM_WIDTH, noise)
    expected_tokens, expected_log_q = choose_draft(beams)
    assert torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(log_q, expected_log_q, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("truncation", [Truncation.NONE, Truncation.NO_TOP_K, Truncation.ANY])
@pytest.mark.parametrize("most", [1, 5, 12])
def test_logits_in_pieces_give_the_same(sampling_states, logits, truncation, most, monkeypatch):
    expected = draft(sampling_states, logits, truncation)
    monkeypatch.setattr(device_beams, "MAX_LOGITS_ROWS", most)
    monkeypatch.setattr(device_beams, "MAX_SWEPT_ROWS", 4)
    for got, wanted in zip(draft(sampling_states, logits, truncation), expected):
        assert torch.equal(got, wanted)


SMALL_TOP_K = [0, 3, 4, 5]


def only(states: SamplingStates, some: list[int]) -> SamplingStates:
    """`states` in which all requests but these ask for no truncation."""
    for i, state in enumerate(STATES):
        if i not in some:
            states.add_request(state, SamplingParams(temperature=PARAMS[i].temperature, seed=PARAMS[i].seed))
    states.apply_staged_writes()
    return states


@pytest.mark.parametrize("most", [4, 256])
def test_one_pass_gives_what_vllms_sweep_gives(sampling_states, logits, most, monkeypatch):
    monkeypatch.setattr(device_beams, "MAX_LOGITS_ROWS", most)
    states = only(sampling_states, SMALL_TOP_K)
    assert Truncation.of(states, np.array(STATES)) is Truncation.SMALL_TOP_K
    tokens, log_q = draft(states, logits, Truncation.SMALL_TOP_K)
    expected_tokens, expected_log_q = draft(states, logits, Truncation.ANY)
    assert torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(log_q, expected_log_q, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("some", "truncation"),
    [
        ([0], Truncation.SMALL_TOP_K),
        ([1], Truncation.NO_TOP_K),
        ([2], Truncation.NO_TOP_K),
        ([3], Truncation.NONE),
        ([4], Truncation.SMALL_TOP_K),
        ([5], Truncation.NONE),
        ([0, 4, 5], Truncation.SMALL_TOP_K),
        ([1, 2, 3], Truncation.NO_TOP_K),
        ([0, 1], Truncation.ANY),
    ],
)
def test_the_host_knows_what_truncation_a_batch_asks_for(sampling_states, some, truncation):
    assert Truncation.of(sampling_states, np.array([STATES[i] for i in some])) is truncation


def test_a_large_top_k_is_swept(sampling_states):
    sampling_states.add_request(STATES[0], SamplingParams(temperature=1.0, top_k=65))
    assert Truncation.of(sampling_states, np.array(STATES[:1])) is Truncation.ANY
