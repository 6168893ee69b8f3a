"""The algorithm's functions, joined without vLLM, against the slow reference over the grid of (B, gamma)."""

import pytest
import torch

from tests.small_pair import VOCAB_SIZE, build_draft, build_target, random_prompts
from vllm_mtad.algorithm.acceptance import accepted_length, draw_token
from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, choose_draft
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings
from vllm_mtad.algorithm.warp import WarpParameters, warp

NEAR_TIE = 1e-5


@pytest.fixture(scope="module")
def models():
    target = build_target()
    return target, build_draft(target)


@torch.inference_mode()
def decode(target, draft, prompt, max_tokens, settings, seed=None):
    """The functions of `vllm_mtad.algorithm`, one request, no caches. Returns (tokens, eta of each iteration)."""
    s, text, accepted_lengths = settings, list(prompt), []
    drawn = seed is not None
    parameters = WarpParameters.build(
        torch.tensor([s.temperature]),
        VOCAB_SIZE,
        torch.tensor([s.top_k]),
        torch.tensor([s.top_p]),
        torch.tensor([s.min_p]),
        greedy_as_joint=s.greedy == "joint",
    )
    all_rows = torch.zeros(64, dtype=torch.long)

    def rows(model, sequences):
        return model(input_ids=torch.tensor(sequences)).logits.float()

    def extra(logits, warped):
        if not drawn:
            return int(logits.argmax())
        return int(draw_token(warped, torch.empty_like(warped.log_probs).exponential_()))

    logits = rows(target, [text])[0, -1:]
    text.append(extra(logits, warp(logits.clone(), parameters)))
    while len(text) < len(prompt) + max_tokens:
        beams = Beams.root(1, torch.device("cpu"))
        for depth in range(s.num_speculative_tokens):
            sequences = [text + beam for beam in beams.tokens[0].tolist()]
            q = warp(rows(draft, sequences)[:, -1], parameters.rows(all_rows[: len(sequences)]))
            keys = draft_keys(root_keys(torch.tensor([seed or 0]), torch.tensor([len(text)])), depth)
            beams = beam_step(beams, q, s.beam_width, DrawNoise(keys, VOCAB_SIZE) if drawn else None)
        tokens, log_q = choose_draft(beams)
        logits = rows(target, [text + tokens[0].tolist()])[0, len(text) - 1 :]
        p = warp(logits.clone(), parameters.rows(all_rows[: len(logits)]))
        log_p = p.rows(slice(0, -1)).log_prob_of(tokens[0])[None]
        log_tau = torch.tensor(s.acceptance_threshold).log().item()
        eta = accepted_length(log_p, log_q, torch.tensor([tokens.shape[1]]), log_tau, s.acceptance).item()
        accepted_lengths.append(eta)
        text += [*tokens[0, :eta].tolist(), extra(logits[eta], p.rows(slice(eta, eta + 1)))]
    return text[len(prompt) :][:max_tokens], accepted_lengths


@pytest.mark.parametrize("acceptance", ["joint", "per_token"])
@pytest.mark.parametrize("gamma", [1, 2, 4, 5])
@pytest.mark.parametrize("beam_width", [1, 2, 4, 8])
def test_joint_greedy_equals_the_reference(models, beam_width, gamma, acceptance):
    settings = ReferenceSettings(gamma, beam_width, greedy="joint", temperature=0.0, acceptance=acceptance)
    compared = 0
    for prompt in random_prompts([4, 19], seed=beam_width * 10 + gamma):
        reference = ReferenceDecoder(*models, settings).generate(prompt, 16)
        if reference.smallest_margin < NEAR_TIE:
            continue  # either choice is right
        tokens, accepted = decode(*models, prompt, 16, settings)
        assert tokens == reference.tokens
        assert accepted[:-1] == reference.accepted[:-1]
        compared += 1
    assert compared > 0


def test_lossless_greedy_equals_the_target_alone(models):
    settings = ReferenceSettings(4, 4, greedy="lossless", temperature=0.0)
    for prompt in random_prompts([3, 12, 30]):
        text = list(prompt)
        with torch.inference_mode():
            for _ in range(20):
                text.append(int(models[0](input_ids=torch.tensor([text])).logits[0, -1].argmax()))
        tokens, accepted = decode(*models, prompt, 20, settings)
        assert tokens == text[len(prompt) :]
        assert ReferenceDecoder(*models, settings).generate(prompt, 20).tokens == tokens
        assert sum(accepted) > 0


WARPS = [{}, {"temperature": 0.6}, {"top_k": 10, "top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1, "top_p": 0.7}]


@pytest.mark.parametrize("greedy", ["lossless", "joint"])
def test_a_draft_that_is_the_target_is_always_accepted_greedily(models, greedy):
    settings = ReferenceSettings(4, 4, greedy=greedy, temperature=0.0)
    _, accepted = decode(models[0], models[0], random_prompts([9])[0], 20, settings)
    assert accepted == [4] * len(accepted)


@pytest.mark.parametrize("warp_values", WARPS, ids=str)
@pytest.mark.parametrize("beam_width", [1, 4, 8])
def test_a_draft_that_is_the_target_is_always_accepted(models, beam_width, warp_values):
    settings = ReferenceSettings(4, beam_width, **warp_values)
    _, accepted = decode(models[0], models[0], random_prompts([9])[0], 20, settings, seed=3)
    assert accepted == [4] * len(accepted)


def test_the_grid_meets_prefixes_that_pass_after_a_failure(models):
    """Without such iterations, the tests above would not tell joint acceptance from first-failure."""
    settings = ReferenceSettings(4, 4, greedy="joint", temperature=0.0)
    prompts = random_prompts([5, 17, 33, 64])
    assert sum(ReferenceDecoder(*models, settings).generate(p, 24).skipped_a_failure for p in prompts) > 2
