"""The algorithm's functions, joined without vLLM, against the slow reference over the grid of (B, gamma, C)."""

import pytest
import torch

from tests.small_pair import VOCAB_SIZE, build_draft, build_target, random_prompts
from vllm_mtad.algorithm.acceptance import accepted_node, draw_token
from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, chosen_slots
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings
from vllm_mtad.algorithm.tree import draft_tree
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
    lossless = s.temperature == 0.0 and s.greedy == "lossless"
    keeps_argmax = torch.tensor([True]) if lossless and s.num_candidates > 1 else None

    def parameters(greedy_as_joint):
        truncation = torch.tensor([s.top_k]), torch.tensor([s.top_p]), torch.tensor([s.min_p])
        temperature = torch.tensor([s.temperature])
        return WarpParameters.build(temperature, VOCAB_SIZE, *truncation, greedy_as_joint=greedy_as_joint)

    of_target = parameters(s.greedy == "joint")
    of_draft = of_target if keeps_argmax is None else parameters(True)
    all_rows = torch.zeros(64, dtype=torch.long)

    def rows(model, sequences):
        return model(input_ids=torch.tensor(sequences)).logits.float()

    def extra(logits, warped):
        if not drawn:
            return int(logits.argmax())
        return int(draw_token(warped, torch.empty_like(warped.log_probs).exponential_()))

    logits = rows(target, [text])[0, -1:]
    text.append(extra(logits, warp(logits.clone(), of_target)))
    while len(text) < len(prompt) + max_tokens:
        beams, levels = Beams.root(1, torch.device("cpu")), []
        for depth in range(s.num_speculative_tokens):
            sequences = [text + beam for beam in beams.tokens[0].tolist()]
            q = warp(rows(draft, sequences)[:, -1], of_draft.rows(all_rows[: len(sequences)]))
            keys = draft_keys(root_keys(torch.tensor([seed or 0]), torch.tensor([len(text)])), depth)
            beams = beam_step(beams, q, s.beam_width, DrawNoise(keys, VOCAB_SIZE) if drawn else None, keeps_argmax)
            levels.append(beams)
        tree = draft_tree(levels, s.num_candidates, chosen_slots(beams, keeps_argmax))
        tokens = tree.tokens[0].clamp(min=0).tolist()
        paths = [[tokens[at - 1] for at in tree.path(0, row)] for row in range(len(tokens) + 1)]
        logits = torch.stack([rows(target, [text + path])[0, -1] for path in paths])
        p = warp(logits.clone(), of_target.rows(all_rows[: len(logits)]))
        log_tau = torch.tensor(s.acceptance_threshold).log().item()
        num_nodes = torch.tensor([tree.tokens.shape[1]])
        log_p = p.rows(tree.parents[0]).log_prob_of(tree.tokens[0])[None]
        row = accepted_node(tree, log_p, num_nodes, log_tau, s.acceptance, s.candidate_test).item()
        accepted_lengths.append(len(paths[row]))
        text += [*paths[row], extra(logits[row], p.rows(slice(row, row + 1)))]
    return text[len(prompt) :][:max_tokens], accepted_lengths


def assert_equal_to_the_reference(models, settings, prompts):
    """How often a candidate other than the chosen draft won."""
    compared = other_won = 0
    for prompt in prompts:
        reference = ReferenceDecoder(*models, settings).generate(prompt, 16)
        if reference.smallest_margin < NEAR_TIE:
            continue  # either choice is right
        tokens, accepted = decode(*models, prompt, 16, settings)
        assert tokens == reference.tokens
        assert accepted[:-1] == reference.accepted[:-1]
        compared += 1
        other_won += reference.other_won
    assert compared > 0
    return other_won


@pytest.mark.parametrize("acceptance", ["joint", "per_token"])
@pytest.mark.parametrize("gamma", [1, 2, 4, 5])
@pytest.mark.parametrize("beam_width", [1, 2, 4, 8])
def test_joint_greedy_equals_the_reference(models, beam_width, gamma, acceptance):
    settings = ReferenceSettings(gamma, beam_width, greedy="joint", temperature=0.0, acceptance=acceptance)
    assert_equal_to_the_reference(models, settings, random_prompts([4, 19], seed=beam_width * 10 + gamma))


@pytest.mark.parametrize("candidate_test", ["own", "reference"])
@pytest.mark.parametrize(("gamma", "num_candidates"), [(1, 4), (2, 2), (4, 2), (4, 4), (5, 3)])
def test_joint_greedy_over_several_candidates_equals_the_reference(models, gamma, num_candidates, candidate_test):
    settings = ReferenceSettings(
        gamma, 4, greedy="joint", temperature=0.0, num_candidates=num_candidates, candidate_test=candidate_test
    )
    prompts = random_prompts([4, 19, 11, 30], seed=10 * num_candidates + gamma)
    assert assert_equal_to_the_reference(models, settings, prompts) > 0


@pytest.mark.parametrize(("gamma", "num_candidates"), [(1, 4), (4, 2), (4, 4)])
def test_lossless_greedy_over_several_candidates_equals_the_reference(models, gamma, num_candidates):
    settings = ReferenceSettings(gamma, 4, greedy="lossless", temperature=0.0, num_candidates=num_candidates)
    prompts = random_prompts([4, 19, 11, 30], seed=10 * num_candidates + gamma)
    assert assert_equal_to_the_reference(models, settings, prompts) > 0


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_lossless_greedy_equals_the_target_alone(models, num_candidates):
    settings = ReferenceSettings(4, 4, greedy="lossless", temperature=0.0, num_candidates=num_candidates)
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


@pytest.mark.parametrize("num_candidates", [1, 4])
@pytest.mark.parametrize("greedy", ["lossless", "joint"])
def test_a_draft_that_is_the_target_is_always_accepted_greedily(models, greedy, num_candidates):
    settings = ReferenceSettings(4, 4, greedy=greedy, temperature=0.0, num_candidates=num_candidates)
    _, accepted = decode(models[0], models[0], random_prompts([9])[0], 20, settings)
    assert accepted == [4] * len(accepted)


@pytest.mark.parametrize("warp_values", WARPS, ids=str)
@pytest.mark.parametrize(("beam_width", "num_candidates"), [(1, 1), (4, 1), (4, 4), (8, 3)])
def test_a_draft_that_is_the_target_is_always_accepted(models, beam_width, num_candidates, warp_values):
    settings = ReferenceSettings(4, beam_width, **warp_values, num_candidates=num_candidates)
    _, accepted = decode(models[0], models[0], random_prompts([9])[0], 20, settings, seed=3)
    assert accepted == [4] * len(accepted)


def test_the_grid_meets_prefixes_that_pass_after_a_failure(models):
    """Without such iterations, the tests above would not tell joint acceptance from first-failure."""
    settings = ReferenceSettings(4, 4, greedy="joint", temperature=0.0)
    prompts = random_prompts([5, 17, 33, 64])
    assert sum(ReferenceDecoder(*models, settings).generate(p, 24).skipped_a_failure for p in prompts) > 2
