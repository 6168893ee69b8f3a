"""Acceptance against brute force in exact arithmetic, one case of the specification per test."""

import math
from fractions import Fraction

import pytest
import torch
from scipy.stats import chisquare

from vllm_mtad.algorithm.acceptance import accepted_length, accepted_node, draw_token
from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.algorithm.warp import WarpedRows


def lengths(p, q, tau, mode="joint", num_drafts=None):
    """eta for one request, from plain probabilities."""
    log_tau = math.log(tau) if tau else -math.inf
    drafts = torch.tensor([len(p) if num_drafts is None else num_drafts])
    log_p, log_q = torch.tensor([p]).log(), torch.tensor([q]).log()
    return accepted_length(log_p, log_q, drafts, log_tau, mode).item()


def brute_force(p, q, tau, mode):
    best, joint_p, joint_q = 0, Fraction(1), Fraction(1)
    for i, (p_i, q_i) in enumerate(zip(p, q), start=1):
        if p_i == 0 or q_i == 0:
            break
        joint_p, joint_q = (p_i, q_i) if mode == "per_token" else (joint_p * p_i, joint_q * q_i)
        if min(Fraction(1), joint_p / joint_q) > tau:
            best = i
        elif mode == "per_token":
            break
    return best


def test_accepts_longest_prefix_not_first_failure():
    # Ratios: 0.25 (fails), then 0.25 * 3.6 = 0.9 (passes).
    assert lengths([0.2, 0.9], [0.8, 0.25], tau=0.5) == 2


def test_per_token_stops_at_first_failure():
    assert lengths([0.2, 0.9], [0.8, 0.25], tau=0.5, mode="per_token") == 0
    assert lengths([0.8, 0.1, 0.9], [0.8, 0.8, 0.9], tau=0.5, mode="per_token") == 1


def test_a_ratio_equal_to_the_threshold_fails():
    assert lengths([0.25], [0.5], tau=0.5) == 0


def test_a_ratio_above_one_passes_every_threshold_below_one():
    assert lengths([0.9], [0.1], tau=0.999) == 1


@pytest.mark.parametrize("mode", ["joint", "per_token"])
def test_zero_target_probability_ends_the_prefix(mode):
    assert lengths([0.9, 0.0, 0.9], [0.9, 0.5, 0.1], tau=0.5, mode=mode) == 1


def test_zero_draft_probability_ends_the_prefix():
    assert lengths([0.9, 0.5, 0.9], [0.9, 0.0, 0.1], tau=0.5) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["p", "q"])
def test_nan_or_infinity_ends_the_prefix(bad, side):
    log_p, log_q = torch.zeros(1, 3), torch.zeros(1, 3)
    (log_p if side == "p" else log_q)[0, 1] = bad
    assert accepted_length(log_p, log_q, torch.tensor([3]), math.log(0.5)).item() == 1


def test_threshold_zero_accepts_any_prefix_with_mass():
    assert lengths([1e-30, 1e-30], [1.0, 1.0], tau=0.0) == 2
    assert lengths([1e-30, 0.0], [1.0, 1.0], tau=0.0) == 1


def test_columns_past_the_drafts_do_not_count():
    assert lengths([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], tau=0.5, num_drafts=2) == 2
    assert lengths([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], tau=0.5, num_drafts=0) == 0


def test_no_columns_at_all():
    empty = torch.zeros(2, 0)
    assert accepted_length(empty, empty, torch.tensor([0, 0]), 0.0).tolist() == [0, 0]


@pytest.mark.parametrize("mode", ["joint", "per_token"])
@pytest.mark.parametrize("gamma", [1, 2, 4, 5])
def test_equals_brute_force(gamma, mode):
    generator = torch.Generator().manual_seed(gamma)
    log_p_rows, log_q_rows, expected, tau = [], [], [], Fraction(37, 101)
    while len(expected) < 400:
        # Ratios of sixteenths never equal the threshold, whose denominator is prime; some are zero.
        p = [Fraction(int(v), 16) for v in torch.randint(0, 17, (gamma,), generator=generator)]
        q = [Fraction(int(v), 16) for v in torch.randint(0, 17, (gamma,), generator=generator)]
        expected.append(brute_force(p, q, tau, mode))
        log_p_rows.append([float(v) for v in p])
        log_q_rows.append([float(v) for v in q])
    log_p, log_q = torch.tensor(log_p_rows).log(), torch.tensor(log_q_rows).log()
    num_drafts = torch.full((len(expected),), gamma)
    assert accepted_length(log_p, log_q, num_drafts, math.log(tau), mode).tolist() == expected


def test_extra_token_follows_the_target_row():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    ids = torch.tensor([7, 3, 11, 5]).expand(draws, 4)
    generator = torch.Generator().manual_seed(0)
    exponential = torch.empty(draws, 4).exponential_(generator=generator)
    drawn = draw_token(WarpedRows(probs.log().expand(draws, 4), ids), exponential)
    counts = [(drawn == token).sum().item() for token in (7, 3, 11, 5)]
    assert sum(counts) == draws
    assert chisquare(counts, (probs * draws).tolist()).pvalue > 1e-3


def test_extra_token_never_has_mass_zero_even_with_zero_noise():
    log_probs = torch.tensor([[-math.inf, 0.0]])
    assert draw_token(WarpedRows(log_probs), torch.tensor([[0.0, 1.0]])).tolist() == [1]


@pytest.mark.parametrize("mode", ["joint", "per_token"])
def test_each_request_has_its_own_threshold(mode):
    """As one at a time, chains and trees alike; +inf keeps nothing."""
    generator = torch.Generator().manual_seed(3)
    log_p, log_q = (-torch.rand(200, 4, generator=generator) * 4 for _ in range(2))
    taus = [(0.0, 0.1, 0.5, 0.9)[i % 4] for i in range(199)]
    thresholds = torch.tensor([math.log(tau) if tau else -math.inf for tau in taus] + [math.inf], dtype=torch.float64)
    counts = torch.full((200,), 4)
    tree = DraftTree.chain(torch.ones(200, 4, dtype=torch.int64), log_q)
    together = accepted_length(log_p, log_q, counts, thresholds, mode)
    alone = [
        int(accepted_length(p[None], q[None], counts[:1], threshold, mode))
        for p, q, threshold in zip(log_p, log_q, thresholds.tolist())
    ]
    assert together.tolist() == accepted_node(tree, log_p, counts, thresholds, mode).tolist() == alone
    assert together[-1] == 0
    assert set(alone) == {0, 1, 2, 3, 4}
