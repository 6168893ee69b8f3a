"""Which nodes go, and which is kept: against brute force over token sequences, in exact arithmetic."""

import math
from fractions import Fraction

import pytest
import torch

from vllm_mtad.algorithm.acceptance import accepted_length, accepted_node
from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, chosen_slots
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.tree import DraftTree, draft_tree, node_depths
from vllm_mtad.algorithm.warp import WarpedRows

VOCAB_SIZE = 11


def drawn_levels(num_reqs, gamma, beam_width, seed, tokens_with_mass=VOCAB_SIZE):
    """The beams of a round whose q are drawn at random; few tokens with mass leave dead slots."""
    generator = torch.Generator().manual_seed(seed)
    levels, beams = [], Beams.root(num_reqs, torch.device("cpu"))
    for depth in range(gamma):
        rows = torch.randn(num_reqs * beams.scores.shape[1], VOCAB_SIZE, generator=generator) * 2
        rows[:, tokens_with_mass:] = -torch.inf
        keys = draft_keys(root_keys(torch.arange(num_reqs) + seed, torch.zeros(num_reqs, dtype=torch.long)), depth)
        beams = beam_step(beams, WarpedRows(rows.log_softmax(1)), beam_width, DrawNoise(keys, VOCAB_SIZE))
        levels.append(beams)
    return levels


def nodes_that_go(levels, request, num_candidates):
    """Token sequences: the chosen draft's, then the others; from the specification, without slots or parents."""
    alive = [
        {
            tuple(tokens): (score, slot)
            for slot, (tokens, score) in enumerate(zip(level.tokens[request].tolist(), level.scores[request].tolist()))
            if score > -math.inf
        }
        for level in levels
    ]
    chosen = min(alive[-1], key=lambda tokens: (-alive[-1][tokens][0], alive[-1][tokens][1]))
    chain = [chosen[:depth] for depth in range(1, len(levels) + 1)]
    others, sent = [], {()}
    for depth, beams in enumerate(alive, start=1):
        candidates = [tokens for tokens in beams if tokens[:-1] in sent and tokens != chosen[:depth]]
        candidates.sort(key=lambda tokens: (-beams[tokens][0], beams[tokens][1]))
        others += candidates[: num_candidates - 1]
        sent = {chosen[:depth], *candidates[: num_candidates - 1]}
    return chain + others


def sequence_of(tree, request, row):
    return tuple(int(tree.tokens[request, at - 1]) for at in tree.path(request, row))


@pytest.mark.parametrize("tokens_with_mass", [2, 3, VOCAB_SIZE])
@pytest.mark.parametrize("num_candidates", [1, 2, 3, 4])
@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_the_nodes_are_the_specifications(gamma, num_candidates, tokens_with_mass):
    levels = drawn_levels(40, gamma, 4, seed=gamma * 10 + num_candidates, tokens_with_mass=tokens_with_mass)
    tree = draft_tree(levels, num_candidates, chosen_slots(levels[-1]))
    depths = node_depths(gamma, num_candidates)
    assert len(depths) == tree.tokens.shape[1] == gamma * num_candidates
    for request in range(40):
        rows = [row for row in range(1, len(depths) + 1) if tree.tokens[request, row - 1] >= 0]
        sequences = [sequence_of(tree, request, row) for row in rows]
        assert sequences == nodes_that_go(levels, request, num_candidates)
        assert [depths[row - 1] for row in rows] == [len(sequence) for sequence in sequences]
        own_q = {tuple(t): q for level in levels for t, q in zip(level.tokens[request].tolist(), level.log_q[request])}
        for row, sequence in zip(rows, sequences):
            assert tree.log_q[request, row - 1] == own_q[sequence][-1]


def test_a_parent_stands_before_its_children():
    levels = drawn_levels(40, 5, 4, seed=3)
    tree = draft_tree(levels, 4, chosen_slots(levels[-1]))
    assert (tree.parents < torch.arange(1, tree.tokens.shape[1] + 1)).all()


def test_the_argmax_chain_is_always_a_node_where_it_is_kept():
    generator = torch.Generator().manual_seed(0)
    keeps = torch.tensor([True] * 30 + [False] * 30)
    rows_of = [torch.randn(60, VOCAB_SIZE, generator=generator) for _ in range(4)]
    levels, beams, chain = [], Beams.root(60, torch.device("cpu")), []
    for rows in rows_of:
        # Every beam but the first sees a peaked row, which the argmax chain's flat one loses against by weight.
        width = beams.scores.shape[1]
        q = torch.stack([rows * (0.1 if beam == 0 else 9.0) for beam in range(width)], 1).flatten(0, 1)
        beams = beam_step(beams, WarpedRows(q.log_softmax(1)), 3, None, keeps)
        chain.append(rows.argmax(1))
        levels.append(beams)
    chosen = chosen_slots(beams, keeps)
    tree = draft_tree(levels, 2, chosen)
    assert torch.equal(tree.tokens[:30, :4], torch.stack(chain, 1)[:30])
    assert not torch.equal(tree.tokens[30:, :4], torch.stack(chain, 1)[30:])


def drawn_tree(gamma, num_candidates, num_reqs, generator):
    """Nodes at random places, with ratios of sixteenths; some tokens are missing or have no mass."""
    depths = node_depths(gamma, num_candidates)
    parents = torch.zeros(num_reqs, len(depths), dtype=torch.long)
    for node, depth in enumerate(depths):
        if node < gamma:
            parents[:, node] = node
        elif depth > 1:
            rows = torch.tensor([row + 1 for row, other in enumerate(depths[:node]) if other == depth - 1])
            parents[:, node] = rows[torch.randint(0, len(rows), (num_reqs,), generator=generator)]
    shape = parents.shape
    tokens = torch.randint(0, VOCAB_SIZE, shape, generator=generator)
    tokens[torch.rand(shape, generator=generator) < 0.1] = -1
    p, q = (torch.randint(0, 17, shape, generator=generator) for _ in range(2))
    return DraftTree(tokens, (q / 16).log(), parents, gamma), p, q


def brute_force(tree, p, q, request, num_nodes, tau, mode, candidate_test):
    """The kept row: every node is judged along its own path, from nothing."""
    depths, passing = tree.depths, []
    for row in range(1, num_nodes + 1):
        path = tree.path(request, row)
        own_p = [Fraction(int(p[request, at - 1]), 16) for at in path]
        own_q = [Fraction(int(q[request, at - 1]), 16) for at in path]
        if any(tree.tokens[request, at - 1] < 0 for at in path) or not all(own_p) or not all(own_q):
            continue
        if candidate_test == "reference":
            own_q = [Fraction(int(q[request, depth]), 16) for depth in range(depths[row - 1])]
            if not all(own_q):
                continue
        ratios = [a / b for a, b in zip(own_p, own_q)]
        passes = all(ratio > tau for ratio in ratios) if mode == "per_token" else math.prod(ratios) > tau
        if passes:
            passing.append((-len(path), -math.prod(own_p), row))
    return min(passing, default=(0, 0, 0))[2]


@pytest.mark.parametrize("candidate_test", ["own", "reference"])
@pytest.mark.parametrize("mode", ["joint", "per_token"])
@pytest.mark.parametrize("num_candidates", [1, 2, 4])
@pytest.mark.parametrize("gamma", [1, 3, 5])
def test_the_kept_node_is_brute_forces(gamma, num_candidates, mode, candidate_test):
    generator = torch.Generator().manual_seed(gamma * 7 + num_candidates)
    tree, p, q = drawn_tree(gamma, num_candidates, 300, generator)
    tau = Fraction(37, 101)
    num_nodes = torch.randint(0, gamma * num_candidates + 1, (300,), generator=generator)
    kept = accepted_node(tree, (p / 16).log(), num_nodes, math.log(tau), mode, candidate_test).tolist()
    expected = [brute_force(tree, p, q, r, int(num_nodes[r]), tau, mode, candidate_test) for r in range(300)]
    assert kept == expected
    assert len(set(kept)) > min(gamma, 2)


@pytest.mark.parametrize("mode", ["joint", "per_token"])
def test_one_candidate_is_the_chain(mode):
    generator = torch.Generator().manual_seed(1)
    log_p, log_q = (torch.randn(500, 5, generator=generator) for _ in range(2))
    num_drafts = torch.randint(0, 6, (500,), generator=generator)
    tree = DraftTree(torch.zeros(500, 5, dtype=torch.long), log_q, torch.arange(5).expand(500, 5), 5)
    expected = accepted_length(log_p, log_q, num_drafts, math.log(0.5), mode)
    assert torch.equal(accepted_node(tree, log_p, num_drafts, math.log(0.5), mode), expected)


def two_nodes_of_depth_one():
    return DraftTree(torch.tensor([[5, 6]]), torch.tensor([[0.5, 0.5]]).log(), torch.zeros(1, 2, dtype=torch.long), 1)


@pytest.mark.parametrize(("p", "row"), [([0.5, 0.5], 1), ([0.4, 0.5], 2), ([0.5, 0.4], 1), ([0.1, 0.4], 2)])
def test_of_two_that_pass_the_targets_favourite_is_kept_and_the_chosen_draft_of_equals(p, row):
    kept = accepted_node(two_nodes_of_depth_one(), torch.tensor([p]).log(), torch.tensor([2]), math.log(0.5))
    assert kept.tolist() == [row]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_or_infinity_bars_a_node_and_all_below_it(bad):
    # The chain 1-2, and beside it 3 of depth 1 and 4 of depth 2, which extends 1.
    parents, log_q = torch.tensor([[0, 1, 0, 1]]), torch.full((1, 4), 0.5).log()
    tree = DraftTree(torch.tensor([[5, 6, 7, 8]]), log_q, parents, 2)
    log_p = torch.tensor([[bad, math.log(0.9), math.log(0.3), math.log(0.9)]])
    assert accepted_node(tree, log_p, torch.tensor([4]), math.log(0.5)).tolist() == [3]
