"""Beam steps against exact inclusion probabilities, dead slots and ties."""

from itertools import permutations

import pytest
import torch

from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, choose_draft
from vllm_mtad.algorithm.noise import draft_keys, log_exponential, root_keys
from vllm_mtad.algorithm.warp import WarpedRows


def keys(num_reqs, seed=0, depth=0):
    seeds = torch.arange(num_reqs) * 1_000_003 + seed
    return draft_keys(root_keys(seeds, torch.full((num_reqs,), 17)), depth)


def inclusion_probabilities(weights, count):
    """Of sampling `count` items one after another without replacement, by enumeration."""
    included = [0.0] * len(weights)
    for order in permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        for item in order:
            included[item] += probability
    return included


@pytest.mark.parametrize("with_ids", [False, True])
def test_draw_has_the_inclusion_frequencies_of_sampling_without_replacement(with_ids):
    """Two beams of weights 0.7 and 0.3, three candidates each, two slots; joint weights differ by beam."""
    draws = 40_000
    q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    weights = (torch.tensor([0.7, 0.3])[:, None] * q).flatten().tolist()
    beams = Beams(
        torch.tensor([0.7, 0.3]).log().expand(draws, 2),
        torch.zeros(draws, 2, 1, dtype=torch.long),
        torch.zeros(draws, 2, 1),
        torch.zeros(draws, 2, dtype=torch.long),
    )
    ids = torch.tensor([[8, 2, 5], [2, 8, 5]]).repeat(draws, 1) if with_ids else None
    vocab = 9 if with_ids else 3
    step = beam_step(beams, WarpedRows(q.log().repeat(draws, 1), ids), 2, DrawNoise(keys(draws), vocab))
    token = step.tokens[:, :, -1]
    for item, expected in enumerate(inclusion_probabilities(weights, 2)):
        beam, column = divmod(item, 3)
        wanted = [[8, 2, 5], [2, 8, 5]][beam][column] if with_ids else column
        seen = ((step.parents == beam) & (token == wanted)).any(1).float().mean().item()
        assert abs(seen - expected) < 4 * (expected * (1 - expected) / draws) ** 0.5 + 1e-9


def test_slots_do_not_depend_on_how_many_candidates_a_row_holds():
    """A beam's slot enters the noise of its children: a wider row must not deal the same beams differently."""
    draws, log_q = 300, torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    narrow = WarpedRows(log_q.repeat(draws, 1), torch.tensor([7, 30, 2, 55]).repeat(draws, 1))
    wide = WarpedRows(torch.full((draws, 64), -torch.inf).scatter_(1, narrow.token_ids, narrow.log_probs))
    root, noise = Beams.root(draws, log_q.device), DrawNoise(keys(draws), 64)
    steps = [beam_step(root, rows, 3, noise) for rows in (narrow, wide)]
    assert torch.equal(steps[0].tokens, steps[1].tokens)


def test_the_drawn_pairs_are_distinct():
    draws = 500
    log_q = torch.rand(draws, 6).softmax(1).log()
    step = beam_step(Beams.root(draws, log_q.device), WarpedRows(log_q), 4, DrawNoise(keys(draws), 6))
    assert all(len(set(row)) == 4 for row in step.tokens[:, :, 0].tolist())


@pytest.mark.parametrize("noise", [None, "drawn"])
def test_pairs_without_mass_are_dead_and_never_refilled_from(noise):
    """Two candidates for four slots: two beams live; at the next step their children fill all four."""
    draw = None if noise is None else DrawNoise(keys(1), 4)
    two = torch.tensor([[0.5, 0.0, 0.5, 0.0]]).log()
    first = beam_step(Beams.root(1, two.device), WarpedRows(two), 4, draw)
    live = first.scores[0] > -torch.inf
    assert live.sum() == 2
    assert set(first.tokens[0, live, 0].tolist()) == {0, 2}
    second = beam_step(first, WarpedRows(two.repeat(4, 1)), 4, draw)
    assert (second.scores > -torch.inf).all()
    assert {tuple(beam) for beam in second.tokens[0].tolist()} == {(0, 0), (0, 2), (2, 0), (2, 2)}
    torch.testing.assert_close(second.log_q[0], torch.full((4, 2), 0.5).log())


def test_fewer_candidates_than_slots_leave_dead_slots():
    step = beam_step(Beams.root(3, torch.device("cpu")), WarpedRows(torch.zeros(3, 1), torch.full((3, 1), 6)), 4, None)
    assert (step.scores[:, 0] == 0).all()
    assert (step.scores[:, 1:] == -torch.inf).all()
    tokens, log_q = choose_draft(step)
    assert tokens.tolist() == [[6]] * 3
    assert log_q.tolist() == [[0.0]] * 3


def test_search_keeps_the_largest_joint_weights_and_accumulates():
    beams = Beams(
        torch.tensor([[0.6, 0.4]]).log(),
        torch.tensor([[[1], [2]]]),
        torch.tensor([[[0.6], [0.4]]]).log(),
        torch.zeros(1, 2, dtype=torch.long),
    )
    q = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])  # joint: .30 .18 .12 | .04 .04 .32
    step = beam_step(beams, WarpedRows(q.log()), 2, None)
    assert step.tokens[0].tolist() == [[2, 2], [1, 0]]
    torch.testing.assert_close(step.scores[0].exp(), torch.tensor([0.32, 0.30]))
    assert choose_draft(step)[0].tolist() == [[2, 2]]
    torch.testing.assert_close(choose_draft(step)[1][0].exp(), torch.tensor([0.4, 0.8]))


def test_ties_go_to_the_lower_beam_then_to_the_lower_token():
    beams = Beams(
        torch.zeros(1, 2), torch.tensor([[[1], [2]]]), torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.long)
    )
    flat = torch.zeros(2, 3)
    by_column = beam_step(beams, WarpedRows(flat), 4, None)
    assert by_column.tokens[0].tolist() == [[1, 0], [1, 1], [1, 2], [2, 0]]
    by_id = beam_step(beams, WarpedRows(flat, torch.tensor([[9, 4, 6], [9, 4, 6]])), 4, None)
    assert by_id.tokens[0].tolist() == [[1, 4], [1, 6], [1, 9], [2, 4]]


def test_searched_and_drawn_requests_share_a_batch():
    log_q = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().repeat(200, 1)
    searched = torch.arange(200) % 2 == 0
    step = beam_step(
        Beams.root(200, log_q.device), WarpedRows(log_q), 2, DrawNoise(keys(200), 4, deterministic=searched)
    )
    assert (step.tokens[searched, :, 0] == torch.tensor([0, 1])).all()
    assert not (step.tokens[~searched, :, 0] == torch.tensor([0, 1])).all()


def test_noise_depends_on_seed_position_depth_beam_and_token_only():
    def key(seed, position, depth):
        return draft_keys(root_keys(torch.tensor([seed]), torch.tensor([position])), depth)

    base = key(5, 10, 2)
    others = [key(6, 10, 2), key(5, 11, 2), key(5, 10, 3)]
    counters = torch.arange(8)[None]
    noise = log_exponential(base, counters)
    assert len(set(noise[0].tolist())) == 8
    for other in others:
        assert not (log_exponential(other, counters) == noise).any()
    alone, among_others = (
        log_exponential(base, counters[:, 3:4]),
        log_exponential(torch.cat([others[0], base]), counters),
    )
    assert alone.item() == noise[0, 3].item() == among_others[1, 3].item()


def test_noise_is_standard_exponential():
    from scipy.stats import kstest

    sample = log_exponential(keys(64), torch.arange(1000).expand(64, -1)).exp().flatten()
    assert sample.isfinite().all()
    assert (sample > 0).all()
    assert kstest(sample.numpy(), "expon").pvalue > 1e-3
